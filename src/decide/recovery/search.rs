//! What names and sizes of objects do not tell about a point: which backup leads
//! to the end of a transaction or to a restore point, and whether a whole record
//! is there for recovery to stop at. Recovery stops at the first such record
//! after the backup's start, and fails when that lies before the backup's end; so
//! the newest backup is not always the one, and the WAL of each is searched first.

use super::{Bounds, Facts, Line, Refusal, Selection, WalPiece, bounds, choose, collect, named, newest_timeline};
use crate::domain::{BackupId, Lsn, RecoveryTarget, lsn::RECORD_BYTES_MAX};

/// Why a point that the listing did not exclude cannot be restored to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    #[error("`{xid}` is not a transaction number, of 32 or 64 bits")]
    NoTransaction { xid: String },
    #[error(
        "{target} is nowhere in the WAL from LSN {from}, where backup `{backup}` starts, to LSN {to}, which is all that was searched{}; {bounds}",
        told_missing(missing)
    )]
    Nowhere {
        target: RecoveryTarget,
        backup: BackupId,
        from: Lsn,
        to: Lsn,
        /// Where WAL is missing in between.
        missing: Vec<Lsn>,
        bounds: Box<Bounds>,
    },
    #[error(
        "{target} lies at LSN {at}, and backup `{backup}` is complete at LSN {stop} only; recovery cannot stop before that, and no earlier backup leads there; {bounds}"
    )]
    BeforeBackup { target: RecoveryTarget, at: Lsn, backup: BackupId, stop: Lsn, bounds: Box<Bounds> },
    #[error("{target} lies after the last whole record that is held, which {}; `--latest` restores to that; {bounds}", told(last.as_ref()))]
    AfterLastRecord { target: RecoveryTarget, last: Option<Lsn>, bounds: Box<Bounds> },
}

impl Unreachable {
    /// The recovery points that it names, so that more can be told of them.
    pub fn bounds_mut(&mut self) -> Option<&mut Bounds> {
        match self {
            Self::NoTransaction { .. } => None,
            Self::Nowhere { bounds, .. } | Self::BeforeBackup { bounds, .. } | Self::AfterLastRecord { bounds, .. } => {
                Some(bounds)
            }
        }
    }

    /// No whole record starts where recovery of `chosen` would stop; `last` is held.
    pub fn after_last_record(facts: &Facts, chosen: Selection, last: Option<Lsn>) -> Result<Self, Refusal> {
        Ok(Self::AfterLastRecord { target: chosen.target, last, bounds: bounds(facts)? })
    }
}

fn told_missing(missing: &[Lsn]) -> String {
    let all: Vec<String> = missing.iter().map(ToString::to_string).collect();
    if all.is_empty() { String::new() } else { format!(", and WAL is missing from {} on", all.join(" and ")) }
}

fn told(last: Option<&Lsn>) -> String {
    last.map_or_else(|| "starts more than 1 GiB before".to_owned(), |last| format!("starts at LSN {last}"))
}

/// WAL to look through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub pieces: Vec<WalPiece>,
    pub start: Lsn,
    pub end: Lsn,
}

/// Where the first record is that starts at or after `from`: little WAL, then as
/// much as the longest record takes. Empty where the WAL ends there.
pub fn ahead(facts: &Facts, from: Lsn) -> Result<Vec<Look>, Refusal> {
    let size = facts.segment_size;
    let end = |bytes| size.floor(from).forward(bytes);
    let ends = [end(2 * size.bytes()), end(RECORD_BYTES_MAX + 2 * size.bytes())];
    looks(facts, ends.map(|end| (from, end)))
}

/// Where the last record is that is held, which starts before `from`.
pub fn behind(facts: &Facts, chosen: &Selection, from: Lsn) -> Result<Vec<Look>, Refusal> {
    let (start, size) = (named(facts, &chosen.backup)?.start_lsn, facts.segment_size);
    let back = |bytes| Lsn(size.floor(from).0.saturating_sub(bytes)).max(start);
    let starts = [back(size.bytes()), back(RECORD_BYTES_MAX + size.bytes())];
    looks(facts, starts.map(|start| (start, Lsn(u64::MAX))))
}

fn looks(facts: &Facts, ranges: [(Lsn, Lsn); 2]) -> Result<Vec<Look>, Refusal> {
    let size = facts.segment_size;
    let timeline = newest_timeline(facts).ok_or(Refusal::NoBackup)?;
    let line = Line::leading_to(timeline, &facts.histories)?;
    let tip = facts.coverage.tip(timeline, size).unwrap_or_default();
    let mut looks: Vec<Look> = Vec::new();
    for (start, end) in ranges {
        let (pieces, reached) = collect(&facts.coverage, size, &line, start, end.min(tip));
        let look = Look { pieces, start, end: reached.min(end).min(tip) };
        if look.start < look.end && looks.last() != Some(&look) {
            looks.push(look);
        }
    }
    Ok(looks)
}

/// The same choice with the WAL up to `until`, which ends the record that
/// recovery stops at.
pub fn reaching(facts: &Facts, chosen: &Selection, until: Lsn) -> Result<Selection, Refusal> {
    let last = RecoveryTarget::Lsn(Lsn(until.0.saturating_sub(1)));
    let reached = choose(facts, &last, Some(&chosen.backup))?;
    Ok(Selection { target: chosen.target.clone(), ..reached })
}

/// The WAL from one backup on to the next, as far as it is held without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub backup: BackupId,
    /// Where replay of the backup starts, and where the backup is consistent.
    pub start: Lsn,
    pub stop: Lsn,
    /// Where the next backup starts, or a gap or the end of everything is.
    pub end: Lsn,
    pub wal: Vec<WalPiece>,
    /// Whether it reaches the next stretch.
    is_joined: bool,
}

/// What to search, the newest stretch first: from the named backup on, or from
/// each that lies on the line of history that `latest` follows. `latest` was
/// chosen from the same facts.
pub fn stretches(facts: &Facts, latest: &Selection, backup: Option<&BackupId>) -> Result<Vec<Stretch>, Refusal> {
    let size = facts.segment_size;
    let line = Line::leading_to(latest.timeline, &facts.histories)?;
    let tip = facts.coverage.tip(latest.timeline, size).unwrap_or_default();
    let mut candidates: Vec<_> = match backup {
        Some(id) => vec![named(facts, id)?],
        None => facts.restorable().filter(|one| line.holds(one) && one.stop_lsn <= tip).collect(),
    };
    candidates.sort_by_key(|one| (one.start_lsn, one.stop_lsn, &one.id));
    let mut next = tip;
    let stretches = candidates.into_iter().rev().map(|one| {
        let (wal, reached) = collect(&facts.coverage, size, &line, one.start_lsn, next);
        let end = reached.min(next);
        let is_joined = end == next;
        next = one.start_lsn;
        Stretch { backup: one.id.clone(), start: one.start_lsn, stop: one.stop_lsn, end, wal, is_joined }
    });
    Ok(stretches.collect())
}

/// What a search has found so far.
#[derive(Debug, Default)]
pub struct Search {
    /// The first record that recovery from the last read stretch would stop at.
    first: Option<Lsn>,
    /// The last read stretch, and the end of all.
    read: Option<(Stretch, Lsn)>,
    /// Where stretches ended at a gap.
    missing: Vec<Lsn>,
}

impl Search {
    /// Takes what the next stretch holds: where the first of the sought records
    /// starts. True when recovery from the stretch's backup ends where it should.
    pub fn read(&mut self, stretch: &Stretch, found: Option<Lsn>) -> bool {
        self.first = found.or(self.first.filter(|_| stretch.is_joined));
        let end = self.read.take().map_or(stretch.end, |(_, end)| end);
        self.read = Some((stretch.clone(), end));
        self.missing.extend((!stretch.is_joined).then_some(stretch.end));
        self.first.is_some_and(|at| at >= stretch.stop)
    }

    /// Why there is nothing to restore, when all stretches were read; none when
    /// there was none to read.
    pub fn refusal(mut self, target: &RecoveryTarget, facts: &Facts) -> Option<Unreachable> {
        let (stretch, to) = self.read?;
        let (target, backup, bounds) = (target.clone(), stretch.backup, bounds(facts).ok()?);
        self.missing.sort_unstable();
        Some(match self.first {
            Some(at) => Unreachable::BeforeBackup { target, at, backup, stop: stretch.stop, bounds },
            None => Unreachable::Nowhere { target, backup, from: stretch.start, to, missing: self.missing, bounds },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Candidate, Coverage},
        *,
    };
    use crate::domain::{Segment, SegmentSize, Timeline};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn target() -> RecoveryTarget {
        RecoveryTarget::Name("noon".to_owned())
    }

    /// A backup over each of these segments; WAL is whole from 1 to 19 but for `lost`.
    fn facts(backups: &[u64], lost: &[u64]) -> Facts {
        let mut coverage = Coverage::default();
        for number in (1..20).filter(|number| !lost.contains(number)) {
            coverage.add_whole(Segment { timeline: Timeline(1), number });
        }
        let candidate = |number: &u64| Candidate {
            id: format!("b{number}").parse().unwrap(),
            timeline: Timeline(1),
            start_lsn: at(*number, 40),
            stop_lsn: at(*number, 400),
            finished_at: jiff::Timestamp::from_second(i64::try_from(*number).unwrap()).unwrap(),
            parent: None,
        };
        Facts {
            backups: backups.iter().map(candidate).collect(),
            coverage,
            histories: std::collections::BTreeMap::new(),
            segment_size: SIZE,
            not_after: None,
        }
    }

    fn at(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + offset)
    }

    /// The backup to take when the sought records start at these positions.
    fn searched(facts: &Facts, records: &[Lsn], backup: Option<&BackupId>) -> Result<String, Option<Unreachable>> {
        let latest = choose(facts, &target(), backup).map_err(|_| None)?;
        let mut search = Search::default();
        for stretch in stretches(facts, &latest, backup).unwrap() {
            let found = records.iter().copied().filter(|at| stretch.start <= *at && *at < stretch.end).min();
            if search.read(&stretch, found) {
                return Ok(stretch.backup.to_string());
            }
        }
        Err(search.refusal(&target(), facts))
    }

    #[test]
    fn the_backup_before_the_point_is_taken_and_what_is_nowhere_is_refused() {
        let facts = facts(&[3, 8, 12], &[]);
        let take = |records: &[Lsn]| searched(&facts, records, None);
        assert_eq!(take(&[at(15, 0)]).unwrap(), "b12");
        assert_eq!(take(&[at(12, 400)]).unwrap(), "b12", "where the backup ends it is consistent");
        assert_eq!(take(&[at(12, 399)]).unwrap(), "b8", "while the backup ran recovery cannot stop");
        assert_eq!(take(&[at(5, 0), at(9, 0)]).unwrap(), "b8", "the latest of that name");
        assert_eq!(take(&[at(5, 0), at(12, 100)]).unwrap(), "b8", "where a newer one ends too early");
        let early = take(&[at(3, 100)]).unwrap_err().unwrap();
        assert!(matches!(&early, Unreachable::BeforeBackup { at: found, .. } if *found == at(3, 100)), "{early}");
        assert!(early.to_string().contains("b3"), "{early}");
        let nowhere = take(&[]).unwrap_err().unwrap().to_string();
        assert!(nowhere.contains("0/3000028") && nowhere.contains("0/14000000"), "{nowhere}");
        // Of the named backup only its own WAL counts.
        let named = "b8".parse().unwrap();
        assert_eq!(searched(&facts, &[at(15, 0)], Some(&named)).unwrap(), "b8");
        assert!(searched(&facts, &[at(5, 0)], Some(&named)).is_err());
    }

    #[test]
    fn a_point_behind_a_gap_is_reached_by_a_backup_behind_it_only() {
        let facts = facts(&[3, 8], &[6]);
        assert_eq!(searched(&facts, &[at(5, 0)], None).unwrap(), "b3");
        assert_eq!(searched(&facts, &[at(9, 0)], None).unwrap(), "b8");
        let lost = searched(&facts, &[at(8, 100)], None).unwrap_err().unwrap().to_string();
        assert!(lost.contains("WAL is missing from 0/6000000 on"), "b3 does not lead there: {lost}");
    }

    /// The WAL from segment 1 to 19 and a piece of the next; a record may be long.
    #[test]
    fn a_position_is_looked_for_in_little_wal_first_and_the_rest_is_taken_then() {
        let mut facts = facts(&[3], &[]);
        facts.coverage.add_tail(Segment { timeline: Timeline(1), number: 20 }, 0, 1000);
        let ends = |from| ahead(&facts, from).unwrap().iter().map(|look| look.end).collect::<Vec<_>>();
        assert_eq!(ends(at(5, 77)), [at(7, 0), at(20, 1000)]);
        assert_eq!(ends(at(20, 999)), [at(20, 1000)]);
        assert_eq!(ends(at(20, 1000)), [Lsn(0); 0]);
        let chosen = choose(&facts, &RecoveryTarget::Lsn(at(19, 7)), None).unwrap();
        let starts: Vec<Lsn> = behind(&facts, &chosen, at(19, 7)).unwrap().iter().map(|look| look.start).collect();
        assert_eq!(starts, [at(18, 0), at(3, 40)]);
        let reached = reaching(&facts, &chosen, at(20, 40)).unwrap();
        assert_eq!((reached.target, reached.end), (chosen.target, at(20, 1000)));
        assert_eq!(reached.wal.last().unwrap().segment.number, 20, "the record ends in the next segment");
        assert_eq!(chosen.wal.last().unwrap().segment.number, 19);
    }

    proptest! {
        /// The newest backup is taken from which recovery stops after its end.
        #[test]
        fn the_search_agrees_with_a_look_at_everything(
            backups in prop::collection::btree_set(1_u64..18, 1..5),
            records in prop::collection::btree_set((1_u64..20, 0_u64..500), 0..5),
            lost in prop::collection::btree_set(2_u64..19, 0..2),
        ) {
            let backups: Vec<u64> = backups.into_iter().collect();
            // What a backup itself needs is held.
            let lost: Vec<u64> = lost.into_iter().filter(|number| !backups.contains(number)).collect();
            let records: Vec<Lsn> = records.into_iter().map(|(number, offset)| at(number, offset)).collect();
            let facts = facts(&backups, &lost);
            let expected = backups.iter().rev().find(|backup| {
                let gap = lost.iter().find(|number| *number > backup).copied().unwrap_or(20);
                let first = records.iter().find(|found| at(**backup, 40) <= **found && **found < at(gap, 0));
                first.is_some_and(|found| *found >= at(**backup, 400))
            });
            let taken = searched(&facts, &records, None).ok();
            prop_assert_eq!(taken, expected.map(|backup| format!("b{backup}")));
        }
    }
}
