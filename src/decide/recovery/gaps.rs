//! The WAL that is not there: from each backup's start to the newest position of
//! the line of history that it leads to. Nothing is assumed to be there that a
//! listing does not prove; what is needed is told apart from what may have expired.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use jiff::Timestamp;

use super::{Candidate, Coverage, Facts, Line};
use crate::domain::{BackupId, Lsn, Segment, SegmentSize, Timeline};

/// A stretch of WAL that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub timeline: Timeline,
    pub from: Lsn,
    pub to: Lsn,
    /// Backups that cannot be restored at all without it.
    pub unusable: Vec<BackupId>,
    /// Backups that cannot be restored to a point after it.
    pub cut_off: Vec<BackupId>,
    /// The last known instant before it; none when none is known.
    pub after: Option<Timestamp>,
    /// The end of the first backup after it; none when no backup was taken since.
    pub until: Option<Timestamp>,
    pub need: Need,
}

/// Whether WAL must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A backup needs it for itself, or retention keeps it.
    Needed,
    /// Nobody knows whether it has expired or was lost.
    Unknown,
    /// Retention has let it go.
    Expired,
}

/// A position and an instant at which everything before it had been committed.
pub type Instant = (Timeline, Lsn, Timestamp);

/// All gaps, by timeline and position. `instants` tell when positions were
/// written; the backups' ends are added to them. `retained` tells of WAL that no
/// backup needs for itself whether it stays.
pub fn gaps(facts: &Facts, instants: &[Instant], retained: &dyn Fn(Segment) -> Need) -> Vec<Gap> {
    let mut groups: BTreeMap<Timeline, (Line, Vec<&Candidate>)> = BTreeMap::new();
    for backup in &facts.backups {
        let (timeline, line) = line_of(backup, facts);
        groups.entry(timeline).or_insert_with(|| (line, Vec::new())).1.push(backup);
    }
    let mut found: BTreeMap<(Timeline, Lsn), Gap> = BTreeMap::new();
    for (timeline, (line, backups)) in &groups {
        let Some(start) = backups.iter().map(|backup| facts.segment_size.floor(backup.start_lsn)).min() else {
            continue;
        };
        let stop = backups.iter().map(|backup| backup.stop_lsn).max().unwrap_or_default();
        let end = facts.coverage.extent(*timeline, facts.segment_size).unwrap_or_default().max(stop);
        // What begins before this is cut off already, by WAL that nobody needs.
        let mut severed = Lsn(0);
        for missing in missing(facts, line, start..end, retained) {
            let key = (missing.timeline, missing.from);
            let gap = found.entry(key).or_insert_with(|| describe(facts, line, instants, &missing));
            for backup in backups {
                let begins = facts.segment_size.floor(backup.start_lsn);
                let names = if missing.from < backup.stop_lsn { &mut gap.unusable } else { &mut gap.cut_off };
                if (severed..missing.to).contains(&begins) && !names.contains(&backup.id) {
                    names.push(backup.id.clone());
                }
            }
            if missing.need != Need::Needed {
                severed = missing.to;
            }
        }
    }
    // One that only cuts off a branch which nothing was taken from needs nobody's care.
    found.into_values().filter(|gap| !gap.unusable.is_empty() || !gap.cut_off.is_empty()).collect()
}

/// The newest timeline that a backup leads to, and the way there. Where a
/// history file is not there, the backup's own timeline is all that is known.
fn line_of(backup: &Candidate, facts: &Facts) -> (Timeline, Line) {
    let known: BTreeSet<Timeline> =
        facts.coverage.timelines().into_iter().chain(facts.backups.iter().map(|backup| backup.timeline)).collect();
    known
        .into_iter()
        .rev()
        .filter_map(|timeline| Some((timeline, Line::leading_to(timeline, &facts.histories).ok()?)))
        .find(|(_, line)| line.holds(backup))
        .unwrap_or_else(|| (backup.timeline, Line::of(backup.timeline)))
}

/// A stretch of a line that no object covers.
struct Missing {
    /// The timeline whose segment a server would read there.
    timeline: Timeline,
    from: Lsn,
    to: Lsn,
    need: Need,
}

/// The stretches of a line that no object covers, needed ones apart from others.
fn missing(facts: &Facts, line: &Line, range: Range<Lsn>, retained: &dyn Fn(Segment) -> Need) -> Vec<Missing> {
    let size = facts.segment_size;
    let is_own = |from: Lsn, to: Lsn| {
        let on_line = facts.backups.iter().filter(|backup| line.holds(backup));
        on_line.into_iter().any(|backup| from < backup.stop_lsn && size.floor(backup.start_lsn) < to)
    };
    let mut missing: Vec<Missing> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let number = size.number_of(at);
        let Some(timeline) = line.file_of(number, size) else { break };
        let segment = Segment { timeline, number };
        let wanted = segment.end(size).min(range.end);
        for (from, to) in facts.coverage.uncovered(segment, wanted.0 - segment.start(size).0) {
            let (from, to) = (segment.start(size).forward(from), segment.start(size).forward(to));
            let need = if is_own(from, to) { Need::Needed } else { retained(segment) };
            match missing.last_mut() {
                Some(last) if (last.timeline, last.to, last.need) == (timeline, from, need) => last.to = to,
                _ => missing.push(Missing { timeline, from, to, need }),
            }
        }
        at = segment.end(size);
    }
    missing
}

fn describe(facts: &Facts, line: &Line, instants: &[Instant], missing: &Missing) -> Gap {
    let Missing { timeline, from, to, need } = *missing;
    let ends = facts.backups.iter().map(|backup| (backup.timeline, backup.stop_lsn, backup.finished_at));
    let on_line =
        |(timeline, lsn): (Timeline, Lsn)| line.0.iter().any(|(on, range)| *on == timeline && lsn <= range.end);
    let before = ends.chain(instants.iter().copied()).filter(|(on, lsn, _)| on_line((*on, *lsn)) && *lsn <= from);
    let after = before.map(|(_, _, at)| at).max();
    let later = facts.backups.iter().filter(|backup| line.holds(backup) && backup.start_lsn >= to);
    let until = later.map(|backup| backup.finished_at).min();
    Gap { timeline, from, to, unusable: Vec::new(), cut_off: Vec::new(), after, until, need }
}

/// From where on points of a line can be restored behind a gap: the end of the
/// first backup there that has its own WAL, as position and instant.
pub(super) fn again(facts: &Facts, line: &Line, gap: Lsn) -> Option<(Lsn, Timestamp)> {
    let size = facts.segment_size;
    let behind = facts.backups.iter().filter(|backup| line.holds(backup) && backup.start_lsn >= gap);
    let whole = behind.filter(|backup| facts.coverage.covers(backup.timeline, size, backup.start_lsn, backup.stop_lsn));
    whole.map(|backup| (backup.stop_lsn, backup.finished_at)).min()
}

impl Coverage {
    /// The end of the last piece of a timeline, whatever is missing before it.
    pub fn extent(&self, timeline: Timeline, size: SegmentSize) -> Option<Lsn> {
        let whole = self.whole.iter().filter(|segment| segment.timeline == timeline).map(|segment| segment.end(size));
        let tails = self.tails.iter().filter(|(segment, _)| segment.timeline == timeline);
        let pieces = tails.flat_map(|(segment, pieces)| pieces.iter().map(|(_, to)| segment.start(size).forward(*to)));
        whole.chain(pieces).max()
    }

    /// The offsets of a segment before `limit` that nothing covers.
    fn uncovered(&self, segment: Segment, limit: u64) -> Vec<(u64, u64)> {
        if self.has_whole(segment) {
            return Vec::new();
        }
        let mut uncovered = Vec::new();
        let mut held = 0;
        for (from, to) in self.tails.get(&segment).into_iter().flatten() {
            if *from > held && held < limit {
                uncovered.push((held, (*from).min(limit)));
            }
            held = held.max(*to);
        }
        if held < limit {
            uncovered.push((held, limit));
        }
        uncovered
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide::recovery::History;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn lsn(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + offset)
    }

    fn backup(id: &str, timeline: u32, start: Lsn, stop: Lsn, second: i64) -> Candidate {
        let finished_at = Timestamp::from_second(second).unwrap();
        Candidate {
            id: id.parse().unwrap(),
            timeline: Timeline(timeline),
            start_lsn: start,
            stop_lsn: stop,
            finished_at,
            parent: None,
        }
    }

    /// Timeline 1 from segment 2 to 5, forked in 5; timeline 2 from 5 to 8 and a tail of 9.
    fn facts(lost: &[(u32, u64)]) -> Facts {
        let mut coverage = Coverage::default();
        let held = (2..5).map(|number| (1, number)).chain((5..9).map(|number| (2, number)));
        for (timeline, number) in held.filter(|segment| !lost.contains(segment)) {
            coverage.add_whole(Segment { timeline: Timeline(timeline), number });
        }
        coverage.add_tail(Segment { timeline: Timeline(1), number: 5 }, 0, 1000);
        for (from, to) in [(0, 500), (500, 900)] {
            coverage.add_tail(Segment { timeline: Timeline(2), number: 9 }, from, to);
        }
        let history: History = vec![(Timeline(1), lsn(5, 1000))];
        Facts {
            backups: vec![
                backup("one", 1, lsn(2, 40), lsn(2, 400), 100),
                backup("two", 2, lsn(7, 40), lsn(8, 400), 200),
            ],
            coverage,
            histories: [(Timeline(2), history)].into(),
            segment_size: SIZE,
            not_after: None,
        }
    }

    /// Where nothing has expired.
    fn all(facts: &Facts, instants: &[Instant]) -> Vec<Gap> {
        gaps(facts, instants, &|_| Need::Needed)
    }

    #[test]
    fn all_there_is_no_gap_across_a_fork() {
        assert_eq!(all(&facts(&[]), &[]), []);
        // What the older timeline wrote after the fork is nobody's need.
        assert_eq!(all(&facts(&[(1, 6)]), &[]), []);
    }

    #[test]
    fn a_missing_segment_is_named_with_what_it_breaks() {
        let seen = (Timeline(1), lsn(3, 7), Timestamp::from_second(150).unwrap());
        let [gap] = &all(&facts(&[(1, 4)]), &[seen])[..] else { panic!() };
        assert_eq!((gap.timeline, gap.from, gap.to), (Timeline(1), lsn(4, 0), lsn(5, 0)));
        assert_eq!((gap.cut_off.len(), gap.unusable.len()), (1, 0));
        assert_eq!(gap.after, Some(seen.2));
        assert_eq!(gap.until.unwrap().as_second(), 200);
        // The fork's segment is read from the newer timeline.
        let [gap] = &all(&facts(&[(2, 5)]), &[])[..] else { panic!() };
        assert_eq!((gap.timeline, gap.from), (Timeline(2), lsn(5, 0)));
        let [gap] = &all(&facts(&[(2, 7), (2, 8)]), &[])[..] else { panic!() };
        assert_eq!((gap.from, gap.to), (lsn(7, 0), lsn(9, 0)));
        assert_eq!(
            (&gap.unusable[..], &gap.cut_off[..]),
            (&["two".parse().unwrap()][..], &["one".parse().unwrap()][..])
        );
        assert_eq!((gap.after.unwrap().as_second(), gap.until), (100, None));
    }

    #[test]
    fn a_lost_tail_and_a_stop_beyond_everything_are_gaps() {
        let mut lost = facts(&[]);
        lost.coverage.tails.insert(Segment { timeline: Timeline(2), number: 9 }, [(0, 100), (500, 900)].into());
        let [gap] = &all(&lost, &[])[..] else { panic!() };
        assert_eq!((gap.from, gap.to), (lsn(9, 100), lsn(9, 500)));
        let mut lying = facts(&[]);
        lying.backups[1].stop_lsn = lsn(20, 0);
        let [gap] = &all(&lying, &[])[..] else { panic!() };
        assert_eq!((gap.from, gap.to), (lsn(9, 900), lsn(20, 0)));
        assert_eq!(gap.unusable, ["two".parse().unwrap()]);
    }

    #[test]
    fn what_has_expired_is_told_apart_from_what_is_lost() {
        // A third backup, kept beside "one" beyond the window, which begins with "two".
        let mut expired = facts(&[(1, 3), (1, 4), (2, 5), (2, 6)]);
        let window = |segment: Segment| if segment.number >= 7 { Need::Needed } else { Need::Expired };
        let [gap] = &gaps(&expired, &[], &window)[..] else { panic!() };
        assert_eq!(gap.need, Need::Expired);
        assert_eq!((gap.from, gap.to, &gap.unusable[..]), (lsn(3, 0), lsn(5, 0), &[][..]), "to the fork's file");
        // What is lost beside it is not hidden by it, nor does it grow by it.
        for (lost, needed) in [((1, 2), lsn(2, 0)..lsn(3, 0)), ((2, 7), lsn(7, 0)..lsn(8, 0))] {
            let found = gaps(&facts(&[(1, 3), (1, 4), (2, 5), (2, 6), lost]), &[], &window);
            let found: Vec<&Gap> = found.iter().filter(|gap| gap.need == Need::Needed).collect();
            let [gap] = &found[..] else { panic!("{found:?}") };
            assert_eq!(gap.from..gap.to, needed);
            assert_eq!(gap.unusable.len(), 1, "{gap:?}");
        }
        // Nor where nobody knows what has expired.
        let unknown = gaps(&facts(&[(1, 2), (1, 3), (1, 4)]), &[], &|_| Need::Unknown);
        let found: Vec<_> = unknown.iter().map(|gap| (gap.from, gap.to, gap.need)).collect();
        assert_eq!(found, [(lsn(2, 0), lsn(3, 0), Need::Needed), (lsn(3, 0), lsn(5, 0), Need::Unknown)]);
        // A backup that expiry has cut off is not told to be cut off by what is lost later.
        expired.coverage.tails.remove(&Segment { timeline: Timeline(2), number: 9 });
        expired.coverage.add_tail(Segment { timeline: Timeline(2), number: 9 }, 500, 900);
        let found = gaps(&expired, &[], &window);
        let gap = found.iter().find(|gap| gap.need == Need::Needed).unwrap();
        assert_eq!((gap.from, &gap.cut_off[..]), (lsn(9, 0), &["two".parse().unwrap()][..]));
    }

    proptest! {
        /// Whatever is taken away between the first backup's start and the end is named, exactly.
        #[test]
        fn what_is_lost_is_named(lost in prop::collection::btree_set(2_u64..9, 0..5)) {
            let lost: Vec<(u32, u64)> = lost.into_iter().map(|number| (if number < 5 { 1 } else { 2 }, number)).collect();
            let mut named = Vec::new();
            for gap in all(&facts(&lost), &[]) {
                let (mut at, end) = (gap.from, gap.to);
                while at < end {
                    named.push((gap.timeline.0, SIZE.number_of(at)));
                    at = at.forward(SIZE.bytes());
                }
            }
            prop_assert_eq!(named, lost);
        }
    }
}
