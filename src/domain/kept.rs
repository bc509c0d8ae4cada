//! What a server keeps of its WAL for us, as it says itself.

use serde::Serialize;

use super::{Lsn, MemberName, Timeline};

/// What the server says of our replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// There is none: nothing is kept for us.
    Missing,
    /// It keeps no more than the server would without it, or what it may.
    Reserved,
    /// It keeps more than `max_wal_size`.
    Extended,
    /// It is over its limit: the next checkpoint invalidates it.
    Unreserved,
    /// It lost WAL and keeps nothing any more.
    Lost,
}

/// A member's WAL at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalKept {
    pub member: MemberName,
    /// Whether it takes writes; what it received counts as written where it does not.
    pub is_primary: bool,
    /// The name of our slot.
    pub slot: String,
    pub state: SlotState,
    /// Whether somebody streams through the slot.
    pub is_active: bool,
    pub timeline: Timeline,
    /// The end of the server's WAL.
    pub written: Lsn,
    /// From where on the slot keeps it.
    pub from: Option<Lsn>,
    /// How much a slot may keep (`max_slot_wal_keep_size`); none where nothing limits it.
    pub limit_bytes: Option<u64>,
    /// How much may be written before the slot is over its limit; none where there is none.
    pub safe_bytes: Option<u64>,
    /// Size of the server's WAL folder; none where our role may not see it.
    pub folder_bytes: Option<u64>,
    /// Free space of the file system of that folder; none where it is not on this
    /// machine, or cannot be seen from here.
    pub free_bytes: Option<u64>,
}

impl WalKept {
    /// How much the slot keeps for us.
    pub fn bytes(&self) -> u64 {
        self.from.map_or(0, |from| self.written.0.saturating_sub(from.0))
    }
}
