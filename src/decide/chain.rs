//! Where the chain of backups and WAL is broken: instants that nothing leads to
//! although there are recovery points before them, because WAL was lost, or
//! because another history goes on. What is written behind a break cannot be
//! restored before a full backup is complete there.
//!
//! What must never happen: a break that no vault's content proves, or one that
//! stays unseen because the process that caused it is gone. So nothing here is
//! remembered: the same content has the same breaks.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;

use super::recovery::{Candidate, Coverage, Facts, Line, gaps};
use crate::domain::{BackupId, Lsn, Segment, SegmentSize, Timeline};

/// Which history of a database: its system id in decimal, and its incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub system_id: String,
    pub incarnation: u32,
}

impl Name {
    /// Sorts by when the history began: a system id tells when `initdb` made it.
    pub fn age(&self) -> (u128, u32) {
        (self.system_id.parse().unwrap_or_default(), self.incarnation)
    }
}

/// One history, by what all vaults hold of it together.
pub struct History<'a> {
    pub name: Name,
    /// Whether the server wrote with `wal_level = minimal` before it began.
    pub is_unlogged: bool,
    pub facts: Facts,
    /// The backups whose WAL came back from some vault: only these end a break.
    pub complete: BTreeSet<BackupId>,
    /// Whether retention keeps the WAL of a segment, had no backup lost its own.
    pub is_kept: Box<dyn Fn(Segment) -> bool + Send + Sync + 'a>,
}

/// Why nothing leads from what was before to what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The server had removed WAL before it was in a vault.
    WalLost,
    /// A standby was promoted that had less than the vaults.
    Ahead,
    /// The server was set back to an earlier state, and writes another history
    /// under the same system id and timeline.
    SetBack,
    /// The server wrote with `wal_level = minimal` for a while, which no recovery passes.
    Unlogged,
    /// Another cluster took the place of the one before.
    Replaced,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WalLost => "wal_lost",
            Self::Ahead => "ahead",
            Self::SetBack => "set_back",
            Self::Unlogged => "wal_level",
            Self::Replaced => "replaced",
        }
    }
}

/// A break, and the window of instants that cannot be restored because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    pub cause: Cause,
    /// The history that goes on behind it.
    pub history: Name,
    /// Of `from`.
    pub timeline: Timeline,
    /// The last position before it that can be restored; in the older history,
    /// where another one goes on.
    pub from: Lsn,
    /// Where WAL goes on; for `Ahead` the end of what the vaults alone have.
    pub to: Lsn,
    /// The last known instant before it.
    pub after: Option<Timestamp>,
    /// The end of the first backup behind it that can be restored; none while
    /// there is none.
    pub until: Option<Timestamp>,
}

impl Break {
    /// Whether what is written now cannot be restored.
    pub fn is_open(&self) -> bool {
        self.until.is_none()
    }

    /// Whether another history goes on behind it.
    pub fn begins_history(&self) -> bool {
        matches!(self.cause, Cause::SetBack | Cause::Unlogged | Cause::Replaced)
    }

    /// Names it in the id of a run: every node makes the same of the same break.
    pub fn id(&self) -> String {
        let Self { cause, history, timeline, from, to, .. } = self;
        let Name { system_id, incarnation } = history;
        let (from, to) = (from.to_string().replace('/', "_"), to.to_string().replace('/', "_"));
        format!("{}-{system_id}-{incarnation}-{timeline}-{from}-{to}", cause.as_str().replace('_', "-"))
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, timeline, from, to, after, until, .. } = self;
        let after = after.map_or_else(|| "the last backup before it".to_owned(), |after| after.to_string());
        let until = until.map_or_else(|| "the end of the next full backup".to_owned(), |until| until.to_string());
        match cause {
            Cause::WalLost => write!(
                f,
                "WAL of timeline {timeline} from {from} to {to} is in no vault, and the server has it no more: its slot was dropped or invalidated, or the WAL was removed"
            )?,
            Cause::Ahead => {
                return write!(
                    f,
                    "what was written on timeline {timeline} from {from} to {to} is in the vaults alone: a standby was promoted that had not received it; nothing after {after} that was committed there is in the database, `lifeboat restore` with `--timeline {timeline}` brings it back beside it"
                );
            }
            Cause::SetBack => write!(
                f,
                "the server was set back to an earlier state and writes another history than the one that ends at {from} of timeline {timeline}, which is kept"
            )?,
            Cause::Unlogged => write!(
                f,
                "the server wrote with `wal_level` minimal behind {from} of timeline {timeline}, which no recovery passes; what is before is kept"
            )?,
            Cause::Replaced => write!(
                f,
                "another cluster took the place of the one whose WAL ends at {from} of timeline {timeline}, which is kept"
            )?,
        }
        write!(f, "; nothing between {after} and {until} can be restored")
    }
}

/// All breaks, oldest history first. Those that are over are told as long as the
/// recovery points before them, and the WAL around them, are kept.
pub fn breaks(histories: &[History<'_>]) -> Vec<Break> {
    let mut found = Vec::new();
    let mut before: Option<&History<'_>> = None;
    for history in histories {
        found.extend(before.and_then(|older| succession(older, history)));
        found.extend(lost(history));
        found.extend(ahead(history));
        if listed(&history.facts).next().is_some() {
            before = Some(history);
        }
    }
    found
}

/// Another history goes on.
fn succession(older: &History<'_>, newer: &History<'_>) -> Option<Break> {
    let size = newer.facts.segment_size;
    let to = newer.facts.coverage.timelines().first().and_then(|first| newer.facts.coverage.first(*first))?;
    let timeline = newest_timeline(&older.facts)?;
    let last = listed(&older.facts).map(|backup| backup.stop_lsn).max()?;
    let from = older.facts.coverage.tip(timeline, older.facts.segment_size).unwrap_or(last);
    let cause = if older.name.system_id != newer.name.system_id {
        Cause::Replaced
    } else if newer.is_unlogged {
        Cause::Unlogged
    } else {
        Cause::SetBack
    };
    Some(Break {
        cause,
        history: newer.name.clone(),
        timeline,
        from,
        to: to.start(size),
        after: listed(&older.facts).map(|backup| backup.finished_at).max(),
        until: complete(newer).map(|backup| backup.finished_at).min(),
    })
}

/// The gaps on the line of history that goes on.
fn lost(history: &History<'_>) -> Vec<Break> {
    let facts = &history.facts;
    let Some(line) = newest_line(facts) else { return Vec::new() };
    let retained = |segment| if (history.is_kept)(segment) { gaps::Need::Needed } else { gaps::Need::Expired };
    // What comes after all that is held is still on its way.
    let end = line.timelines().filter_map(|timeline| facts.coverage.extent(timeline, facts.segment_size)).max();
    let gaps = gaps::gaps(facts, &[], &retained).into_iter();
    let real = gaps.filter(|gap| line.passes(gap.timeline, gap.from) && end.is_some_and(|end| gap.from < end));
    let described = real.map(|gap| {
        let found = Break {
            cause: Cause::WalLost,
            history: history.name.clone(),
            timeline: gap.timeline,
            from: gap.from,
            to: gap.to,
            after: gap.after,
            until: first_behind(history, &line, gap.to),
        };
        (found, gap.need)
    });
    // What expired has a backup behind it; without one, nobody can have let it go.
    let told = described.filter(|(found, need)| found.is_open() || *need == gaps::Need::Needed);
    told.map(|(found, _)| found).collect()
}

/// WAL of older timelines beyond the place where the newest branched off.
fn ahead(history: &History<'_>) -> Vec<Break> {
    let facts = &history.facts;
    let Some(line) = newest_line(facts) else { return Vec::new() };
    let forks = newest_timeline(facts).and_then(|newest| facts.histories.get(&newest)).into_iter().flatten();
    let beyond = forks.filter_map(|(timeline, fork)| {
        let tip = facts.coverage.tip(*timeline, facts.segment_size).filter(|tip| tip > fork)?;
        // Only where something before it is a recovery point at all.
        let before = listed(facts).filter(|backup| line.passes(backup.timeline, backup.stop_lsn));
        let before = before.filter(|backup| backup.timeline <= *timeline && backup.stop_lsn <= *fork);
        Some(Break {
            cause: Cause::Ahead,
            history: history.name.clone(),
            timeline: *timeline,
            from: *fork,
            to: tip,
            after: Some(before.map(|backup| backup.finished_at).max()?),
            until: complete(history)
                .filter(|backup| backup.timeline > *timeline && line.passes(backup.timeline, backup.stop_lsn))
                .map(|backup| backup.finished_at)
                .min(),
        })
    });
    beyond.collect()
}

/// Whether WAL from `start` to `stop` can come no more, as what comes after it is
/// there: WAL is stored in order.
pub fn is_passed_over(coverage: &Coverage, timeline: Timeline, size: SegmentSize, start: Lsn, stop: Lsn) -> bool {
    let (ranges, start) = (coverage.ranges(timeline, size), size.floor(start));
    let reached = ranges.iter().find(|range| range.contains(&start)).map_or(start, |range| range.end);
    reached < stop && ranges.iter().any(|range| range.start > reached)
}

/// When the first backup behind a position was finished that can be restored.
fn first_behind(history: &History<'_>, line: &Line, lsn: Lsn) -> Option<Timestamp> {
    let behind =
        complete(history).filter(|backup| backup.start_lsn >= lsn && line.passes(backup.timeline, backup.stop_lsn));
    behind.map(|backup| backup.finished_at).min()
}

/// The backups that have all WAL of their own, and it came back.
fn complete<'a>(history: &'a History<'_>) -> impl Iterator<Item = &'a Candidate> {
    listed(&history.facts).filter(|backup| history.complete.contains(&backup.id))
}

/// The backups of which all WAL is listed: what goes before a break is told also where
/// nobody has read it back.
fn listed(facts: &Facts) -> impl Iterator<Item = &Candidate> {
    let covers = |backup: &&Candidate| {
        facts.coverage.covers(backup.timeline, facts.segment_size, backup.start_lsn, backup.stop_lsn)
    };
    facts.backups.iter().filter(covers)
}

fn newest_timeline(facts: &Facts) -> Option<Timeline> {
    facts.coverage.timelines().into_iter().chain(facts.backups.iter().map(|backup| backup.timeline)).max()
}

/// The way to the newest timeline; where its history is not known, itself alone.
fn newest_line(facts: &Facts) -> Option<Line> {
    let timeline = newest_timeline(facts)?;
    Some(Line::leading_to(timeline, &facts.histories).unwrap_or_else(|_| Line::of(timeline)))
}

#[cfg(test)]
mod tests;
