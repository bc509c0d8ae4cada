//! What to restore, and what a restore reached.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Lsn, Timeline};

/// The state that was asked for. A restore reaches it or fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// The newest state that the listing of the vault proves.
    Latest,
    /// The last commit at or before this instant.
    Time(Timestamp),
    /// What was committed before this instant.
    BeforeTime(Timestamp),
    /// Everything up to and including the record that starts at or after this position.
    Lsn(Lsn),
    /// Everything before that record.
    BeforeLsn(Lsn),
    /// Everything up to and including the end of this transaction.
    Xid(String),
    /// Everything before the end of this transaction.
    BeforeXid(String),
    /// A restore point made with `pg_create_restore_point`.
    Name(String),
    /// The end of the backup itself.
    Immediate,
}

impl RecoveryTarget {
    /// The same without what it names; none where it names nothing that could be left out.
    pub fn exclusive(self) -> Option<Self> {
        match self {
            Self::Time(at) | Self::BeforeTime(at) => Some(Self::BeforeTime(at)),
            Self::Lsn(lsn) | Self::BeforeLsn(lsn) => Some(Self::BeforeLsn(lsn)),
            Self::Xid(xid) | Self::BeforeXid(xid) => Some(Self::BeforeXid(xid)),
            Self::Latest | Self::Name(_) | Self::Immediate => None,
        }
    }

    /// Whether what it names is part of the state.
    pub fn is_inclusive(&self) -> bool {
        !matches!(self, Self::BeforeTime(_) | Self::BeforeLsn(_) | Self::BeforeXid(_))
    }
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(at) => write!(f, "time {at}"),
            Self::BeforeTime(at) => write!(f, "just before time {at}"),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::BeforeLsn(lsn) => write!(f, "just before LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::BeforeXid(xid) => write!(f, "just before transaction {xid}"),
            Self::Name(name) => write!(f, "restore point `{name}`"),
            Self::Immediate => f.write_str("end of the backup"),
        }
    }
}

/// The state that a restore reached, as the restored server tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    pub timeline: Timeline,
    /// End of the last replayed record.
    pub lsn: Lsn,
    /// Commit time of the last replayed transaction; none where none was replayed.
    pub last_commit_at: Option<Timestamp>,
}

/// Whose identity opens a backup.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opener {
    /// The node's own.
    #[default]
    Node,
    /// The one that is kept elsewhere, for the day the node is gone.
    Escrow,
}
