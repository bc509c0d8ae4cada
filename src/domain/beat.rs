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

/// The heartbeats that one object of a vault holds: every number from `first`
/// to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BeatRange {
    pub first: i64,
    pub last: i64,
}

/// What the name of an object of heartbeats ends with.
const SUFFIX: &str = ".jsonl.zst.age";

impl BeatRange {
    /// The object's name in its folder: `<first>-<last>.jsonl.zst.age`, 16 digits each.
    pub fn file_name(&self) -> String {
        format!("{:016}-{:016}{SUFFIX}", self.first, self.last)
    }

    /// None for other names.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (first, last) = file_name.strip_suffix(SUFFIX)?.split_once('-')?;
        let range = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (0 <= range.first && range.first <= range.last && range.last < i64::MAX).then_some(range)
    }

    /// How many numbers it holds; never zero.
    pub fn count(&self) -> u64 {
        self.last.abs_diff(self.first) + 1
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_heartbeats_is_named_by_its_numbers() {
        let range = BeatRange { first: 3600, last: 7199 };
        assert_eq!(range.file_name(), "0000000000003600-0000000000007199.jsonl.zst.age");
        assert_eq!((BeatRange::parse(&range.file_name()), range.count()), (Some(range), 3600));
        for other in ["7-3.jsonl.zst.age", "-3-7.jsonl.zst.age", "3-7.jsonl", "x-y.jsonl.zst.age", "37.jsonl.zst.age"] {
            assert_eq!(BeatRange::parse(other), None, "{other}");
        }
    }
}
