//! Objects in an archive: what listings and answers tell of them, and how a copy is asked
//! for. The first version of a name is the object here too.

use aws_sdk_s3::types::{ArchiveStatus, GlacierJobParameters, RestoreRequest, StorageClass, Tier};

use super::{Bucket, failure::Ask};
use crate::{
    decide::archive::offered,
    domain::archive::{ArchiveClass, Cold, Retrieval},
    vault::{ObjectKey, Standing, StoreError},
};

/// The right to ask for a copy.
const RESTORE: &str = "s3:RestoreObject";
/// There is no room for more of these now.
const NO_EXPEDITED: &str = "GlacierExpeditedRetrievalNotAvailable";

/// The class of which nothing is read at once.
fn archive_class(class: &str) -> Option<ArchiveClass> {
    match class {
        "GLACIER" => Some(ArchiveClass::Glacier),
        "DEEP_ARCHIVE" => Some(ArchiveClass::DeepArchive),
        _ => None,
    }
}

/// The tier of which nothing is read at once.
fn archive_tier(tier: &str) -> Option<ArchiveClass> {
    match tier {
        "ARCHIVE_ACCESS" => Some(ArchiveClass::ArchiveAccess),
        "DEEP_ARCHIVE_ACCESS" => Some(ArchiveClass::DeepArchiveAccess),
        _ => None,
    }
}

/// What the class that a listing shows comes to.
pub(super) fn cold(class: Option<&str>) -> Option<Cold> {
    match class? {
        "INTELLIGENT_TIERING" => Some(Cold::Tiered),
        class => archive_class(class).map(Cold::Archived),
    }
}

/// Where an object lies that was refused, by what the refusal tells.
pub(super) fn refused_from(class: Option<&str>, tier: Option<&str>) -> Option<ArchiveClass> {
    tier.and_then(archive_tier).or_else(|| class.and_then(archive_class))
}

/// Whether an object can be read, by what a question for it is answered: its class, the
/// tier, and how far a restored copy of it is.
fn standing(class: Option<&str>, tier: Option<&str>, copy: Option<&str>) -> Standing {
    let Some(from) = refused_from(class, tier) else { return Standing::Readable };
    match copy {
        Some(copy) if copy.contains("ongoing-request=\"true\"") => Standing::Coming(from),
        Some(copy) if copy.contains("ongoing-request=\"false\"") => Standing::Readable,
        _ => Standing::Archived(from),
    }
}

impl Bucket {
    pub(super) async fn standing_of(&self, key: &ObjectKey) -> Result<Standing, StoreError> {
        let version = self.object_version(key).await?;
        let right = if version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
        let found = self
            .clients
            .asker
            .head_object()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .set_version_id(version)
            .send()
            .await
            .map_err(|error| self.failed(Ask::object(key, "look at", right), &error))?;
        let class = found.storage_class().map(StorageClass::as_str);
        Ok(standing(class, found.archive_status().map(ArchiveStatus::as_str), found.restore()))
    }

    pub(super) async fn ask_for(&self, key: &ObjectKey, from: ArchiveClass) -> Result<(), StoreError> {
        let version = self.object_version(key).await?;
        let asked = offered(from, self.options.thawing.retrieval);
        if self.is_asked(key, version.clone(), from, asked).await? {
            return Ok(());
        }
        tracing::warn!(%key, "there is no room for expedited retrievals now; a standard one is asked for");
        self.is_asked(key, version, from, Retrieval::Standard).await.map(drop)
    }

    /// Whether the store has taken the request; not where it has no room for one so fast.
    async fn is_asked(
        &self,
        key: &ObjectKey,
        version: Option<String>,
        from: ArchiveClass,
        asked: Retrieval,
    ) -> Result<bool, StoreError> {
        let ask = Ask::object(key, "restore from its archive", RESTORE);
        let tier = GlacierJobParameters::builder().tier(tier_of(asked)).build();
        let tier = tier.map_err(|error| self.unsent(ask, error.to_string()))?;
        // What lies in a tier moves back for good.
        let days = (!from.is_tier()).then(|| i32::from(self.options.thawing.keep_days));
        let request = RestoreRequest::builder().set_days(days).glacier_job_parameters(tier).build();
        let sent = self
            .clients
            .asker
            .restore_object()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .set_version_id(version)
            .restore_request(request)
            .send()
            .await;
        let Err(error) = sent else { return Ok(true) };
        match error.as_service_error().and_then(|service| service.meta().code()) {
            // Somebody has asked for it, or it can be read by now.
            Some("RestoreAlreadyInProgress" | "InvalidObjectState" | "ObjectAlreadyInActiveTierError") => Ok(true),
            Some(NO_EXPEDITED) if asked == Retrieval::Expedited => Ok(false),
            _ => Err(self.failed(ask, &error)),
        }
    }

    /// The version that is the object; none where the bucket keeps none.
    async fn object_version(&self, key: &ObjectKey) -> Result<Option<String>, StoreError> {
        if !self.is_versioned().await? {
            return Ok(None);
        }
        let absent = || StoreError::NotFound { vault: self.declared.vault.clone(), key: key.clone() };
        Ok(Some(self.first_version(key).await?.ok_or_else(absent)?.version))
    }
}

fn tier_of(asked: Retrieval) -> Tier {
    match asked {
        Retrieval::Expedited => Tier::Expedited,
        Retrieval::Standard => Tier::Standard,
        Retrieval::Bulk => Tier::Bulk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_is_told_from_what_must_be_asked_for() {
        use ArchiveClass::{ArchiveAccess, DeepArchive, DeepArchiveAccess, Glacier};
        let (coming, there) =
            (Some("ongoing-request=\"true\""), Some("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2029\""));
        for (class, tier, copy, expected) in [
            (None, None, None, Standing::Readable),
            (Some("STANDARD_IA"), None, None, Standing::Readable),
            (Some("GLACIER_IR"), None, None, Standing::Readable),
            (Some("GLACIER"), None, None, Standing::Archived(Glacier)),
            (Some("GLACIER"), None, coming, Standing::Coming(Glacier)),
            (Some("GLACIER"), None, there, Standing::Readable),
            (Some("DEEP_ARCHIVE"), None, None, Standing::Archived(DeepArchive)),
            (Some("INTELLIGENT_TIERING"), None, None, Standing::Readable),
            (Some("INTELLIGENT_TIERING"), Some("ARCHIVE_ACCESS"), None, Standing::Archived(ArchiveAccess)),
            (Some("INTELLIGENT_TIERING"), Some("ARCHIVE_ACCESS"), coming, Standing::Coming(ArchiveAccess)),
            (Some("INTELLIGENT_TIERING"), Some("DEEP_ARCHIVE_ACCESS"), None, Standing::Archived(DeepArchiveAccess)),
        ] {
            assert_eq!(standing(class, tier, copy), expected, "{class:?} {tier:?} {copy:?}");
        }
        for (class, expected) in [
            (None, None),
            (Some("STANDARD"), None),
            (Some("GLACIER_IR"), None),
            (Some("GLACIER"), Some(Cold::Archived(Glacier))),
            (Some("INTELLIGENT_TIERING"), Some(Cold::Tiered)),
        ] {
            assert_eq!(cold(class), expected, "{class:?}");
        }
    }
}
