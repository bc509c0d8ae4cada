//! A vault in a folder: a local disk, or anything mounted. An object is written
//! beside its place, synced, and linked to its name, which fails when the name
//! is taken; it is never renamed over another.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::{
    ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, Store, StoreError, probe,
    visit::{Heard, heard},
};
use crate::{
    domain::{Region, VaultName},
    durable,
};

/// Where objects are written before they have their name.
const TEMPORARY: &str = ".tmp";
/// How the name of such a file begins, and how long it is: nothing else is swept.
const UNNAMED: (&str, usize) = (".tmp", 10);
/// A temporary file older than this was left by a crash; no upload takes as long.
const LEFTOVER_AGE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
    place: Place,
}

impl DirectoryStore {
    /// Describes the vault; `root` is made when the first object is written.
    pub fn new(vault: VaultName, root: impl Into<PathBuf>, region: Region) -> Self {
        Self { root: root.into(), place: Place { vault, kind: "directory", region, region_verified: false } }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn failed(&self, subject: impl Into<String>, action: &'static str, source: io::Error) -> StoreError {
        let (vault, subject) = (self.place.vault.clone(), format!("{} in {}", subject.into(), self.root.display()));
        match source.kind() {
            _ if self.root.exists() && !self.root.is_dir() => {
                StoreError::NotAFolder { vault, path: self.root.display().to_string() }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { vault },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Denied { vault, subject, action, source }
            }
            _ => StoreError::Io { vault, subject, action, source },
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        subject: String,
        action: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        heard();
        result.map_err(|source| self.failed(subject, action, source))
    }
}

#[async_trait]
impl Store for DirectoryStore {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let (folder, target) = (self.root.join(TEMPORARY), self.path(key));
        let opened = self.blocking(format!("`{key}`"), "write", move || {
            if target.symlink_metadata().is_ok() {
                return Ok(None);
            }
            durable::create_folder(&folder)?;
            unnamed(&folder).map(Some)
        });
        let Some(temporary) = opened.await? else {
            return Err(StoreError::AlreadyExists { vault: self.place.vault.clone(), key: key.clone() });
        };
        let (file, path) = temporary.into_parts();
        Ok(Box::new(DirectoryWriter {
            store: self.clone(),
            key: key.clone(),
            file: tokio::fs::File::from_std(file),
            temporary: path,
            size_bytes: 0,
        }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        let opened = tokio::fs::File::open(self.path(key)).await;
        heard();
        match opened {
            Ok(file) => Ok(Box::pin(file)),
            Err(error) if is_absent(&error) => {
                Err(StoreError::NotFound { vault: self.place.vault.clone(), key: key.clone() })
            }
            Err(error) => Err(self.failed(format!("`{key}`"), "read", error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let (root, wanted, heard) = (self.root.clone(), prefix.to_owned(), Heard::of_this_visit());
        self.blocking(format!("`{prefix}`"), "list", move || {
            let mut found = Vec::new();
            let folder = wanted.rsplit_once('/').map_or("", |(folder, _)| folder);
            if folder.split('/').any(|part| part == "..") {
                return Ok(found);
            }
            walk(&root.join(folder), folder, &wanted, &mut |object| {
                heard.iter().for_each(Heard::note);
                found.push(object);
            })?;
            found.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let (root, path) = (self.root.clone(), self.path(key));
        self.blocking(format!("`{key}`"), "delete", move || {
            let removed = fs::remove_file(&path);
            let folder = path.parent().unwrap_or(&root);
            match removed.and_then(|()| durable::sync_folder(folder)) {
                // The folder too, where another deleted its last object.
                Err(error) if is_absent(&error) => Ok(()),
                Err(error) => Err(error),
                Ok(()) => {
                    durable::remove_empty_folders(folder, &root);
                    Ok(())
                }
            }
        })
        .await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        probe::by_doing(self).await?;
        let folder = self.root.join(TEMPORARY);
        let swept = self.blocking(format!("`{TEMPORARY}`"), "clean", move || remove_leftovers(&folder)).await?;
        if swept > 0 {
            tracing::warn!(vault = %self.place.vault, "removed {swept} file(s) older than a day that ended processes left half-written in {TEMPORARY}");
        }
        Ok(Vec::new())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Hands over the objects below `folder` whose names begin with `prefix`; `name` is
/// the folder's own in the vault. What begins otherwise is not looked into.
fn walk(folder: &Path, name: &str, prefix: &str, found: &mut impl FnMut(ObjectInfo)) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // A file whose name cannot be an object's was not put there by a store.
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { continue };
        if name.is_empty() && file_name == TEMPORARY {
            continue;
        }
        let child = if name.is_empty() { file_name.to_owned() } else { format!("{name}/{file_name}") };
        if !child.starts_with(prefix) {
            continue;
        }
        match entry.metadata() {
            Ok(data) if data.is_dir() => walk(&entry.path(), &child, prefix, found)?,
            Ok(data) if data.is_file() => {
                if let Ok(key) = ObjectKey::new(child) {
                    found(ObjectInfo::new(key, data.len()));
                }
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A new file for an object's content.
fn unnamed(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let (prefix, length) = UNNAMED;
    tempfile::Builder::new().prefix(prefix).rand_bytes(length - prefix.len()).tempfile_in(folder)
}

/// Answers how many went. The age is measured by the file system's own clock, with
/// a new file's time.
fn remove_leftovers(folder: &Path) -> io::Result<usize> {
    let now = unnamed(folder)?.as_file().metadata()?.modified()?;
    let mut swept = 0;
    for entry in fs::read_dir(folder)?.flatten() {
        let Ok(data) = entry.metadata() else { continue };
        let is_old = data.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFTOVER_AGE));
        if !(is_old && data.is_file() && is_unnamed(&entry.file_name())) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => swept += 1,
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(swept)
}

fn is_unnamed(name: &std::ffi::OsStr) -> bool {
    let (prefix, length) = UNNAMED;
    let random = name.to_str().filter(|name| name.len() == length).and_then(|name| name.strip_prefix(prefix));
    random.is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The temporary file is removed when this is dropped.
struct DirectoryWriter {
    store: DirectoryStore,
    key: ObjectKey,
    file: tokio::fs::File,
    temporary: tempfile::TempPath,
    size_bytes: u64,
}

#[async_trait]
impl ObjectWriter for DirectoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.size_bytes += bytes.len() as u64;
        let written = self.file.write_all(&bytes).await;
        written.map_err(|source| self.store.failed(format!("`{}`", self.key), "write", source))
    }

    async fn commit(mut self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|source| self.store.failed(format!("`{}`", self.key), "write", source))?;
        let Self { store, key, temporary, size_bytes, .. } = *self;
        let target = store.path(&key);
        let published = tokio::task::spawn_blocking(move || durable::publish(&temporary, &target));
        match published.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => Ok(ObjectInfo::new(key, size_bytes)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(StoreError::AlreadyExists { vault: store.place.vault, key })
            }
            Err(error) => Err(store.failed(format!("`{key}`"), "store", error)),
        }
    }
}
