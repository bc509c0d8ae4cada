//! Brings a backup and its WAL back from a vault into empty folders. Every
//! stored byte of a backup is checked against the signed manifest while it
//! streams; nothing is called done before it is on disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use age::x25519::Identity;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{
    CatalogEntry, Layout, Manifest, ObjectKey, ObjectRecord, SharedStore, VaultError,
    keys::Keyring,
    parent::SERVER_MANIFEST,
    part::{Destination, Part},
    server::ServerManifest,
};
use crate::domain::BackupId;

mod made;
mod wal;

pub use made::made_tablespaces;
pub use wal::{WalFolder, fetch_wal};

/// What a fetch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Content written to the target.
    pub plain_bytes: u64,
    /// Read from the vault.
    pub stored_bytes: u64,
}

/// Where objects come from, and what opens them.
#[derive(Clone, Copy)]
pub struct Fetch<'a> {
    /// The first one that holds a sound copy of an object gives it.
    pub sources: &'a [SharedStore],
    pub identities: &'a [Identity],
    /// Ends a fetch. It returns when nothing of it writes any more.
    pub stop: &'a CancellationToken,
}

/// Restores the files of a backup into `target`, which holds nothing of one yet.
/// `on_progress` is told the bytes written so far. Everything is on disk when
/// this returns; after an error the target holds rubbish and must be removed.
pub async fn fetch_backup(
    fetch: &Fetch<'_>,
    entry: &CatalogEntry,
    target: EmptyFolder,
    on_progress: impl Fn(u64) + Send + Sync,
) -> Result<Fetched, VaultError> {
    let fetched = fetch_files(fetch, entry, target.path(), on_progress).await?;
    target.sync().await?;
    Ok(fetched)
}

/// The same into a folder that is known to be empty, with nothing made durable: for
/// what goes on from there.
pub async fn fetch_files(
    fetch: &Fetch<'_>,
    entry: &CatalogEntry,
    target: &Path,
    on_progress: impl Fn(u64) + Send + Sync,
) -> Result<Fetched, VaultError> {
    let done = Arc::new(AtomicU64::new(0));
    let stored_bytes =
        fetch_objects(fetch, entry, &Destination::Folder(target.to_owned()), &done, &on_progress).await?;
    let plain_bytes = done.load(Ordering::Relaxed);
    on_progress(plain_bytes);
    Ok(Fetched { plain_bytes, stored_bytes })
}

/// Takes all objects of a backup but its keys, its parts to where `parts` says.
/// Answers the bytes read from the vault; `done` counts the content written.
pub(super) async fn fetch_objects(
    fetch: &Fetch<'_>,
    entry: &CatalogEntry,
    parts: &Destination,
    done: &Arc<AtomicU64>,
    on_progress: &(impl Fn(u64) + Send + Sync),
) -> Result<u64, VaultError> {
    let manifest = &entry.manifest;
    let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
    let key_objects = key_objects(fetch.sources, &format!("{}keys/", layout.backup_prefix(&manifest.backup))).await?;
    let ring = Keyring::open(fetch.sources, key_objects, fetch.identities).await.usable()?;
    let (identities, lost) = (Arc::new(ring.identities), ring.lost);
    // Parts that fail, and a caller that goes away, end the others.
    let stop = fetch.stop.child_token();
    let _guard = stop.clone().drop_guard();
    // The parts, and what restores nothing but could have been swapped. A key that
    // opens is sound; one that does not is missed only where nothing else opens a part.
    let records: Vec<ObjectRecord> =
        manifest.objects.iter().filter(|record| !record.name.starts_with("keys/")).cloned().collect();
    let stored_bytes = records.iter().map(|record| record.stored_size).sum();
    let part = |record: ObjectRecord| {
        let (identities, done, stop) = (identities.clone(), done.clone(), stop.clone());
        let key = layout.backup_object(&manifest.backup, &record.name);
        let into = if record.is_part() { parts.clone() } else { Destination::Digest };
        async move {
            let part = Part { key: key?, record, identities, into, done, stop };
            part.fetch(fetch.sources).await
        }
    };
    let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut fetched = stream::iter(records.into_iter().map(part)).buffer_unordered(at_once);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(500));
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            part = fetched.next() => match part {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    stop.cancel();
                    outcome = outcome.and(Err(error));
                }
            },
            _ = ticks.tick() => on_progress(done.load(Ordering::Relaxed)),
        }
    }
    outcome.map_err(|error| lost.explain(error))?;
    Ok(stored_bytes)
}

/// PostgreSQL's own manifest of a backup, by its name and byte for byte.
pub(super) async fn server_manifest_of(
    fetch: &Fetch<'_>,
    manifest: &Manifest,
) -> Result<(ObjectKey, Vec<u8>), VaultError> {
    let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
    let key = layout.backup_object(&manifest.backup, SERVER_MANIFEST)?;
    let (record, source) = (manifest.server_manifest(), fetch.sources.first());
    let missing = |source: &SharedStore| VaultError::Missing { vault: source.place().vault.clone(), key: key.clone() };
    let record = record.cloned().ok_or_else(|| source.map_or(VaultError::Pipeline, missing))?;
    let kept = Arc::new(Mutex::new(Vec::new()));
    let part = Part {
        key: key.clone(),
        record,
        identities: Arc::new(Vec::new()),
        into: Destination::Memory(Arc::clone(&kept)),
        done: Arc::new(AtomicU64::new(0)),
        stop: fetch.stop.clone(),
    };
    part.fetch(fetch.sources).await?;
    let bytes = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((key, bytes))
}

/// The sizes of all files that the server sent of a backup, by their names, in bytes.
pub async fn file_sizes(fetch: &Fetch<'_>, manifest: &Manifest) -> Result<BTreeMap<String, u64>, VaultError> {
    let (key, json) = server_manifest_of(fetch, manifest).await?;
    match (ServerManifest::read(&json), fetch.sources.first()) {
        (Ok(read), _) => Ok(read.files.sizes()),
        (Err(what), Some(source)) => Err(VaultError::Damaged { vault: source.place().vault.clone(), key, what }),
        (Err(_), None) => Err(VaultError::Pipeline),
    }
}

/// Which of the identities open all of these backups, by their public keys; an
/// error where none does.
pub async fn openers(fetch: &Fetch<'_>, layout: &Layout, backups: &[BackupId]) -> Result<Vec<String>, VaultError> {
    let mut all: Option<Vec<String>> = None;
    for backup in backups {
        let found = openers_of(fetch, layout, backup).await?;
        let before = all.take().unwrap_or_else(|| found.clone());
        all = Some(before.into_iter().filter(|opener| found.contains(opener)).collect());
    }
    Ok(all.unwrap_or_default())
}

async fn openers_of(fetch: &Fetch<'_>, layout: &Layout, backup: &BackupId) -> Result<Vec<String>, VaultError> {
    let objects = key_objects(fetch.sources, &format!("{}keys/", layout.backup_prefix(backup))).await?;
    let (mut openers, mut failed) = (Vec::new(), None);
    for identity in fetch.identities {
        let ring = Keyring::open(fetch.sources, objects.clone(), std::slice::from_ref(identity)).await;
        if ring.identities.is_empty() {
            failed = failed.or(ring.usable().err());
        } else {
            openers.push(identity.to_public().to_string());
        }
    }
    match failed {
        Some(error) if openers.is_empty() => Err(error),
        _ => Ok(openers),
    }
}

/// The key objects under a prefix that any source names. One that cannot be
/// listed names none, as long as another can.
pub(super) async fn key_objects(sources: &[SharedStore], prefix: &str) -> Result<Vec<ObjectKey>, VaultError> {
    let mut names = std::collections::BTreeSet::new();
    let mut failed = None;
    for source in sources {
        match source.list(prefix).await {
            Ok(objects) => names.extend(objects.into_iter().map(|object| object.key)),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if names.is_empty() => Err(error.into()),
        _ => Ok(names.into_iter().collect()),
    }
}

/// A folder that was empty, or not there, when a restore into it began.
#[derive(Debug)]
pub struct EmptyFolder {
    path: PathBuf,
    /// Opened before anything was written, so that `syncfs` reports every write error.
    handle: File,
}

impl EmptyFolder {
    /// Makes the folder if needed, for its owner alone; refuses one that holds anything.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let failed = |action| move |source| VaultError::File { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed("make"))?;
        if fs::read_dir(path).map_err(failed("read"))?.next().is_some() {
            return Err(VaultError::NotEmpty { path: path.to_owned() });
        }
        std::os::unix::fs::chown(path, None, None).map_err(failed("own"))?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed("protect"))?;
        Ok(Self { path: path.to_owned(), handle: File::open(path).map_err(failed("open"))? })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One call makes the whole file system of the folder durable: files, folders
    /// and links, without an fsync for each of thousands of them.
    pub async fn sync(self) -> Result<(), VaultError> {
        let Self { path, handle } = self;
        let synced = tokio::task::spawn_blocking(move || nix::unistd::syncfs(&handle).map_err(io::Error::from));
        let synced = synced.await.map_err(|_| VaultError::Pipeline)?;
        synced.map_err(|source| VaultError::File { action: "sync", path, source })
    }
}
