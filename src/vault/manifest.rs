//! The manifest: what makes a backup exist. It is written last, and its
//! signature is written before it, so that a crash leaves a backup that is
//! whole or invisible.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Layout, Object, ObjectKey, Store, VaultError,
    parent::SERVER_MANIFEST,
    put_once,
    signature::{Signer, Verifier},
    signature_of, stat,
};
use crate::domain::{Backup, BackupId, BackupKind, BackupState, DatabaseName, Lsn, SegmentSize, TakenFrom, Timeline};

/// The version of `docs/format.md` that is written.
pub const FORMAT: u32 = 1;
/// The signature namespace of manifests.
const NAMESPACE: &str = "lifeboat-manifest";

/// One object of a backup. Sizes in bytes, digests in lower-case hex; plain is
/// before compression and encryption. `restore.sh` relies on the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Relative to the backup.
    pub name: String,
    pub stored_size: u64,
    pub stored_sha256: String,
    pub plain_size: u64,
    /// None for parts: their frames carry a checksum, their members one each in
    /// PostgreSQL's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_sha256: Option<String>,
}

impl ObjectRecord {
    /// Whether it holds files of the cluster.
    pub(super) fn is_part(&self) -> bool {
        self.name.starts_with("data/")
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.name.strip_suffix(".age").is_some()
    }
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub backup: BackupId,
    pub database: DatabaseName,
    pub kind: BackupKind,
    pub system_id: String,
    pub incarnation: u32,
    pub timeline: Timeline,
    pub segment_size: SegmentSize,
    /// Replay starts here.
    pub start_lsn: Lsn,
    /// The copy is consistent from here on.
    pub stop_lsn: Lsn,
    pub server_version: String,
    /// Which member sent it; absent in manifests written before that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TakenFrom>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Plain bytes of the parts.
    pub size_bytes: u64,
    /// Bytes of all objects as stored.
    pub stored_bytes: u64,
    /// Whether the server found damaged pages.
    pub damaged: bool,
    pub parent: Option<BackupId>,
    /// Whether no other builds upon it; absent in manifests written before there were such.
    #[serde(default)]
    pub standalone: bool,
    /// The operators' public keys that it was written to.
    pub recipients: Vec<String>,
    pub lifeboat_version: String,
    /// PostgreSQL settings that replay requires to be at least these.
    pub required_settings: BTreeMap<String, String>,
    pub objects: Vec<ObjectRecord>,
}

impl Manifest {
    /// The bytes that are signed: one member per line, which `restore.sh` relies on.
    fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Where it stands in its history, of which a clock says nothing sure.
    pub(super) fn place(&self) -> (Timeline, Lsn, &BackupId) {
        (self.timeline, self.stop_lsn, &self.backup)
    }

    /// The objects that hold the cluster's files.
    pub fn parts(&self) -> impl Iterator<Item = &ObjectRecord> {
        self.objects.iter().filter(|object| object.is_part())
    }

    /// PostgreSQL's own.
    pub(super) fn server_manifest(&self) -> Option<&ObjectRecord> {
        self.objects.iter().find(|object| object.name == SERVER_MANIFEST)
    }

    /// What status, API and pages show of it.
    pub fn summary(&self, state: BackupState) -> Backup {
        Backup {
            id: self.backup.clone(),
            database: self.database.clone(),
            kind: self.kind,
            state,
            started_at: self.started_at,
            finished_at: self.finished_at,
            size_bytes: self.size_bytes,
            stored_bytes: self.stored_bytes,
            timeline: self.timeline,
            start_lsn: self.start_lsn,
            stop_lsn: self.stop_lsn,
            parent: self.parent.clone(),
            from: self.from.clone(),
        }
    }

    /// Checks the signature first: nothing unsigned is even parsed.
    pub fn from_signed(key: &ObjectKey, json: &[u8], signature: &str, verifier: &Verifier) -> Result<Self, VaultError> {
        verifier.verify(NAMESPACE, key.as_str(), json, signature)?;
        let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: "a manifest", source };
        let manifest: Self = serde_json::from_slice(json).map_err(unreadable)?;
        if manifest.format > FORMAT {
            return Err(VaultError::Format { key: key.clone(), found: manifest.format, newest: FORMAT });
        }
        Ok(manifest)
    }
}

/// Makes an uploaded backup exist. Repeating it is a success; answers the
/// SHA-256 of the manifest.
pub async fn commit(
    store: &dyn Store,
    layout: &Layout,
    manifest: &Manifest,
    signer: &Signer,
) -> Result<String, VaultError> {
    let json = Object::plain(manifest.to_json());
    let signature = signer.sign(NAMESPACE, &json.stored)?;
    let key = layout.manifest(&manifest.backup);
    put_once(store, &signature_of(&key), &Object::plain(signature)).await?;
    put_once(store, &key, &json).await?;
    Ok(json.plain_sha256)
}

/// Removes what an uncommitted backup left; refuses one that is committed.
/// Answers how many objects it removed.
pub async fn sweep(store: &dyn Store, layout: &Layout, backup: &BackupId) -> Result<usize, VaultError> {
    if stat(store, &layout.manifest(backup)).await?.is_some() {
        return Err(VaultError::Committed { backup: backup.clone() });
    }
    let objects = store.list(&layout.backup_prefix(backup)).await?;
    for object in &objects {
        store.delete(&object.key).await?;
    }
    Ok(objects.len())
}
