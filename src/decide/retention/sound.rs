//! Which backups can be restored from this vault, as far as it is known. Only
//! these stand for a period, for the beginning of the window or for what was
//! proven last: whatever stands for others lets the others go.

use super::{Facts, Held};
use crate::domain::BackupState;

impl Facts {
    /// The backup and what it builds on, as far as that is here. A chain in a
    /// circle is no chain; it is not followed for ever.
    pub(super) fn chain<'a>(&'a self, backup: &'a Held) -> impl Iterator<Item = &'a Held> {
        let parent = |child: &&'a Held| {
            let parent = child.parent.as_ref()?;
            self.backups.iter().find(|other| other.id == *parent)
        };
        std::iter::successors(Some(backup), parent).take(self.backups.len())
    }

    /// Its WAL is there, and nothing of it and of what it builds on is known to be damaged.
    pub(super) fn is_sound(&self, backup: &Held) -> bool {
        backup.state >= BackupState::WalComplete
            && self.may_be_mended(backup)
            && self.chain(backup).all(|backup| !backup.is_damaged)
    }

    /// Whether it would be sound once another vault gave what it lacks. Pages that
    /// were damaged when it was taken nobody mends.
    pub(super) fn may_be_mended(&self, backup: &Held) -> bool {
        self.chain(backup).all(|backup| backup.state != BackupState::Degraded)
    }
}
