use proptest::prelude::*;

use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const T1: Timeline = Timeline(1);

fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + offset)
}

/// Whole segments of timeline 1, and tails of one.
fn held(is_required: bool, whole: &[u64], tails: &[(u64, u64, u64)]) -> Held {
    let mut coverage = Coverage::default();
    for number in whole {
        coverage.add_whole(Segment { timeline: T1, number: *number });
    }
    for (number, from, to) in tails {
        coverage.add_tail(Segment { timeline: T1, number: *number }, *from, *to);
    }
    Held { is_required, coverage }
}

fn source(written: Lsn) -> Source {
    Source { timeline: T1, segment_size: SIZE, wanted: written, written: Some(written), fork: None, oldest: None }
}

#[test]
fn the_required_vault_that_is_furthest_behind_says_where_and_each_vault_stands_where_it_is() {
    let ahead = held(true, &[3, 4, 5], &[(6, 0, 100), (6, 100, 300)]);
    let behind = held(true, &[3, 4], &[(5, 0, 70)]);
    let lax = held(false, &[3], &[]);
    let begun = begin(&[Some(ahead), Some(behind), Some(lax), None], &source(lsn(7, 0))).unwrap();
    assert_eq!(begun.start, lsn(5, 0));
    let [Some(ahead), Some(behind), Some(lax), None] = &begun.vaults[..] else { panic!("{begun:?}") };
    let segment = |number| Segment { timeline: T1, number };
    let last = Some((segment(6), 100..300));
    assert_eq!(*ahead, Standing { stored: lsn(6, 300), hole: None, last });
    assert_eq!(*behind, Standing { stored: lsn(5, 70), hole: None, last: Some((segment(5), 0..70)) });
    assert_eq!(*lax, Standing { stored: lsn(5, 0), hole: Some(lsn(4, 0)..lsn(5, 0)), last: None });
}

#[test]
fn a_hole_that_another_vault_can_fill_is_told_and_what_the_server_lost_is_not() {
    let whole = held(true, &[3, 4, 5], &[]);
    let lax = held(false, &[3, 5], &[]);
    let begun = begin(&[Some(whole), Some(lax.clone())], &source(lsn(6, 9))).unwrap();
    let hole = Some(lsn(4, 0)..lsn(5, 0));
    assert_eq!(begun.vaults[1], Some(Standing { stored: lsn(6, 0), hole, last: None }));
    let alone = begin(&[Some(lax)], &source(lsn(6, 9))).unwrap();
    assert_eq!(alone.vaults[0].as_ref().unwrap().hole, None);
}

#[test]
fn a_server_behind_any_vault_was_set_back_and_one_that_left_the_timeline_was_not() {
    let vaults = [Some(held(true, &[3], &[(4, 0, 50)])), Some(held(false, &[3], &[(4, 0, 80)]))];
    let at = |written| begin(&vaults, &source(written));
    assert_eq!(at(lsn(4, 60)).unwrap_err(), Forked { vault: 1, held: lsn(4, 80), written: lsn(4, 60) });
    assert_eq!(at(lsn(4, 80)).unwrap().start, lsn(4, 0));
    let left = Source { written: None, ..source(lsn(4, 60)) };
    assert!(begin(&vaults, &left).is_ok());
}

#[test]
fn a_timeline_that_nobody_holds_begins_at_its_fork_or_at_the_older_ones_end() {
    let newer = |fork| Source { timeline: Timeline(2), fork, ..source(lsn(9, 0)) };
    let older = || Some(held(true, &[3], &[(4, 0, 50)]));
    assert_eq!(begin(&[older()], &newer(Some(lsn(3, 7)))).unwrap().start, lsn(3, 0));
    assert_eq!(begin(&[older()], &newer(Some(lsn(5, 7)))).unwrap().start, lsn(4, 0));
    assert_eq!(begin(&[Some(held(true, &[], &[]))], &newer(None)).unwrap().start, lsn(9, 0));
    // What an uploaded backup still lacks is asked for again.
    let wanted = Source { wanted: lsn(2, 40), ..source(lsn(9, 0)) };
    assert_eq!(begin(&[older()], &wanted).unwrap().start, lsn(2, 0));
}

#[test]
fn what_the_server_lost_is_passed_over_and_is_no_vaults_hole() {
    let lost = |oldest| Source { oldest: Some(oldest), ..source(lsn(9, 0)) };
    let ahead = || Some(held(true, &[2, 3, 4], &[(5, 0, 70)]));
    let behind = || Some(held(true, &[2, 3], &[]));
    // It keeps the segment of its oldest position from the start on.
    let begun = begin(&[ahead(), behind()], &lost(lsn(7, 40))).unwrap();
    assert_eq!(begun.start, lsn(7, 0));
    for standing in begun.vaults.iter().flatten() {
        assert_eq!(*standing, Standing { stored: lsn(7, 0), hole: None, last: None });
    }
    // What one vault lacks and another has is copied there, and is told.
    let begun = begin(&[ahead(), behind()], &lost(lsn(5, 40))).unwrap();
    assert_eq!(begun.start, lsn(5, 0));
    let [Some(ahead_stands), Some(behind_stands)] = &begun.vaults[..] else { panic!("{begun:?}") };
    assert_eq!((ahead_stands.stored, &ahead_stands.hole), (lsn(5, 70), &None));
    assert_eq!(behind_stands.hole, Some(lsn(4, 0)..lsn(5, 0)));
    // Behind an older gap, too, which both have.
    let behind_gap = Some(held(true, &[2, 6, 7], &[]));
    let begun = begin(&[behind_gap, behind()], &lost(lsn(8, 0))).unwrap();
    assert_eq!(begun.vaults[1].as_ref().unwrap().hole, Some(lsn(6, 0)..lsn(8, 0)));
    // Nothing changes where the server has more than is wanted.
    assert_eq!(begin(&[ahead()], &lost(lsn(3, 0))).unwrap().start, lsn(5, 0));
}

prop_compose! {
    fn any_vault()(
        is_known in prop::bool::weighted(0.9),
        is_required in any::<bool>(),
        whole in prop::collection::btree_set(2_u64..8, 0..6),
        tail in prop::option::of((2_u64..9, 1..SIZE.bytes())),
    ) -> Option<Held> {
        let whole: Vec<u64> = whole.into_iter().collect();
        let tails: Vec<(u64, u64, u64)> = tail.into_iter().map(|(number, to)| (number, 0, to)).collect();
        is_known.then(|| held(is_required, &whole, &tails))
    }
}

proptest! {
    #[test]
    fn nothing_is_skipped_and_nothing_claimed_that_is_not_there(
        vaults in prop::collection::vec(any_vault(), 1..4),
        written in lsn(2, 0).0..lsn(10, 0).0,
        oldest in prop::option::of(lsn(2, 0).0..lsn(10, 0).0),
    ) {
        let oldest = oldest.map(|oldest| Lsn(oldest.min(written)));
        let source = Source { oldest, ..source(Lsn(written)) };
        let tips: Vec<Option<Lsn>> =
            vaults.iter().map(|held| held.as_ref()?.coverage.tip(T1, SIZE)).collect();
        match begin(&vaults, &source) {
            Err(forked) => {
                prop_assert_eq!(tips[forked.vault], Some(forked.held));
                prop_assert!(forked.held > source.wanted);
            }
            Ok(begun) => {
                prop_assert!(tips.iter().flatten().all(|tip| *tip <= Lsn(written)));
                prop_assert_eq!(begun.start, SIZE.floor(begun.start));
                for ((held, standing), tip) in vaults.iter().zip(&begun.vaults).zip(&tips) {
                    prop_assert_eq!(held.is_some(), standing.is_some());
                    let (Some(held), Some(standing)) = (held, standing) else { continue };
                    let is_lost = oldest.is_some_and(|oldest| begun.start <= oldest);
                    prop_assert!(!held.is_required || is_lost || tip.is_none_or(|tip| begun.start <= tip));
                    prop_assert!(oldest.is_none_or(|oldest| SIZE.floor(oldest) <= begun.start));
                    let covers = held.coverage.covers(T1, SIZE, begun.start, standing.stored);
                    prop_assert!(standing.stored == begun.start || covers);
                    prop_assert_eq!(standing.last.is_some(), standing.stored > begun.start);
                    if let Some(hole) = &standing.hole {
                        prop_assert!(hole.start < hole.end && !held.coverage.covers(T1, SIZE, hole.start, hole.end));
                    }
                }
            }
        }
    }
}
