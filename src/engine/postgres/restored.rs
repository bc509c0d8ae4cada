//! A restored folder on this machine: what was written beside its settings, who
//! owns it, and the errors that concern it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Lsn, RecoveryTarget, Timeline},
    durable,
    engine::EngineError,
    process::{Account, ProcessError},
};

/// What recovery was configured to reach, beside the settings.
pub(super) const RECOVERY_FILE: &str = "lifeboat_recovery.json";

/// The folder's name; it stands in the script that confines a server, too.
pub(super) const OF_SOURCE: &str = "of_source";

/// Under which name a copy keeps a configuration file of its source.
pub(super) fn original(name: &str) -> String {
    format!("lifeboat_original_{name}")
}

/// Where what the source kept in its data folder beside the cluster lies while the copy
/// is isolated; its server sees an empty folder there.
pub(super) fn of_source(data: &Path) -> PathBuf {
    data.with_file_name(OF_SOURCE)
}

/// The goal of a configured folder, for whoever starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfiguredRecovery {
    pub(super) target: RecoveryTarget,
    pub(super) timeline: Timeline,
    pub(super) consistent_from: Lsn,
    /// `shared_preload_libraries` of the source; the copy loads none.
    pub(super) preload_libraries: Option<String>,
}

/// A failed operation on a file, with its subject.
pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::File { action, path, source }
}

/// A folder that cannot become a running server, and why.
pub(super) fn unfit(expected: &str, why: impl Into<String>) -> EngineError {
    EngineError::Recovery { expected: expected.to_owned(), log: why.into() }
}

pub(super) fn program_error(program: &str, error: ProcessError) -> EngineError {
    match error {
        ProcessError::Start { program, .. } => EngineError::MissingProgram {
            program,
            remedy: "install PostgreSQL's server package and util-linux, or add their folders to PATH".to_owned(),
        },
        other => unfit(&format!("run `{program}`"), other.to_string()),
    }
}

/// Writes a file of the copy durably, owned by the account.
pub(super) fn write_owned(path: &Path, text: &str, account: Option<&Account>) -> Result<(), EngineError> {
    durable::replace(path, text.as_bytes()).map_err(file_error("write", path))?;
    own(path, account)
}

/// Gives a file or folder to the account; a symbolic link itself, not what it leads to.
pub(super) fn own(path: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    match account {
        Some(account) => std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
            .map_err(file_error("give to the server's account", path)),
        None => Ok(()),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), EngineError> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(file_error("set the mode of", path))
}

/// Makes a folder if it is missing; only the account may enter it.
pub(super) fn make_private(path: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(file_error("make the folder", path))?;
    own(path, account)?;
    set_mode(path, 0o700)
}
