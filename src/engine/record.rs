//! Records in WAL that a restore looks for before it promises a point.

use std::path::Path;

use jiff::Timestamp;

use crate::domain::{Lsn, Segment, SegmentSize};

/// WAL on this machine, as a stretch of it is to be searched.
#[derive(Debug, Clone, Copy)]
pub struct WalRange<'a> {
    /// Holds the segments, plain and under their own names; the search may make
    /// files of its own in it.
    pub folder: &'a Path,
    /// One for each number, of whatever timeline.
    pub segments: &'a [Segment],
    pub size: SegmentSize,
    /// The first record that starts here or after counts.
    pub from: Lsn,
    /// No record counts that ends after it.
    pub to: Lsn,
}

/// What is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoughtRecord {
    /// The first record of any kind.
    Any,
    /// The last record of any kind.
    Last,
    /// The end of a transaction, by commit or not: its 32-bit number.
    TransactionEnd(u64),
    /// The first restore point of this name.
    RestorePoint(String),
    /// The end of a transaction that says of itself the latest time. That need not be the
    /// last one: a server's clock may have been set back.
    LatestEnd,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundRecord {
    pub start: Lsn,
    /// Where the next one starts, when `Any` was sought and there is one.
    pub next: Option<Lsn>,
    /// When its transaction ended, where `LatestEnd` was sought.
    pub at: Option<Timestamp>,
}
