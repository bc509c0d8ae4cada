//! A file. One that everybody on the machine can read is warned of, once.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{Document, SecretError};

pub(super) async fn read(file: &Path) -> Result<Document, SecretError> {
    let unreadable = |source| SecretError::File { file: file.to_owned(), source };
    let mode = tokio::fs::metadata(file).await.map_err(unreadable)?.permissions().mode();
    if mode & 0o004 != 0 && is_news(file) {
        tracing::warn!(file = %file.display(), "every user of this machine can read this secret; run chmod o-r on it");
    }
    tokio::fs::read_to_string(file).await.map(Document::text).map_err(unreadable)
}

/// Whether this process has not warned of the file yet.
fn is_news(file: &Path) -> bool {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned())
}
