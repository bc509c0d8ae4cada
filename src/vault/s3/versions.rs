//! Listings, and the versions that a bucket keeps. The first version of a name
//! is the object: whatever was put or deleted over it is seen here, shown by
//! `versions`, and never taken for it.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    operation::list_object_versions::ListObjectVersionsOutput,
    primitives::DateTime,
    types::{
        BucketVersioningStatus, DeleteMarkerEntry, ObjectStorageClass, ObjectVersion as Listed,
        ObjectVersionStorageClass,
    },
};

use super::{Bucket, archive, failure::Ask};
use crate::vault::{ObjectInfo, ObjectKey, ObjectVersion, StoreError, VersionId};

/// Names are compared whole, so that the first few entries nearly always tell.
const VERSIONS_OF_ONE: i32 = 16;

/// The first content that a name has had.
pub(super) struct First {
    pub(super) version: String,
}

/// An entry of a listing with what orders it: by name, then by time.
struct Entry {
    key: ObjectKey,
    stored_at: Option<DateTime>,
    is_latest: bool,
    /// The listing has the newest first.
    nth: usize,
    version: Option<String>,
    size_bytes: u64,
    is_delete_marker: bool,
}

impl Bucket {
    /// Whether the bucket keeps versions, or did once: what it kept is there still.
    pub(super) async fn is_versioned(&self) -> Result<bool, StoreError> {
        let known = *self.versioned.lock().await;
        match known {
            Some(is_versioned) => Ok(is_versioned),
            None => self.look_for_versions().await,
        }
    }

    /// Asks the store anew.
    pub(super) async fn look_for_versions(&self) -> Result<bool, StoreError> {
        let ask = Ask::bucket("read the versioning of", "s3:GetBucketVersioning");
        let answer = self.clients.asker.get_bucket_versioning().bucket(&self.name).send().await;
        let is_versioned = match answer {
            Ok(found) => {
                matches!(found.status, Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended))
            }
            // A store that does not know the question keeps no versions.
            Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 501) => false,
            Err(error) => return Err(self.failed(ask, &error)),
        };
        *self.versioned.lock().await = Some(is_versioned);
        Ok(is_versioned)
    }

    pub(super) async fn list_objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        if !self.is_versioned().await? {
            return self.list_current(prefix).await;
        }
        let mut found = BTreeMap::new();
        self.each_page(&self.full(prefix), None, |page| {
            for listed in page.versions() {
                // Within a name the newest comes first, so the oldest is what stays.
                if let Some(key) = listed.key().and_then(|key| self.own(key)) {
                    let class = listed.storage_class().map(ObjectVersionStorageClass::as_str);
                    found.insert(key, (size(listed.size()), archive::cold(class)));
                }
            }
            true
        })
        .await?;
        Ok(found.into_iter().map(|(key, (size_bytes, cold))| ObjectInfo { key, size_bytes, cold }).collect())
    }

    async fn list_current(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut found = Vec::new();
        let mut pages =
            self.clients.asker.list_objects_v2().bucket(&self.name).prefix(self.full(prefix)).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(Ask::bucket("list", "s3:ListBucket"), &error))?;
            for listed in page.contents() {
                if let Some(key) = listed.key().and_then(|key| self.own(key)) {
                    let cold = archive::cold(listed.storage_class().map(ObjectStorageClass::as_str));
                    found.push(ObjectInfo { key, size_bytes: size(listed.size()), cold });
                }
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The first content of a name; none when it never had one, or none is left.
    pub(super) async fn first_version(&self, key: &ObjectKey) -> Result<Option<First>, StoreError> {
        let full = self.full(key.as_str());
        let mut first = None;
        self.each_page(&full, Some(VERSIONS_OF_ONE), |page| {
            let mut ours = page.versions().iter().rev().filter(|listed| listed.key() == Some(&full));
            if let Some(oldest) = ours.next().and_then(Listed::version_id) {
                first = Some(First { version: oldest.to_owned() });
            }
            // A name that begins with ours sorts after it.
            let last = |key: Option<&str>| key.is_none_or(|key| key == full);
            last(page.versions().last().and_then(Listed::key))
                && last(page.delete_markers().last().and_then(DeleteMarkerEntry::key))
        })
        .await?;
        Ok(first)
    }

    /// Everything kept under the prefix, by name, the oldest first.
    pub(super) async fn all_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let mut entries = Vec::new();
        self.each_page(&self.full(prefix), None, |page| {
            for listed in page.versions() {
                let Some(key) = listed.key().and_then(|key| self.own(key)) else { continue };
                entries.push(Entry {
                    key,
                    stored_at: listed.last_modified().copied(),
                    is_latest: listed.is_latest().unwrap_or_default(),
                    nth: entries.len(),
                    version: listed.version_id().map(str::to_owned),
                    size_bytes: size(listed.size()),
                    is_delete_marker: false,
                });
            }
            for listed in page.delete_markers() {
                let Some(key) = listed.key().and_then(|key| self.own(key)) else { continue };
                entries.push(Entry {
                    key,
                    stored_at: listed.last_modified().copied(),
                    is_latest: listed.is_latest().unwrap_or_default(),
                    nth: entries.len(),
                    version: listed.version_id().map(str::to_owned),
                    size_bytes: 0,
                    is_delete_marker: true,
                });
            }
            true
        })
        .await?;
        // Versions and marks come in two lists, so only the time orders them, which
        // counts seconds: within one, what was stored comes before what hides it.
        let age = |entry: &Entry| {
            let stored_at = entry.stored_at.as_ref().map(DateTime::as_nanos);
            (stored_at, entry.is_latest, entry.is_delete_marker, std::cmp::Reverse(entry.nth))
        };
        entries.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| age(a).cmp(&age(b))));
        let shown = |entry: Entry| ObjectVersion {
            key: entry.key,
            version: entry.version.map(VersionId),
            size_bytes: entry.size_bytes,
            is_delete_marker: entry.is_delete_marker,
        };
        Ok(entries.into_iter().map(shown).collect())
    }

    /// Hands over page after page until `more` says that it has seen enough.
    async fn each_page(
        &self,
        full_prefix: &str,
        page_size: Option<i32>,
        mut more: impl FnMut(&ListObjectVersionsOutput) -> bool,
    ) -> Result<(), StoreError> {
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let page = self
                .clients
                .asker
                .list_object_versions()
                .bucket(&self.name)
                .prefix(full_prefix)
                .set_max_keys(page_size)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker)
                .send()
                .await
                .map_err(|error| self.failed(Ask::bucket("list the versions of", "s3:ListBucketVersions"), &error))?;
            let is_last = !more(&page) || !page.is_truncated().unwrap_or_default();
            if is_last || page.next_key_marker.is_none() {
                return Ok(());
            }
            (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
        }
    }
}

fn size(listed: Option<i64>) -> u64 {
    listed.and_then(|size| u64::try_from(size).ok()).unwrap_or_default()
}
