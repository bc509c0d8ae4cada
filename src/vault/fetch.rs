//! Brings a backup and its WAL back from a vault into empty folders. Every
//! stored byte of a backup is checked against the signed manifest while it
//! streams; nothing is called done before it is on disk.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use age::x25519::Identity;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    CatalogEntry, Layout, ObjectKey, ObjectReader, ObjectRecord, SharedStore, StoreError, VaultError, keys, seal,
    unpack, verify::Inspection,
};
use crate::{
    decide::recovery::{Selection, WalPiece},
    domain::{BackupId, VaultName},
};

/// Segments fetched at once; each may take two segments of memory.
const SEGMENTS_AT_ONCE: usize = 4;
/// Stored bytes of a part that are read at once, and such chunks read ahead.
const CHUNK: usize = 512 << 10;
const CHUNKS_AHEAD: usize = 6;

/// First bytes of an object that are kept.
const HEAD: usize = 32;

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

/// Restores the files of a backup into `target`, which must be empty or absent.
/// `on_progress` is told the bytes written so far. Everything is on disk when
/// this returns; after an error the target holds rubbish and must be removed.
pub async fn fetch_backup(
    fetch: &Fetch<'_>,
    entry: &CatalogEntry,
    target: &Path,
    on_progress: impl Fn(u64) + Send + Sync,
) -> Result<Fetched, VaultError> {
    let manifest = &entry.manifest;
    let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
    let folder = open_empty(target)?;
    let key_objects = key_objects(fetch.sources, &format!("{}keys/", layout.backup_prefix(&manifest.backup))).await?;
    let identities = Arc::new(keys::unwrap_all(fetch.sources, &key_objects, fetch.identities).await?);
    let done = Arc::new(AtomicU64::new(0));
    // Parts that fail, and a caller that goes away, end the others.
    let stop = fetch.stop.child_token();
    let _guard = stop.clone().drop_guard();
    // The parts, and what restores nothing but could have been swapped. A key that
    // opens is sound, and one that a rotation replaced may be gone.
    let records: Vec<ObjectRecord> =
        manifest.objects.iter().filter(|record| !record.name.starts_with("keys/")).cloned().collect();
    let stored_bytes = records.iter().map(|record| record.stored_size).sum();
    let part = |record: ObjectRecord| {
        let (identities, done, stop) = (identities.clone(), done.clone(), stop.clone());
        let (target, key) = (target.to_owned(), layout.backup_object(&manifest.backup, &record.name));
        async move {
            let into = if record.is_part() { Destination::Folder(target) } else { Destination::Digest };
            let part = Part { key: key?, record, identities, into, done, stop };
            part.fetch(fetch.sources).await
        }
    };
    let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut parts = stream::iter(records.into_iter().map(part)).buffer_unordered(at_once);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(500));
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            part = parts.next() => match part {
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
    outcome?;
    sync(folder, target.to_owned()).await?;
    let plain_bytes = done.load(Ordering::Relaxed);
    on_progress(plain_bytes);
    Ok(Fetched { plain_bytes, stored_bytes })
}

/// Which of the identities open a backup, by their public keys.
pub async fn openers(fetch: &Fetch<'_>, layout: &Layout, backup: &BackupId) -> Result<Vec<String>, VaultError> {
    let objects = key_objects(fetch.sources, &format!("{}keys/", layout.backup_prefix(backup))).await?;
    let mut openers = Vec::new();
    for identity in fetch.identities {
        match keys::unwrap_all(fetch.sources, &objects, std::slice::from_ref(identity)).await {
            Ok(opened) if opened.is_empty() => {}
            Ok(_) => openers.push(identity.to_public().to_string()),
            Err(VaultError::NoIdentity { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(openers)
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

/// Makes the folder if needed and opens it before anything is written, so that
/// `syncfs` through this handle reports every later write error.
fn open_empty(target: &Path) -> Result<File, VaultError> {
    let failed = |action| move |source| VaultError::File { action, path: target.to_owned(), source };
    fs::create_dir_all(target).map_err(failed("make"))?;
    if fs::read_dir(target).map_err(failed("read"))?.next().is_some() {
        return Err(VaultError::NotEmpty { path: target.to_owned() });
    }
    std::os::unix::fs::chown(target, None, None).map_err(failed("own"))?;
    fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed("protect"))?;
    File::open(target).map_err(failed("open"))
}

/// One call makes the whole file system of the target durable: files, folders
/// and links, without an fsync for each of thousands of them.
async fn sync(folder: File, path: PathBuf) -> Result<(), VaultError> {
    let synced = tokio::task::spawn_blocking(move || nix::unistd::syncfs(&folder).map_err(io::Error::from));
    let synced = synced.await.map_err(|_| VaultError::Pipeline)?;
    synced.map_err(|source| VaultError::File { action: "sync", path, source })
}

/// What becomes of an object of a backup.
#[derive(Clone)]
pub(super) enum Destination {
    /// A part's members become files here.
    Folder(PathBuf),
    /// A part is opened and looked through; of anything sealed the plain bytes are compared.
    Inspection(Arc<Inspection>),
    /// Only the stored bytes are compared.
    Digest,
}

/// One object of a backup on its way.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) key: ObjectKey,
    pub(super) record: ObjectRecord,
    pub(super) identities: Arc<Vec<Identity>>,
    pub(super) into: Destination,
    pub(super) done: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
}

impl Part {
    /// Takes the first copy that is what the manifest names: of each source what
    /// it shows, then what else it keeps under that name.
    async fn fetch(&self, sources: &[SharedStore]) -> Result<(), VaultError> {
        let mut first = None;
        for source in sources {
            match self.fetch_from(source).await {
                Ok(()) => return Ok(()),
                Err(error @ (VaultError::Stopped | VaultError::File { .. } | VaultError::NoIdentity { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(vault = %source.place().vault, %error, "another copy is looked for");
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or(VaultError::Pipeline))
    }

    async fn fetch_from(&self, source: &SharedStore) -> Result<(), VaultError> {
        let shown = self.shown(source).await;
        let Err(error @ (VaultError::Damaged { .. } | VaultError::Unencrypted { .. } | VaultError::Missing { .. })) =
            shown
        else {
            return shown;
        };
        if self.is_kept(source).await? { Ok(()) } else { Err(error) }
    }

    /// Takes what the source shows under the name.
    pub(super) async fn shown(&self, source: &SharedStore) -> Result<(), VaultError> {
        match source.read(&self.key).await {
            Ok(reader) => self.take(&source.place().vault, reader).await,
            Err(StoreError::NotFound { vault, key }) => Err(VaultError::Missing { vault, key }),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a sound one of all that the source keeps under the name, if there is one.
    pub(super) async fn is_kept(&self, source: &SharedStore) -> Result<bool, VaultError> {
        for kept in source.versions(self.key.as_str()).await? {
            let Some(version) = kept.version.filter(|_| kept.key == self.key && !kept.is_delete_marker) else {
                continue;
            };
            if kept.size_bytes == self.record.stored_size {
                let reader = source.read_version(&self.key, &version).await?;
                if self.take(&source.place().vault, reader).await.is_ok() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes one copy, while more of it is read ahead; of one that is not sound
    /// nothing stays.
    async fn take(&self, vault: &VaultName, reader: ObjectReader) -> Result<(), VaultError> {
        let (part, vault) = (self.clone(), vault.clone());
        let (chunks, ahead) = mpsc::channel(CHUNKS_AHEAD);
        let unpacking = tokio::task::spawn_blocking(move || {
            let stop = part.stop.clone();
            let mut source = Source::new(ahead, stop);
            match &part.into {
                Destination::Folder(target) => {
                    let mut target = unpack::Target::new(target, &part.done);
                    let unpacked = open(&vault, &part, &mut source).and_then(|mut plain| {
                        unpack::unpack(&part.key, &mut plain, &part.stop, part.damaged(&vault), &mut target)
                    });
                    let judged = judge(&vault, &part, source, unpacked);
                    if judged.is_err() {
                        target.take_back();
                    }
                    judged
                }
                Destination::Inspection(inspection) => {
                    let looked =
                        open(&vault, &part, &mut source).and_then(|plain| inspection.look(&vault, &part, plain));
                    judge(&vault, &part, source, looked)
                }
                Destination::Digest => judge(&vault, &part, source, Ok(())),
            }
        });
        let reading = async {
            tokio::select! {
                () = read_ahead(reader, chunks) => {}
                () = self.stop.cancelled() => {}
            }
        };
        let ((), unpacked) = tokio::join!(reading, unpacking);
        unpacked.map_err(|_| VaultError::Pipeline)?
    }

    /// What says that this object of a vault is damaged.
    pub(super) fn damaged(&self, vault: &VaultName) -> impl Fn(String) -> VaultError {
        let (vault, key) = (vault.clone(), self.key.clone());
        move |what| VaultError::Damaged { vault: vault.clone(), key: key.clone(), what }
    }
}

/// Hands over the stored bytes until they end, fail, or nobody wants them.
async fn read_ahead(mut reader: ObjectReader, chunks: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let mut read = Ok(1);
        while chunk.len() < CHUNK && matches!(read, Ok(count) if count > 0) {
            read = reader.read_buf(&mut chunk).await;
        }
        let is_end = !matches!(read, Ok(count) if count > 0);
        if !chunk.is_empty() && chunks.send(Ok(chunk.freeze())).await.is_err() {
            return;
        }
        if is_end {
            if let Err(error) = read {
                // Nobody who wants it any more is nobody who misses it.
                drop(chunks.send(Err(error)).await);
            }
            return;
        }
    }
}

/// The plain bytes of a sealed object; compressed ones as they were before.
fn open<'a>(vault: &VaultName, part: &Part, source: &'a mut Source) -> Result<Box<dyn Read + 'a>, VaultError> {
    let damaged = part.damaged(vault);
    let buffered = io::BufReader::with_capacity(128 << 10, source);
    let decryptor = age::Decryptor::new_buffered(buffered).map_err(|error| damaged(error.to_string()))?;
    let plain = match decryptor.decrypt(part.identities.iter().map(|identity| identity as _)) {
        Ok(plain) => plain,
        Err(age::DecryptError::NoMatchingKeys) => return Err(VaultError::NoIdentity { key: part.key.clone() }),
        Err(error) => return Err(damaged(error.to_string())),
    };
    Ok(Box::new(zstd::Decoder::new(plain).map_err(|error| damaged(error.to_string()))?))
}

/// A damaged object explains any other failure; so its digest is looked at first.
fn judge(
    vault: &VaultName,
    part: &Part,
    mut source: Source,
    unpacked: Result<(), VaultError>,
) -> Result<(), VaultError> {
    let drained = io::copy(&mut source, &mut io::sink());
    if part.stop.is_cancelled() {
        return Err(VaultError::Stopped);
    }
    if let Some(error) = source.failed.take().or(drained.err()) {
        let (vault, subject) = (vault.clone(), format!("`{}`", part.key));
        return Err(StoreError::Io { vault, subject, action: "read", source: error }.into());
    }
    if part.record.is_sealed() && !seal::looks_sealed(&source.head) {
        return Err(VaultError::Unencrypted { vault: vault.clone(), key: part.key.clone() });
    }
    let found = hex::encode(source.sha256.finalize());
    let record = &part.record;
    if found != record.stored_sha256 || source.size != record.stored_size {
        let what = format!(
            "{} bytes with SHA-256 {found} instead of {} with {}",
            source.size, record.stored_size, record.stored_sha256
        );
        return Err(VaultError::Damaged { vault: vault.clone(), key: part.key.clone(), what });
    }
    unpacked
}

/// The stored bytes on a blocking thread, counted and digested.
struct Source {
    ahead: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    stop: CancellationToken,
    sha256: Sha256,
    size: u64,
    /// The first bytes, which tell whether it is encrypted.
    head: Vec<u8>,
    /// The store's own error, which age would hide.
    failed: Option<io::Error>,
}

impl Source {
    fn new(ahead: mpsc::Receiver<io::Result<Bytes>>, stop: CancellationToken) -> Self {
        Self { ahead, chunk: Bytes::new(), stop, sha256: Sha256::new(), size: 0, head: Vec::new(), failed: None }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.chunk.is_empty() {
            match self.ahead.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => {
                    let missing = HEAD.saturating_sub(self.head.len());
                    self.head.extend(chunk.iter().take(missing));
                    self.sha256.update(&chunk);
                    self.size += chunk.len() as u64;
                    self.chunk = chunk;
                }
                Some(Err(error)) => {
                    let kind = error.kind();
                    self.failed = Some(error);
                    return Err(kind.into());
                }
            }
        }
        let count = self.chunk.len().min(buffer.len());
        let taken = self.chunk.split_to(count);
        buffer.get_mut(..count).unwrap_or_default().copy_from_slice(&taken);
        Ok(count)
    }
}

/// Stages the chosen WAL into `folder`, which must be empty or absent: whole
/// segments under PostgreSQL's names, and all history files. Durable on return.
pub async fn fetch_wal(
    fetch: &Fetch<'_>,
    layout: &Layout,
    selection: &Selection,
    folder: &Path,
) -> Result<Fetched, VaultError> {
    let handle = open_empty(folder)?;
    for timeline in &selection.histories {
        let key = layout.history(*timeline);
        let text = of_any(fetch.sources, |source| seal::read_all(source.as_ref(), &key).boxed()).await?;
        write(folder.join(timeline.history_file()), text).await?;
    }
    let opened = if selection.wal.is_empty() {
        Vec::new()
    } else {
        let keys = key_objects(fetch.sources, &layout.wal_keys_prefix()).await?;
        keys::unwrap_all(fetch.sources, &keys, fetch.identities).await?
    };
    let opened = &opened;
    let segments = stream::iter(selection.wal.clone())
        .map(|piece| async move {
            if fetch.stop.is_cancelled() {
                return Err(VaultError::Stopped);
            }
            let (bytes, stored) = fetch_segment(fetch.sources, layout, selection, &piece, opened).await?;
            let plain = bytes.len() as u64;
            write(folder.join(piece.segment.file_name(selection.segment_size)), bytes).await?;
            Ok((plain, stored))
        })
        .buffer_unordered(SEGMENTS_AT_ONCE);
    // All are awaited, also after one has failed: nothing of this writes after it.
    let segments: Vec<Result<(u64, u64), VaultError>> = segments.collect().await;
    let mut fetched = Fetched { plain_bytes: 0, stored_bytes: 0 };
    for segment in segments {
        let (plain, stored) = segment?;
        fetched.plain_bytes += plain;
        fetched.stored_bytes += stored;
    }
    sync(handle, folder.to_owned()).await?;
    Ok(fetched)
}

async fn write(path: PathBuf, bytes: Vec<u8>) -> Result<(), VaultError> {
    tokio::fs::write(&path, bytes).await.map_err(|source| VaultError::File { action: "write", path, source })
}

/// What the first source that can give it gives; else why the first one could not.
async fn of_any<'a, T>(
    sources: &'a [SharedStore],
    read: impl Fn(&'a SharedStore) -> BoxFuture<'a, Result<T, VaultError>>,
) -> Result<T, VaultError> {
    let mut first = None;
    for source in sources {
        match read(source).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or(VaultError::Pipeline))
}

/// The objects of a segment with the offsets they hold.
fn objects_of(layout: &Layout, selection: &Selection, piece: &WalPiece) -> Vec<(ObjectKey, u64, u64)> {
    let (segment, size) = (piece.segment, selection.segment_size);
    if piece.tails.is_empty() {
        return vec![(layout.segment(segment, size), 0, size.bytes())];
    }
    piece.tails.iter().map(|(from, to)| (layout.tail(segment, size, *from, *to), *from, *to)).collect()
}

/// A whole segment, filled up with zeros where only tails are there, and the
/// bytes that were stored of it.
async fn fetch_segment(
    sources: &[SharedStore],
    layout: &Layout,
    selection: &Selection,
    piece: &WalPiece,
    identities: &[Identity],
) -> Result<(Vec<u8>, u64), VaultError> {
    let (mut bytes, mut stored) = (Vec::new(), 0);
    for (key, from, to) in objects_of(layout, selection, piece) {
        let key = &key;
        let (plain, size) = of_any(sources, |source| read_piece(source, key, to - from, identities).boxed()).await?;
        stored += size;
        bytes.truncate(usize::try_from(from).unwrap_or(usize::MAX));
        bytes.extend_from_slice(&plain);
    }
    bytes.resize(usize::try_from(selection.segment_size.bytes()).unwrap_or(usize::MAX), 0);
    Ok((bytes, stored))
}

/// A piece of WAL of exactly this plain length, and the bytes stored of it.
async fn read_piece(
    source: &SharedStore,
    key: &ObjectKey,
    length: u64,
    identities: &[Identity],
) -> Result<(Vec<u8>, u64), VaultError> {
    let object = match seal::read_all(source.as_ref(), key).await {
        Err(VaultError::Store(StoreError::NotFound { vault, key })) => return Err(VaultError::Missing { vault, key }),
        other => other?,
    };
    let (vault, size) = (&source.place().vault, object.len() as u64);
    let plain = seal::open(vault, key, object, true, identities).await?;
    if plain.len() as u64 == length {
        return Ok((plain, size));
    }
    let what = format!("{} bytes instead of {length}", plain.len());
    Err(VaultError::Damaged { vault: vault.clone(), key: key.clone(), what })
}
