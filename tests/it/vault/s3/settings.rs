//! What a bucket is set to, asked over HTTP and judged.

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, Destination, ExpirationStatus, LifecycleRule,
        LifecycleRuleFilter, ObjectOwnership, OwnershipControls, OwnershipControlsRule, PublicAccessBlockConfiguration,
        ReplicationConfiguration, ReplicationRule, ReplicationRuleFilter, ReplicationRuleStatus, ServerSideEncryption,
        ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
    },
};
use lifeboat::{
    decide::bucket::{Judged, Told, judge},
    domain::Residency,
    vault::Bucket,
};

use crate::support::{
    moto::{KEY_ID, Kind, Moto, SECRET, open, options},
    proxy::{Fate, Proxy, trouble},
};

fn europe() -> Residency {
    Residency { jurisdiction: "EU".to_owned(), regions: vec!["eu-central-1".parse().unwrap()] }
}

async fn judged(endpoint: &str) -> Vec<Judged> {
    let settings = open(options(endpoint, "bkt")).await.settings().await.unwrap();
    judge(&settings, false, Some(&europe()))
}

fn tells(judged: &[Judged], words: &str) -> bool {
    let told = |one: &Judged| match one {
        Judged::Problem(told) | Judged::Note(told) => told.contains(words),
    };
    judged.iter().any(told)
}

/// All that a careful person sets.
async fn harden(client: &Client) {
    let block = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(true)
        .restrict_public_buckets(true)
        .build();
    client.put_public_access_block().bucket("bkt").public_access_block_configuration(block).send().await.unwrap();
    let rule = OwnershipControlsRule::builder().object_ownership(ObjectOwnership::BucketOwnerEnforced).build().unwrap();
    let controls = OwnershipControls::builder().rules(rule).build().unwrap();
    client.put_bucket_ownership_controls().bucket("bkt").ownership_controls(controls).send().await.unwrap();
    let days = AbortIncompleteMultipartUpload::builder().days_after_initiation(7).build();
    let rule = LifecycleRule::builder()
        .id("tidy")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .abort_incomplete_multipart_upload(days)
        .build()
        .unwrap();
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    client.put_bucket_lifecycle_configuration().bucket("bkt").lifecycle_configuration(rules).send().await.unwrap();
    encrypt(client, true).await;
}

async fn encrypt(client: &Client, has_bucket_key: bool) {
    let by_default = ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::AwsKms).build();
    let rule = ServerSideEncryptionRule::builder()
        .apply_server_side_encryption_by_default(by_default.unwrap())
        .bucket_key_enabled(has_bucket_key)
        .build();
    let configuration = ServerSideEncryptionConfiguration::builder().rules(rule).build().unwrap();
    let put = client.put_bucket_encryption().bucket("bkt").server_side_encryption_configuration(configuration);
    put.send().await.unwrap();
}

#[tokio::test]
async fn a_bare_bucket_lacks_much_and_a_hardened_one_nothing() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Versioned).await;
    let bare = judged(&moto.endpoint).await;
    for words in
        ["lacks BlockPublicAcls", "set its Object Ownership", "set a default encryption", "aborts incomplete uploads"]
    {
        assert!(tells(&bare, words), "{words}: {bare:?}");
    }
    assert!(bare.iter().all(|one| matches!(one, Judged::Note(_))), "nothing of it is public: {bare:?}");
    harden(&client).await;
    let hardened = judged(&moto.endpoint).await;
    // The emulator knows nothing of tiering, and that is told.
    let [Judged::Note(told)] = hardened.as_slice() else { panic!("{hardened:?}") };
    assert!(told.contains("does not answer it: whether Intelligent-Tiering archives;"), "{told}");
    encrypt(&client, false).await;
    assert!(tells(&judged(&moto.endpoint).await, "switch its bucket key on"));
}

#[tokio::test]
async fn a_policy_or_an_acl_for_everybody_is_a_problem() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let policy = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bkt/*"}]}"#;
    client.put_bucket_policy().bucket("bkt").policy(policy).send().await.unwrap();
    let found = judged(&moto.endpoint).await;
    assert!(matches!(&found[0], Judged::Problem(told) if told.contains("its policy lets everybody in")), "{found:?}");
    client.delete_bucket_policy().bucket("bkt").send().await.unwrap();
    client.put_bucket_acl().bucket("bkt").acl(aws_sdk_s3::types::BucketCannedAcl::PublicRead).send().await.unwrap();
    let found = judged(&moto.endpoint).await;
    assert!(matches!(&found[0], Judged::Problem(told) if told.contains("its ACL lets everybody in")), "{found:?}");
}

/// The region of the other bucket is what the store says of it.
#[tokio::test]
async fn a_copy_outside_of_the_residency_is_a_problem() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Versioned).await;
    moto.bucket("near", Kind::Versioned).await;
    let elsewhere = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
        .endpoint_url(&moto.endpoint)
        .force_path_style(true)
        .build();
    Client::from_conf(elsewhere).create_bucket().bucket("far").send().await.unwrap();
    for (to, is_problem, words) in [
        ("far", true, "to `far` in `us-east-1`, which is outside of `EU`"),
        ("near", false, "to `near` in `eu-central-1`"),
        ("gone", true, "to `gone`, and whether that is in `EU` could not be checked"),
    ] {
        let rule = ReplicationRule::builder()
            .id("away")
            .priority(1)
            .status(ReplicationRuleStatus::Enabled)
            .filter(ReplicationRuleFilter::builder().prefix("").build())
            .destination(Destination::builder().bucket(format!("arn:aws:s3:::{to}")).build().unwrap())
            .build()
            .unwrap();
        let configuration = ReplicationConfiguration::builder().role("arn:aws:iam::123456789012:role/copy").rules(rule);
        let put = client.put_bucket_replication().bucket("bkt");
        put.replication_configuration(configuration.build().unwrap()).send().await.unwrap();
        let found = judged(&moto.endpoint).await;
        assert!(tells(&found, words), "{to}: {found:?}");
        assert_eq!(found.iter().any(|one| matches!(one, Judged::Problem(_))), is_problem, "{to}: {found:?}");
    }
}

#[tokio::test]
async fn what_may_not_be_asked_is_told_with_the_right_for_it() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    harden(&client).await;
    let proxy = Proxy::start(&moto.endpoint, |head| {
        let asks = ["?publicAccessBlock", "?policyStatus", "?ownershipControls", "?acl", "?encryption", "?replication"];
        let is_asked = asks.iter().any(|ask| head.contains(ask));
        if is_asked { Fate::Answer(trouble(403, "AccessDenied", "")) } else { Fate::Pass }
    })
    .await;
    let settings = open(options(&proxy.endpoint, "bkt")).await.settings().await.unwrap();
    assert_eq!(settings.is_policy_public, Told::Denied { right: "s3:GetBucketPolicyStatus" });
    let found = judge(&settings, false, None);
    for right in [
        "s3:GetBucketPublicAccessBlock",
        "s3:GetBucketPolicyStatus",
        "s3:GetBucketOwnershipControls",
        "s3:GetBucketAcl",
        "s3:GetEncryptionConfiguration",
        "s3:GetReplicationConfiguration",
    ] {
        assert!(tells(&found, &format!("could not be checked: allow `{right}`")), "{right}: {found:?}");
    }
}
