//! What this process has stored under which name, byte for byte as it left: the
//! one thing that a writer, who holds no identity, can hold an object against
//! when it reads it back.
//!
//! Kept in memory alone, the newest of them; of a segment's tails no more once it is
//! stored whole. What another process stored, or this one before it was started anew,
//! has none.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError,
    VersionId, layout,
};

/// So many of the newest are kept for certain, and never more than twice as many: the
/// whole segments of a terabyte of WAL, at 16 MiB each, with the tails of the open one.
const KEPT: usize = 1 << 16;

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
    newer: BTreeMap<ObjectKey, Receipt>,
    /// Go all at once, when there are enough of the newer.
    older: BTreeMap<ObjectKey, Receipt>,
}

impl Receipts {
    pub fn of(&self, key: &ObjectKey) -> Option<Receipt> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.newer.get(key).or_else(|| kept.older.get(key)).cloned()
    }

    fn keep(&self, key: ObjectKey, receipt: Receipt) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { newer, older } = &mut *kept;
        for held in [&mut *newer, &mut *older] {
            forget_tails(held, &key);
            held.remove(&key);
        }
        newer.insert(key, receipt);
        if newer.len() >= KEPT {
            *older = mem::take(newer);
        }
    }
}

/// A segment that is whole is read back as one.
fn forget_tails(held: &mut BTreeMap<ObjectKey, Receipt>, whole: &ObjectKey) {
    let prefix = ObjectKey(layout::tails_prefix(whole));
    let tails = held.range(&prefix..).map(|(key, _)| key).take_while(|key| key.as_str().starts_with(prefix.as_str()));
    let tails: Vec<ObjectKey> = tails.cloned().collect();
    for tail in tails {
        held.remove(&tail);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Segment, SegmentSize, Timeline},
        vault::Layout,
    };

    /// How many tails a segment had: one a second for a minute.
    const TAILS: u64 = 60;

    #[test]
    fn tails_of_segments_that_are_whole_push_nothing_out() {
        let layout = Layout::new("wallet".parse().unwrap(), "7000000000000000001", 1).unwrap();
        let (size, receipts) = (SegmentSize::DEFAULT, Receipts::default());
        let receipt = |size| Receipt { size, sha256: [0; 32] };
        let segment = |number| Segment { timeline: Timeline(1), number };
        let whole = |number| layout.segment(segment(number), size);
        let tail = |number, nth| layout.tail(segment(number), size, nth, nth + 1);
        let last = 3 * KEPT as u64 / TAILS;
        for number in 1..=last {
            for nth in 0..TAILS {
                receipts.keep(tail(number, nth), receipt(nth));
            }
            assert_eq!(receipts.of(&tail(number, 0)), Some(receipt(0)), "it is open");
            receipts.keep(whole(number), receipt(number));
            assert_eq!(receipts.of(&tail(number, 0)), None, "it is whole");
        }
        for number in 1..=last {
            assert_eq!(receipts.of(&whole(number)), Some(receipt(number)), "{number} of {last}");
        }
        // The newest stay, and there is an end to it.
        for number in 1..=3 * KEPT as u64 {
            receipts.keep(whole(number), receipt(number));
        }
        let held = (1..=3 * KEPT as u64).filter(|number| receipts.of(&whole(*number)).is_some()).collect::<Vec<_>>();
        assert!((KEPT..=2 * KEPT).contains(&held.len()), "{}", held.len());
        assert_eq!(held.first().copied(), Some(3 * KEPT as u64 - held.len() as u64 + 1), "no gap");
    }
}
