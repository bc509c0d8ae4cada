//! One object of a backup on its way out of a vault: read ahead, digested,
//! opened and unpacked or looked through. What is not what the signed manifest
//! names leaves nothing behind. Restores and verification share it.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use age::x25519::Identity;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    ObjectKey, ObjectReader, ObjectRecord, SharedStore, StoreError, VaultError, overlay::Layer, seal, unpack,
    verify::Inspection,
};
use crate::domain::VaultName;

/// Stored bytes that are read at once, and such chunks read ahead.
const CHUNK: usize = 512 << 10;
const CHUNKS_AHEAD: usize = 6;
/// First bytes of an object that are kept.
const HEAD: usize = 32;

/// What becomes of an object of a backup.
#[derive(Clone)]
pub(super) enum Destination {
    /// A part's members become files here.
    Folder(PathBuf),
    /// The same, of the files that a differential needs.
    Layer(Arc<Layer>),
    /// A part is opened and looked through; of anything sealed the plain bytes are compared.
    Inspection(Arc<Inspection>),
    /// Only the stored bytes are compared.
    Digest,
    /// They are kept too; for what is small.
    Memory(Arc<Mutex<Vec<u8>>>),
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
    pub(super) async fn fetch(&self, sources: &[SharedStore]) -> Result<(), VaultError> {
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
                Destination::Layer(layer) => {
                    let mut laying = layer.begin(&part.key, &part.done);
                    let unpacked = open(&vault, &part, &mut source).and_then(|mut plain| {
                        unpack::unpack(&part.key, &mut plain, &part.stop, part.damaged(&vault), &mut laying)?;
                        laying.end_file()
                    });
                    let judged = judge(&vault, &part, source, unpacked);
                    laying.settle(judged.is_ok());
                    judged
                }
                Destination::Inspection(inspection) => {
                    let looked =
                        open(&vault, &part, &mut source).and_then(|plain| inspection.look(&vault, &part, plain));
                    judge(&vault, &part, source, looked)
                }
                Destination::Digest => judge(&vault, &part, source, Ok(())),
                Destination::Memory(kept) => {
                    let mut bytes = Vec::new();
                    // Why it cannot be read is judged with the rest.
                    drop(source.read_to_end(&mut bytes));
                    let judged = judge(&vault, &part, source, Ok(()));
                    if judged.is_ok() {
                        *kept.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
                    }
                    judged
                }
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
