//! Tells where a server wrote on with `wal_level = minimal`: WAL from there on
//! lacks content, and no recovery passes it. The server says so in a record of
//! its own (`XLOG_PARAMETER_CHANGE`, `catalog/pg_control.h`) when it starts.

use super::walk::{Kind, Record, number};

/// A record of the resource manager XLOG.
pub(super) const SOUGHT: [Kind; 1] = [Kind { manager: 0, mask: 0xF0, info: 0x60 }];
/// Behind five other numbers.
const LEVEL_AT: usize = 5 * 4;
const MINIMAL: u32 = 0;

/// Whether the record says that the server writes with `wal_level = minimal` now.
pub(super) fn is_minimal(record: &Record) -> bool {
    record.data().and_then(|data| number(data, LEVEL_AT)) == Some(MINIMAL)
}
