//! The headers of PostgreSQL's WAL pages, as far as they tell whose WAL it is
//! and where it belongs (`access/xlog_internal.h`; little-endian, as on every
//! platform that Lifeboat runs on). Trusts no byte of what it reads.

use crate::domain::{Lsn, Timeline};

/// The first page of a segment has a long header.
const LONG_HEADER: u16 = 0x0002;
const SHORT_SIZE: usize = 24;
const LONG_SIZE: usize = 40;
const RECORD_SIZE: usize = 24;

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FirstPage {
    pub(super) timeline: Timeline,
    pub(super) address: Lsn,
    pub(super) system_id: u64,
    pub(super) segment_size: u32,
    pub(super) page_size: u32,
}

fn bytes<const N: usize>(page: &[u8], at: usize) -> Option<[u8; N]> {
    page.get(at..at + N)?.try_into().ok()
}

fn timeline_of(page: &[u8]) -> Option<Timeline> {
    Some(Timeline(u32::from_le_bytes(bytes(page, 4)?)))
}

impl FirstPage {
    /// None when it is no page that begins a segment.
    pub(super) fn read(page: &[u8]) -> Option<Self> {
        let (magic, info) = (u16::from_le_bytes(bytes(page, 0)?), u16::from_le_bytes(bytes(page, 2)?));
        // The high byte of the magic of every version since 7.1.
        if magic >> 8 != 0xD0 && magic >> 8 != 0xD1 || info & LONG_HEADER == 0 {
            return None;
        }
        let page_size = u32::from_le_bytes(bytes(page, 36)?);
        if !page_size.is_power_of_two() {
            return None;
        }
        Some(Self {
            timeline: timeline_of(page)?,
            address: Lsn(u64::from_le_bytes(bytes(page, 8)?)),
            system_id: u64::from_le_bytes(bytes(page, 24)?),
            segment_size: u32::from_le_bytes(bytes(page, 32)?),
            page_size,
        })
    }
}

/// The pages of a segment that were written: address and timeline.
pub(super) fn pages(segment: &[u8], start: Lsn, page_size: usize) -> impl Iterator<Item = (Lsn, Timeline)> {
    segment.chunks(page_size.max(SHORT_SIZE)).enumerate().map_while(move |(nth, page)| {
        let address = start.forward((nth * page_size) as u64);
        let is_written = u16::from_le_bytes(bytes(page, 0)?) != 0;
        is_written.then_some((address, timeline_of(page)?))
    })
}

/// Whether the record at `lsn` can be the first one of a new timeline: those are
/// written by the end of recovery alone. True when it is not in `segment`.
pub(super) fn may_begin_timeline(segment: &[u8], start: Lsn, lsn: Lsn, page_size: u64) -> bool {
    let header = match lsn.0 % page_size.max(1) {
        0 if lsn == start => LONG_SIZE,
        0 => SHORT_SIZE,
        _ => 0,
    };
    let Some(at) = lsn.0.checked_sub(start.0).and_then(|at| usize::try_from(at).ok()) else { return true };
    let at = at + header;
    let page_size = usize::try_from(page_size).unwrap_or(usize::MAX).max(1);
    if at % page_size + RECORD_SIZE > page_size {
        return true;
    }
    let Some(record) = segment.get(at..at + RECORD_SIZE) else { return true };
    let (Some(length), Some(previous)) = (bytes(record, 0), bytes(record, 8)) else { return true };
    let (Some(info), Some(manager)) = (record.get(16), record.get(17)) else { return true };
    // XLOG_CHECKPOINT_SHUTDOWN, XLOG_FPW_CHANGE, XLOG_END_OF_RECOVERY, XLOG_OVERWRITE_CONTRECORD.
    let ends_recovery = *manager == 0 && matches!(info & 0xF0, 0x00 | 0x80 | 0x90 | 0xD0);
    u32::from_le_bytes(length) as usize >= RECORD_SIZE && u64::from_le_bytes(previous) < lsn.0 && ends_recovery
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(timeline: u32, address: u64) -> Vec<u8> {
        let mut page = vec![0; 8192];
        page[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        page[2..4].copy_from_slice(&LONG_HEADER.to_le_bytes());
        page[4..8].copy_from_slice(&timeline.to_le_bytes());
        page[8..16].copy_from_slice(&address.to_le_bytes());
        page[24..32].copy_from_slice(&77_u64.to_le_bytes());
        page[32..36].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        page
    }

    #[test]
    fn a_first_page_is_read_and_rubbish_is_none() {
        let found = FirstPage::read(&page(3, 0x0500_0000)).unwrap();
        assert_eq!((found.timeline, found.address), (Timeline(3), Lsn(0x0500_0000)));
        assert_eq!((found.system_id, found.segment_size, found.page_size), (77, 16 << 20, 8192));
        for rubbish in [&[][..], &[0; 8192], &page(1, 0)[..30]] {
            assert_eq!(FirstPage::read(rubbish), None);
        }
    }

    #[test]
    fn pages_end_where_nothing_was_written() {
        let start = Lsn(0x0500_0000);
        let mut segment = [page(1, start.0), page(2, start.0 + 8192)].concat();
        segment.extend([0; 8192]);
        let found: Vec<_> = pages(&segment, start, 8192).collect();
        assert_eq!(found, [(start, Timeline(1)), (start.forward(8192), Timeline(2))]);
    }

    #[test]
    fn only_the_end_of_recovery_begins_a_timeline() {
        let start = Lsn(0x0500_0000);
        let at = start.forward(1000);
        let mut segment = page(1, start.0);
        let mut put = |info: u8, manager: u8, previous: u64| {
            segment[1000..1004].copy_from_slice(&42_u32.to_le_bytes());
            segment[1008..1016].copy_from_slice(&previous.to_le_bytes());
            segment[1016] = info;
            segment[1017] = manager;
            may_begin_timeline(&segment, start, at, 8192)
        };
        assert!(put(0x90, 0, start.0 + 900));
        assert!(!put(0x90, 1, start.0 + 900), "another manager's record");
        assert!(!put(0x10, 0, start.0 + 900), "an online checkpoint");
        assert!(!put(0x90, 0, at.0 + 1), "a record that follows itself");
        assert!(!may_begin_timeline(&page(1, start.0), start, at, 8192), "nothing is there");
        assert!(may_begin_timeline(&[], start, at, 8192), "it was not read");
    }
}
