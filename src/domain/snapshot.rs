//! Snapshots that a provider takes and keeps of a database that it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Region;

/// A snapshot as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The provider's name for it, in its region and account.
    pub id: String,
    /// Names it in all regions and accounts.
    pub arn: String,
    pub region: Region,
    pub origin: SnapshotOrigin,
    pub state: SnapshotState,
    /// How much of it is made, of 100.
    pub progress_percent: u8,
    /// The state of the database that it holds; none while it is being made, and where the
    /// provider does not tell.
    pub taken_at: Option<Timestamp>,
    /// What the database may take, as allocated.
    pub size_bytes: u64,
    /// The key that it is encrypted with; none where it is not encrypted.
    pub kms_key: Option<String>,
    pub server_version: String,
    /// The snapshot that it is a copy of, by its ARN.
    pub copy_of: Option<String>,
}

/// Who made a snapshot, and so who may remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotOrigin {
    /// A run of this estate, by its tags. Expires as the schedule says.
    Ours,
    /// A person or another tool. Restored from, and never removed.
    Adopted,
    /// The provider itself, in its window. Expires as the provider says.
    Automated,
}

/// Whether a snapshot can be restored from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    Creating,
    Available,
    /// It will never be available; the provider's own word is in the log.
    Failed,
}
