use proptest::prelude::*;

use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const MIB: u64 = 1 << 20;

fn candidate(id: &str, timeline: u32, start: u64, stop: u64, finished: i64) -> Candidate {
    Candidate {
        id: id.parse().unwrap(),
        timeline: Timeline(timeline),
        start_lsn: Lsn(start),
        stop_lsn: Lsn(stop),
        finished_at: Timestamp::from_second(finished).unwrap(),
        parent: None,
    }
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment { timeline: Timeline(timeline), number }
}

/// Two backups; segments 1 to 9 of timeline 1 are whole, the tenth has tails up to 3 MiB.
fn facts() -> Facts {
    let mut coverage = Coverage::default();
    (1..10).for_each(|number| coverage.add_whole(segment(1, number)));
    coverage.add_tail(segment(1, 10), 0, MIB);
    coverage.add_tail(segment(1, 10), MIB, 3 * MIB);
    coverage.add_tail(segment(1, 10), 4 * MIB, 5 * MIB);
    let backups = vec![
        candidate("a", 1, 2 * SIZE.bytes() + 40, 2 * SIZE.bytes() + 400, 1000),
        candidate("b", 1, 6 * SIZE.bytes() + 40, 7 * SIZE.bytes() + 400, 2000),
    ];
    Facts { backups, coverage, histories: BTreeMap::new(), segment_size: SIZE, not_after: None }
}

fn lsn(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * SIZE.bytes() + offset)
}

#[test]
fn the_latest_is_the_newest_backup_and_everything_contiguous_after_it() {
    let chosen = choose(&facts(), &RecoveryTarget::Latest, None).unwrap();
    assert_eq!(chosen.backup.as_str(), "b");
    assert_eq!(chosen.end, lsn(10, 3 * MIB), "the piece behind the gap does not count");
    assert_eq!(chosen.wal.first().unwrap().segment, segment(1, 6));
    assert_eq!(chosen.wal.last().unwrap().tails, [(0, MIB), (MIB, 3 * MIB)]);
}

#[test]
fn a_position_takes_the_newest_backup_before_it_and_no_more_wal_than_it_needs() {
    let chosen = choose(&facts(), &RecoveryTarget::Lsn(lsn(4, 5)), None).unwrap();
    assert_eq!((chosen.backup.as_str(), chosen.wal.len()), ("a", 3));
    let chosen = choose(&facts(), &RecoveryTarget::Lsn(lsn(8, 5)), None).unwrap();
    assert_eq!((chosen.backup.as_str(), chosen.wal.len()), ("b", 3));
    let explicit = "a".parse().unwrap();
    let chosen = choose(&facts(), &RecoveryTarget::Lsn(lsn(8, 5)), Some(&explicit)).unwrap();
    assert_eq!((chosen.backup.as_str(), chosen.wal.len()), ("a", 7));
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let refused = |facts: &Facts, target| choose(facts, &target, None).unwrap_err();
    let early = refused(&facts(), RecoveryTarget::Lsn(lsn(2, 100)));
    assert!(matches!(early, Refusal::BeforeFirst { .. }));
    assert!(early.to_string().contains("0/2000190") && early.to_string().contains("0/A300000"), "{early}");
    assert!(matches!(refused(&facts(), RecoveryTarget::Lsn(lsn(10, 3 * MIB))), Refusal::AfterTip { .. }));
    assert!(matches!(
        refused(&facts(), RecoveryTarget::Time(Timestamp::from_second(999).unwrap())),
        Refusal::BeforeFirst { .. }
    ));
    let mut known = facts();
    known.not_after = Some(Timestamp::from_second(3000).unwrap());
    assert!(matches!(
        refused(&known, RecoveryTarget::Time(Timestamp::from_second(3001).unwrap())),
        Refusal::AfterTip { .. }
    ));
    let mut gap = facts();
    gap.coverage.whole.remove(&segment(1, 8));
    assert!(matches!(refused(&gap, RecoveryTarget::Latest), Refusal::Gap { from, .. } if from == lsn(8, 0)));
    assert!(choose(&gap, &RecoveryTarget::Immediate, None).is_ok(), "the backup itself is whole");
    // Between the backups: both ends of what cannot be restored are told.
    let mut between = facts();
    between.coverage.whole.remove(&segment(1, 4));
    let lost = refused(&between, RecoveryTarget::Lsn(lsn(5, 0)));
    assert!(matches!(lost, Refusal::Gap { from, again: Some(again), .. } if from == lsn(4, 0) && again == lsn(7, 400)));
    assert!(lost.to_string().contains("can be restored again from 0/7000190, "), "{lost}");
    let mut none = facts();
    none.backups.clear();
    assert_eq!(refused(&none, RecoveryTarget::Latest), Refusal::NoBackup);
    let unknown = "x".parse().unwrap();
    assert!(matches!(choose(&facts(), &RecoveryTarget::Latest, Some(&unknown)), Err(Refusal::UnknownBackup { .. })));
}

#[test]
fn a_time_before_a_gap_is_served_up_to_the_gap() {
    let mut gap = facts();
    gap.coverage.whole.remove(&segment(1, 9));
    let chosen = choose(&gap, &RecoveryTarget::Time(Timestamp::from_second(2500).unwrap()), None).unwrap();
    assert_eq!((chosen.backup.as_str(), chosen.end), ("b", lsn(9, 0)));
}

/// Kept beyond the window, a backup has no WAL but that from its start to its stop.
#[test]
fn a_time_after_a_backup_with_no_wal_but_its_own_is_refused() {
    let mut facts = facts();
    facts.coverage = Coverage::default();
    for number in [2, 6, 7, 8] {
        facts.coverage.add_whole(segment(1, number));
    }
    let at = |second| RecoveryTarget::Time(Timestamp::from_second(second).unwrap());
    let refused = choose(&facts, &at(1500), None).unwrap_err();
    assert!(matches!(&refused, Refusal::Gap { backup, from, .. } if backup.as_str() == "a" && *from == lsn(3, 0)));
    let backup = "a".parse().unwrap();
    assert!(choose(&facts, &RecoveryTarget::Immediate, Some(&backup)).is_ok());
    assert_eq!(choose(&facts, &at(2000), None).unwrap().backup.as_str(), "b");
    // Where nothing came after it, its own WAL is the newest.
    facts.backups.pop();
    facts.coverage.whole.retain(|segment| segment.number == 2);
    assert!(choose(&facts, &at(1500), None).is_ok());
}

/// Timeline 2 branched off in segment 9.
fn promoted() -> Facts {
    let mut facts = facts();
    (9..12).for_each(|number| facts.coverage.add_whole(segment(2, number)));
    facts.histories.insert(Timeline(2), vec![(Timeline(1), lsn(9, MIB))]);
    facts
}

#[test]
fn timelines_are_followed_through_their_history() {
    let chosen = choose(&promoted(), &RecoveryTarget::Latest, None).unwrap();
    assert_eq!(chosen.timeline, Timeline(2));
    let segments: Vec<Segment> = chosen.wal.iter().map(|piece| piece.segment).collect();
    assert_eq!(segments[2..], [segment(1, 8), segment(2, 9), segment(2, 10), segment(2, 11)]);
    let before = choose(&promoted(), &RecoveryTarget::Lsn(lsn(8, 5)), None).unwrap();
    assert_eq!(before.timeline, Timeline(1), "a point before the fork lies on the old timeline");
    let mut lost = promoted();
    lost.histories.clear();
    assert_eq!(choose(&lost, &RecoveryTarget::Latest, None), Err(Refusal::NoHistory(Timeline(2))));
    let mut beyond = promoted();
    beyond.backups.push(candidate("c", 1, lsn(9, 2 * MIB).0, lsn(9, 2 * MIB + 9).0, 2500));
    let chosen = choose(&beyond, &RecoveryTarget::Latest, None).unwrap();
    assert_eq!(chosen.backup.as_str(), "b", "a backup beyond the fork leads nowhere");
    let explicit = "c".parse().unwrap();
    assert!(matches!(choose(&beyond, &RecoveryTarget::Latest, Some(&explicit)), Err(Refusal::OffTimeline { .. })));
}

/// A standby was promoted that was ahead of the vault: what it had more of timeline 1
/// came with the first segment of timeline 2.
#[test]
fn the_end_of_a_timeline_may_come_with_the_next_one() {
    let mut ahead = promoted();
    ahead.coverage.whole.remove(&segment(1, 9));
    ahead.coverage.add_tail(segment(1, 9), 0, MIB / 2);
    let chosen = |facts: &Facts, at: Lsn| {
        let chosen = choose(facts, &RecoveryTarget::Lsn(at), None)?;
        Ok::<_, Refusal>((chosen.timeline, chosen.wal.last().unwrap().segment))
    };
    assert_eq!(chosen(&ahead, lsn(9, MIB / 4)), Ok((Timeline(1), segment(1, 9))), "as far as its own segment reaches");
    for at in [lsn(9, MIB / 2), lsn(9, MIB - 1)] {
        assert_eq!(chosen(&ahead, at), Ok((Timeline(2), segment(2, 9))), "{at}");
    }
    ahead.coverage.whole.remove(&segment(2, 9));
    let lost = chosen(&ahead, lsn(9, MIB / 2)).unwrap_err();
    assert!(matches!(lost, Refusal::Gap { timeline: Timeline(1), from, .. } if from == lsn(9, MIB / 2)), "{lost}");
}

#[test]
fn a_history_file_is_read_as_postgres_writes_it() {
    let text = "1\t0/9100000\tno recovery target specified\n\n2\t0/B000000\tbefore 2026\n";
    assert_eq!(parse_history(text), Some(vec![(Timeline(1), Lsn(0x0910_0000)), (Timeline(2), Lsn(0x0B00_0000))]));
    assert_eq!(parse_history("nonsense"), None);
}

proptest! {
    /// Whatever is missing: an answer covers [start, target] without a gap, or there is none.
    #[test]
    fn never_silently_shorter(present in prop::collection::btree_set(1u64..12, 0..11), target in 0u64..12, offset in 0u64..SIZE.bytes()) {
        let mut facts = facts();
        facts.coverage = Coverage::default();
        for number in &present {
            facts.coverage.add_whole(segment(1, *number));
        }
        let wanted = lsn(target, offset);
        for target in [RecoveryTarget::Lsn(wanted), RecoveryTarget::Latest] {
            let Ok(chosen) = choose(&facts, &target, None) else { continue };
            let backup = facts.backups.iter().find(|backup| backup.id == chosen.backup).unwrap();
            let end = if target == RecoveryTarget::Latest { lsn(*present.last().unwrap() + 1, 0) } else { wanted };
            prop_assert!(backup.stop_lsn <= end);
            let first = SIZE.number_of(backup.start_lsn);
            let last = SIZE.number_of(Lsn(end.0 - u64::from(target == RecoveryTarget::Latest)));
            let numbers: Vec<u64> = chosen.wal.iter().map(|piece| piece.segment.number).collect();
            prop_assert_eq!(&numbers, &(first..=last).collect::<Vec<_>>());
            prop_assert!(numbers.iter().all(|number| present.contains(number)));
        }
    }

    /// Tails in any cuts and order are held exactly as far as they reach without a gap.
    #[test]
    fn tails_are_held_up_to_their_first_gap(pieces in prop::collection::vec((0u64..50, 1u64..20), 0..12)) {
        let mut coverage = Coverage::default();
        for (from, length) in &pieces {
            coverage.add_tail(segment(1, 1), *from, from + length);
        }
        let is_held = |at: u64| pieces.iter().any(|(from, length)| (*from..from + length).contains(&at));
        let expected = (0..100).find(|at| !is_held(*at)).unwrap();
        let (chosen, held) = coverage.tails_of(segment(1, 1));
        prop_assert_eq!(held, expected);
        prop_assert!(chosen.windows(2).all(|pair| pair[1].0 <= pair[0].1 && pair[1].1 > pair[0].1));
    }
}

#[test]
fn an_increment_needs_all_that_it_builds_upon() {
    let mut facts = facts();
    facts.backups[1].parent = Some("a".parse().unwrap());
    let chain = |chosen: &Selection| chosen.chain.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
    let chosen = choose(&facts, &RecoveryTarget::Latest, None).unwrap();
    assert_eq!((chosen.backup.as_str(), chain(&chosen)), ("b", vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(chosen.wal.first().unwrap().segment, segment(1, 6), "WAL is replayed from the newest alone");

    facts.backups[1].parent = Some("lost".parse().unwrap());
    let chosen = choose(&facts, &RecoveryTarget::Latest, None).unwrap();
    assert_eq!((chosen.backup.as_str(), chain(&chosen)), ("a", vec!["a".to_owned()]));
    let explicit = "b".parse().unwrap();
    let refused = choose(&facts, &RecoveryTarget::Latest, Some(&explicit)).unwrap_err();
    assert_eq!(refused, Refusal::NoParent { backup: explicit, parent: "lost".parse().unwrap() });

    facts.backups[1].parent = Some("b".parse().unwrap());
    assert_eq!(choose(&facts, &RecoveryTarget::Latest, None).unwrap().backup.as_str(), "a", "a circle is no chain");
}

/// The self-test relies on it: what it plants into a backup is met in that backup alone.
#[test]
fn a_named_backup_without_its_wal_is_refused_whatever_has_ended_since() {
    let mut facts = facts();
    let orphan = candidate("c", 1, 8 * SIZE.bytes() + 40, 8 * SIZE.bytes() + 400, 3000);
    facts.backups.push(Candidate { parent: Some("lost".parse().unwrap()), ..orphan });
    let newest = facts.newest_restorable().unwrap().clone();
    assert_eq!(newest.id.as_str(), "b", "what lacks its parent is not restored");
    facts.coverage.whole.remove(&segment(1, 6));
    facts.backups.push(candidate("d", 1, 8 * SIZE.bytes() + 500, 8 * SIZE.bytes() + 900, 4000));
    assert_eq!(choose(&facts, &RecoveryTarget::Immediate, None).unwrap().backup.as_str(), "d");
    let refused = choose(&facts, &RecoveryTarget::Immediate, Some(&newest.id)).unwrap_err();
    assert!(
        matches!(&refused, Refusal::Gap { timeline, from, .. } if *timeline == Timeline(1) && *from == lsn(6, 0)),
        "{refused}"
    );
    facts.backups.clear();
    assert_eq!(facts.newest_restorable(), None);
}
