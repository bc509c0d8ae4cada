//! What this process has stored under which name, byte for byte as it left: the
//! one thing that a writer, who holds no identity, can hold an object against
//! when it reads it back.
//!
//! Kept in memory alone, the newest of them. What another process stored, or this
//! one before it was started anew, has none.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
    VersionId,
};

/// So many are kept: the WAL of a terabyte in segments of 16 MiB.
const KEPT_MAX: usize = 1 << 16;

/// Size and SHA-256 of an object as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub size: u64,
    pub sha256: [u8; 32],
}

#[derive(Debug, Default)]
pub struct Receipts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_key: BTreeMap<ObjectKey, Receipt>,
    /// Oldest first.
    order: VecDeque<ObjectKey>,
}

impl Receipts {
    pub fn of(&self, key: &ObjectKey) -> Option<Receipt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_key.get(key).cloned()
    }

    fn keep(&self, key: ObjectKey, receipt: Receipt) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_key.insert(key.clone(), receipt).is_none() {
            kept.order.push_back(key);
        }
        if kept.order.len() > KEPT_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_key.remove(&oldest);
        }
    }
}

/// `store`, of which every object that is written through this is remembered.
pub fn remembering(store: &SharedStore, receipts: &Arc<Receipts>) -> SharedStore {
    Arc::new(Remembering { inner: Arc::clone(store), receipts: Arc::clone(receipts) })
}

#[derive(Debug)]
struct Remembering {
    inner: SharedStore,
    receipts: Arc<Receipts>,
}

#[async_trait]
impl Store for Remembering {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.inner.create(key).await?;
        let receipts = Arc::clone(&self.receipts);
        Ok(Box::new(Writer { inner, key: key.clone(), sha256: Sha256::new(), size: 0, receipts }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.inner.read(key).await
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.inner.read_version(key, version).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.inner.versions(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.inner.probe().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as _)
    }
}

#[async_trait]
impl Locks for Remembering {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.locks() {
            Some(locks) => locks.locked_until(key).await,
            None => Ok(None),
        }
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        match self.inner.locks() {
            Some(locks) => locks.lock(key, until).await,
            None => Ok(()),
        }
    }
}

struct Writer {
    inner: Box<dyn ObjectWriter>,
    key: ObjectKey,
    sha256: Sha256,
    size: u64,
    receipts: Arc<Receipts>,
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.sha256.update(&bytes);
        self.size += bytes.len() as u64;
        self.inner.write(bytes).await
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let Self { inner, key, sha256, size, receipts } = *self;
        let stored = inner.commit().await?;
        receipts.keep(key, Receipt { size, sha256: sha256.finalize().into() });
        Ok(stored)
    }
}
