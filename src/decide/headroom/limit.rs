//! How far a standby's slot is from the limit of what it may keep. The server's own
//! figure (`safe_wal_size`) counts from the position that it writes itself, which a
//! standby does not have: it tells the same number until the slot is gone.
//!
//! Source: `pg_get_replication_slots` and `KeepLogSeg` of PostgreSQL 15 to 18.

use crate::domain::{Lsn, SegmentSize, SlotState};

/// How much more can be received until a restartpoint may invalidate the slot: it keeps
/// whole segments, as many as fit into the greater of its limit and `wal_keep_size`,
/// beside the open one.
pub fn safe_on_standby(from: Lsn, written: Lsn, keeps_bytes: u64, segment: SegmentSize) -> u64 {
    let bytes = segment.bytes();
    let kept = keeps_bytes / bytes;
    let ends = (from.0 / bytes).saturating_add(kept).saturating_add(1).saturating_mul(bytes);
    ends.saturating_sub(written.0)
}

/// A standby calls a slot that is over its limit reserved, until it is lost.
pub const fn state_on_standby(said: SlotState, safe_bytes: u64) -> SlotState {
    match said {
        SlotState::Reserved | SlotState::Extended if safe_bytes == 0 => SlotState::Unreserved,
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_standby_keeps_whole_segments_beside_the_open_one() {
        let segment = SegmentSize::DEFAULT;
        for (from, written, keeps, expected) in [
            // Seen on PostgreSQL 15: from 0/2000028 with 96 MiB the end is 0/9000000.
            (0x200_0028, 0x200_0028, 96 * MIB, 0x900_0000 - 0x200_0028),
            (0x200_0028, 0x8BB_61D0, 96 * MIB, 0x900_0000 - 0x8BB_61D0),
            (0x200_0028, 0x900_0000, 96 * MIB, 0),
            (0x200_0028, 0x9AF_A1A8, 96 * MIB, 0),
            // What does not fill a segment does not count.
            (0x200_0028, 0x200_0028, 111 * MIB, 0x900_0000 - 0x200_0028),
            (0x200_0028, 0x200_0028, 0, 0x300_0000 - 0x200_0028),
        ] {
            let safe = safe_on_standby(Lsn(from), Lsn(written), keeps, segment);
            assert_eq!(safe, expected, "{from:x} {written:x} {keeps}");
        }
    }

    #[test]
    fn a_slot_over_its_limit_is_not_called_reserved() {
        use SlotState::{Extended, Lost, Missing, Reserved, Unreserved};
        for (said, safe, expected) in [
            (Reserved, 1, Reserved),
            (Reserved, 0, Unreserved),
            (Extended, 0, Unreserved),
            (Lost, 0, Lost),
            (Missing, 0, Missing),
        ] {
            assert_eq!(state_on_standby(said, safe), expected, "{said:?} {safe}");
        }
    }
}
