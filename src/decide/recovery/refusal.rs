//! Why nothing can be restored to a point, in words that name what can be.

use std::fmt;

use jiff::Timestamp;

use crate::domain::{BackupId, Lsn, RecoveryTarget, Timeline};

/// The recovery points that are there, for refusals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    pub oldest: (BackupId, Lsn, Timestamp),
    /// End of the newest timeline's WAL: the last point lies before it.
    pub newest: Lsn,
    /// When the last commit before it was; none where nobody has looked.
    pub newest_at: Option<Timestamp>,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest: (backup, lsn, at), newest, newest_at } = self;
        write!(
            f,
            "the oldest recovery point is LSN {lsn}, {at} (backup {backup}), the newest lies before LSN {newest}"
        )?;
        newest_at.map_or(Ok(()), |at| write!(f, ", with the last commit at {at}"))
    }
}

/// The instants between which nothing can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The last commit before; none where nobody has looked.
    pub after: Option<Timestamp>,
    /// The end of the first backup behind; none where there is none.
    pub until: Option<Timestamp>,
}

/// Why nothing was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the vault holds no restorable backup; take one, or restore from another vault")]
    NoBackup,
    #[error("the vault holds no backup `{backup}`; `lifeboat backups` lists them")]
    UnknownBackup { backup: BackupId },
    #[error(
        "backup `{backup}` builds upon `{parent}`, which no vault holds; choose another backup, or name a vault that holds it"
    )]
    NoParent { backup: BackupId, parent: BackupId },
    #[error("no backup was complete before {target}; {bounds}")]
    BeforeFirst { target: RecoveryTarget, bounds: Box<Bounds> },
    #[error("{target} lies after everything that the vault holds; {bounds}; `--latest` restores to that")]
    AfterTip { target: RecoveryTarget, bounds: Box<Bounds> },
    #[error(
        "no commit is held that is later than {target}, where recovery would stop; {bounds}; `--latest` restores to that, and where the server's clock was set back, `--lsn` to a state from before"
    )]
    NoLaterCommit { target: RecoveryTarget, bounds: Box<Bounds> },
    #[error(
        "WAL of timeline {timeline} from {from} on is missing, which {target} needs from backup {backup}{}; {bounds}; choose a point before the gap, a backup after it, or another vault",
        told_window(window, *again)
    )]
    Gap {
        target: RecoveryTarget,
        backup: BackupId,
        timeline: Timeline,
        from: Lsn,
        /// The end of the first backup behind the gap.
        again: Option<Lsn>,
        window: Box<Window>,
        bounds: Box<Bounds>,
    },
    #[error("the history file of timeline {0} is missing, so where it began is unknown; restore from another vault")]
    NoHistory(Timeline),
    #[error("no WAL or backup of timeline {timeline} is held; there is of: {}", listed(known))]
    NoTimeline { timeline: Timeline, known: Vec<Timeline> },
    #[error(
        "no backup leads along timeline {timeline}; there are: {}",
        listed(&known.iter().map(|(backup, on)| format!("{backup} on timeline {on}")).collect::<Vec<_>>())
    )]
    NoBackupOn { timeline: Timeline, known: Vec<(BackupId, Timeline)> },
    #[error(
        "backup `{backup}` is on timeline {timeline}, which is no ancestor of timeline {of} before its fork; choose another backup{}",
        told_fit(fit)
    )]
    OffTimeline {
        backup: BackupId,
        timeline: Timeline,
        of: Timeline,
        /// Backups that do lead there, the newest ones.
        fit: Vec<BackupId>,
    },
}

impl Refusal {
    /// The recovery points that it names, so that more can be told of them.
    pub fn bounds_mut(&mut self) -> Option<&mut Bounds> {
        match self {
            Self::BeforeFirst { bounds, .. }
            | Self::AfterTip { bounds, .. }
            | Self::NoLaterCommit { bounds, .. }
            | Self::Gap { bounds, .. } => Some(bounds),
            Self::NoBackup
            | Self::UnknownBackup { .. }
            | Self::NoParent { .. }
            | Self::NoHistory(_)
            | Self::NoTimeline { .. }
            | Self::NoBackupOn { .. }
            | Self::OffTimeline { .. } => None,
        }
    }
}

fn listed<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn told_fit(fit: &[BackupId]) -> String {
    if fit.is_empty() { String::new() } else { format!(", such as {}", listed(fit)) }
}

/// The broken window, as far as it is known.
fn told_window(window: &Window, again: Option<Lsn>) -> String {
    let Window { after, until } = window;
    let last = after.map(|after| format!("; the last commit before it is of {after}")).unwrap_or_default();
    let until = until.map(|until| format!(", {until},")).unwrap_or_default();
    let again = again.map(|again| format!("; points can be restored again from {again}{until} on"));
    last + &again.unwrap_or_default()
}
