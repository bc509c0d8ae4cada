//! Why nothing expires although much could: the picture is unclear, the newest
//! backups may be worse than the old ones, or the clock cannot be believed. One
//! doubt is enough.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Facts, Held, Line, ORPHAN_AGE, Policy};
use crate::domain::{BackupId, BackupKind, BackupState, ByteSize, RunId, Timeline, Verdict};

/// Clocks of two nodes may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// A full backup of less than this share of the one before it is suspicious.
const SHRUNKEN_PERCENT: u64 = 50;
/// How long such a backup stops all expiry, so that a person sees it in time.
const SHRUNKEN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Nothing known happened for longer than this, and for longer than three
/// backups take to fall due: then the clock may have jumped.
const SILENCE_MIN: SignedDuration = SignedDuration::from_hours(3 * 24);
/// How far back a due time is looked for.
const DUE_LOOK: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// One reason to let nothing go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "doubt")]
pub enum Doubt {
    NoBackup,
    /// Something in the vault is not what it should be.
    Unclear {
        what: String,
    },
    NoHistory {
        timeline: Timeline,
    },
    NoParent {
        backup: BackupId,
        parent: BackupId,
    },
    LastRunFailed {
        run: RunId,
        verdict: Verdict,
    },
    Shrunken {
        backup: BackupId,
        size_bytes: u64,
        before_bytes: u64,
    },
    Degraded {
        backup: BackupId,
    },
    /// A verification found it damaged in this vault, or what it builds on.
    Damaged {
        backup: BackupId,
    },
    WalIncomplete {
        backup: BackupId,
    },
    Late {
        kind: BackupKind,
        due: Timestamp,
    },
    /// Something happened after now.
    ClockBehind {
        seen: Timestamp,
    },
    /// Nothing happened between these.
    ClockJump {
        from: Timestamp,
        to: Timestamp,
        until: Timestamp,
    },
    Busy {
        run: RunId,
    },
    Uploading {
        upload: BackupId,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackup => f.write_str("the vault holds no sound backup; take one first"),
            Self::Unclear { what } => write!(f, "the vault is not as it should be: {what}"),
            Self::NoHistory { timeline } => write!(
                f,
                "the history file of timeline {timeline} is missing, so what it needs is not known; copy it from another vault"
            ),
            Self::NoParent { backup, parent } => {
                write!(f, "backup {backup} needs {parent}, which this vault does not hold; copy it from another vault")
            }
            Self::LastRunFailed { run, verdict: Verdict::Aborted } => {
                write!(f, "the newest backup run {run} was ended before it was done; take a backup")
            }
            Self::LastRunFailed { run, verdict } => {
                write!(f, "the newest backup run {run} ended with {verdict}; mend it and take a backup")
            }
            Self::Shrunken { backup, size_bytes, before_bytes } => write!(
                f,
                "backup {backup} has {}, the one before it had {}; look whether data is missing: expiry goes on a week after it",
                ByteSize::from_bytes(*size_bytes),
                ByteSize::from_bytes(*before_bytes)
            ),
            Self::Degraded { backup } => write!(
                f,
                "the database is DEGRADED: the newest backup {backup} holds damaged pages; mend them and take a backup"
            ),
            Self::Damaged { backup } => write!(
                f,
                "the newest backup {backup} is damaged in this vault, or what it builds on; look what `lifeboat vault verify` says, mend it from another vault or take a backup"
            ),
            Self::WalIncomplete { backup } => {
                write!(f, "the WAL of the newest backup {backup} is not complete in this vault")
            }
            Self::Late { kind, due } => write!(
                f,
                "no {} backup was begun since {due}, and another one has fallen due after it; take one",
                kind.as_str()
            ),
            Self::ClockBehind { seen } => {
                write!(f, "the clock is behind: something is dated {seen}; set the clock of this node")
            }
            Self::ClockJump { from, to, until } => write!(
                f,
                "nothing happened from {from} to {to}: the clock may have jumped; expiry goes on at {until}, a whole window later"
            ),
            Self::Busy { run } => write!(f, "run {run} works with this vault; try again when it has ended"),
            Self::Uploading { upload } => {
                write!(f, "{upload} is being uploaded, or was left less than a day ago; try again later")
            }
        }
    }
}

pub(super) fn doubts(facts: &Facts, policy: &Policy, now: Timestamp, window_start: Timestamp) -> Vec<Doubt> {
    let mut doubts: Vec<Doubt> = facts.problems.iter().map(|what| Doubt::Unclear { what: what.clone() }).collect();
    doubts.extend(chains(facts));
    doubts.extend(facts.busy.iter().map(|run| Doubt::Busy { run: run.clone() }));
    doubts.extend(uploading(facts, now));
    doubts.extend(quality(facts, now));
    doubts.extend(policy.lines.iter().filter_map(|line| late(facts, line, now)));
    doubts.extend(clock(facts, policy, now, window_start));
    doubts
}

fn chains(facts: &Facts) -> impl Iterator<Item = Doubt> {
    facts.backups.iter().filter_map(|backup| {
        let parent = backup.parent.as_ref()?;
        let is_there = facts.backups.iter().any(|other| other.id == *parent);
        (!is_there).then(|| Doubt::NoParent { backup: backup.id.clone(), parent: parent.clone() })
    })
}

/// A copy that is not whole yet may need WAL that nothing else does.
fn uploading(facts: &Facts, now: Timestamp) -> impl Iterator<Item = Doubt> {
    let is_young = move |at: Timestamp| now.duration_since(at) <= ORPHAN_AGE;
    let uploads = facts.uploads.iter().filter(move |upload| upload.is_copy || upload.started_at.is_some_and(is_young));
    uploads.map(|upload| Doubt::Uploading { upload: upload.id.clone() })
}

/// Whether the newest backups are as good as those that would go.
fn quality(facts: &Facts, now: Timestamp) -> Vec<Doubt> {
    let Some(newest) = facts.backups.iter().max_by_key(|backup| backup.age()) else { return vec![Doubt::NoBackup] };
    let mut doubts = Vec::new();
    if !facts.backups.iter().any(|backup| facts.is_sound(backup)) {
        doubts.push(Doubt::NoBackup);
    }
    if let Some((run, verdict)) = facts.last_run.as_ref().filter(|(_, verdict)| *verdict != Verdict::Pass) {
        doubts.push(Doubt::LastRunFailed { run: run.clone(), verdict: *verdict });
    }
    if !facts.may_be_mended(newest) {
        doubts.push(Doubt::Degraded { backup: newest.id.clone() });
    }
    if facts.chain(newest).any(|backup| backup.is_damaged) {
        doubts.push(Doubt::Damaged { backup: newest.id.clone() });
    }
    if newest.state == BackupState::Uploaded {
        doubts.push(Doubt::WalIncomplete { backup: newest.id.clone() });
    }
    let mut full: Vec<&Held> = facts.backups.iter().filter(|backup| backup.kind == BackupKind::Full).collect();
    full.sort_by_key(|backup| backup.age());
    let last = full.len().saturating_sub(1);
    for (nth, pair) in full.windows(2).enumerate() {
        let [before, after] = pair else { continue };
        let is_new = nth + 1 == last || now.duration_since(after.finished_at) < SHRUNKEN_FOR;
        if is_new && after.size_bytes.saturating_mul(100) < before.size_bytes.saturating_mul(SHRUNKEN_PERCENT) {
            let (size_bytes, before_bytes) = (after.size_bytes, before.size_bytes);
            doubts.push(Doubt::Shrunken { backup: after.id.clone(), size_bytes, before_bytes });
        }
    }
    doubts
}

/// The last due instant of a line and the one before it.
fn dues(line: &Line, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
    let since = now.checked_sub(DUE_LOOK).unwrap_or(Timestamp::MIN);
    let last = line.due.latest_due(since, now)?;
    let before = line.due.latest_due(since, last - SignedDuration::from_secs(1))?;
    Some((before, last))
}

/// One backup may be under way; none since the due time before it is one too few.
fn late(facts: &Facts, line: &Line, now: Timestamp) -> Option<Doubt> {
    let (due, _) = dues(line, now)?;
    let counts = |backup: &&Held| {
        // A larger kind counts for a smaller one.
        backup.kind == BackupKind::Full
            || backup.kind == line.kind
            || (backup.kind == BackupKind::Differential && line.kind == BackupKind::Incremental)
    };
    let newest = facts.backups.iter().filter(counts).map(|backup| backup.started_at).max();
    let is_late = newest.is_none_or(|newest| newest < due.checked_sub(SKEW).unwrap_or(Timestamp::MIN));
    is_late.then_some(Doubt::Late { kind: line.kind, due })
}

/// Now must fit to what happened: nothing lies after it, and since the window
/// began no silence is longer than protection is ever silent.
fn clock(facts: &Facts, policy: &Policy, now: Timestamp, window_start: Timestamp) -> Vec<Doubt> {
    let finished = facts.backups.iter().map(|backup| backup.finished_at);
    let mut seen: Vec<Timestamp> = facts.signs.iter().copied().chain(finished).collect();
    seen.sort_unstable();
    let mut doubts = Vec::new();
    if let Some(seen) = seen.last().filter(|seen| now.duration_since(**seen) < -SKEW) {
        doubts.push(Doubt::ClockBehind { seen: *seen });
    }
    let period =
        policy.lines.iter().filter_map(|line| dues(line, now)).map(|(before, last)| last.duration_since(before));
    let silence = period.min().map_or(SILENCE_MIN, |period| period.saturating_mul(3)).max(SILENCE_MIN);
    seen.push(now);
    let jumps = seen.windows(2).filter_map(|pair| {
        let [from, to] = pair else { return None };
        (*to > window_start && to.duration_since(*from) > silence).then_some((*from, *to))
    });
    doubts.extend(jumps.map(|(from, to)| {
        let until = to.checked_add(policy.window).unwrap_or(Timestamp::MAX);
        Doubt::ClockJump { from, to, until }
    }));
    doubts
}
