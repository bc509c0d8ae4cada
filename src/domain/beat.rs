//! The heartbeat: one small acknowledged write per second and database, by
//! which the recovery point is measured.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Lsn, Timeline};

/// A heartbeat whose commit the server acknowledged. Kept outside the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts up by one per acknowledged write, per database, for ever.
    pub seq: i64,
    /// When the acknowledgement arrived here, by our clock.
    pub acknowledged_at: Timestamp,
    /// A WAL position at or after the commit record.
    pub commit_lsn: Lsn,
    pub timeline: Timeline,
}
