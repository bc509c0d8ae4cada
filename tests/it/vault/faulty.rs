//! A store that fails on demand.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::vault::{ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, SharedStore, Store, StoreError};

/// What goes wrong, changed while it is used.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// So many calls fail with an error that may pass.
    pub(super) blips: AtomicU32,
    /// Every call fails until this is false.
    pub(super) down: AtomicBool,
    /// Every call hangs until this is false.
    pub(super) hangs: tokio::sync::watch::Sender<bool>,
    /// Objects whose names end so cannot be read.
    pub(super) unreadable: std::sync::Mutex<Option<&'static str>>,
    /// Writes fail for want of space.
    pub(super) full: AtomicBool,
    /// The next commit succeeds, and its answer is lost.
    pub(super) lose_answer: AtomicBool,
}

#[derive(Debug, Clone)]
pub(super) struct Faulty {
    pub(super) inner: SharedStore,
    pub(super) faults: Arc<Faults>,
}

impl Faulty {
    pub(super) fn new(inner: SharedStore) -> Self {
        Self { inner, faults: Arc::default() }
    }

    fn io(&self) -> StoreError {
        StoreError::Io {
            vault: self.inner.place().vault.clone(),
            subject: "anything".to_owned(),
            action: "reach",
            source: std::io::ErrorKind::ConnectionReset.into(),
        }
    }

    async fn pass(&self) -> Result<(), StoreError> {
        let mut hangs = self.faults.hangs.subscribe();
        hangs.wait_for(|hangs| !hangs).await.unwrap();
        let blip = self.faults.blips.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if self.faults.down.load(Ordering::SeqCst) || blip.is_ok() { Err(self.io()) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Faulty {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.pass().await?;
        Ok(Box::new(FaultyWriter { store: self.clone(), inner: self.inner.create(key).await? }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.pass().await?;
        if self.faults.unreadable.lock().unwrap().is_some_and(|end| key.as_str().ends_with(end)) {
            return Err(self.io());
        }
        self.inner.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.pass().await?;
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.pass().await?;
        self.inner.probe().await
    }
}

struct FaultyWriter {
    store: Faulty,
    inner: Box<dyn ObjectWriter>,
}

#[async_trait]
impl ObjectWriter for FaultyWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.store.pass().await?;
        if self.store.faults.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full { vault: self.store.inner.place().vault.clone() });
        }
        self.inner.write(bytes).await
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        self.store.pass().await?;
        let info = self.inner.commit().await?;
        if self.store.faults.lose_answer.swap(false, Ordering::SeqCst) { Err(self.store.io()) } else { Ok(info) }
    }
}
