//! Writes one backup while the server sends it: the archives re-cut into parts,
//! PostgreSQL's manifest, the configuration files, the means to restore. What
//! is uploaded stays invisible until `commit`, and `sweep` removes it.

use std::collections::BTreeMap;

use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Base, Layout, Manifest, Object, ObjectRecord, SharedStore, VaultError, keys,
    manifest::FORMAT,
    parent::SERVER_MANIFEST,
    pipeline::{self, Upload, Work},
    put_once, script,
    seal::Gate,
    splitter::{Piece, Splitter},
};
use crate::{
    domain::{BackupId, BackupKind, ByteSize, Lsn, SegmentSize, TakenFrom, Timeline},
    process::Tasks,
};

/// Plain bytes after which a new part begins at the next member.
pub const PART_SIZE: ByteSize = ByteSize::from_bytes(256 << 20);
/// Plain bytes that are handed to the encoder at once.
const BATCH: usize = 256 << 10;
/// Batches and chunks that may wait on either side of the encoder.
const QUEUE: usize = 8;

/// What is known of a backup once the server has sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBackup {
    pub kind: BackupKind,
    pub timeline: Timeline,
    pub segment_size: SegmentSize,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub server_version: String,
    /// Which member sent it.
    pub from: Option<TakenFrom>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Whether the server found damaged pages.
    pub damaged: bool,
    pub parent: Option<BackupId>,
    /// Whether no other builds upon it.
    pub standalone: bool,
    /// PostgreSQL settings that replay requires to be at least these.
    pub required_settings: BTreeMap<String, String>,
    /// Configuration files as (name, content).
    pub config_files: Vec<(String, String)>,
}

/// PostgreSQL's manifest, on its way.
struct ServerManifest {
    gate: Gate,
    sha256: Sha256,
    size: u64,
}

/// Takes the bytes of one backup. Dropped, it leaves nothing committed.
pub struct BackupWriter {
    store: SharedStore,
    layout: Layout,
    backup: BackupId,
    recipients: Vec<Recipient>,
    /// The backup's own key; data is encrypted to it alone.
    identity: Identity,
    part_size: u64,
    splitter: Splitter,
    batch: Vec<Bytes>,
    batch_size: usize,
    /// Plain bytes of the part that is open; none when none is.
    part: Option<u64>,
    parts: u32,
    server_manifest: Option<ServerManifest>,
    /// None once the pipeline has failed.
    work: Option<mpsc::Sender<Work>>,
    encoder: JoinHandle<std::io::Result<()>>,
    uploader: Option<JoinHandle<Result<Vec<ObjectRecord>, VaultError>>>,
    /// Owns the uploader.
    tasks: Tasks,
}

impl BackupWriter {
    /// Begins a backup in the prefix `layout`, encrypted for `recipients`. A new
    /// part begins at the first member after `part_size` plain bytes.
    pub fn begin(
        store: SharedStore,
        layout: Layout,
        backup: BackupId,
        recipients: Vec<Recipient>,
        part_size: ByteSize,
    ) -> Result<Self, VaultError> {
        if recipients.is_empty() {
            return Err(VaultError::Seal { what: "there is no recipient".to_owned() });
        }
        let identity = Identity::generate();
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let (work, work_in) = mpsc::channel::<Work>(QUEUE);
        let (stored, stored_in) = mpsc::channel::<Upload>(QUEUE);
        let recipient = identity.to_public();
        let encoder = tokio::task::spawn_blocking(move || pipeline::encode(work_in, &recipient, cores, &stored));
        let tasks = Tasks::new();
        let uploader = tasks.spawn(pipeline::upload(stored_in, store.clone(), layout.clone(), backup.clone()));
        Ok(Self {
            store,
            layout,
            backup,
            recipients,
            identity,
            part_size: part_size.as_bytes(),
            splitter: Splitter::default(),
            batch: Vec::new(),
            batch_size: 0,
            part: None,
            parts: 0,
            server_manifest: None,
            work: Some(work),
            encoder,
            uploader: Some(uploader),
            tasks,
        })
    }

    /// Makes it a differential, which leaves out what the server still has as its base;
    /// before the first archive. Where that shows itself to be wrong, the call that
    /// takes the data fails as [`VaultError::Unlike`].
    #[must_use]
    pub fn upon(self, base: Base) -> Self {
        Self { splitter: Splitter::upon(base), ..self }
    }

    /// A tar archive begins: the data folder (`None`), or the tablespace with this oid.
    pub async fn archive(&mut self, tablespace: Option<u32>) -> Result<(), VaultError> {
        let mut pieces = Vec::new();
        self.splitter.archive(tablespace, &mut pieces)?;
        self.take(pieces).await
    }

    /// Raw tar bytes, cut anywhere.
    pub async fn data(&mut self, bytes: Bytes) -> Result<(), VaultError> {
        let mut pieces = Vec::new();
        self.splitter.push(bytes, &mut pieces)?;
        self.take(pieces).await
    }

    /// PostgreSQL's `backup_manifest`, cut anywhere, after the archives.
    pub async fn manifest(&mut self, bytes: Bytes) -> Result<(), VaultError> {
        let upload = match &mut self.server_manifest {
            Some(upload) => upload,
            none => {
                let key = self.layout.backup_object(&self.backup, SERVER_MANIFEST)?;
                let gate = Gate::create(self.store.as_ref(), &key).await?;
                none.insert(ServerManifest { gate, sha256: Sha256::new(), size: 0 })
            }
        };
        upload.sha256.update(&bytes);
        upload.size += bytes.len() as u64;
        upload.gate.write(bytes).await
    }

    async fn take(&mut self, pieces: Vec<Piece>) -> Result<(), VaultError> {
        for piece in pieces {
            match piece {
                Piece::Boundary => {
                    if self.part.is_some_and(|size| size >= self.part_size) {
                        self.end_part().await?;
                    }
                    if self.part.is_none() {
                        self.send(Work::Begin(self.parts)).await?;
                        self.part = Some(0);
                        self.parts += 1;
                    }
                }
                Piece::Bytes(bytes) => {
                    self.batch_size += bytes.len();
                    self.part = self.part.map(|size| size + bytes.len() as u64);
                    self.batch.push(bytes);
                    if self.batch_size >= BATCH {
                        self.send_batch().await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn send_batch(&mut self) -> Result<(), VaultError> {
        self.batch_size = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.send(Work::Bytes(batch)).await }
    }

    async fn end_part(&mut self) -> Result<(), VaultError> {
        self.send_batch().await?;
        if self.part.take().is_some() { self.send(Work::End).await } else { Ok(()) }
    }

    async fn send(&mut self, work: Work) -> Result<(), VaultError> {
        if let Some(to) = &self.work
            && to.send(work).await.is_ok()
        {
            return Ok(());
        }
        // The pipeline ended before its work did; the uploader knows why.
        match self.join().await {
            Err(error) => Err(error),
            Ok(_) => Err(VaultError::Pipeline),
        }
    }

    /// Waits for the pipeline's end.
    async fn join(&mut self) -> Result<Vec<ObjectRecord>, VaultError> {
        self.work = None;
        let Some(uploader) = self.uploader.take() else { return Err(VaultError::Pipeline) };
        let stored = uploader.await.map_err(|_| VaultError::Pipeline)?;
        let encoded = (&mut self.encoder).await.map_err(|_| VaultError::Pipeline)?;
        let stored = stored?;
        encoded.map_err(|error| VaultError::Seal { what: error.to_string() })?;
        self.tasks.shut_down().await;
        Ok(stored)
    }

    /// Ends an upload that is not wanted any more; nothing of it is written after this.
    pub async fn abandon(mut self) {
        // Why the pipeline ended does not matter now.
        drop(self.join().await);
        self.tasks.shut_down().await;
    }

    /// Ends the upload: parts, keys, configuration, the means to restore. The
    /// backup stays invisible until the answer is given to `commit`.
    pub async fn finish(mut self, taken: TakenBackup) -> Result<Manifest, VaultError> {
        self.splitter.finish()?;
        if self.parts == 0 {
            return Err(VaultError::Archive { what: "it holds nothing".to_owned() });
        }
        self.end_part().await?;
        let mut objects = self.join().await?;
        let size_bytes = objects.iter().map(|object| object.plain_size).sum();
        let Some(upload) = self.server_manifest.take() else {
            return Err(VaultError::Archive { what: "the server sent no backup_manifest".to_owned() });
        };
        upload.gate.commit().await?;
        let sha256 = hex::encode(upload.sha256.finalize());
        objects.push(ObjectRecord {
            name: SERVER_MANIFEST.to_owned(),
            stored_size: upload.size,
            stored_sha256: sha256.clone(),
            plain_size: upload.size,
            plain_sha256: Some(sha256),
        });
        let config = config_tar(&taken.config_files).map_err(|error| VaultError::Seal { what: error.to_string() })?;
        for (name, object) in [
            ("keys/0.age", keys::wrap(&self.identity, &self.recipients)?),
            ("config.tar.zst.age", Object::seal(&config, true, &[self.identity.to_public()])?),
            ("RESTORE.md", Object::plain(script::instructions(&self.layout, &self.backup, &taken))),
            ("restore.sh", Object::plain(script::RESTORE_SH)),
        ] {
            put_once(self.store.as_ref(), &self.layout.backup_object(&self.backup, name)?, &object).await?;
            objects.push(ObjectRecord {
                name: name.to_owned(),
                stored_size: object.stored.len() as u64,
                stored_sha256: super::seal::sha256_hex(&object.stored),
                plain_size: object.plain_size,
                plain_sha256: Some(object.plain_sha256),
            });
        }
        Ok(self.describe(taken, objects, size_bytes))
    }

    fn describe(self, taken: TakenBackup, objects: Vec<ObjectRecord>, size_bytes: u64) -> Manifest {
        Manifest {
            format: FORMAT,
            backup: self.backup,
            database: self.layout.database().clone(),
            kind: taken.kind,
            system_id: self.layout.system_id().to_owned(),
            incarnation: self.layout.incarnation(),
            timeline: taken.timeline,
            segment_size: taken.segment_size,
            start_lsn: taken.start_lsn,
            stop_lsn: taken.stop_lsn,
            server_version: taken.server_version,
            from: taken.from,
            started_at: taken.started_at,
            finished_at: taken.finished_at,
            size_bytes,
            stored_bytes: objects.iter().map(|object| object.stored_size).sum(),
            damaged: taken.damaged,
            parent: taken.parent,
            standalone: taken.standalone,
            recipients: self.recipients.iter().map(ToString::to_string).collect(),
            lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
            required_settings: taken.required_settings,
            objects,
        }
    }
}

fn config_tar(files: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_bytes())?;
    }
    builder.into_inner()
}
