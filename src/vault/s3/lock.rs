//! Object Lock. A lock is only ever extended: an earlier time than the object
//! has already changes nothing, and a compliance lock is never weakened to
//! governance. What is locked is the first version, which is the object.

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::DateTime,
    types::{ObjectLockRetention, ObjectLockRetentionMode},
};
use jiff::Timestamp;

use super::{Bucket, S3Store, connect::LockMode, failure::Ask};
use crate::vault::{Locks, ObjectKey, StoreError};

/// How long a version is kept from being deleted.
pub(super) struct Retention {
    mode: Option<ObjectLockRetentionMode>,
    pub(super) until: Timestamp,
}

impl From<LockMode> for ObjectLockRetentionMode {
    fn from(mode: LockMode) -> Self {
        match mode {
            LockMode::Governance => Self::Governance,
            LockMode::Compliance => Self::Compliance,
        }
    }
}

impl Bucket {
    /// None where the version has no lock, or never had one.
    pub(super) async fn retention(&self, key: &ObjectKey, version: &str) -> Result<Option<Retention>, StoreError> {
        let found = self
            .clients
            .asker
            .get_object_retention()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .version_id(version)
            .send()
            .await;
        let retention = match found {
            Ok(found) => found.retention,
            Err(error) => {
                let has_none = matches!(
                    error.as_service_error().and_then(|service| service.meta().code()),
                    Some("NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError" | "InvalidRequest")
                );
                if has_none {
                    return Ok(None);
                }
                return Err(self.failed(Ask::object(key, "read the lock of", "s3:GetObjectRetention"), &error));
            }
        };
        let until = retention.as_ref().and_then(|found| found.retain_until_date()).and_then(timestamp);
        Ok(until.map(|until| Retention { mode: retention.and_then(|found| found.mode), until }))
    }

    pub(super) async fn retain(
        &self,
        key: &ObjectKey,
        version: &str,
        mode: ObjectLockRetentionMode,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(date(until)).build();
        self.clients
            .asker
            .put_object_retention()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .version_id(version)
            .retention(retention)
            .send()
            .await
            .map_err(|error| self.failed(Ask::object(key, "lock", "s3:PutObjectRetention"), &error))?;
        Ok(())
    }

    async fn object(&self, key: &ObjectKey) -> Result<String, StoreError> {
        let absent = || StoreError::NotFound { vault: self.declared.vault.clone(), key: key.clone() };
        Ok(self.first_version(key).await?.ok_or_else(absent)?.version)
    }
}

#[async_trait]
impl Locks for S3Store {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        let version = self.bucket.object(key).await?;
        let now = self.bucket.clock.now();
        let found = self.bucket.retention(key, &version).await?;
        Ok(found.map(|retention| retention.until).filter(|until| *until > now))
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let Some(mode) = self.bucket.options.object_lock else { return Ok(()) };
        let version = self.bucket.object(key).await?;
        let now = self.bucket.clock.now();
        let present = self.bucket.retention(key, &version).await?.filter(|present| present.until > now);
        if present.as_ref().is_some_and(|present| present.until >= until) {
            return Ok(());
        }
        let mode = match present.and_then(|present| present.mode) {
            Some(ObjectLockRetentionMode::Compliance) => ObjectLockRetentionMode::Compliance,
            _ => mode.into(),
        };
        self.bucket.retain(key, &version, mode, until).await
    }
}

/// Rounded up to a whole second, so that nothing is locked shorter than asked.
fn date(until: Timestamp) -> DateTime {
    let more = i64::from(until.subsec_nanosecond() > 0);
    DateTime::from_secs(until.as_second() + more)
}

fn timestamp(date: &DateTime) -> Option<Timestamp> {
    Timestamp::new(date.secs(), i32::try_from(date.subsec_nanos()).ok()?).ok()
}
