//! What the probe proves, finds and refuses. The server accepts wrong checksums:
//! the probe must say so of it, and must not of one that refuses them, which a
//! proxy stands for.

use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, DefaultRetention, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule,
};
use lifeboat::vault::{
    Refusal, Store, StoreError,
    s3::{LockMode, S3Options},
};

use crate::support::{
    moto::{Kind, Moto, open, options},
    proxy::{Fate, Proxy, trouble},
};

const WRONG_SUM: &str = "accepts an upload with a wrong SHA-256";

async fn everything(client: &aws_sdk_s3::Client) -> Vec<String> {
    let found = client.list_object_versions().bucket("bkt").send().await.unwrap();
    let marks = found.delete_markers().iter().map(|mark| mark.key().unwrap().to_owned());
    found.versions().iter().map(|version| version.key().unwrap().to_owned()).chain(marks).collect()
}

#[tokio::test]
async fn what_the_emulator_lacks_is_said_and_nothing_is_left() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Versioned).await;
    let findings = open(options(&moto.endpoint, "bkt")).await.probe().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains(WRONG_SUM), "{findings:?}");
    assert!(everything(&client).await.is_empty());
}

#[tokio::test]
async fn a_store_that_checks_digests_gives_no_finding() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Versioned).await;
    let proxy = Proxy::start(&moto.endpoint, |head| {
        if head.contains(".damaged") && head.starts_with("PUT ") {
            assert!(head.contains("x-amz-checksum-sha256:"), "{head}");
            return Fate::Answer(trouble(400, "BadDigest", ""));
        }
        Fate::Pass
    })
    .await;
    assert_eq!(open(options(&proxy.endpoint, "bkt")).await.probe().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_bucket_without_versions_is_told() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let findings = open(options(&moto.endpoint, "bkt")).await.probe().await.unwrap();
    assert!(findings.iter().any(|finding| finding.contains("switch versioning on")), "{findings:?}");
    assert!(everything(&client).await.is_empty());
}

/// A store that does not honour the condition, on either of the two requests
/// that make an object visible.
#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    for (method, how) in [("PUT ", "PutObject"), ("POST ", "CompleteMultipartUpload")] {
        for kind in [Kind::Plain, Kind::Versioned] {
            let moto = Moto::start().await;
            let client = moto.bucket("bkt", kind).await;
            let proxy = Proxy::start(&moto.endpoint, move |head| {
                let kept = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("if-none-match:"));
                if head.starts_with(method) { Fate::Change(kept.collect::<Vec<_>>().join("\r\n")) } else { Fate::Pass }
            })
            .await;
            let error = open(options(&proxy.endpoint, "bkt")).await.probe().await.unwrap_err();
            let StoreError::Refused { refusal, .. } = &error else { panic!("{error:?}") };
            assert_eq!(**refusal, Refusal::Overwrites { how }, "{kind:?}");
            assert!(error.to_string().contains("cannot hold a vault"), "{error}");
            assert!(everything(&client).await.is_empty(), "the trial is gone, all of it");
        }
    }
}

#[tokio::test]
async fn locks_are_tried_in_governance_mode_and_read_in_compliance_mode() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Locking).await;
    let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
    for (mode, tried) in [(LockMode::Governance, 1), (LockMode::Compliance, 0)] {
        let before = proxy.count("PUT /bkt/prod/lifeboat-probe-") - proxy.count("?retention");
        let locks = proxy.count("?retention");
        let store = open(S3Options { object_lock: Some(mode), ..options(&proxy.endpoint, "bkt") }).await;
        let findings = store.probe().await.unwrap();
        let puts = proxy
            .seen
            .lock()
            .unwrap()
            .iter()
            .filter(|head| head.starts_with("PUT ") && head.contains("?retention"))
            .count();
        assert_eq!(puts > 0, tried > 0 || locks > 0, "{mode:?} after {before}");
        let read = findings.iter().any(|finding| finding.contains("compliance locks hold is taken from"));
        assert_eq!(read, mode == LockMode::Compliance, "{findings:?}");
        assert!(everything(&client).await.is_empty(), "{mode:?}");
    }
}

/// A store whose locks do not hold.
#[tokio::test]
async fn a_lock_that_does_not_hold_is_refused() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Locking).await;
    // What deletes, deletes as if with the right to lift locks.
    let proxy = Proxy::start(&moto.endpoint, |head| {
        if head.starts_with("DELETE ") && !head.contains("x-amz-bypass-governance-retention") {
            return Fate::Change(format!("{head}\r\nx-amz-bypass-governance-retention: true"));
        }
        Fate::Pass
    })
    .await;
    let locking = S3Options { object_lock: Some(LockMode::Governance), ..options(&proxy.endpoint, "bkt") };
    let error = open(locking).await.probe().await.unwrap_err();
    assert!(error.to_string().contains("could be deleted; do not rely on the locks"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_locks_everything_is_told_and_keeps_one_trial() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Locking).await;
    let rule = DefaultRetention::builder().mode(ObjectLockRetentionMode::Governance).days(30).build();
    let locked = ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(ObjectLockRule::builder().default_retention(rule).build())
        .build();
    client.put_object_lock_configuration().bucket("bkt").object_lock_configuration(locked).send().await.unwrap();
    let store = open(options(&moto.endpoint, "bkt")).await;
    for _ in 0..2 {
        let findings = store.probe().await.unwrap();
        let told = findings.iter().find(|finding| finding.contains("locks every new object")).unwrap();
        assert!(told.contains("30 days in governance mode"), "{told}");
    }
    let mut left = everything(&client).await;
    left.sort();
    assert_eq!(left, ["prod/lifeboat-probe-kept", "prod/lifeboat-probe-kept.damaged"]);
}

#[tokio::test]
async fn a_lifecycle_rule_over_our_prefix_is_found() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    for (prefix, found) in [("prod/", true), ("", true), ("test/", false)] {
        let rule = LifecycleRule::builder()
            .id("tidy")
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
            .expiration(LifecycleExpiration::builder().days(30).build())
            .build()
            .unwrap();
        let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
        client.put_bucket_lifecycle_configuration().bucket("bkt").lifecycle_configuration(rules).send().await.unwrap();
        let probed = open(options(&moto.endpoint, "bkt")).await.probe().await;
        let told = probed.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(told.contains("would delete objects of this vault by itself"), found, "{prefix}: {probed:?}");
        assert_eq!(told.contains("`tidy`"), found, "{prefix}: {probed:?}");
        assert_eq!(probed.is_err_and(|error| error.is_weakness()), found, "{prefix}");
    }
}

/// Who may not read the rules is told so, and goes on.
#[tokio::test]
async fn rules_that_nobody_may_read_are_told() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let proxy = Proxy::start(&moto.endpoint, |head| {
        let asks = head.contains("?lifecycle") || head.contains("?object-lock");
        if asks { Fate::Answer(trouble(403, "AccessDenied", "")) } else { Fate::Pass }
    })
    .await;
    let findings = open(options(&proxy.endpoint, "bkt")).await.probe().await.unwrap();
    assert!(findings.iter().any(|finding| finding.contains("allow `s3:GetLifecycleConfiguration`")), "{findings:?}");
    let locking = S3Options { object_lock: Some(LockMode::Governance), ..options(&proxy.endpoint, "bkt") };
    let error = open(locking).await.probe().await.unwrap_err();
    assert!(error.to_string().contains("allow `s3:GetBucketObjectLockConfiguration`"), "{error}");
}

/// A node that may write and not delete can protect, and is told what stays.
#[tokio::test]
async fn credentials_that_may_not_delete_are_told() {
    let moto = Moto::start().await;
    for (bucket, kind) in [("plain", Kind::Plain), ("versioned", Kind::Versioned)] {
        moto.bucket(bucket, kind).await;
        let proxy = Proxy::start(&moto.endpoint, |head| {
            if head.starts_with("DELETE ") { Fate::Answer(trouble(403, "AccessDenied", "")) } else { Fate::Pass }
        })
        .await;
        let findings = open(options(&proxy.endpoint, bucket)).await.probe().await.unwrap();
        assert!(findings.iter().any(|finding| finding.contains("may not delete")), "{bucket}: {findings:?}");
    }
}

/// The probe writes with the configured key, and so tells whether it can be used.
#[tokio::test]
async fn a_key_that_cannot_be_used_is_told() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    for (answer, words) in [
        (
            trouble(400, "KMS.DisabledException", ""),
            "cannot encrypt with the key `alias/backups` (KMS.DisabledException)",
        ),
        (
            trouble(403, "AccessDenied", ""),
            "allow `s3:PutObject` with `kms:GenerateDataKey` and `kms:Decrypt` on `bkt`",
        ),
    ] {
        let proxy = Proxy::start(&moto.endpoint, move |head| {
            let names_it = head.contains("x-amz-server-side-encryption-aws-kms-key-id: alias/backups");
            if head.starts_with("PUT ") && names_it { Fate::Answer(answer.clone()) } else { Fate::Pass }
        })
        .await;
        let keyed = S3Options { kms_key: Some("alias/backups".to_owned()), ..options(&proxy.endpoint, "bkt") };
        let error = open(keyed).await.probe().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
