//! Where a bucket really is. The store is asked before the first object is
//! written, so that no byte leaves for a region that nobody agreed to.

use super::{Bucket, failure::Ask};
use crate::vault::{Place, Refusal, StoreError};

impl Bucket {
    /// With what the store told of its region, once it was asked.
    pub(super) fn place(&self) -> &Place {
        self.verified.get().and_then(Option::as_ref).unwrap_or(&self.declared)
    }

    /// Asks the store for the bucket's region, once; an error when it is another one.
    pub(super) async fn verify_region(&self) -> Result<(), StoreError> {
        self.verified.get_or_try_init(|| self.look_for_region()).await.map(drop)
    }

    /// Whether this is the configured region, by either of its names.
    pub(super) fn is_home(&self, region: &str) -> bool {
        region.eq_ignore_ascii_case(self.declared.region.as_str())
            || self.options.signing_region.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(region))
    }

    /// None where the store does not tell, or names its regions otherwise.
    async fn look_for_region(&self) -> Result<Option<Place>, StoreError> {
        let ask = Ask::bucket("look at", "s3:ListBucket");
        let told = match self.clients.asker.head_bucket().bucket(&self.name).send().await {
            Ok(found) => found.bucket_region,
            Err(error) => match self.failed(ask, &error) {
                // Who may not look may still be allowed to ask where.
                StoreError::Refused { refusal, .. } if matches!(*refusal, Refusal::AccessDenied { .. }) => None,
                error => return Err(error),
            },
        };
        let Some(region) = self.location(told).await? else { return Ok(None) };
        if !self.is_home(&region) {
            return Err(self.refused(ask, self.wrong_region(&region)));
        }
        let is_verified = region.eq_ignore_ascii_case(self.declared.region.as_str());
        Ok(is_verified.then(|| Place { region_verified: true, ..self.declared.clone() }))
    }

    async fn location(&self, told: Option<String>) -> Result<Option<String>, StoreError> {
        if let Some(region) = told.filter(|region| !region.is_empty()) {
            return Ok(Some(region));
        }
        let ask = Ask::bucket("find the region of", "s3:GetBucketLocation");
        let found = match self.clients.asker.get_bucket_location().bucket(&self.name).send().await {
            Ok(found) => found,
            Err(error) => match self.failed(ask, &error) {
                StoreError::Refused { refusal, .. }
                    if matches!(*refusal, Refusal::AccessDenied { .. } | Refusal::Other { .. }) =>
                {
                    return Ok(None);
                }
                error => return Err(error),
            },
        };
        let name = found.location_constraint.map(|constraint| constraint.as_str().to_owned());
        Ok(match name.as_deref() {
            // Amazon's oldest two regions have names of their own here; others say nothing by it.
            None | Some("") if self.options.endpoint.is_none() => Some("us-east-1".to_owned()),
            Some("EU") => Some("eu-west-1".to_owned()),
            None | Some("") => None,
            Some(_) => name,
        })
    }
}
