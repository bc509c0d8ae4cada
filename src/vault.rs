//! A vault is a place that holds backups. `Store` is the little that a place
//! must do; everything about format, keys and signatures is built on it once.
//! The format is specified in `docs/format.md`.
//!
//! Nothing in a vault is ever overwritten, and nothing but the closed list of
//! that document is stored unencrypted.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::domain::{
    Region, VaultName,
    archive::{ArchiveClass, Cold},
};

mod bucket;
mod catalog;
mod copy;
mod differential;
mod directory;
mod error;
mod faulty;
mod fetch;
mod identity;
mod incarnation;
mod inventory;
mod keys;
mod layout;
pub mod ledger;
mod limit;
mod listing;
mod manifest;
mod memory;
mod overlay;
mod owned;
mod parent;
mod part;
mod pipeline;
mod probe;
mod proof;
mod read_back;
mod receipts;
mod refusal;
mod retry;
mod rotate;
pub mod s3;
mod script;
pub mod seal;
mod server;
pub mod signature;
mod signed;
mod splitter;
mod unpack;
mod verification;
pub mod verify;
mod visit;
mod wal;
mod writer;

pub use bucket::{Bucket, Standing};
pub use catalog::{Catalog, CatalogEntry, Problem, Remembered, signed_manifest};
pub use copy::{Expected, copy_manifest, copy_object, copy_plain};
pub use differential::Base;
pub use directory::DirectoryStore;
pub use error::VaultError;
pub use faulty::Faulty;
pub use fetch::{
    EmptyFolder, Fetch, Fetched, WalFolder, fetch_backup, fetch_files, fetch_wal, file_sizes, made_tablespaces, openers,
};
pub use identity::VaultIdentity;
pub use incarnation::{FIRST as FIRST_INCARNATION, Why, open_next, why};
pub use inventory::Inventory;
pub use keys::{identities_from, recipients_from};
pub use layout::{Layout, WalName, signature_of};
pub use limit::{Limited, Limits};
pub use listing::Listing;
pub use manifest::{FORMAT, Manifest, ObjectRecord, commit, sweep};
pub use memory::MemoryStore;
pub use overlay::Overlay;
pub use owned::{Known, Owned};
pub use parent::server_manifest;
pub use proof::{Proof, last_escrow_proof, put_proof};
pub use read_back::{Unreadable, is_read_back, put_read_back, read_back};
pub use receipts::{Receipts, remembering};
pub use refusal::Refusal;
pub use retry::Retrying;
pub use rotate::{KeyFolder, Opens};
pub use s3::S3Store;
pub use script::RESTORE_SH;
pub use seal::{Object, put_once, read_sealed};
pub use verification::{Found, Verification, put_verification};
pub use visit::{visit, visit_while_needed};
pub use wal::{LOOK_LIMIT, Looked, Uploads, VaultWal, WalSnapshot, WalStatus, WalTarget, WalWriter};
pub use writer::{BackupWriter, PART_SIZE, TakenBackup};

/// Where a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub vault: VaultName,
    /// `directory`, `s3`, `memory`.
    pub kind: &'static str,
    pub region: Region,
    /// Whether `region` was verified with the provider or only declared.
    pub region_verified: bool,
}

/// The name of an object: `/`-separated, relative, without `.` or `..` parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Refuses absolute, empty and climbing names.
    pub fn new(name: impl Into<String>) -> Result<Self, StoreError> {
        let name = name.into();
        let sound = !name.is_empty()
            && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !name.contains(['\0', '\\']);
        if sound { Ok(Self(name)) } else { Err(StoreError::BadKey { name }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = StoreError;
    fn try_from(name: String) -> Result<Self, StoreError> {
        Self::new(name)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listing tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: ObjectKey,
    pub size_bytes: u64,
    /// Where it may not be readable at once.
    pub cold: Option<Cold>,
}

impl ObjectInfo {
    /// Of one that can be read at once.
    pub fn new(key: ObjectKey, size_bytes: u64) -> Self {
        Self { key, size_bytes, cold: None }
    }
}

/// A store's own name for one of the contents that a name has had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionId(pub String);

/// One of the contents that a name has had, or the mark of its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub key: ObjectKey,
    /// None in a store that keeps one content per name.
    pub version: Option<VersionId>,
    pub size_bytes: u64,
    /// Hides the older versions from readers that do not ask for them.
    pub is_delete_marker: bool,
}

/// The bytes of an object.
pub type ObjectReader = Pin<Box<dyn AsyncRead + Send>>;

/// What can go wrong in a store. `is_permanent` tells whether trying again can help.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{name}` is not a valid object name")]
    BadKey { name: String },
    #[error("vault `{vault}`: object `{key}` does not exist")]
    NotFound { vault: VaultName, key: ObjectKey },
    #[error("vault `{vault}`: object `{key}` exists already and is never overwritten")]
    AlreadyExists { vault: VaultName, key: ObjectKey },
    #[error("vault `{vault}`: no space left; free space, or enlarge the volume or quota, then run it again")]
    Full { vault: VaultName },
    #[error(
        "vault `{vault}`: this user may not {action} {subject}; give it the right to, and mount the vault writable"
    )]
    Denied {
        vault: VaultName,
        subject: String,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("vault `{vault}`: {path} is no folder, and `path` of this vault must name one; correct it")]
    NotAFolder { vault: VaultName, path: String },
    #[error(
        "vault `{vault}`: there is no vault, as `vault.json` is not there; mount it if it is not, correct where it lies, or take the first backup with `lifeboat backup`"
    )]
    NoVault { vault: VaultName },
    #[error("vault `{vault}`: cannot {action} {subject}")]
    Io {
        vault: VaultName,
        subject: String,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("vault `{vault}`: `{key}` is locked until {until} and cannot be deleted before")]
    Locked { vault: VaultName, key: ObjectKey, until: Timestamp },
    #[error(
        "vault `{vault}` belongs to the signing key {owner}, this node signs with {ours}; give this estate a place or prefix of its own, or use that key"
    )]
    Foreign { vault: VaultName, owner: String, ours: String },
    #[error(
        "vault `{vault}` does not show that it is {id}: `vault.json` is not there; is it mounted? Nothing is read or written before it is; a new vault needs a new name"
    )]
    NotThere { vault: VaultName, id: String },
    #[error(
        "vault `{vault}` was {known} and is {found} now: another one is mounted in its place; mount the right one, or give the other one a name of its own"
    )]
    Replaced { vault: VaultName, known: String, found: String },
    #[error("vault `{vault}`: {what}")]
    Identity {
        vault: VaultName,
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is there, and nothing but a copy that is asked for can be read, after hours.
    #[error("vault `{vault}`: `{key}` lies in {} and cannot be read before it was restored from there; a restore asks for that and waits", shown_class(*class))]
    Archived { vault: VaultName, key: ObjectKey, class: Option<ArchiveClass> },
    /// The provider says no, and will until a person acts.
    #[error("vault `{vault}`: cannot {action} {subject}: {refusal}")]
    Refused { vault: VaultName, subject: String, action: &'static str, refusal: Box<Refusal> },
    /// The provider asks for patience: `after` where it says for how long.
    #[error("vault `{vault}`: cannot {action} {subject} now")]
    Busy {
        vault: VaultName,
        subject: String,
        action: &'static str,
        after: Option<Duration>,
        #[source]
        source: std::io::Error,
    },
    /// Nothing was heard of it while it was visited.
    #[error("vault `{vault}` has answered nothing for {seconds} s; check that it is reachable, and its mount sound")]
    Silent { vault: VaultName, seconds: u64 },
    /// The run that wrote has lost its lease; another node owns the work now.
    #[error("vault `{vault}`: refused to write `{key}`: this node no longer owns the run")]
    Fenced { vault: VaultName, key: String },
}

impl StoreError {
    /// Whether the same call can only fail again.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Busy { .. } | Self::Silent { .. })
    }

    /// Whether objects can be stored and read nevertheless: what is lost is lost later.
    pub fn is_weakness(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if matches!(**refusal, Refusal::Expires { .. }))
    }
}

fn shown_class(class: Option<ArchiveClass>) -> &'static str {
    class.map_or("an archive", ArchiveClass::as_str)
}

/// A place that holds objects. Contract, asserted by the conformance suite in
/// `tests/it/vault`: an object becomes visible whole, at `commit`, or not at
/// all; it is durable when `commit` returns; an existing name is refused and
/// left untouched; a listing is complete and sorted by name. Where a store
/// keeps versions, the first one stored is the object: what was put or deleted
/// over it later hides it from nobody here.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    fn place(&self) -> &Place;

    /// Opens a new object for writing. It is invisible until committed;
    /// dropping the writer leaves nothing that a reader or listing can see.
    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError>;

    /// `NotFound` when there is no such object.
    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError>;

    /// One version, as `versions` names it.
    async fn read_version(&self, key: &ObjectKey, _version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.read(key).await
    }

    /// All objects whose name starts with `prefix`, sorted by name.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// All that is kept under names that start with `prefix`: by name, the
    /// oldest first. One per object where the store keeps no versions.
    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let only = |ObjectInfo { key, size_bytes, .. }| ObjectVersion {
            key,
            version: None,
            size_bytes,
            is_delete_marker: false,
        };
        Ok(self.list(prefix).await?.into_iter().map(only).collect())
    }

    /// Removes an object with all its versions; one that is not there is a success.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Proves by doing that objects can be created once, read and deleted here.
    /// Answers what a person should know or mend, in plain sentences; what a
    /// vault cannot do without is an error.
    async fn probe(&self) -> Result<Vec<String>, StoreError>;

    /// Where this vault is configured to lock objects.
    fn locks(&self) -> Option<&dyn Locks> {
        None
    }
}

/// Keeps objects from being deleted or overwritten by anybody for a time.
#[async_trait]
pub trait Locks: Send + Sync {
    /// Until when the object cannot be deleted; none when it can be now.
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError>;

    /// Locks the object until then. A later lock that it has already stays.
    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError>;
}

/// Writes one object. Dropped without `commit`, it leaves nothing visible.
#[async_trait]
pub trait ObjectWriter: Send {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes the object durable and visible; `AlreadyExists` when the name was
    /// taken meanwhile.
    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError>;
}

/// A store that can be handed around.
pub type SharedStore = Arc<dyn Store>;

/// Writes a small object in one go.
pub async fn put(store: &dyn Store, key: &ObjectKey, bytes: impl Into<Bytes> + Send) -> Result<ObjectInfo, StoreError> {
    let mut writer = store.create(key).await?;
    writer.write(bytes.into()).await?;
    writer.commit().await
}

/// The object of exactly this name; none when there is none.
pub async fn stat(store: &dyn Store, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
    Ok(store.list(key.as_str()).await?.into_iter().find(|object| object.key == *key))
}
