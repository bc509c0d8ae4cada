//! Positions in the write-ahead log (WAL) and the names of its segments.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not an LSN, segment name or segment size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLsn {
    #[error("`{0}` is not an LSN: two hexadecimal numbers with a slash are expected, such as `0/3000148`")]
    Lsn(String),
    #[error("`{0}` is not the name of a WAL segment")]
    Segment(String),
    #[error("{0} is not a WAL segment size: a power of two from 1 MiB to 1 GiB is expected")]
    Size(u64),
}

/// A record is at most 1 GiB long.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;

/// A byte position in the WAL of one cluster.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on.
    #[must_use]
    pub const fn forward(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn::Lsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| invalid())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| invalid())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;
    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// One branch of a cluster's history; a promotion opens the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    /// The name of the file that tells where this timeline branched off.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB,
/// fixed when the cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// PostgreSQL's default.
    pub const DEFAULT: Self = Self(16 << 20);

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of the segment that holds the byte at `lsn`.
    pub const fn number_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.0
    }

    /// The first position of the segment that holds the byte at `lsn`.
    pub const fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.0)
    }

    /// The offset of `lsn` in its segment, in bytes.
    pub const fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 % self.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = InvalidLsn;
    fn try_from(bytes: u64) -> Result<Self, InvalidLsn> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(InvalidLsn::Size(bytes))
        }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.0
    }
}

/// One WAL segment of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Segment {
    pub timeline: Timeline,
    pub number: u64,
}

impl Segment {
    pub const fn holding(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: size.number_of(lsn) }
    }

    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.number * size.bytes())
    }

    pub const fn end(self, size: SegmentSize) -> Lsn {
        Lsn((self.number + 1) * size.bytes())
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self { timeline: self.timeline, number: self.number + 1 }
    }

    /// PostgreSQL's 24-digit file name.
    pub fn file_name(self, size: SegmentSize) -> String {
        let per_id = (1 << 32) / size.bytes();
        format!("{:08X}{:08X}{:08X}", self.timeline.0, self.number / per_id, self.number % per_id)
    }

    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn::Segment(name.to_owned());
        if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase()) {
            return Err(invalid());
        }
        let part = |range: std::ops::Range<usize>| -> Result<u64, InvalidLsn> {
            name.get(range).and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(invalid)
        };
        let per_id = (1 << 32) / size.bytes();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        if low >= per_id {
            return Err(invalid());
        }
        Ok(Self { timeline: Timeline(u32::try_from(timeline).map_err(|_| invalid())?), number: high * per_id + low })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_lsn_prints_as_postgres_prints_it() {
        assert_eq!(Lsn(0x1_0300_0148).to_string(), "1/3000148");
        assert_eq!("1/3000148".parse(), Ok(Lsn(0x1_0300_0148)));
        for bad in ["", "1", "1/", "/1", "g/1", "1/100000000", "-1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn segment_names_round_trip(timeline in 1u32.., lsn in 0u64..(1 << 60), power in 20u32..=30) {
            let size = SegmentSize::try_from(1u64 << power).unwrap();
            let segment = Segment::holding(Timeline(timeline), Lsn(lsn), size);
            prop_assert_eq!(Segment::parse(&segment.file_name(size), size), Ok(segment));
            prop_assert!(segment.start(size) <= Lsn(lsn) && Lsn(lsn) < segment.end(size));
        }

        #[test]
        fn lsns_round_trip(lsn: u64) {
            prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        }
    }
}
