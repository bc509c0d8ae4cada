//! A backup as status, API and pages show it. The stored form is the manifest
//! (`vault::format`), of which this is the summary.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackupId, DatabaseName, Lsn, MemberName, Span, Timeline};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    Full,
    Incremental,
    Differential,
    /// Provider-native.
    Snapshot,
    /// A dump.
    Logical,
}

impl BackupKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
            Self::Snapshot => "snapshot",
            Self::Logical => "logical",
        }
    }
}

/// From which member backups are taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupFrom {
    /// The one that takes writes.
    #[default]
    Primary,
    /// The standby that is least behind; the primary where none is fit, and the run says why.
    PreferStandby,
    /// The standby that is least behind. Where none is fit the backup fails.
    Standby,
}

/// The member that sent a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFrom {
    pub member: MemberName,
    pub is_standby: bool,
}

/// A stretch of the calendar of which one backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepPeriod {
    /// One per hour, as many as are named.
    Hourly,
    /// One per day, as many as are named.
    Daily,
    /// One per week, as many as are named; weeks begin on Monday.
    Weekly,
    /// One per month, as many as are named.
    Monthly,
    /// One per year, as many as are named.
    Yearly,
}

impl KeepPeriod {
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The shortest that such a period can be.
    pub const fn span(self) -> Span {
        const HOUR: u64 = 3600;
        Span::from_secs(match self {
            Self::Hourly => HOUR,
            Self::Daily => 24 * HOUR,
            Self::Weekly => 7 * 24 * HOUR,
            Self::Monthly => 28 * 24 * HOUR,
            Self::Yearly => 365 * 24 * HOUR,
        })
    }
}

/// How much is known about a backup. Only a restore of exactly it makes it
/// PROVEN; DEGRADED marks one that was taken from damaged pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackupState {
    Degraded,
    Uploaded,
    WalComplete,
    Verified,
    Proven,
}

impl BackupState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "DEGRADED",
            Self::Uploaded => "UPLOADED",
            Self::WalComplete => "WAL_COMPLETE",
            Self::Verified => "VERIFIED",
            Self::Proven => "PROVEN",
        }
    }
}

/// One line of `lifeboat backups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub id: BackupId,
    pub database: DatabaseName,
    pub kind: BackupKind,
    pub state: BackupState,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Plain bytes that the server sent.
    pub size_bytes: u64,
    /// Bytes in the vault, compressed and encrypted.
    pub stored_bytes: u64,
    pub timeline: Timeline,
    /// Replay starts here.
    pub start_lsn: Lsn,
    /// The copy is consistent from here on.
    pub stop_lsn: Lsn,
    pub parent: Option<BackupId>,
    /// Which member sent it; older backups do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TakenFrom>,
}
