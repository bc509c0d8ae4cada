//! Keeps a store from taking more of the line, or of the store itself, than the
//! operator allows: bytes a second each way, calls a second, and calls at once.
//!
//! A call is what is asked of `Store`; one that a store makes several requests
//! of, such as a long listing, counts once. What waits is never refused.

use std::{io, num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
    VersionId, visit::heard,
};
use crate::domain::ByteSize;

/// Bytes are counted in these: a limiter that counted single ones would round a fast line away.
const UNIT: usize = 1 << 10;
/// Bytes pass in pieces of at most this, so that none waits for long.
const PIECE: usize = 64 << 10;

/// What is allowed; what is absent is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second into the vault.
    pub upload: Option<ByteSize>,
    /// Bytes a second out of it.
    pub download: Option<ByteSize>,
    /// Calls a second.
    pub requests: Option<NonZeroU32>,
    /// Calls under way at once.
    pub concurrent: Option<NonZeroU32>,
}

/// Bytes a second, in either direction.
#[derive(Debug, Clone)]
struct Line(Option<Arc<DefaultDirectRateLimiter>>);

impl Line {
    fn new(rate: Option<ByteSize>) -> Self {
        let units = |rate: ByteSize| u32::try_from(rate.as_bytes().div_ceil(UNIT as u64)).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(u32::try_from(PIECE / UNIT).unwrap_or(1)).unwrap_or(NonZeroU32::MIN);
        let limiter = |rate| {
            let rate = NonZeroU32::new(units(rate)).unwrap_or(NonZeroU32::MIN);
            Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
        };
        Self(rate.map(limiter))
    }

    /// Waits until this many bytes, at most a piece, may pass.
    async fn pass(&self, bytes: usize) {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok().and_then(NonZeroU32::new);
        if let (Some(limiter), Some(units)) = (&self.0, units) {
            // More than the burst is refused; a piece never is.
            let _passed = limiter.until_n_ready(units).await;
        }
    }
}

#[derive(Debug, Clone)]
struct Gates {
    upload: Line,
    download: Line,
    requests: Option<Arc<DefaultDirectRateLimiter>>,
    concurrent: Option<Arc<Semaphore>>,
}

impl Gates {
    /// Waits for a turn; it ends when the permit is dropped. Nobody holds one
    /// while waiting for another, so that a small limit slows and never stops.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Some(requests) = &self.requests {
            requests.until_ready().await;
            heard();
        }
        self.place().await
    }

    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        let place = self.concurrent.as_ref()?.acquire().await.ok();
        // While we waited for ourselves the store was asked nothing.
        heard();
        place
    }
}

/// A store behind the limits of its vault.
#[derive(Debug, Clone)]
pub struct Limited {
    inner: SharedStore,
    gates: Gates,
}

impl Limited {
    pub fn new(inner: SharedStore, limits: Limits) -> Self {
        // A burst would be counted against us by whoever asked for the limit.
        let calls = |rate| Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN)));
        let places = |count: NonZeroU32| Arc::new(Semaphore::new(usize::try_from(count.get()).unwrap_or(1)));
        let gates = Gates {
            upload: Line::new(limits.upload),
            download: Line::new(limits.download),
            requests: limits.requests.map(calls),
            concurrent: limits.concurrent.map(places),
        };
        Self { inner, gates }
    }

    fn slowed(&self, reader: ObjectReader) -> ObjectReader {
        if self.gates.download.0.is_none() {
            return reader;
        }
        let download = self.gates.download.clone();
        let pieces = ReaderStream::with_capacity(reader, PIECE).then(move |piece: io::Result<Bytes>| {
            let download = download.clone();
            async move {
                if let Ok(bytes) = &piece {
                    download.pass(bytes.len()).await;
                }
                piece
            }
        });
        Box::pin(StreamReader::new(Box::pin(pieces)))
    }
}

#[async_trait]
impl Store for Limited {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let _turn = self.gates.turn().await;
        Ok(Box::new(LimitedWriter { inner: self.inner.create(key).await?, gates: self.gates.clone() }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        let _turn = self.gates.turn().await;
        Ok(self.slowed(self.inner.read(key).await?))
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        let _turn = self.gates.turn().await;
        Ok(self.slowed(self.inner.read_version(key, version).await?))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let _turn = self.gates.turn().await;
        self.inner.list(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let _turn = self.gates.turn().await;
        self.inner.versions(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let _turn = self.gates.turn().await;
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        let _turn = self.gates.turn().await;
        self.inner.probe().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as _)
    }
}

#[async_trait]
impl Locks for Limited {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        let Some(locks) = self.inner.locks() else { return Ok(None) };
        let _turn = self.gates.turn().await;
        locks.locked_until(key).await
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let Some(locks) = self.inner.locks() else { return Ok(()) };
        let _turn = self.gates.turn().await;
        locks.lock(key, until).await
    }
}

struct LimitedWriter {
    inner: Box<dyn ObjectWriter>,
    gates: Gates,
}

#[async_trait]
impl ObjectWriter for LimitedWriter {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.gates.upload.pass(piece.len()).await;
            let _place = self.gates.place().await;
            self.inner.write(piece).await?;
        }
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let _turn = self.gates.turn().await;
        self.inner.commit().await
    }
}
