//! Tries again what may succeed the next time. An upload is repeated from a
//! bounded buffer; one that outgrew it fails, and its run takes it up anew. A
//! name that is found taken when repeating is a success where the object is
//! byte for byte what was sent, and never otherwise.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;

use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
    VersionId,
};

/// What an upload keeps for its repetition; a part of a backup usually fits.
const BUFFER_MAX: usize = 64 << 20;

/// Compared at a time, when an object may be there already.
const COMPARED: usize = 64 << 10;
/// However long a store asks us to wait, we ask again after this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Exponential back-off with full jitter on errors that are not permanent, and
/// at least the pause that the store asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    attempts: u32,
    first_pause: Duration,
}

impl Patience {
    /// `attempts` counts the first one; the pause doubles up to 30 s.
    pub(super) const fn new(attempts: u32, first_pause: Duration) -> Self {
        Self { attempts, first_pause }
    }

    async fn pause(&self, attempt: u32, error: &StoreError) {
        let longest = self.first_pause.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX);
        let asked = match error {
            StoreError::Busy { after: Some(after), .. } => (*after).min(PAUSE_MAX),
            _ => Duration::ZERO,
        };
        tracing::debug!(%error, attempt, "trying the vault again");
        tokio::time::sleep(asked + longest.mul_f64(rand::random::<f64>())).await;
    }

    fn is_worth_another(&self, error: &StoreError, attempt: u32) -> bool {
        !error.is_permanent() && attempt + 1 < self.attempts
    }

    pub(super) async fn again<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 0;
        loop {
            match call().await {
                Err(error) if self.is_worth_another(&error, attempt) => {
                    self.pause(attempt, &error).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// A store whose calls are repeated with patience.
#[derive(Debug, Clone)]
pub struct Retrying {
    inner: SharedStore,
    patience: Patience,
}

impl Retrying {
    /// `attempts` counts the first one; the pause doubles up to 30 s.
    pub fn new(inner: SharedStore, attempts: u32, first_pause: Duration) -> Self {
        Self { inner, patience: Patience::new(attempts, first_pause) }
    }
}

#[async_trait]
impl Store for Retrying {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.patience.again(|| self.inner.create(key)).await?;
        Ok(Box::new(RetryingWriter { store: self.clone(), key: key.clone(), inner, sent: Some(Vec::new()), size: 0 }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.patience.again(|| self.inner.read(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.patience.again(|| self.inner.list(prefix)).await
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.patience.again(|| self.inner.read_version(key, version)).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        self.patience.again(|| self.inner.versions(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.patience.again(|| self.inner.delete(key)).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.patience.again(|| self.inner.probe()).await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as _)
    }
}

#[async_trait]
impl Locks for Retrying {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.locks() {
            Some(locks) => self.patience.again(|| locks.locked_until(key)).await,
            None => Ok(None),
        }
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        match self.inner.locks() {
            Some(locks) => self.patience.again(|| locks.lock(key, until)).await,
            None => Ok(()),
        }
    }
}

struct RetryingWriter {
    store: Retrying,
    key: ObjectKey,
    inner: Box<dyn ObjectWriter>,
    /// What was written so far; none once it outgrew the buffer.
    sent: Option<Vec<Bytes>>,
    size: usize,
}

impl RetryingWriter {
    /// A new upload of everything sent so far.
    async fn resend(store: &Retrying, key: &ObjectKey, sent: &[Bytes]) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let mut writer = store.inner.create(key).await?;
        for bytes in sent {
            writer.write(bytes.clone()).await?;
        }
        Ok(writer)
    }

    /// Whether the object is exactly what was sent.
    async fn holds(store: &Retrying, key: &ObjectKey, sent: &[Bytes]) -> bool {
        let Ok(mut reader) = store.read(key).await else { return false };
        let mut found = vec![0; COMPARED];
        for piece in sent.iter().flat_map(|bytes| bytes.chunks(COMPARED)) {
            let Some(found) = found.get_mut(..piece.len()) else { return false };
            if reader.read_exact(found).await.is_err() || found != piece {
                return false;
            }
        }
        matches!(reader.read(&mut found).await, Ok(0))
    }
}

#[async_trait]
impl ObjectWriter for RetryingWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.size += bytes.len();
        if self.size > BUFFER_MAX {
            self.sent = None;
        }
        let Some(sent) = &mut self.sent else { return self.inner.write(bytes).await };
        sent.push(bytes.clone());
        let mut result = self.inner.write(bytes).await;
        let mut attempt = 0;
        while let Err(error) = &result
            && self.store.patience.is_worth_another(error, attempt)
        {
            self.store.patience.pause(attempt, error).await;
            attempt += 1;
            result = Self::resend(&self.store, &self.key, sent).await.map(|writer| self.inner = writer);
        }
        result
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let Self { store, key, inner, sent, size } = *self;
        let mut result = inner.commit().await;
        let mut attempt = 0;
        while let (Err(error), Some(sent)) = (&result, &sent)
            && store.patience.is_worth_another(error, attempt)
        {
            store.patience.pause(attempt, error).await;
            attempt += 1;
            result = match Self::resend(&store, &key, sent).await {
                Ok(writer) => writer.commit().await,
                Err(error) => Err(error),
            };
            // The attempt before may have succeeded, and its answer was lost.
            if matches!(result, Err(StoreError::AlreadyExists { .. })) && Self::holds(&store, &key, sent).await {
                return Ok(ObjectInfo::new(key, size as u64));
            }
        }
        result
    }
}
