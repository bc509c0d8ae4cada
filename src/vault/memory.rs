//! A vault in memory, for tests. It survives nothing.

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, Store, StoreError, probe};
use crate::domain::{Region, VaultName};

type Objects = Arc<Mutex<BTreeMap<ObjectKey, Bytes>>>;

#[derive(Debug, Clone)]
pub struct MemoryStore {
    place: Place,
    objects: Objects,
}

fn lock(objects: &Objects) -> MutexGuard<'_, BTreeMap<ObjectKey, Bytes>> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    pub fn new(vault: VaultName, region: Region) -> Self {
        Self { place: Place { vault, kind: "memory", region, region_verified: false }, objects: Objects::default() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        if lock(&self.objects).contains_key(key) {
            return Err(StoreError::AlreadyExists { vault: self.place.vault.clone(), key: key.clone() });
        }
        Ok(Box::new(MemoryWriter { store: self.clone(), key: key.clone(), bytes: BytesMut::new() }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        let found = lock(&self.objects).get(key).cloned();
        found
            .map(|bytes| Box::pin(Cursor::new(bytes)) as ObjectReader)
            .ok_or_else(|| StoreError::NotFound { vault: self.place.vault.clone(), key: key.clone() })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        Ok(lock(&self.objects)
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, bytes)| ObjectInfo::new(key.clone(), bytes.len() as u64))
            .collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        lock(&self.objects).remove(key);
        Ok(())
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        probe::by_doing(self).await?;
        Ok(Vec::new())
    }
}

struct MemoryWriter {
    store: MemoryStore,
    key: ObjectKey,
    bytes: BytesMut,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        let mut objects = lock(&self.store.objects);
        if objects.contains_key(&self.key) {
            return Err(StoreError::AlreadyExists { vault: self.store.place.vault.clone(), key: self.key });
        }
        let size_bytes = self.bytes.len() as u64;
        objects.insert(self.key.clone(), self.bytes.freeze());
        Ok(ObjectInfo::new(self.key, size_bytes))
    }
}
