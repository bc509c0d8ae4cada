//! What a bucket is set to, asked one after the other. What the credentials may not ask, and
//! what the store does not know, is part of the answer; only a store that does not answer
//! at all is an error.

use std::error::Error;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        Grant, IntelligentTieringConfiguration, IntelligentTieringStatus, ObjectOwnership, ReplicationRule,
        ReplicationRuleStatus, ServerSideEncryption,
    },
};

use super::{Bucket, failure::Ask, lifecycle};
use crate::{
    decide::bucket::{Encryption, PublicAccessBlock, Replica, Settings, Told, overlaps},
    domain::Region,
    vault::{Refusal, StoreError},
};

/// Whom an ACL names when it means everybody, or everybody with an account.
const EVERYBODY: [&str; 2] =
    ["http://acs.amazonaws.com/groups/global/AllUsers", "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"];
/// What a store says that has nothing of what was asked for. Any other answer, such as the
/// page of a proxy, tells nothing.
const NOT_SET: [&str; 7] = [
    "NoSuchBucketPolicy",
    "NoSuchConfiguration",
    "NoSuchLifecycleConfiguration",
    "NoSuchPublicAccessBlockConfiguration",
    "OwnershipControlsNotFoundError",
    "ReplicationConfigurationNotFoundError",
    "ServerSideEncryptionConfigurationNotFoundError",
];
/// Says where a bucket is, whoever asks.
const REGION: &str = "x-amz-bucket-region";

impl Bucket {
    pub(super) async fn all_settings(&self) -> Result<Settings, StoreError> {
        Ok(Settings {
            public_access: self.public_access().await?,
            is_policy_public: self.is_policy_public().await?,
            are_acls_off: self.are_acls_off().await?,
            is_acl_public: self.is_acl_public().await?,
            encryption: self.default_encryption().await?,
            aborts_uploads: self.aborts_uploads().await?,
            archiving: self.archiving().await?,
            replicas: self.replicas().await?,
        })
    }

    async fn public_access(&self) -> Result<Told<PublicAccessBlock>, StoreError> {
        let answer = self.clients.asker.get_public_access_block().bucket(&self.name).send().await;
        let told = self.told("read the Block Public Access of", "s3:GetBucketPublicAccessBlock", answer)?;
        Ok(told.map(|found| {
            let block = found.and_then(|found| found.public_access_block_configuration);
            block.map_or_else(PublicAccessBlock::default, |block| PublicAccessBlock {
                block_public_acls: block.block_public_acls().unwrap_or_default(),
                ignore_public_acls: block.ignore_public_acls().unwrap_or_default(),
                block_public_policy: block.block_public_policy().unwrap_or_default(),
                restrict_public_buckets: block.restrict_public_buckets().unwrap_or_default(),
            })
        }))
    }

    async fn is_policy_public(&self) -> Result<Told<bool>, StoreError> {
        let answer = self.clients.asker.get_bucket_policy_status().bucket(&self.name).send().await;
        let told = self.told("read the policy's status of", "s3:GetBucketPolicyStatus", answer)?;
        // Without a policy nobody is let in by one.
        Ok(told.map(|found| found.and_then(|found| found.policy_status?.is_public).unwrap_or_default()))
    }

    async fn are_acls_off(&self) -> Result<Told<bool>, StoreError> {
        let answer = self.clients.asker.get_bucket_ownership_controls().bucket(&self.name).send().await;
        let told = self.told("read the Object Ownership of", "s3:GetBucketOwnershipControls", answer)?;
        Ok(told.map(|found| {
            let rules = found.and_then(|found| found.ownership_controls).map(|controls| controls.rules);
            let is_enforced = |rules: Vec<aws_sdk_s3::types::OwnershipControlsRule>| {
                rules.iter().any(|rule| *rule.object_ownership() == ObjectOwnership::BucketOwnerEnforced)
            };
            rules.is_some_and(is_enforced)
        }))
    }

    async fn is_acl_public(&self) -> Result<Told<bool>, StoreError> {
        let answer = self.clients.asker.get_bucket_acl().bucket(&self.name).send().await;
        let told = self.told("read the ACL of", "s3:GetBucketAcl", answer)?;
        Ok(told.map(|found| found.is_some_and(|found| found.grants().iter().any(lets_everybody_in))))
    }

    async fn default_encryption(&self) -> Result<Told<Option<Encryption>>, StoreError> {
        let answer = self.clients.asker.get_bucket_encryption().bucket(&self.name).send().await;
        let told = self.told("read the default encryption of", "s3:GetEncryptionConfiguration", answer)?;
        Ok(told.map(|found| {
            let rule = found?.server_side_encryption_configuration?.rules.into_iter().next()?;
            let algorithm = rule.apply_server_side_encryption_by_default()?.sse_algorithm();
            Some(Encryption {
                is_kms: matches!(algorithm, ServerSideEncryption::AwsKms | ServerSideEncryption::AwsKmsDsse),
                has_bucket_key: rule.bucket_key_enabled().unwrap_or_default(),
            })
        }))
    }

    async fn aborts_uploads(&self) -> Result<Told<bool>, StoreError> {
        let answer = self.clients.asker.get_bucket_lifecycle_configuration().bucket(&self.name).send().await;
        let told = self.told("read the lifecycle rules of", "s3:GetLifecycleConfiguration", answer)?;
        Ok(told.map(|found| found.is_some_and(|found| lifecycle::aborts_uploads(found.rules(), &self.options.prefix))))
    }

    async fn archiving(&self) -> Result<Told<Vec<String>>, StoreError> {
        let answer =
            self.clients.asker.list_bucket_intelligent_tiering_configurations().bucket(&self.name).send().await;
        let told = self.told("read the tiering of", "s3:GetIntelligentTieringConfiguration", answer)?;
        Ok(told.map(|found| {
            let found = found.map(|found| found.intelligent_tiering_configuration_list.unwrap_or_default());
            let ours = found.unwrap_or_default().into_iter().filter(|one| archives(one, &self.options.prefix));
            ours.map(|one| format!("`{}`", one.id())).collect()
        }))
    }

    async fn replicas(&self) -> Result<Told<Vec<Replica>>, StoreError> {
        let answer = self.clients.asker.get_bucket_replication().bucket(&self.name).send().await;
        let told = self.told("read the replication of", "s3:GetReplicationConfiguration", answer)?;
        let rules = match told.map(|found| found.and_then(|found| found.replication_configuration)) {
            Told::Is(found) => found.map(|found| found.rules).unwrap_or_default(),
            Told::Denied { right } => return Ok(Told::Denied { right }),
            Told::Unknown => return Ok(Told::Unknown),
        };
        let mut replicas = Vec::new();
        for rule in rules.iter().filter(|rule| copies(rule, &self.options.prefix)) {
            let bucket = rule.destination().map(|to| to.bucket().rsplit(':').next().unwrap_or_default());
            let bucket = bucket.unwrap_or_default().to_owned();
            let region = self.region_of(&bucket).await;
            replicas.push(Replica { rule: rule.id().unwrap_or("without a name").to_owned(), bucket, region });
        }
        Ok(Told::Is(replicas))
    }

    /// Where another bucket is; none where nobody says it. A refusal tells it too.
    async fn region_of(&self, bucket: &str) -> Option<Region> {
        let told = match self.clients.asker.head_bucket().bucket(bucket).send().await {
            Ok(found) => found.bucket_region,
            Err(error) => error.raw_response().and_then(|raw| raw.headers().get(REGION)).map(str::to_owned),
        };
        told?.parse().ok()
    }

    /// What an answer about one setting comes to: none where it was never set.
    fn told<T, E>(
        &self,
        action: &'static str,
        right: &'static str,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<Told<Option<T>>, StoreError>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let error = match answer {
            Ok(found) => return Ok(Told::Is(Some(found))),
            Err(error) => error,
        };
        let status = error.raw_response().map(|raw| raw.status().as_u16());
        if let (SdkError::ResponseError(_), Some(200..=299)) = (&error, status) {
            // It has answered something else.
            return Ok(Told::Unknown);
        }
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        if code.is_some_and(|code| NOT_SET.contains(&code)) {
            return Ok(Told::Is(None));
        }
        match self.failed(Ask::bucket(action, right), &error) {
            StoreError::Refused { refusal, .. } if matches!(*refusal, Refusal::AccessDenied { .. }) => {
                Ok(Told::Denied { right })
            }
            StoreError::Refused { refusal, .. }
                if matches!(*refusal, Refusal::Other { .. } | Refusal::NotS3 { .. }) =>
            {
                Ok(Told::Unknown)
            }
            error => Err(error),
        }
    }
}

fn lets_everybody_in(grant: &Grant) -> bool {
    let uri = grant.grantee().and_then(|grantee| grantee.uri());
    uri.is_some_and(|uri| EVERYBODY.contains(&uri))
}

/// Whether it moves objects of ours to an archive; they carry no tags.
fn archives(configuration: &IntelligentTieringConfiguration, prefix: &str) -> bool {
    let filter = configuration.filter();
    let and = filter.and_then(|filter| filter.and());
    let is_tagged =
        filter.is_some_and(|filter| filter.tag().is_some()) || and.is_some_and(|and| !and.tags().is_empty());
    let covered = filter.and_then(|filter| filter.prefix()).or(and.and_then(|and| and.prefix())).unwrap_or_default();
    *configuration.status() == IntelligentTieringStatus::Enabled
        && !configuration.tierings().is_empty()
        && !is_tagged
        && overlaps(covered, prefix)
}

/// Whether it copies objects of ours; they carry no tags.
fn copies(rule: &ReplicationRule, prefix: &str) -> bool {
    let filter = rule.filter();
    let and = filter.and_then(|filter| filter.and());
    let is_tagged =
        filter.is_some_and(|filter| filter.tag().is_some()) || and.is_some_and(|and| !and.tags().is_empty());
    #[expect(deprecated, reason = "rules that were written before filters existed still have it")]
    let old = rule.prefix();
    let covered = filter.and_then(|filter| filter.prefix()).or(and.and_then(|and| and.prefix())).or(old);
    *rule.status() == ReplicationRuleStatus::Enabled && !is_tagged && overlaps(covered.unwrap_or_default(), prefix)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{
        Destination, IntelligentTieringAccessTier, IntelligentTieringAndOperator, IntelligentTieringFilter,
        ReplicationRuleFilter, Tag, Tiering,
    };

    use super::*;

    fn tag() -> Tag {
        Tag::builder().key("a").value("b").build().unwrap()
    }

    #[test]
    fn a_rule_that_copies_the_prefix_is_found_and_no_other() {
        let rule = |filter: ReplicationRuleFilter, status: ReplicationRuleStatus| {
            let to = Destination::builder().bucket("arn:aws:s3:::elsewhere").build().unwrap();
            ReplicationRule::builder().status(status).filter(filter).destination(to).build().unwrap()
        };
        let (on, off) = (ReplicationRuleStatus::Enabled, ReplicationRuleStatus::Disabled);
        let under = |prefix: &str| ReplicationRuleFilter::builder().prefix(prefix).build();
        for (rule, expected) in [
            (rule(under(""), on.clone()), true),
            (rule(under("prod/wallet/"), on.clone()), true),
            (rule(under("test/"), on.clone()), false),
            (rule(under(""), off), false),
            (rule(ReplicationRuleFilter::builder().tag(tag()).build(), on), false),
        ] {
            assert_eq!(copies(&rule, "prod/"), expected, "{rule:?}");
        }
    }

    #[test]
    fn tiering_that_archives_the_prefix_is_found_and_no_other() {
        let tier =
            Tiering::builder().days(90).access_tier(IntelligentTieringAccessTier::ArchiveAccess).build().unwrap();
        let configuration = |filter: Option<IntelligentTieringFilter>, status: IntelligentTieringStatus| {
            let one = IntelligentTieringConfiguration::builder().id("old").set_filter(filter).status(status);
            one.tierings(tier.clone()).build().unwrap()
        };
        let (on, off) = (IntelligentTieringStatus::Enabled, IntelligentTieringStatus::Disabled);
        let under = |prefix: &str| Some(IntelligentTieringFilter::builder().prefix(prefix).build());
        let and = IntelligentTieringAndOperator::builder().prefix("prod/").tags(tag()).build();
        for (configuration, expected) in [
            (configuration(None, on.clone()), true),
            (configuration(under("prod/"), on.clone()), true),
            (configuration(under("test/"), on.clone()), false),
            (configuration(None, off), false),
            (configuration(Some(IntelligentTieringFilter::builder().and(and).build()), on), false),
        ] {
            assert_eq!(archives(&configuration, "prod/"), expected, "{configuration:?}");
        }
    }
}
