//! A store in memory that keeps versions, delete markers and locks, as the
//! contract of `Store` has it: the first version of a name is the object.

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use lifeboat::vault::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, Store, StoreError, VersionId,
};
use tokio::io::AsyncReadExt;

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first; none is a delete marker.
    versions: Vec<Option<Bytes>>,
    locked_until: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct Versioned {
    place: Place,
    kept: Arc<Mutex<BTreeMap<ObjectKey, Kept>>>,
    /// When this one is read, everything under the prefix is gone.
    vanishing: Option<(ObjectKey, String)>,
}

impl Versioned {
    pub(super) fn new(name: &str) -> Self {
        let place = Place {
            vault: name.parse().unwrap(),
            kind: "memory",
            region: "lab".parse().unwrap(),
            region_verified: false,
        };
        Self { place, kept: Arc::default(), vanishing: None }
    }

    /// Takes over all objects of another store.
    pub(super) async fn copy_of(name: &str, other: &dyn Store) -> Self {
        let store = Self::new(name);
        for object in other.list("").await.unwrap() {
            let mut bytes = Vec::new();
            other.read(&object.key).await.unwrap().read_to_end(&mut bytes).await.unwrap();
            store.put_over(&object.key, bytes);
        }
        store
    }

    /// The same, where the reading of `trigger` finds everything under `prefix` gone.
    pub(super) fn vanishing(self, trigger: &ObjectKey, prefix: &str) -> Self {
        Self { vanishing: Some((trigger.clone(), prefix.to_owned())), ..self }
    }

    /// What somebody with write access can do: another version.
    pub(super) fn put_over(&self, key: &ObjectKey, bytes: impl Into<Bytes>) {
        self.kept.lock().unwrap().entry(key.clone()).or_default().versions.push(Some(bytes.into()));
    }

    /// The same with delete access.
    pub(super) fn mark_deleted(&self, key: &ObjectKey) {
        self.kept.lock().unwrap().entry(key.clone()).or_default().versions.push(None);
    }

    fn missing(&self, key: &ObjectKey) -> StoreError {
        StoreError::NotFound { vault: self.place.vault.clone(), key: key.clone() }
    }

    fn content(&self, key: &ObjectKey, number: Option<usize>) -> Result<ObjectReader, StoreError> {
        let mut kept = self.kept.lock().unwrap();
        if let Some((_, prefix)) = self.vanishing.as_ref().filter(|(trigger, _)| trigger == key) {
            kept.retain(|key, _| !key.as_str().starts_with(prefix));
        }
        let versions = kept.get(key).map(|kept| kept.versions.as_slice()).unwrap_or_default();
        let found = match number {
            Some(number) => versions.get(number).cloned().flatten(),
            None => versions.iter().flatten().next().cloned(),
        };
        found.map(|bytes| Box::pin(Cursor::new(bytes)) as ObjectReader).ok_or_else(|| self.missing(key))
    }
}

#[async_trait]
impl Store for Versioned {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        if self.kept.lock().unwrap().contains_key(key) {
            return Err(StoreError::AlreadyExists { vault: self.place.vault.clone(), key: key.clone() });
        }
        Ok(Box::new(Writer { store: self.clone(), key: key.clone(), bytes: BytesMut::new() }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.content(key, None)
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.content(key, Some(version.0.parse().unwrap()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let kept = self.kept.lock().unwrap();
        let shown = kept.iter().filter(|(key, _)| key.as_str().starts_with(prefix)).filter_map(|(key, kept)| {
            let first = kept.versions.iter().flatten().next()?;
            Some(ObjectInfo::new(key.clone(), first.len() as u64))
        });
        Ok(shown.collect())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let kept = self.kept.lock().unwrap();
        let of_one = |(key, kept): (&ObjectKey, &Kept)| -> Vec<ObjectVersion> {
            let version = |(number, bytes): (usize, &Option<Bytes>)| ObjectVersion {
                key: key.clone(),
                version: Some(VersionId(number.to_string())),
                size_bytes: bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                is_delete_marker: bytes.is_none(),
            };
            kept.versions.iter().enumerate().map(version).collect()
        };
        Ok(kept.iter().filter(|(key, _)| key.as_str().starts_with(prefix)).flat_map(of_one).collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.kept.lock().unwrap().remove(key);
        Ok(())
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }
}

#[async_trait]
impl Locks for Versioned {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.kept.lock().unwrap().get(key).and_then(|kept| kept.locked_until))
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let mut all = self.kept.lock().unwrap();
        let kept = all.get_mut(key).ok_or_else(|| self.missing(key))?;
        kept.locked_until = kept.locked_until.max(Some(until));
        Ok(())
    }
}

struct Writer {
    store: Versioned,
    key: ObjectKey,
    bytes: BytesMut,
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let size_bytes = self.bytes.len() as u64;
        self.store.put_over(&self.key, self.bytes.freeze());
        Ok(ObjectInfo::new(self.key, size_bytes))
    }
}
