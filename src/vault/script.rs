//! What lets a backup be restored without Lifeboat: a script, and how to do it
//! by hand. Both are covered by the signed manifest.

use super::{Layout, TakenBackup};
use crate::domain::BackupId;

/// POSIX sh; the same for every backup of this format version.
pub const RESTORE_SH: &str = include_str!("restore.sh");

/// The text of RESTORE.md for one backup.
pub(super) fn instructions(layout: &Layout, backup: &BackupId, taken: &TakenBackup) -> String {
    include_str!("RESTORE.md")
        .replace("{database}", layout.database().as_str())
        .replace("{system_id}", layout.system_id())
        .replace("{backup}", backup.as_str())
        .replace("{server_version}", &taken.server_version)
        .replace("{finished_at}", &taken.finished_at.to_string())
        .replace("{start_lsn}", &taken.start_lsn.to_string())
        .replace("{stop_lsn}", &taken.stop_lsn.to_string())
        .replace("{timeline}", &format!("{:08X}", taken.timeline.0))
}
