//! Says of a folder that the restore into it has not ended, from before its first
//! byte until after its last: whoever finds it behind a killed process is told
//! what it is, and no server starts on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::Request;
use crate::{
    domain::{BackupId, DatabaseName},
    durable,
    vault::VaultError,
};

/// In the target, as long as a restore into it has not ended.
const MARKER: &str = "lifeboat_restore_unfinished";
/// What the server reads, and shows, where it looks for the id of a process.
const LOCKED: &str = "an unfinished restore, as the file lifeboat_restore_unfinished tells";

/// The target of a restore that goes on.
pub(super) struct Unfinished {
    data: PathBuf,
    lock: PathBuf,
    what: String,
}

impl Unfinished {
    /// Marks the folder, which is there and empty. `lock` is the engine's name for
    /// what keeps its server from starting.
    pub(super) fn mark(
        database: &DatabaseName,
        lock: &str,
        request: &Request,
        now: Timestamp,
    ) -> Result<Self, VaultError> {
        let data = request.data.clone();
        let this = Self {
            lock: data.join(lock),
            what: format!("a restore of `{database}` to {}, begun at {now:.0}", request.target),
            data,
        };
        for (path, text) in [(this.marker(), &this.what), (this.lock.clone(), &LOCKED.to_owned())] {
            durable::create_private(&path, format!("{text}\n").as_bytes()).map_err(failed("write", &path))?;
        }
        Ok(this)
    }

    /// Tells from which backup, once that is chosen.
    pub(super) fn of_backup(&self, backup: &BackupId) -> Result<(), VaultError> {
        let text = format!("{}, from backup {backup}\n", self.what);
        durable::replace(&self.marker(), text.as_bytes()).map_err(failed("write", &self.marker()))
    }

    /// All is there and durable: the server may start.
    pub(super) fn finish(self) -> Result<(), VaultError> {
        for path in [self.lock.clone(), self.marker()] {
            let removed = fs::remove_file(&path).and_then(|()| durable::sync_folder(&self.data));
            removed.map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    fn marker(&self) -> PathBuf {
        self.data.join(MARKER)
    }
}

/// What a restore that has not ended says of itself in this folder.
pub fn unfinished(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join(MARKER)).ok()?;
    Some(text.trim_end().chars().filter(|c| !c.is_control()).take(400).collect())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::File { action, path, source }
}
