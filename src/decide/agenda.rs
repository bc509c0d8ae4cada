//! What of a database's schedule runs when, what waits and what was missed:
//! (lines, holds, what was dealt with, now) -> what to do. The scheduler acts on
//! it and `lifeboat plan` shows it, so that both always agree.
//!
//! What must never happen: a due time that is neither run, nor counted by a
//! larger kind, nor recorded as missed.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    due::Schedule,
    hold::{Cause, Hold, free_from},
    sample,
};
use crate::domain::{BackupKind, Verdict};

/// What becomes of a run whose time passed while no scheduler lived.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The latest one runs as soon as there is a scheduler again, while its start window lasts.
    #[default]
    RunOnce,
    /// It does not run; it is recorded as missed.
    Skip,
}

/// How far back of a database that is new here a due time stands for the first
/// run: one with a monthly test has it tested before a month has passed.
pub const CATCH_UP: SignedDuration = SignedDuration::from_hours(35 * 24);

/// How far back a run that never began is looked for: beyond a yearly one.
const BACK: SignedDuration = SignedDuration::from_hours(400 * 24);

/// A scheduler that lives acts within this time.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// One line of a schedule.
#[derive(Debug, Clone)]
pub struct Line {
    /// What tells it from others, and from itself before it was edited.
    pub name: String,
    pub flow: &'static str,
    /// The middle part of its runs' ids.
    pub kind: String,
    /// What of backups it takes; none where it takes none.
    pub backup: Option<Size>,
    pub due: Schedule,
    /// By how much its runs begin later than they are due, the same for all of them.
    pub jitter: SignedDuration,
    /// How long after the due time a run may begin; until the next one is due when absent.
    pub start_window: Option<SignedDuration>,
    pub catch_up: CatchUp,
}

/// What a line's backups are, and so which others due together they count for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub kind: BackupKind,
    pub standalone: bool,
}

impl Size {
    /// Whether such a backup makes one of the other size needless at the same time.
    /// A full backup that stands alone counts for no other full one: nothing is
    /// built upon it.
    pub(super) fn counts_for(self, other: Self) -> bool {
        let rank = |kind| match kind {
            BackupKind::Full => 2,
            BackupKind::Differential => 1,
            BackupKind::Incremental | BackupKind::Snapshot | BackupKind::Logical => 0,
        };
        rank(self.kind) > rank(other.kind)
    }
}

/// How much later than due the runs of a line begin, from its name alone: the
/// same on every node and after every restart, and spread between databases.
pub fn jitter(name: &str, most: SignedDuration) -> SignedDuration {
    let most = u64::try_from(most.as_secs()).unwrap_or_default();
    SignedDuration::from_secs(i64::try_from(sample::place_of(name, most + 1)).unwrap_or_default())
}

/// The schedule of one database.
#[derive(Debug, Clone, Default)]
pub struct Agenda {
    pub lines: Vec<Line>,
    pub holds: Vec<Hold>,
}

/// A due time of a line, and what the agenda makes of it.
#[derive(Debug, Clone)]
pub struct Due<'a> {
    /// The line, by its place.
    pub line: usize,
    pub due_at: Timestamp,
    /// When it begins: after its jitter and whatever holds it. Never where holds do not end.
    pub starts_at: Option<Timestamp>,
    /// What it waits for beside its jitter.
    pub held_by: Vec<&'a Hold>,
    /// It does not begin after this.
    pub closes_at: Timestamp,
    /// The line whose larger backup at the same time counts for it.
    pub counted_by: Option<usize>,
}

impl Due<'_> {
    /// Whether it begins at all, with a scheduler alive all the time.
    pub fn begins(&self) -> Option<Timestamp> {
        self.starts_at.filter(|starts_at| self.counted_by.is_none() && *starts_at <= self.closes_at)
    }

    /// When whoever waits for it should be told that it has not begun: halfway through its window.
    pub fn worrying_from(&self) -> Timestamp {
        let half = self.closes_at.duration_since(self.due_at) / 2;
        self.due_at.checked_add(half).unwrap_or(self.closes_at)
    }
}

/// Why a run was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No scheduler lived when it was to begin.
    Down,
    /// Blackouts held it until its window had passed.
    Blackout,
    /// Announced maintenance held it until its window had passed.
    Maintenance,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Blackout => "blackout",
            Self::Maintenance => "maintenance",
        }
    }

    /// Announced maintenance is meant to hold runs; anything else is a duty that was not met.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Maintenance => Verdict::Aborted,
            Self::Down | Self::Blackout => Verdict::Fail,
        }
    }

    fn of(held_by: &[&Hold]) -> Self {
        let by = |cause| held_by.iter().any(|hold| hold.cause == cause);
        if by(Cause::Maintenance) {
            Self::Maintenance
        } else if by(Cause::Blackout) {
            Self::Blackout
        } else {
            Self::Down
        }
    }
}

/// Runs of one line that were missed for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    pub line: usize,
    pub why: Why,
    /// Their due times, oldest first.
    pub due: Vec<Timestamp>,
}

/// How far a line was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// All due times up to this one are.
    pub through: Timestamp,
    /// Whether what lies between it and now was ever promised: nothing of a line
    /// that was not there yet is missed.
    pub is_promised: bool,
}

/// What a look at the agenda asks for.
#[derive(Debug, Clone)]
pub struct Look<'a> {
    /// What begins now.
    pub start: Vec<Due<'a>>,
    pub missed: Vec<Missed>,
    /// What is due and has to wait for a hold or its jitter.
    pub waiting: Vec<Due<'a>>,
    /// How far each line is dealt with once all this is done.
    pub through: Vec<Timestamp>,
    /// Nothing changes before.
    pub again_at: Option<Timestamp>,
}

impl Agenda {
    /// Where to begin: where the marks end that were stored by name. A database that
    /// is new begins with the last due times before now; a line that is new in one
    /// that is not begins now.
    pub fn take_up(&self, stored: Option<&BTreeMap<String, Timestamp>>, now: Timestamp) -> Vec<Mark> {
        let begun = |line: &Line| match (stored, stored.and_then(|stored| stored.get(&line.name))) {
            (_, Some(through)) => Mark { through: *through, is_promised: true },
            (Some(_), None) => Mark { through: now, is_promised: true },
            (None, None) => Mark { through: now - CATCH_UP, is_promised: false },
        };
        self.lines.iter().map(begun).collect()
    }

    /// What becomes of a due time of a line.
    pub fn at(&self, line: usize, due_at: Timestamp) -> Option<Due<'_>> {
        let of = self.lines.get(line)?;
        let drawn = due_at.checked_add(of.jitter).unwrap_or(Timestamp::MAX);
        let (starts_at, held_by) = free_from(&self.holds, of.flow, drawn);
        let closes_at = match of.start_window {
            Some(window) => due_at.checked_add(window).unwrap_or(Timestamp::MAX),
            None => of.due.next_after(due_at).unwrap_or(Timestamp::MAX),
        };
        Some(Due { line, due_at, starts_at, held_by, closes_at, counted_by: self.counted_by(line, due_at) })
    }

    /// The line that counts for this one at a due time: a larger kind, or the
    /// first of several that are alike.
    fn counted_by(&self, line: usize, due_at: Timestamp) -> Option<usize> {
        let size = self.lines.get(line)?.backup?;
        let counts = |(place, other): &(usize, &Line)| {
            let Some(others) = other.backup else { return false };
            let is_counted = others.counts_for(size) || (others == size && *place < line);
            *place != line && is_counted && other.due.is_due_at(due_at)
        };
        self.lines.iter().enumerate().find(counts).map(|(place, _)| place)
    }

    /// The due times of a line after `after`, for ever.
    pub fn coming(&self, line: usize, after: Timestamp) -> impl Iterator<Item = Due<'_>> {
        let next = move |after: Timestamp| self.lines.get(line).and_then(|of| of.due.next_after(after));
        std::iter::successors(next(after), move |due_at| next(*due_at)).filter_map(move |due_at| self.at(line, due_at))
    }

    /// The newest due time of a flow that somebody should be told of where its run has not
    /// begun by now: halfway through its window, or at once where it cannot begin.
    pub fn worrying(&self, flow: &str, now: Timestamp) -> Option<Due<'_>> {
        let (line, of) = self.lines.iter().enumerate().find(|(_, line)| line.flow == flow)?;
        let due = self.at(line, of.due.latest_due(now - BACK, now)?)?;
        (due.worrying_from() <= now || due.begins().is_none()).then_some(due)
    }

    /// When `worrying` answers of another due time than now at the earliest; never where
    /// none comes.
    pub fn worrying_next(&self, flow: &str, now: Timestamp) -> Option<Timestamp> {
        let (line, of) = self.lines.iter().enumerate().find(|(_, line)| line.flow == flow)?;
        let latest = of.due.latest_due(now - BACK, now).and_then(|due_at| self.at(line, due_at));
        let latest = latest.map(|due| due.worrying_from()).filter(|from| *from > now);
        let next = || {
            let due = self.at(line, of.due.next_after(now)?)?;
            Some(if due.begins().is_none() { due.due_at } else { due.worrying_from() })
        };
        latest.or_else(next)
    }

    /// What is to be done at `now`, with one mark per line.
    pub fn look(&self, marks: &[Mark], now: Timestamp) -> Look<'_> {
        let mut look =
            Look { start: Vec::new(), missed: Vec::new(), waiting: Vec::new(), through: Vec::new(), again_at: None };
        for (line, (of, mark)) in self.lines.iter().zip(marks).enumerate() {
            let (mut through, mut waits) = (mark.through, false);
            let mut missed: Vec<(Why, Timestamp)> = Vec::new();
            let mut due = self.dues(line, *mark, now).into_iter().peekable();
            while let Some(one) = due.next() {
                if one.counted_by.is_some() {
                    through = one.due_at;
                } else if due.peek().is_some() {
                    // The latest one stands for those that it overtook.
                    missed.push((Why::of(&one.held_by), one.due_at));
                    through = one.due_at;
                } else {
                    match one.starts_at.filter(|starts_at| *starts_at <= one.closes_at) {
                        None => missed.push((Why::of(&one.held_by), one.due_at)),
                        Some(starts_at) if now < starts_at => {
                            look.again_at = look
                                .again_at
                                .into_iter()
                                .chain([starts_at, one.worrying_from().max(now + GRACE)])
                                .min();
                            look.waiting.push(one);
                            waits = true;
                            break;
                        }
                        Some(starts_at) if now > of.latest_start(&one, starts_at) => {
                            missed.push((Why::Down, one.due_at));
                        }
                        Some(_) => look.start.push(one.clone()),
                    }
                    through = one.due_at;
                }
            }
            if mark.is_promised {
                look.missed.extend(by_cause(line, &missed));
            } else if !waits {
                // What comes from here on is promised.
                through = now;
            }
            look.through.push(through);
            look.again_at = look.again_at.into_iter().chain(of.due.next_after(now)).min();
        }
        look
    }

    /// The due times between a mark and now; of what was never promised the latest alone.
    fn dues(&self, line: usize, mark: Mark, now: Timestamp) -> Vec<Due<'_>> {
        let Some(of) = self.lines.get(line) else { return Vec::new() };
        let due = if mark.is_promised {
            of.due.due_between(mark.through, now)
        } else {
            of.due.latest_due(mark.through, now).into_iter().collect()
        };
        due.into_iter().filter_map(|due_at| self.at(line, due_at)).collect()
    }
}

impl Line {
    /// Until when a run may still begin that was to begin at `starts_at`.
    fn latest_start(&self, due: &Due<'_>, starts_at: Timestamp) -> Timestamp {
        match self.catch_up {
            CatchUp::RunOnce => due.closes_at,
            CatchUp::Skip => starts_at + GRACE,
        }
    }
}

/// What one line missed, apart by cause, in the order of the first due time of each.
fn by_cause(line: usize, missed: &[(Why, Timestamp)]) -> Vec<Missed> {
    let mut all: Vec<Missed> = Vec::new();
    for (why, due_at) in missed {
        match all.iter_mut().find(|known| known.why == *why) {
            Some(known) => known.due.push(*due_at),
            None => all.push(Missed { line, why: *why, due: vec![*due_at] }),
        }
    }
    all
}

#[cfg(test)]
mod tests;
