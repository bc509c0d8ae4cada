//! Chooses what a restore needs: the backup, the timeline, and the exact list
//! of WAL. Either everything up to the asked point is there, or the answer is a
//! refusal; never the nearest point, never a shorter history.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lineage;
use crate::domain::{BackupId, Lsn, RecoveryTarget, Segment, SegmentSize, Timeline};

pub mod along;
pub mod gaps;
pub mod instant;
pub mod point;
mod refusal;
pub mod search;

pub use refusal::{Bounds, Refusal, Window};

/// A backup that may be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    pub timeline: Timeline,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// Everything committed before is at or before `stop_lsn` or in later WAL.
    pub finished_at: Timestamp,
    /// What it builds upon; none of a full one.
    pub parent: Option<BackupId>,
}

/// Where a timeline's ancestors ended, oldest first, as its history file says.
pub type History = Vec<(Timeline, Lsn)>;

/// Reads a history file: lines of parent timeline, LSN, reason. None when it is unreadable.
pub fn parse_history(text: &str) -> Option<History> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            Some((Timeline(words.next()?.parse().ok()?), words.next()?.parse().ok()?))
        })
        .collect()
}

/// The WAL that a listing proves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    whole: BTreeSet<Segment>,
    /// Pieces of segments as offsets, sorted.
    tails: BTreeMap<Segment, BTreeSet<(u64, u64)>>,
}

impl Coverage {
    pub fn add_whole(&mut self, segment: Segment) {
        self.whole.insert(segment);
    }

    /// `from` and `to` are offsets in the segment; `to` is exclusive.
    pub fn add_tail(&mut self, segment: Segment, from: u64, to: u64) {
        self.tails.entry(segment).or_default().insert((from, to));
    }

    pub fn has_whole(&self, segment: Segment) -> bool {
        self.whole.contains(&segment)
    }

    /// The pieces that cover the segment from its start without a gap, as few
    /// as a forward walk finds, and the offset they reach.
    pub fn tails_of(&self, segment: Segment) -> (Vec<(u64, u64)>, u64) {
        let (mut chosen, mut held) = (Vec::new(), 0);
        let Some(pieces) = self.tails.get(&segment) else { return (chosen, held) };
        while let Some(best) = pieces.iter().filter(|(from, to)| *from <= held && *to > held).max_by_key(|(_, to)| *to)
        {
            chosen.push(*best);
            held = best.1;
        }
        (chosen, held)
    }

    /// The segments that are held whole, sorted.
    pub fn wholes(&self) -> impl Iterator<Item = Segment> {
        self.whole.iter().copied()
    }

    /// All tails as segment and offsets, sorted.
    pub fn tails(&self) -> impl Iterator<Item = (Segment, u64, u64)> {
        self.tails.iter().flat_map(|(segment, pieces)| pieces.iter().map(|(from, to)| (*segment, *from, *to)))
    }

    /// How far the segment is held from its start, in bytes.
    fn held(&self, segment: Segment, size: SegmentSize) -> u64 {
        if self.has_whole(segment) { size.bytes() } else { self.tails_of(segment).1 }
    }

    pub fn timelines(&self) -> BTreeSet<Timeline> {
        self.whole.iter().chain(self.tails.keys()).map(|segment| segment.timeline).collect()
    }

    /// The contiguous stretches of a timeline, ascending. A tail ends its stretch.
    pub fn ranges(&self, timeline: Timeline, size: SegmentSize) -> Vec<Range<Lsn>> {
        let numbers: BTreeSet<u64> =
            self.whole.iter().chain(self.tails.keys()).filter(|s| s.timeline == timeline).map(|s| s.number).collect();
        let mut ranges: Vec<Range<Lsn>> = Vec::new();
        for number in numbers {
            let segment = Segment { timeline, number };
            let held = self.held(segment, size);
            if held == 0 {
                continue;
            }
            let (start, end) = (segment.start(size), segment.start(size).forward(held));
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }

    /// The first segment that is held of a timeline, in part or whole.
    pub fn first(&self, timeline: Timeline) -> Option<Segment> {
        self.whole.iter().chain(self.tails.keys()).filter(|segment| segment.timeline == timeline).min().copied()
    }

    /// The end of what is held of a timeline; none when nothing is.
    pub fn tip(&self, timeline: Timeline, size: SegmentSize) -> Option<Lsn> {
        self.ranges(timeline, size).last().map(|range| range.end)
    }

    /// Whether everything from `start` to `end` of one timeline is held.
    pub fn covers(&self, timeline: Timeline, size: SegmentSize, start: Lsn, end: Lsn) -> bool {
        self.ranges(timeline, size).iter().any(|range| range.start <= start && end <= range.end)
    }
}

/// Everything that the choice is made from.
#[derive(Debug, Clone)]
pub struct Facts {
    pub backups: Vec<Candidate>,
    pub coverage: Coverage,
    pub histories: BTreeMap<Timeline, History>,
    pub segment_size: SegmentSize,
    /// A time after it is refused, as nothing can be held of it yet: usually now.
    /// An earlier one that the WAL does not reach fails in the server.
    pub not_after: Option<Timestamp>,
}

impl Facts {
    /// The full backup and what is built upon it that make `candidate`, oldest
    /// first; else the one that is not there.
    fn chain(&self, candidate: &Candidate) -> Result<Vec<BackupId>, BackupId> {
        let chain = lineage::chain(candidate, &self.backups, |one| &one.id, |one| one.parent.as_ref())?;
        Ok(chain.into_iter().map(|one| one.id.clone()).collect())
    }

    /// The backups of which all is there that they build upon.
    fn restorable(&self) -> impl Iterator<Item = &Candidate> {
        self.backups.iter().filter(|candidate| self.chain(candidate).is_ok())
    }

    /// The newest of them: what is restored to its own end where no backup is named.
    pub fn newest_restorable(&self) -> Option<&Candidate> {
        newest(self.restorable())
    }
}

/// One segment to fetch: whole, or from these tails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPiece {
    pub segment: Segment,
    /// Empty when the whole segment is there.
    pub tails: Vec<(u64, u64)>,
}

/// What a restore will fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub backup: BackupId,
    /// The full backup and what is built upon it, oldest first; `backup` is the last.
    pub chain: Vec<BackupId>,
    /// The timeline that recovery follows.
    pub timeline: Timeline,
    pub segment_size: SegmentSize,
    pub wal: Vec<WalPiece>,
    /// History files to hand over.
    pub histories: Vec<Timeline>,
    /// End of the contiguous WAL of `wal`.
    pub end: Lsn,
    pub target: RecoveryTarget,
}

/// The stretches of one line of history, oldest first: timeline and where it begins and ends.
#[derive(Debug, Clone)]
pub(super) struct Line(Vec<(Timeline, Range<Lsn>)>);

impl Line {
    /// One of whose ancestors nothing is known.
    pub(super) fn of(timeline: Timeline) -> Self {
        Self(vec![(timeline, Lsn(0)..Lsn(u64::MAX))])
    }

    pub(super) fn leading_to(timeline: Timeline, histories: &BTreeMap<Timeline, History>) -> Result<Self, Refusal> {
        let mut line = Vec::new();
        let mut begin = Lsn(0);
        if timeline.0 > 1 {
            for (parent, fork) in histories.get(&timeline).ok_or(Refusal::NoHistory(timeline))? {
                line.push((*parent, begin..*fork));
                begin = *fork;
            }
        }
        line.push((timeline, begin..Lsn(u64::MAX)));
        Ok(Self(line))
    }

    /// The timeline that holds this position.
    fn at(&self, lsn: Lsn) -> Option<Timeline> {
        self.0.iter().find(|(_, range)| range.contains(&lsn)).map(|(timeline, _)| *timeline)
    }

    /// The timeline whose file a server reads for a segment: the newest that had begun in it.
    fn file_of(&self, number: u64, size: SegmentSize) -> Option<Timeline> {
        self.0.iter().rev().find(|(_, range)| size.number_of(range.start) <= number).map(|(timeline, _)| *timeline)
    }

    fn holds(&self, backup: &Candidate) -> bool {
        self.passes(backup.timeline, backup.stop_lsn)
    }

    /// Whether this line went through that position of that timeline.
    pub(super) fn passes(&self, on: Timeline, lsn: Lsn) -> bool {
        self.0.iter().any(|(timeline, range)| *timeline == on && lsn <= range.end)
    }

    /// Its timelines, oldest first.
    pub(super) fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.0.iter().map(|(timeline, _)| *timeline)
    }
}

/// Chooses for `target`, from the named backup or else from the newest one that
/// lies before the target.
pub fn choose(facts: &Facts, target: &RecoveryTarget, backup: Option<&BackupId>) -> Result<Selection, Refusal> {
    let explicit = backup.map(|id| named(facts, id)).transpose()?;
    let newest_backup = facts.newest_restorable().ok_or(Refusal::NoBackup)?;
    let bounds = bounds(facts)?;
    let timeline = match target {
        // The backup's own end needs nothing of what came later.
        RecoveryTarget::Immediate => explicit.unwrap_or(newest_backup).timeline,
        _ => newest_timeline(facts).unwrap_or(newest_backup.timeline),
    };
    let mut line = Line::leading_to(timeline, &facts.histories)?;
    let tip = facts.coverage.tip(timeline, facts.segment_size).unwrap_or_default();
    let before_first = || Refusal::BeforeFirst { target: target.clone(), bounds: bounds.clone() };
    let after_tip = || Refusal::AfterTip { target: target.clone(), bounds: bounds.clone() };
    let on_line = |limit: Lsn, line: &Line| -> Result<&Candidate, Refusal> {
        pick(facts, explicit, line, |candidate| candidate.stop_lsn <= limit)?.ok_or_else(before_first)
    };
    let (chosen, end, may_stop_early) = match target {
        RecoveryTarget::Immediate => {
            let chosen = explicit.unwrap_or(newest_backup);
            (chosen, chosen.stop_lsn, false)
        }
        RecoveryTarget::Latest => (on_line(tip, &line)?, tip, false),
        RecoveryTarget::Lsn(lsn) | RecoveryTarget::BeforeLsn(lsn) => {
            // The record that starts there must be there too, at least its first byte:
            // also one that is left out is read before recovery stops.
            let end = lsn.forward(1);
            if end > tip && line.at(*lsn) == Some(timeline) {
                return Err(after_tip());
            }
            let own = Line::leading_to(line.at(*lsn).unwrap_or(timeline), &facts.histories)?;
            let chosen = on_line(*lsn, &own)?;
            // The last of a timeline may be held by the first segment of the next one alone, which repeats it.
            let reaches = |line| collect(&facts.coverage, facts.segment_size, line, chosen.start_lsn, end).1 >= end;
            if reaches(&own) || !reaches(&line) {
                line = own;
            }
            (chosen, end, false)
        }
        RecoveryTarget::Time(at) | RecoveryTarget::BeforeTime(at) => {
            if facts.not_after.is_some_and(|last| *at > last) {
                return Err(after_tip());
            }
            let chosen = pick(facts, explicit, &line, |candidate| candidate.finished_at <= *at)?;
            (chosen.ok_or_else(before_first)?, tip, true)
        }
        RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_) | RecoveryTarget::Name(_) => {
            (on_line(tip, &line)?, tip, true)
        }
    };
    let timeline = line.0.last().map_or(timeline, |(timeline, _)| *timeline);
    // A time or a name may lie before a gap, of which a look into the WAL tells.
    // What the backup itself needs must be there in any case, and a position must
    // be reached for certain.
    let required = if may_stop_early { chosen.stop_lsn } else { end };
    let (wal, reached) = collect(&facts.coverage, facts.segment_size, &line, chosen.start_lsn, end);
    // A backup that is kept beyond the window has no WAL but its own: no time
    // after its end can be reached from it, and the server need not be asked.
    let own_end =
        facts.segment_size.floor(Lsn(chosen.stop_lsn.0.saturating_sub(1))).forward(facts.segment_size.bytes());
    let is_time = matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::BeforeTime(_));
    let stands_alone = is_time && reached < end && reached <= own_end;
    if reached < required || stands_alone {
        return Err(gap(facts, &line, target, &chosen.id, (reached, bounds)));
    }
    Ok(Selection {
        backup: chosen.id.clone(),
        chain: facts.chain(chosen).map_err(|parent| Refusal::NoParent { backup: chosen.id.clone(), parent })?,
        timeline,
        segment_size: facts.segment_size,
        wal,
        histories: facts.histories.keys().copied().collect(),
        end: reached,
        target: target.clone(),
    })
}

fn named<'a>(facts: &'a Facts, id: &BackupId) -> Result<&'a Candidate, Refusal> {
    let found = facts.backups.iter().find(|candidate| candidate.id == *id);
    let found = found.ok_or_else(|| Refusal::UnknownBackup { backup: id.clone() })?;
    let missing = |parent| Refusal::NoParent { backup: id.clone(), parent };
    facts.chain(found).map(|_| found).map_err(missing)
}

fn newest<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    candidates.max_by_key(|candidate| (candidate.timeline, candidate.stop_lsn, &candidate.id))
}

/// The explicit backup when it is on the line and eligible, else the newest
/// that is. None when no backup is early enough.
fn pick<'a>(
    facts: &'a Facts,
    explicit: Option<&'a Candidate>,
    line: &Line,
    is_early_enough: impl Fn(&Candidate) -> bool,
) -> Result<Option<&'a Candidate>, Refusal> {
    if let Some(chosen) = explicit {
        if !line.holds(chosen) {
            return Err(off_line(facts, line, chosen));
        }
        return Ok(is_early_enough(chosen).then_some(chosen));
    }
    Ok(newest(facts.restorable().filter(|candidate| line.holds(candidate) && is_early_enough(candidate))))
}

/// Why this backup is none to begin with, and which are.
fn off_line(facts: &Facts, line: &Line, backup: &Candidate) -> Refusal {
    let of = line.0.last().map_or(backup.timeline, |(timeline, _)| *timeline);
    let mut fit: Vec<&Candidate> = facts.restorable().filter(|candidate| line.holds(candidate)).collect();
    fit.sort_by_key(|candidate| (candidate.timeline, candidate.stop_lsn));
    let fit = fit.iter().rev().take(3).map(|candidate| candidate.id.clone()).collect();
    Refusal::OffTimeline { backup: backup.id.clone(), timeline: backup.timeline, of, fit }
}

/// What is missing from `from` on, and from where on points can be restored again.
fn gap(
    facts: &Facts,
    line: &Line,
    target: &RecoveryTarget,
    backup: &BackupId,
    (from, bounds): (Lsn, Box<Bounds>),
) -> Refusal {
    let again = gaps::again(facts, line, from);
    Refusal::Gap {
        target: target.clone(),
        backup: backup.clone(),
        timeline: line.file_of(facts.segment_size.number_of(from), facts.segment_size).unwrap_or(Timeline(0)),
        from,
        again: again.map(|(lsn, _)| lsn),
        window: Box::new(Window { after: None, until: again.map(|(_, at)| at) }),
        bounds,
    }
}

fn newest_timeline(facts: &Facts) -> Option<Timeline> {
    facts.coverage.timelines().into_iter().chain(facts.backups.iter().map(|backup| backup.timeline)).max()
}

fn bounds(facts: &Facts) -> Result<Box<Bounds>, Refusal> {
    let oldest = facts.restorable().min_by_key(|backup| (backup.finished_at, &backup.id)).ok_or(Refusal::NoBackup)?;
    let timeline = newest_timeline(facts).unwrap_or(oldest.timeline);
    let tip = facts.coverage.tip(timeline, facts.segment_size).unwrap_or(oldest.stop_lsn);
    Ok(Box::new(Bounds {
        oldest: (oldest.id.clone(), oldest.stop_lsn, oldest.finished_at),
        newest: tip,
        newest_at: None,
    }))
}

/// The pieces from the segment of `start` on to `end`, as far as they are
/// contiguous, and the position reached (at most the end of the last piece).
pub(super) fn collect(
    coverage: &Coverage,
    size: SegmentSize,
    line: &Line,
    start: Lsn,
    end: Lsn,
) -> (Vec<WalPiece>, Lsn) {
    let mut wal = Vec::new();
    let mut reached = size.floor(start);
    while reached < end {
        let number = size.number_of(reached);
        let Some(timeline) = line.file_of(number, size) else { break };
        let segment = Segment { timeline, number };
        if coverage.has_whole(segment) {
            wal.push(WalPiece { segment, tails: Vec::new() });
            reached = segment.end(size);
            continue;
        }
        let (tails, held) = coverage.tails_of(segment);
        if held > 0 {
            wal.push(WalPiece { segment, tails });
        }
        reached = segment.start(size).forward(held);
        if held < size.bytes() {
            break;
        }
    }
    (wal, reached)
}

#[cfg(test)]
mod tests;
