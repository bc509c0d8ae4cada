//! Walks WAL from record to record, by their lengths alone, and hands out those of
//! the kinds that are sought. Whatever does not look like a record ends the walk
//! until the next page that begins one.
//!
//! Layouts: `access/xlogrecord.h`, `access/xlog_internal.h` of PostgreSQL 15 to 18;
//! little-endian, as everywhere here.

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
/// Where in its header a record says what it is.
const INFO_AT: usize = 16;
const MANAGER_AT: usize = 17;
/// No more is kept of a record that is sought: its header, those of its data, and
/// a path with what stands before it.
const SEEN_MAX: usize = RECORD_HEADER + 32 + 1024;

/// Records of a resource manager that are sought.
#[derive(Debug, Clone, Copy)]
pub(in crate::vault) struct Kind {
    pub(in crate::vault) manager: u8,
    /// What of the record's `xl_info` tells kinds apart, and the value there.
    pub(in crate::vault) mask: u8,
    pub(in crate::vault) info: u8,
}

/// A record of a sought kind.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::vault) struct Record {
    pub(in crate::vault) at: Range<Lsn>,
    /// Its first bytes.
    seen: Vec<u8>,
}

impl Record {
    pub(in crate::vault) fn is(&self, kind: Kind) -> bool {
        is_of(&self.seen, kind)
    }

    /// The transaction that wrote it, 0 where none did.
    pub(in crate::vault) fn xid(&self) -> u32 {
        number(&self.seen, 4).unwrap_or(0)
    }

    /// Where the record before it starts.
    pub(in crate::vault) fn previous(&self) -> Lsn {
        let (low, high) = (number(&self.seen, 8).unwrap_or(0), number(&self.seen, 12).unwrap_or(0));
        Lsn(u64::from(high) << 32 | u64::from(low))
    }

    /// What its resource manager wrote, where it refers to no pages.
    pub(in crate::vault) fn data(&self) -> Option<&[u8]> {
        let mut at = RECORD_HEADER;
        let (from, length) = loop {
            match *self.seen.get(at)? {
                // Length of one byte; of four.
                255 => break (at + 2, usize::from(*self.seen.get(at + 1)?)),
                254 => break (at + 5, usize::try_from(number(&self.seen, at + 1)?).ok()?),
                // Where it came from by replication; the transaction above its own.
                253 => at += 3,
                252 => at += 5,
                _ => return None,
            }
        };
        self.seen.get(from..from + length)
    }
}

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
pub(in crate::vault) struct Walk {
    size: SegmentSize,
    sought: &'static [Kind],
    position: Lsn,
    at: At,
    /// What the header of the page interrupts.
    interrupted: At,
    header: Vec<u8>,
    /// The beginning of the record, as far as it matters.
    seen: Vec<u8>,
}

impl Walk {
    pub(in crate::vault) fn from(start: Lsn, size: SegmentSize, sought: &'static [Kind]) -> Self {
        let (at, interrupted) = (At::PageHeader, At::Lost);
        Self { size, sought, position: start, at, interrupted, header: Vec::new(), seen: Vec::new() }
    }

    /// Takes what follows, and answers the records of the sought kinds that end in it.
    pub(in crate::vault) fn take(&mut self, mut bytes: &[u8]) -> Vec<Record> {
        let mut found = Vec::new();
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

    fn record(&mut self, now: &[u8], start: Lsn, left: Option<u64>, found: &mut Vec<Record>) -> usize {
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
        let here = now.get(..take).unwrap_or_default();
        let (header, data) = here.split_at(RECORD_HEADER.saturating_sub(self.seen.len()).min(take));
        self.seen.extend_from_slice(header);
        let is_sought = self.sought.iter().any(|kind| is_of(&self.seen, *kind));
        if is_sought {
            let room = SEEN_MAX.saturating_sub(self.seen.len()).min(data.len());
            self.seen.extend_from_slice(data.get(..room).unwrap_or_default());
        }
        let left = left - take as u64;
        self.at = At::Record { start, left: Some(left) };
        if left == 0 {
            if is_sought {
                let at = start..self.position.forward(take as u64);
                found.push(Record { at, seen: std::mem::take(&mut self.seen) });
            }
            self.seen.clear();
            self.at = At::Between;
        }
        take
    }
}

/// Whether a record that begins so is one of this kind.
fn is_of(seen: &[u8], kind: Kind) -> bool {
    let info = seen.get(INFO_AT).map(|info| info & kind.mask);
    (seen.get(MANAGER_AT).copied(), info) == (Some(kind.manager), Some(kind.info))
}

/// A little-endian number of four bytes.
pub(in crate::vault) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
