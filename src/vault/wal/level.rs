//! Finds where a server wrote on with `wal_level = minimal`: WAL from there on
//! lacks content, and no recovery passes it. The server says so in a record of
//! its own (`XLOG_PARAMETER_CHANGE`) when it starts. So the stream is walked from
//! record to record, by their lengths alone; whatever does not look like a record
//! ends the walk until the next page that begins one.
//!
//! Layouts: `access/xlogrecord.h`, `access/xlog_internal.h`,
//! `catalog/pg_control.h` of PostgreSQL 15 to 18; little-endian, as everywhere here.

use std::ops::Range;

use crate::domain::{Lsn, SegmentSize};

/// A page is as large as its segment's first one says; this is what all builds use.
const PAGE_SIZE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// The page goes on with a record of the page before (`XLP_FIRST_IS_CONTRECORD`).
const CONTINUES: u8 = 0x01;

const RECORD_HEADER: usize = 24;
const ALIGNMENT: u64 = 8;
/// A record of the resource manager XLOG, of this kind.
const RM_XLOG: u8 = 0;
const PARAMETER_CHANGE: u8 = 0x60;
const KIND_MASK: u8 = 0xF0;
/// Behind the header: id and length of the data, five numbers, then the level.
const LEVEL_AT: usize = RECORD_HEADER + 2 + 5 * 4;
const SEEN_MAX: usize = LEVEL_AT + 4;
const MINIMAL: u32 = 0;

/// Where the walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the header of a page.
    PageHeader,
    /// Before a record, its padding included.
    Between,
    /// In a record that began at `start`, with so many bytes to come; its length is
    /// not known before its first four bytes are.
    Record { start: Lsn, left: Option<u64> },
    /// In a record of which the beginning was not seen.
    Rest { left: u64 },
    /// Where nothing says where a record begins, up to the next page.
    Lost,
    /// Behind the end of what was written of this segment.
    Empty,
}

/// Walks the WAL of one timeline, from the start of a segment on.
#[derive(Debug)]
pub(super) struct Walk {
    size: SegmentSize,
    position: Lsn,
    at: At,
    /// What the header of the page interrupts.
    interrupted: At,
    header: Vec<u8>,
    /// The beginning of the record.
    seen: Vec<u8>,
}

impl Walk {
    pub(super) fn from(start: Lsn, size: SegmentSize) -> Self {
        Self { size, position: start, at: At::PageHeader, interrupted: At::Lost, header: Vec::new(), seen: Vec::new() }
    }

    /// Takes what follows, and answers where in it a server began to write with
    /// `wal_level = minimal`: the record that says so.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Option<Range<Lsn>> {
        let mut found = None;
        while !bytes.is_empty() {
            if self.position.0.is_multiple_of(PAGE_SIZE) && !matches!(self.at, At::PageHeader) {
                self.interrupted = if self.is_segment_start() && self.at == At::Empty { At::Between } else { self.at };
                self.at = At::PageHeader;
            }
            let in_page = usize::try_from(PAGE_SIZE - self.position.0 % PAGE_SIZE).unwrap_or(usize::MAX);
            let now = bytes.get(..in_page).unwrap_or(bytes);
            let taken = match self.at {
                At::PageHeader => self.header(now),
                At::Between => self.begin(now),
                At::Record { start, left } => self.record(now, start, left, &mut found),
                At::Rest { left } => {
                    let take = now.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - take as u64;
                    self.at = if left == 0 { At::Between } else { At::Rest { left } };
                    take
                }
                At::Lost | At::Empty => now.len(),
            };
            self.position = self.position.forward(taken as u64);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        found
    }

    fn is_segment_start(&self) -> bool {
        self.size.floor(self.position) == self.position
    }

    /// The header of a page says with what the page begins.
    fn header(&mut self, now: &[u8]) -> usize {
        let page = Lsn(self.position.0 / PAGE_SIZE * PAGE_SIZE);
        let length = if self.size.floor(page) == page { LONG_HEADER } else { SHORT_HEADER };
        let wanted = usize::try_from(length).unwrap_or(usize::MAX) - self.header.len();
        let take = wanted.min(now.len());
        self.header.extend_from_slice(now.get(..take).unwrap_or_default());
        if take < wanted {
            return take;
        }
        let info = self.header.get(2).copied().unwrap_or(0);
        let rest = u64::from(number(&self.header, 16).unwrap_or(0));
        self.header.clear();
        self.at = match (info & CONTINUES != 0, self.interrupted) {
            // A page that was never written.
            (false, At::Empty) => At::Empty,
            (false, _) => At::Between,
            (true, record @ At::Record { left: Some(left), .. }) if left == rest => record,
            (true, _) => At::Rest { left: rest },
        };
        if !matches!(self.at, At::Record { .. }) {
            self.seen.clear();
        }
        take
    }

    /// Skips the padding before a record.
    fn begin(&mut self, now: &[u8]) -> usize {
        let padding = (ALIGNMENT - self.position.0 % ALIGNMENT) % ALIGNMENT;
        if padding == 0 {
            self.at = At::Record { start: self.position, left: None };
            return 0;
        }
        now.len().min(usize::try_from(padding).unwrap_or(usize::MAX))
    }

    fn record(&mut self, now: &[u8], start: Lsn, left: Option<u64>, found: &mut Option<Range<Lsn>>) -> usize {
        let Some(left) = left else {
            let take = now.len().min(4 - self.seen.len());
            self.seen.extend_from_slice(now.get(..take).unwrap_or_default());
            if self.seen.len() == 4 {
                let length = u64::from(number(&self.seen, 0).unwrap_or(0));
                self.at = match length {
                    // What follows in this segment was skipped by a switch.
                    0 => At::Empty,
                    _ if length < RECORD_HEADER as u64 => At::Lost,
                    _ => At::Record { start, left: Some(length - 4) },
                };
                if !matches!(self.at, At::Record { .. }) {
                    self.seen.clear();
                }
            }
            return take;
        };
        let take = now.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let missing = SEEN_MAX.saturating_sub(self.seen.len()).min(take);
        self.seen.extend_from_slice(now.get(..missing).unwrap_or_default());
        let left = left - take as u64;
        self.at = At::Record { start, left: Some(left) };
        if left == 0 {
            if found.is_none() && is_minimal(&self.seen) {
                *found = Some(start..self.position.forward(take as u64));
            }
            self.seen.clear();
            self.at = At::Between;
        }
        take
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether the record says that the server writes with `wal_level = minimal` now.
fn is_minimal(record: &[u8]) -> bool {
    let kind = (record.get(17).copied(), record.get(16).map(|info| info & KIND_MASK));
    kind == (Some(RM_XLOG), Some(PARAMETER_CHANGE)) && number(record, LEVEL_AT) == Some(MINIMAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    /// WAL from the start of a segment on, made of records as a server would.
    struct Written {
        bytes: Vec<u8>,
        at: u64,
    }

    impl Written {
        fn new() -> Self {
            Self { bytes: Vec::new(), at: SIZE.bytes() }
        }

        fn byte(&mut self, byte: u8, rest: u64) {
            if self.at.is_multiple_of(PAGE_SIZE) {
                let length = if self.at.is_multiple_of(SIZE.bytes()) { LONG_HEADER } else { SHORT_HEADER };
                let mut header = vec![0; usize::try_from(length).unwrap()];
                header[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
                header[2..4].copy_from_slice(&u16::from(rest > 0).to_le_bytes());
                header[16..20].copy_from_slice(&u32::try_from(rest).unwrap().to_le_bytes());
                self.bytes.extend(header);
                self.at += length;
            }
            self.bytes.push(byte);
            self.at += 1;
        }

        fn record(&mut self, kind: u8, data: &[u8]) -> Lsn {
            while !self.at.is_multiple_of(8) {
                self.byte(0, 0);
            }
            let length = RECORD_HEADER + data.len();
            let mut record = vec![0; RECORD_HEADER];
            record[0..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            record[16] = kind;
            record.extend_from_slice(data);
            let mut start = None;
            for (nth, byte) in record.iter().enumerate() {
                self.byte(*byte, if nth == 0 { 0 } else { (record.len() - nth) as u64 });
                start = start.or(Some(self.at - 1));
            }
            Lsn(start.unwrap())
        }

        fn level(&mut self, level: u32) -> Lsn {
            let mut data = vec![255, 26];
            data.extend([0; 20]);
            data.extend(level.to_le_bytes());
            data.extend([0, 0]);
            self.record(PARAMETER_CHANGE, &data)
        }
    }

    fn found(written: &Written, step: usize) -> Option<Lsn> {
        let mut walk = Walk::from(Lsn(SIZE.bytes()), SIZE);
        let mut found = None;
        for piece in written.bytes.chunks(step) {
            let news = walk.take(piece);
            found = found.or(news);
        }
        found.map(|record| record.start)
    }

    #[test]
    fn the_record_is_found_wherever_pages_and_pieces_end() {
        for filler in (0..8200).step_by(40) {
            let mut written = Written::new();
            written.record(0x10, &vec![7; 20_000]);
            written.record(0x10, &vec![7; filler]);
            written.level(1);
            let at = written.level(0);
            written.level(1);
            written.record(0x10, &[7; 100]);
            for step in [1, 13, 8192, 100_000] {
                assert_eq!(found(&written, step), Some(at), "{filler} {step}");
            }
        }
    }

    #[test]
    fn other_records_and_what_is_no_record_find_nothing() {
        let mut written = Written::new();
        written.level(1);
        written.level(2);
        written.record(0x40, &[0; 26]);
        // A record whose data looks like the one that is sought.
        written.record(0x10, &{
            let mut other = Written::new();
            other.level(0);
            other.bytes
        });
        assert_eq!(found(&written, 1000), None);
        let noise: Vec<u8> = (0_u32..100_000).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let mut walk = Walk::from(Lsn(SIZE.bytes()), SIZE);
        assert_eq!(walk.take(&noise), None);
    }

    #[test]
    fn it_goes_on_in_the_next_segment_behind_a_switch() {
        let mut written = Written::new();
        written.record(0x40, &[]);
        let rest = SIZE.bytes() - (written.at - SIZE.bytes());
        written.bytes.extend(vec![0; usize::try_from(rest).unwrap()]);
        written.at += rest;
        let at = written.level(0);
        assert_eq!(found(&written, 4096), Some(at));
    }
}
