//! WAL as a server writes it, cut wherever pages and pieces end.

use super::*;
use crate::vault::wal::level;

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
        self.record(0x60, &data)
    }
}

fn found(written: &Written, step: usize) -> Option<Lsn> {
    let mut walk = Walk::from(Lsn(SIZE.bytes()), SIZE, &level::SOUGHT);
    let mut found: Vec<Record> = written.bytes.chunks(step).flat_map(|piece| walk.take(piece)).collect();
    found.retain(level::is_minimal);
    found.first().map(|record| record.at.start)
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
    let mut walk = Walk::from(Lsn(SIZE.bytes()), SIZE, &level::SOUGHT);
    assert!(!walk.take(&noise).iter().any(level::is_minimal));
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

#[test]
fn what_a_manager_wrote_is_told_behind_all_headers_and_at_any_length() {
    const SOUGHT: [Kind; 1] = [Kind { manager: 0, mask: 0x70, info: 0x30 }];
    let path = vec![b'p'; 1000];
    let mut of_origin = vec![253, 1, 0, 252, 7, 0, 0, 0, 255, 3];
    of_origin.extend(b"abc");
    let mut long = vec![254, 0xE8, 3, 0, 0];
    long.extend(&path);
    for filler in (0..8200).step_by(200) {
        let mut written = Written::new();
        written.record(0x10, &vec![7; filler]);
        written.record(0xB0, &of_origin);
        written.record(0x20, &long);
        let last = written.record(0x30, &long);
        for step in [1, 1000, 100_000] {
            let mut walk = Walk::from(Lsn(SIZE.bytes()), SIZE, &SOUGHT);
            let found: Vec<Record> = written.bytes.chunks(step).flat_map(|piece| walk.take(piece)).collect();
            let told: Vec<_> = found.iter().map(|record| record.data().unwrap()).collect();
            assert_eq!(told, [&b"abc"[..], &path], "{filler} {step}");
            assert_eq!(found[1].at.start, last);
        }
    }
}
