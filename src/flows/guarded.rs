//! A store that a flow writes through: before every effect the run must still
//! be ours. A node that lost its lease, or cannot know, writes and deletes
//! nothing more; reading is free.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    flow::StepContext,
    vault::{
        Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
        VersionId,
    },
};

#[derive(Debug)]
struct Guarded {
    inner: SharedStore,
    cx: StepContext,
}

/// `store`, for the effects of the run of `cx` alone.
pub(super) fn guarded(store: &SharedStore, cx: &StepContext) -> SharedStore {
    Arc::new(Guarded { inner: Arc::clone(store), cx: cx.clone() })
}

/// Waits until this node surely owns the run, or is refused.
async fn own(cx: &StepContext, place: &Place, key: &ObjectKey) -> Result<(), StoreError> {
    let lost = |_| StoreError::Fenced { vault: place.vault.clone(), key: key.to_string() };
    cx.guard().await.map_err(lost)
}

#[async_trait]
impl Store for Guarded {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.inner.create(key).await?;
        Ok(Box::new(Writer { inner, key: key.clone(), place: self.place().clone(), cx: self.cx.clone() }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.inner.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.inner.read_version(key, version).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.inner.versions(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        own(&self.cx, self.place(), key).await?;
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
impl Locks for Guarded {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.locks() {
            Some(locks) => locks.locked_until(key).await,
            None => Ok(None),
        }
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let Some(locks) = self.inner.locks() else { return Ok(()) };
        own(&self.cx, self.place(), key).await?;
        locks.lock(key, until).await
    }
}

/// What is written is invisible until `commit`, so that is the effect.
struct Writer {
    inner: Box<dyn ObjectWriter>,
    key: ObjectKey,
    place: Place,
    cx: StepContext,
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.write(bytes).await
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        own(&self.cx, &self.place, &self.key).await?;
        self.inner.commit().await
    }
}
