//! A vault as a writer sees it: before anything is written, the vault must be
//! ours and the one that we know by this name. A folder that is not mounted, or
//! another one in its place, is refused before a byte goes there, and is not
//! listed as an empty vault either. A reader that restores does without this.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
    VaultIdentity, VersionId, signature::Signer,
};
use crate::{clock::Clock, domain::VaultName};

/// A bucket is not swapped between two calls; a folder may be, so it is looked
/// at before each.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where the ids of vaults are kept, outside the vaults.
#[async_trait]
pub trait Known: Send + Sync + std::fmt::Debug {
    /// The id under which this vault is known.
    async fn recall(&self, vault: &VaultName) -> Result<Option<String>, StoreError>;

    /// Keeps the id of a vault that had none.
    async fn remember(&self, vault: &VaultName, id: &str) -> Result<(), StoreError>;
}

/// What is known so far.
#[derive(Debug, Default)]
struct Seen {
    id: Option<String>,
    is_ours: bool,
    looked: Option<Instant>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Owned {
    inner: SharedStore,
    /// None on a node that has no signing key: it makes no vault its own.
    signer: Option<Signer>,
    known: Arc<dyn Known>,
    clock: Clock,
    seen: Mutex<Seen>,
}

impl Owned {
    pub fn new(inner: SharedStore, signer: Option<Signer>, known: Arc<dyn Known>, clock: Clock) -> Self {
        Self { inner, signer, known, clock, seen: Mutex::default() }
    }

    /// The store without this guard, for what only reads.
    pub fn unguarded(&self) -> &SharedStore {
        &self.inner
    }

    /// Makes a new vault ours, and refuses one that is not.
    pub async fn claim(&self) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().await;
        self.recognize(&mut seen).await?;
        if seen.is_ours {
            return Ok(());
        }
        let store = self.inner.as_ref();
        let found = VaultIdentity::read(store).await?;
        let Some(signer) = &self.signer else {
            // Nothing is made here; whether it is somebody's can still be told.
            return match found {
                Some(found) => Err(StoreError::Foreign {
                    vault: self.place().vault.clone(),
                    owner: found.owner,
                    ours: "no key yet".to_owned(),
                }),
                None => Ok(()),
            };
        };
        let identity = match found {
            Some(found) => found,
            None => VaultIdentity::claim(store, signer, self.now()).await?,
        };
        identity.confirm(store, signer).await?;
        if seen.id.is_none() {
            self.known.remember(&self.place().vault, &identity.id).await?;
        }
        *seen = Seen { id: Some(identity.id), is_ours: true, looked: Some(Instant::now()) };
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Refuses a place that is not the vault known by this name. A vault that
    /// is known by none passes.
    async fn recognize(&self, seen: &mut Seen) -> Result<(), StoreError> {
        if seen.id.is_none() {
            seen.id = self.known.recall(&self.place().vault).await?;
        }
        let Some(known) = &seen.id else { return Ok(()) };
        let is_fresh = seen.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY);
        if is_fresh && self.place().kind != "directory" {
            return Ok(());
        }
        let vault = self.place().vault.clone();
        match VaultIdentity::read(self.inner.as_ref()).await? {
            Some(found) if found.id == *known => {
                seen.looked = Some(Instant::now());
                Ok(())
            }
            Some(found) => Err(StoreError::Replaced { vault, known: known.clone(), found: found.id }),
            None => Err(StoreError::NotThere { vault, id: known.clone() }),
        }
    }

    /// Refuses to show an empty folder as an empty vault.
    async fn look(&self) -> Result<(), StoreError> {
        self.recognize(&mut *self.seen.lock().await).await
    }
}

#[async_trait]
impl Store for Owned {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.claim().await?;
        self.inner.create(key).await
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.inner.read(key).await
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.inner.read_version(key, version).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.look().await?;
        self.inner.list(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.look().await?;
        self.inner.versions(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.claim().await?;
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.claim().await?;
        self.inner.probe().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as _)
    }
}

#[async_trait]
impl Locks for Owned {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.locks() {
            Some(locks) => locks.locked_until(key).await,
            None => Ok(None),
        }
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let Some(locks) = self.inner.locks() else { return Ok(()) };
        self.claim().await?;
        locks.lock(key, until).await
    }
}
