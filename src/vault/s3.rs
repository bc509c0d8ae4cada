//! A vault in a bucket of S3 or of a store that speaks it. Objects are created
//! with `If-None-Match`, so that the store itself refuses a taken name; each
//! upload carries its SHA-256.
//!
//! In a bucket that keeps versions the first version of a name is the object.
//! Every read asks for the versions of its name at the same time, and takes the
//! first: nothing that is put or deleted over an object, at any instant, can
//! stand in for it. A delete removes every version by its id.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{Mutex, OnceCell};

use self::failure::Ask;
use super::{
    Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, Standing, Store, StoreError,
    VersionId, retry::Patience,
};
use crate::{
    clock::Clock,
    decide::bucket::Settings,
    domain::{
        VaultName,
        archive::{ArchiveClass, Thawing},
    },
    process::Tasks,
};

mod archive;
mod connect;
mod download;
mod failure;
mod lifecycle;
mod lock;
mod probe;
mod region;
mod settings;
mod upload;
mod versions;

pub use connect::{LockMode, REQUEST_LIMIT, S3Options};

/// What a bucket is asked beside its objects goes through no decorator that repeats it.
const PATIENCE: Patience = Patience::new(5, Duration::from_millis(200));

/// The bucket with what is known of it.
struct Bucket {
    name: String,
    options: S3Options,
    clients: connect::Clients,
    declared: Place,
    /// Set once the store was asked: none where it does not tell its region.
    verified: OnceCell<Option<Place>>,
    versioned: Mutex<Option<bool>>,
    clock: Clock,
    /// Uploads of dropped writers, being aborted.
    aborts: Tasks,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("options", &self.options).field("place", &self.declared).finish_non_exhaustive()
    }
}

/// A vault in a bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    bucket: Arc<Bucket>,
}

impl S3Store {
    /// Describes the vault; connects nowhere until it is used.
    pub async fn open(vault: VaultName, options: S3Options, clock: Clock) -> Self {
        let clients = connect::clients(&options).await;
        let declared = Place { vault, kind: "s3", region: options.region.clone(), region_verified: false };
        Self {
            bucket: Arc::new(Bucket {
                name: options.bucket.clone(),
                options,
                clients,
                declared,
                verified: OnceCell::new(),
                versioned: Mutex::new(None),
                clock,
                aborts: Tasks::new(),
            }),
        }
    }
}

impl Bucket {
    /// The name of an object or prefix in the bucket.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.options.prefix)
    }

    /// The name in the vault; none for what a vault would not hold.
    fn own(&self, full: &str) -> Option<ObjectKey> {
        ObjectKey::new(full.strip_prefix(self.options.prefix.as_str())?).ok()
    }

    async fn delete_current(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let deleted = self.clients.deleter.delete_object().bucket(&self.name).key(self.full(key.as_str())).send().await;
        match deleted.map_err(|error| self.failed(Ask::object(key, "delete", "s3:DeleteObject"), &error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_version(&self, key: &ObjectKey, version: &str, bypass: bool) -> Result<(), StoreError> {
        let deleted = self
            .clients
            .deleter
            .delete_object()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .version_id(version)
            .set_bypass_governance_retention(bypass.then_some(true))
            .send()
            .await;
        let Err(error) = deleted else { return Ok(()) };
        let right = if bypass { "s3:BypassGovernanceRetention" } else { "s3:DeleteObjectVersion" };
        let refused = self.failed(Ask::object(key, "delete", right), &error);
        match &refused {
            StoreError::NotFound { .. } => Ok(()),
            // The store answers a locked version as if a right were missing.
            StoreError::Refused { .. } => match self.retention(key, version).await {
                Ok(Some(retention)) if retention.until > self.clock.now() => {
                    let (vault, key) = (self.declared.vault.clone(), key.clone());
                    Err(StoreError::Locked { vault, key, until: retention.until })
                }
                _ => Err(refused),
            },
            _ => Err(refused),
        }
    }
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> &Place {
        self.bucket.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        // No byte leaves for a region that nobody agreed to.
        self.bucket.verify_region().await?;
        Ok(Box::new(upload::Writer::new(Arc::clone(&self.bucket), key.clone())))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        if !self.bucket.is_versioned().await? {
            return Ok(self.bucket.get(key, None).await?.0);
        }
        let (shown, first) = tokio::join!(self.bucket.get(key, None), self.bucket.first_version(key));
        let Some(first) = first? else {
            return Err(StoreError::NotFound { vault: self.place().vault.clone(), key: key.clone() });
        };
        match shown {
            Ok((reader, Some(version))) if version == first.version => Ok(reader),
            _ => Ok(self.bucket.get(key, Some(&first.version)).await?.0),
        }
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        Ok(self.bucket.get(key, Some(&version.0)).await?.0)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.bucket.list_objects(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        if self.bucket.is_versioned().await? {
            return self.bucket.all_versions(prefix).await;
        }
        let only = |ObjectInfo { key, size_bytes, .. }| ObjectVersion {
            key,
            version: None,
            size_bytes,
            is_delete_marker: false,
        };
        Ok(self.bucket.list_objects(prefix).await?.into_iter().map(only).collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if !self.bucket.is_versioned().await? {
            return self.bucket.delete_current(key).await;
        }
        // The newest first: until the last one is gone the object is what it was.
        let versions = self.bucket.all_versions(key.as_str()).await?;
        for version in versions.iter().rev().filter(|version| version.key == *key) {
            if let Some(VersionId(id)) = &version.version {
                self.bucket.delete_version(key, id, false).await?;
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        probe::probe(self).await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.bucket.options.object_lock.map(|_| self as _)
    }
}

#[async_trait]
impl super::Bucket for S3Store {
    fn thawing(&self) -> &Thawing {
        &self.bucket.options.thawing
    }

    async fn standing(&self, key: &ObjectKey) -> Result<Standing, StoreError> {
        PATIENCE.again(|| self.bucket.standing_of(key)).await
    }

    async fn thaw(&self, key: &ObjectKey, from: ArchiveClass) -> Result<(), StoreError> {
        PATIENCE.again(|| self.bucket.ask_for(key, from)).await
    }

    async fn settings(&self) -> Result<Settings, StoreError> {
        PATIENCE.again(|| self.bucket.all_settings()).await
    }
}
