//! Whether recovery to an instant finds where to stop: the first commit that is
//! later. Where none is held, nobody could tell that state from a shorter history,
//! and the server fails at the end of its WAL; so the last commit is looked for
//! before anything is restored. Where the server's clock was set back, the latest commit
//! is not the last one.

use jiff::Timestamp;

use super::{Facts, Line, Refusal, Selection, bounds, gap, named, newest_timeline, search::Look};
use crate::domain::{Lsn, RecoveryTarget};

/// No more segments are looked through at once: they lie on disk meanwhile.
const SEGMENTS_MAX: usize = 64;

/// Where the last commit may be that recovery of `chosen` comes to: its newest
/// segments, then four times as many before them, and so on. Each look takes a
/// segment of the one before again, as a record may end there.
pub fn back_from_end(facts: &Facts, chosen: &Selection) -> Result<Vec<Look>, Refusal> {
    let (size, begin) = (facts.segment_size, named(facts, &chosen.backup)?.start_lsn);
    let (mut looks, mut until, mut count) = (Vec::new(), chosen.wal.len(), 2);
    while until > 0 {
        let from = until.saturating_sub(count);
        let pieces = chosen.wal.get(from..(until + 1).min(chosen.wal.len())).unwrap_or_default().to_vec();
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
            let (start, end) = (first.segment.start(size).max(begin), last.segment.end(size).min(chosen.end));
            looks.push(Look { pieces, start, end });
        }
        (until, count) = (from, (count * 4).min(SEGMENTS_MAX));
    }
    Ok(looks)
}

/// How many looks are taken although a commit was found. One that is later lies before
/// it only where the server's clock was set back; who asks for a time that is too late
/// does not wait until all WAL was read.
const LOOKS: usize = 3;

/// Whether to look further back for a commit that is later than the target, after so many
/// looks in which `latest` was the latest.
pub fn looks_on(looked: usize, latest: Option<Timestamp>) -> bool {
    latest.is_none() || looked < LOOKS
}

/// Whether recovery to `target` stops before this commit.
pub fn stops_before(target: &RecoveryTarget, commit: Timestamp) -> bool {
    match target {
        RecoveryTarget::Time(at) => commit > *at,
        RecoveryTarget::BeforeTime(at) => commit >= *at,
        _ => false,
    }
}

/// Why there is no such commit: the WAL ends before, at a gap or for good. `last`
/// is the last commit that was found.
pub fn refusal(facts: &Facts, chosen: &Selection, last: Option<Timestamp>) -> Refusal {
    let told = bounds(facts).and_then(|bounds| {
        let newest = newest_timeline(facts).ok_or(Refusal::NoBackup)?;
        Ok((bounds, Line::leading_to(newest, &facts.histories)?, newest))
    });
    let (mut bounds, line, newest) = match told {
        Ok(told) => told,
        Err(refusal) => return refusal,
    };
    if chosen.end < facts.coverage.tip(newest, facts.segment_size).unwrap_or(Lsn(0)) {
        let mut gap = gap(facts, &line, &chosen.target, &chosen.backup, (chosen.end, bounds));
        if let Refusal::Gap { window, .. } = &mut gap {
            window.after = last;
        }
        return gap;
    }
    bounds.newest_at = last;
    Refusal::NoLaterCommit { target: chosen.target.clone(), bounds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::recovery::{Candidate, Coverage, choose},
        domain::{Segment, SegmentSize, Timeline},
    };

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Backups at the beginning and the end of a hundred segments, but for `lost`.
    fn facts(lost: &[u64]) -> Facts {
        let mut coverage = Coverage::default();
        for number in (1..=100).filter(|number| !lost.contains(number)) {
            coverage.add_whole(Segment { timeline: Timeline(1), number });
        }
        let backups = [(1, 10), (90, 1000)].map(|(number, second)| Candidate {
            id: format!("b{number}").parse().unwrap(),
            timeline: Timeline(1),
            start_lsn: Lsn(number * SIZE.bytes() + 40),
            stop_lsn: Lsn(number * SIZE.bytes() + 400),
            finished_at: at(second),
            parent: None,
        });
        Facts { backups: backups.into(), coverage, histories: [].into(), segment_size: SIZE, not_after: None }
    }

    #[test]
    fn looks_go_back_to_the_start_of_the_backup_and_leave_nothing_out() {
        let facts = facts(&[]);
        let chosen = choose(&facts, &RecoveryTarget::Time(at(500)), None).unwrap();
        let looks = back_from_end(&facts, &chosen).unwrap();
        let told: Vec<(u64, u64)> =
            looks.iter().map(|look| (SIZE.number_of(look.start), SIZE.number_of(look.end))).collect();
        assert_eq!(told, [(99, 101), (91, 100), (59, 92), (1, 60)]);
        assert_eq!((looks[3].start, looks[0].end), (Lsn(SIZE.bytes() + 40), Lsn(101 * SIZE.bytes())));
        assert!(looks.iter().all(|look| look.pieces.len() <= SEGMENTS_MAX + 1));
    }

    #[test]
    fn a_clock_that_was_set_back_is_looked_behind_and_no_further_than_that() {
        for (looked, latest, expected) in [
            (0, None, true),
            (1, Some(at(10)), true),
            (2, Some(at(10)), true),
            (3, Some(at(10)), false),
            (3, None, true),
        ] {
            assert_eq!(looks_on(looked, latest), expected, "{looked} {latest:?}");
        }
    }

    #[test]
    fn a_later_commit_is_where_recovery_stops() {
        let stops = |target: RecoveryTarget| [9, 10, 11].map(|second| stops_before(&target, at(second)));
        assert_eq!(stops(RecoveryTarget::Time(at(10))), [false, false, true]);
        assert_eq!(stops(RecoveryTarget::BeforeTime(at(10))), [false, true, true]);
    }

    #[test]
    fn what_ends_before_is_told_apart_from_what_is_broken() {
        let told = |lost: &[u64]| {
            let facts = facts(lost);
            let chosen = choose(&facts, &RecoveryTarget::Time(at(500)), None).unwrap();
            refusal(&facts, &chosen, Some(at(400)))
        };
        let ends = told(&[]);
        assert!(matches!(&ends, Refusal::NoLaterCommit { bounds, .. } if bounds.newest_at == Some(at(400))), "{ends}");
        assert!(ends.to_string().contains("1970-01-01T00:06:40Z"), "{ends}");
        let broken = told(&[50]);
        assert!(
            matches!(&broken, Refusal::Gap { from, window, .. }
                if *from == Lsn(50 * SIZE.bytes()) && window.after == Some(at(400)) && window.until == Some(at(1000))),
            "{broken}"
        );
        assert!(broken.to_string().contains("from 0/5A000190, 1970-01-01T00:16:40Z, on"), "{broken}");
    }
}
