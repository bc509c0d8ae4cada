//! A private view of a vault in which objects are missing: what a self-test plants its
//! faults into. Whoever else reads the vault sees it as it is.
//!
//! What must never happen: that anything is written or deleted through it. Both are
//! refused, whatever the store behind it would allow.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;

use super::{
    ObjectInfo, ObjectKey, ObjectReader, ObjectVersion, ObjectWriter, Place, SharedStore, Store, StoreError, VersionId,
};

type Missing = Arc<dyn Fn(&ObjectKey) -> bool + Send + Sync>;

/// A store without the objects that are to be missing, and read alone.
#[derive(Clone)]
pub struct Faulty {
    inner: SharedStore,
    is_missing: Missing,
}

impl Faulty {
    pub fn without(inner: SharedStore, is_missing: impl Fn(&ObjectKey) -> bool + Send + Sync + 'static) -> Self {
        Self { inner, is_missing: Arc::new(is_missing) }
    }

    fn refuse_missing(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if (self.is_missing)(key) {
            return Err(StoreError::NotFound { vault: self.place().vault.clone(), key: key.clone() });
        }
        Ok(())
    }

    fn refused(&self, key: &ObjectKey, action: &'static str) -> StoreError {
        let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a view with planted faults is only read");
        StoreError::Denied { vault: self.place().vault.clone(), subject: key.to_string(), action, source }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Faulty {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Err(self.refused(key, "create"))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.refuse_missing(key)?;
        self.inner.read(key).await
    }

    async fn read_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectReader, StoreError> {
        self.refuse_missing(key)?;
        self.inner.read_version(key, version).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut objects = self.inner.list(prefix).await?;
        objects.retain(|object| !(self.is_missing)(&object.key));
        Ok(objects)
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let mut versions = self.inner.versions(prefix).await?;
        versions.retain(|version| !(self.is_missing)(&version.key));
        Ok(versions)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        Err(self.refused(key, "delete"))
    }

    /// It is another's to prove what can be done there.
    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{MemoryStore, put, stat};

    #[tokio::test]
    async fn what_is_missing_is_nowhere_and_nothing_is_written() {
        let inner: SharedStore = Arc::new(MemoryStore::new("primary".parse().unwrap(), "eu-south-1".parse().unwrap()));
        let [here, gone, new] = ["a/here", "a/gone", "a/new"].map(|name| ObjectKey::new(name).unwrap());
        for key in [&here, &gone] {
            put(inner.as_ref(), key, "x").await.unwrap();
        }
        let hidden = gone.clone();
        let faulty = Faulty::without(Arc::clone(&inner), move |key| *key == hidden);
        let listed: Vec<ObjectKey> = faulty.list("a/").await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(listed, std::slice::from_ref(&here));
        assert_eq!(faulty.versions("a/").await.unwrap().len(), 1);
        assert!(faulty.read(&here).await.is_ok());
        let version = VersionId(String::new());
        for read in [faulty.read(&gone).await.err(), faulty.read_version(&gone, &version).await.err()] {
            assert!(matches!(read, Some(StoreError::NotFound { .. })), "{read:?}");
        }
        assert!(matches!(faulty.create(&new).await.err(), Some(StoreError::Denied { .. })));
        assert!(matches!(faulty.delete(&here).await, Err(StoreError::Denied { .. })));
        for key in [&here, &gone] {
            assert!(stat(inner.as_ref(), key).await.unwrap().is_some(), "{key} is untouched");
        }
    }
}
