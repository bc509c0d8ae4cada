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
    /// Everything up to and including the record that starts at or after this position.
    Lsn(Lsn),
    Xid(String),
    /// A restore point made with `pg_create_restore_point`.
    Name(String),
    /// The end of the backup itself.
    Immediate,
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(at) => write!(f, "time {at}"),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
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
