//! Where a log to be verified is read from: the state database, a SQLite file
//! of it, a vault, a folder. Nothing read here is judged here.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{EvidenceError, StoredCheckpoint, StoredEntry, mirror};
use crate::{
    db::{self, Db},
    vault::{self, ObjectKey, Store},
};

/// A log as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredLog {
    /// In the order of the place they were found in.
    pub entries: Vec<StoredEntry>,
    pub checkpoints: Vec<StoredCheckpoint>,
}

/// The entries in the state database; it keeps no checkpoints, those lie in vaults.
pub async fn from_db(db: &Db) -> Result<Vec<StoredEntry>, EvidenceError> {
    Ok(db::evidence::rows_from(db, 0).await?.into_iter().map(StoredEntry::from).collect())
}

/// The entries in a SQLite state database that is only looked at.
pub async fn from_file(path: &Path) -> Result<Vec<StoredEntry>, EvidenceError> {
    let db = db::evidence::open_file(path).await?;
    let entries = from_db(&db).await;
    db.close().await;
    entries
}

/// The copy in a vault.
pub async fn from_store(store: &dyn Store, prefix: &str) -> Result<StoredLog, EvidenceError> {
    let folder = mirror::folder(prefix);
    let mut entries = Vec::new();
    for object in store.list(&format!("{folder}/")).await? {
        let Some(name) = object.key.as_str().strip_prefix(&folder).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        if let Some(index) = number(name) {
            let text = lossy(mirror::read(store, &object.key).await?);
            entries.push(stored_entry(index, text, signature_in(store, &object.key).await?));
        }
    }
    Ok(StoredLog { entries, checkpoints: checkpoints_in(store, prefix).await? })
}

/// The checkpoints in a vault.
pub(super) async fn checkpoints_in(store: &dyn Store, prefix: &str) -> Result<Vec<StoredCheckpoint>, EvidenceError> {
    let mut checkpoints = Vec::new();
    for object in store.list(&format!("{}/checkpoints/", mirror::folder(prefix))).await? {
        if Path::new(object.key.as_str()).extension().is_some_and(|extension| extension == "json") {
            let text = lossy(mirror::read(store, &object.key).await?);
            let place = format!("vault `{}` {}", store.place().vault, object.key);
            checkpoints.push(StoredCheckpoint { place, text, signature: signature_in(store, &object.key).await? });
        }
    }
    Ok(checkpoints)
}

/// A missing signature is read as an empty one, which no key can have made.
async fn signature_in(store: &dyn Store, key: &ObjectKey) -> Result<String, EvidenceError> {
    let key = ObjectKey::new(format!("{key}.sig"))?;
    match vault::stat(store, &key).await? {
        Some(_) => Ok(lossy(mirror::read(store, &key).await?)),
        None => Ok(String::new()),
    }
}

/// A vault's folder, its `evidence` folder, or an exported bundle.
pub fn from_folder(folder: &Path) -> Result<StoredLog, EvidenceError> {
    let inner = folder.join("evidence");
    let folder = if inner.is_dir() { inner } else { folder.to_owned() };
    let mut log = StoredLog::default();
    for path in json_files(&folder)? {
        if let Some(index) = path.file_name().and_then(|name| name.to_str()).and_then(number) {
            log.entries.push(stored_entry(index, read(&path)?, signature_of(&path)?));
        }
    }
    log.entries.sort_by_key(|entry| entry.index);
    let checkpoints = folder.join("checkpoints");
    if checkpoints.is_dir() {
        for path in json_files(&checkpoints)? {
            log.checkpoints.push(checkpoint_file(&path)?);
        }
    }
    Ok(log)
}

/// One checkpoint that somebody kept, with its `.sig` beside it.
pub fn checkpoint_file(path: &Path) -> Result<StoredCheckpoint, EvidenceError> {
    Ok(StoredCheckpoint { place: path.display().to_string(), text: read(path)?, signature: signature_of(path)? })
}

fn stored_entry(index: u64, text: String, signature: String) -> StoredEntry {
    StoredEntry { index, run_id: None, text, leaf_hash: None, signature }
}

/// `00000042.json` is entry 42; no other name is an entry.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Bytes that are no text cannot be what was signed; replaced characters make
/// the signature fail and name the entry.
fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn signature_of(path: &Path) -> Result<String, EvidenceError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    let path = PathBuf::from(name);
    if path.exists() { read(&path) } else { Ok(String::new()) }
}

fn read(path: &Path) -> Result<String, EvidenceError> {
    std::fs::read(path).map(lossy).map_err(failed("read", path))
}

fn json_files(folder: &Path) -> Result<Vec<PathBuf>, EvidenceError> {
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .map_err(failed("list", folder))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    Ok(paths)
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EvidenceError {
    move |source| EvidenceError::File { action, path: path.to_owned(), source }
}
