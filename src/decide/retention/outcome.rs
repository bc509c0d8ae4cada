//! What a decision about retention consists of: what stays and why, what may go.
//! It is recorded before anything is deleted, so all of it can be written down.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Doubt, WalKey};
use crate::domain::{BackupId, KeepPeriod, Segment, Timeline};

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The newest backup of one of so many periods.
    Newest {
        period: KeepPeriod,
        of: String,
    },
    /// Its line of the schedule has no `keep`, or no line is of its kind.
    NoLimit,
    /// The newest that finished before the window begins, or the first behind a gap of WAL.
    WindowBase,
    /// The next one that the window will begin with.
    WindowNext,
    LastProven,
    /// The newest backup, or the newest full one.
    Last,
    ParentOf(BackupId),
    /// The vault would refuse to delete it: it stays whole until then.
    Locked(Timestamp),
    /// DEGRADED, damaged, or its WAL is incomplete: it counts for no period, and is
    /// kept for people to look at while the window reaches back to it.
    Unsound,
    /// Damaged, or its WAL is incomplete: it stands for no other, and stays itself
    /// as long as a sound one in its place would, so that another vault can mend it.
    Broken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest { period, of } => write!(f, "{}: newest of {of}", period.as_str()),
            Self::NoLimit => f.write_str("no `keep` limits it"),
            Self::WindowBase => f.write_str("restores the window of WAL"),
            Self::WindowNext => f.write_str("restores the window of WAL next"),
            Self::LastProven => f.write_str("last PROVEN"),
            Self::Last => f.write_str("newest"),
            Self::ParentOf(child) => write!(f, "parent of {child}"),
            Self::Locked(until) => write!(f, "locked until {until}"),
            Self::Unsound => f.write_str("not sound, within the window"),
            Self::Broken => f.write_str("not sound, counts for nothing: stays as a sound one would, to be mended"),
        }
    }
}

/// A backup that stays, with all its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub backup: BackupId,
    pub reasons: Vec<Reason>,
}

/// WAL of one timeline that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptWal {
    pub timeline: Timeline,
    /// Numbers of segments, both included; no `last` is up to the tip.
    pub first: u64,
    pub last: Option<u64>,
    /// The backup that is restored with it.
    pub backup: Option<BackupId>,
}

impl KeptWal {
    pub(super) fn covers(&self, segment: Segment) -> bool {
        self.timeline == segment.timeline
            && self.first <= segment.number
            && self.last.is_none_or(|last| segment.number <= last)
    }
}

/// Contiguous segments of one timeline, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRun {
    pub timeline: Timeline,
    pub first: u64,
    pub last: u64,
}

impl SegmentRun {
    pub fn contains(&self, segment: Segment) -> bool {
        self.timeline == segment.timeline && (self.first..=self.last).contains(&segment.number)
    }

    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        let timeline = self.timeline;
        (self.first..=self.last).map(move |number| Segment { timeline, number })
    }
}

/// A tail by its segment and offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tail {
    pub segment: Segment,
    pub from: u64,
    pub to: u64,
}

/// What may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Children before their parents.
    pub backups: Vec<BackupId>,
    /// Uncommitted, and left behind.
    pub uploads: Vec<BackupId>,
    /// Whole segments that are held.
    pub segments: Vec<SegmentRun>,
    pub tails: Vec<Tail>,
    pub histories: Vec<Timeline>,
    pub wal_keys: Vec<WalKey>,
}

impl Expiry {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many segments go.
    pub fn segment_count(&self) -> u64 {
        self.segments.iter().map(|run| run.last - run.first + 1).sum()
    }

    /// What both name: what was shown, as far as it is still allowed. A backup
    /// that is half deleted is an upload by now.
    #[must_use]
    pub fn allowed_by(&self, fresh: &Self) -> Self {
        fn both<T: PartialEq + Clone>(shown: &[T], allowed: &[T]) -> Vec<T> {
            shown.iter().filter(|item| allowed.contains(item)).cloned().collect()
        }
        let segments = self.segments.iter().flat_map(SegmentRun::segments);
        let tails: BTreeSet<&Tail> = fresh.tails.iter().collect();
        Self {
            backups: both(&self.backups, &fresh.backups),
            uploads: both(&self.uploads, &fresh.uploads),
            segments: runs(segments.filter(|segment| fresh.segments.iter().any(|run| run.contains(*segment)))),
            tails: self.tails.iter().filter(|tail| tails.contains(tail)).copied().collect(),
            histories: both(&self.histories, &fresh.histories),
            wal_keys: both(&self.wal_keys, &fresh.wal_keys),
        }
    }
}

/// What stays, what may go, and why nothing may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub decided_at: Timestamp,
    pub window_start: Timestamp,
    /// Oldest first.
    pub keep: Vec<Kept>,
    pub wal: Vec<KeptWal>,
    pub expire: Expiry,
    /// Where there is one, nothing goes.
    pub refusals: Vec<Doubt>,
    /// What is left alone although nothing needs it, and why.
    pub left: Vec<String>,
}

/// Segments, ascending, as contiguous runs.
pub(super) fn runs(segments: impl Iterator<Item = Segment>) -> Vec<SegmentRun> {
    let mut runs: Vec<SegmentRun> = Vec::new();
    for Segment { timeline, number } in segments {
        match runs.last_mut() {
            Some(run) if run.timeline == timeline && run.last + 1 == number => run.last = number,
            _ => runs.push(SegmentRun { timeline, first: number, last: number }),
        }
    }
    runs
}
