//! One clear error for each thing that is wrong: it names the vault, the bucket,
//! the object and the remedy, and never a secret.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat::{
    aws::{AccessKey, KeySource},
    domain::with_causes,
    vault::{
        Refusal, Store, StoreError, put,
        s3::{LockMode, S3Options},
    },
};

use crate::{
    support::{
        free_port,
        moto::{KEY_ID, Kind, Moto, SECRET, open, options},
        proxy::{Fate, Proxy, trouble},
    },
    vault::stores::key,
};

/// What the error says, whole; it must be one that nothing but a person mends.
fn told(error: &StoreError) -> String {
    let text = with_causes(error);
    assert!(error.is_permanent(), "{text}");
    assert!(text.contains("`dr`"), "the vault is not named: {text}");
    assert!(!text.contains(SECRET) && !format!("{error:?}").contains(SECRET), "{text}");
    text
}

fn refusal(error: &StoreError) -> &Refusal {
    match error {
        StoreError::Refused { refusal, .. } => refusal,
        other => panic!("{other:?}"),
    }
}

/// The error of the first write when the server answers it so.
async fn answered(moto: &Moto, status: u16, code: &'static str, headers: &'static str) -> StoreError {
    let proxy = Proxy::start(&moto.endpoint, move |head| {
        if head.starts_with("PUT ") { Fate::Answer(trouble(status, code, headers)) } else { Fate::Pass }
    })
    .await;
    put(&open(options(&proxy.endpoint, "bkt")).await, &key("wallet/x"), "x").await.unwrap_err()
}

#[tokio::test]
async fn each_answer_of_the_store_has_its_remedy() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    for (status, code, headers, words) in [
        (403, "AccessDenied", "", ["`wallet/x`", "`bkt`", "allow `s3:PutObject`"]),
        (403, "SignatureDoesNotMatch", "", ["`wallet/x`", "`bkt`", "replace them"]),
        (403, "InvalidAccessKeyId", "", ["`wallet/x`", "`bkt`", "replace them"]),
        (400, "ExpiredToken", "", ["`wallet/x`", "ExpiredToken", "replace them"]),
        (403, "RequestTimeTooSkewed", "", ["`wallet/x`", "clock", "NTP"]),
        (404, "NoSuchBucket", "", ["`wallet/x`", "`bkt`", "correct `bucket`"]),
        (
            301,
            "PermanentRedirect",
            "x-amz-bucket-region: us-west-2\r\n",
            ["`us-west-2`", "`eu-central-1`", "correct `region`"],
        ),
        (400, "AuthorizationHeaderMalformed", "", ["`bkt`", "`eu-central-1`", "correct `region`"]),
        (400, "KMS.NotFoundException", "", ["`wallet/x`", "KMS.NotFoundException", "name another under `encryption`"]),
    ] {
        let error = answered(&moto, status, code, headers).await;
        let text = told(&error);
        assert!(words.iter().all(|word| text.contains(word)), "{status} {code}: {text}");
    }
    for (status, code) in [(507, ""), (507, "XMinioStorageFull"), (403, "QuotaExceeded")] {
        let error = answered(&moto, status, code, "").await;
        assert!(matches!(error, StoreError::Full { .. }) && told(&error).contains("free space"), "{error:?}");
    }
}

#[tokio::test]
async fn a_wrong_bucket_or_region_is_told_before_a_byte_is_sent() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
    let missing = open(options(&proxy.endpoint, "no-such-bucket")).await;
    for error in [missing.probe().await.unwrap_err(), put(&missing, &key("x"), "x").await.unwrap_err()] {
        assert!(matches!(refusal(&error), Refusal::NoBucket { .. }), "{error}");
        assert!(told(&error).contains("`no-such-bucket` does not exist at http://127.0.0.1"), "{error}");
    }
    let elsewhere = open(S3Options { region: "eu-south-1".parse().unwrap(), ..options(&proxy.endpoint, "bkt") }).await;
    for error in [elsewhere.probe().await.unwrap_err(), put(&elsewhere, &key("x"), "x").await.unwrap_err()] {
        assert!(matches!(refusal(&error), Refusal::WrongRegion { .. }), "{error}");
        let text = told(&error);
        assert!(text.contains("`eu-central-1`, and `eu-south-1` is configured"), "{text}");
    }
    assert!(!elsewhere.place().region_verified);
    assert_eq!(proxy.count("PUT "), 0, "nothing was sent");
    // A store that calls its regions otherwise is signed for by its own name, and only declared.
    let renamed = S3Options {
        region: "eu-south-1".parse().unwrap(),
        signing_region: Some("eu-central-1".to_owned()),
        ..options(&proxy.endpoint, "bkt")
    };
    let renamed = open(renamed).await;
    let findings = renamed.probe().await.unwrap();
    assert!(!renamed.place().region_verified);
    assert!(findings.iter().any(|finding| finding.contains("`eu-south-1` is only declared")), "{findings:?}");
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_on_may_come_back() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let error = open(options(&endpoint, "bkt")).await.list("").await.unwrap_err();
    assert!(!error.is_permanent(), "{error:?}");
    let text = with_causes(&error);
    assert!(["`dr`", "`bkt`", &endpoint, "check `endpoint`"].iter().all(|word| text.contains(*word)), "{text}");
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_given_up() {
    // Connections are accepted, in the backlog, and nobody answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let limit = Duration::from_millis(300);
    let store = open(S3Options { request_limit: limit, ..options(&endpoint, "bkt") }).await;
    let begun = Instant::now();
    for result in [store.list("").await.map(drop), put(&store, &key("x"), "x").await.map(drop)] {
        let error = result.unwrap_err();
        assert!(!error.is_permanent(), "{error:?}");
        assert!(with_causes(&error).contains("did not answer in time"), "{}", with_causes(&error));
    }
    assert!(begun.elapsed() >= limit);
}

#[derive(Debug)]
struct Missing;

#[async_trait::async_trait]
impl KeySource for Missing {
    async fn key(&self) -> Result<AccessKey, Box<dyn Error + Send + Sync>> {
        Err("the environment variable `DR_SECRET` is not set".into())
    }
}

#[tokio::test]
async fn missing_credentials_are_told_by_their_reference() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let store = open(S3Options { credentials: Some(Arc::new(Missing)), ..options(&moto.endpoint, "bkt") }).await;
    let error = store.list("").await.unwrap_err();
    assert!(matches!(refusal(&error), Refusal::NoCredential { .. }), "{error:?}");
    let text = told(&error);
    assert!(text.contains("`DR_SECRET` is not set") && text.contains("write `credentials`"), "{text}");
}

/// The server checks signatures and rights here.
#[tokio::test]
async fn credentials_that_the_store_does_not_know_are_told() {
    let moto = Moto::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")]).await;
    moto.bucket("bkt", Kind::Plain).await;
    let error = open(options(&moto.endpoint, "bkt")).await.list("").await.unwrap_err();
    assert!(matches!(refusal(&error), Refusal::WrongCredential { .. }), "{error:?}");
    let text = told(&error);
    assert!(text.contains("replace them") && text.contains("InvalidAccessKeyId"), "{text}");
}

#[tokio::test]
async fn locks_need_a_bucket_that_has_them() {
    let moto = Moto::start().await;
    for (bucket, kind, lacks) in
        [("plain", Kind::Plain, "keeps no versions"), ("bkt", Kind::Versioned, "has no Object Lock")]
    {
        moto.bucket(bucket, kind).await;
        for mode in [LockMode::Governance, LockMode::Compliance] {
            let store = open(S3Options { object_lock: Some(mode), ..options(&moto.endpoint, bucket) }).await;
            let error = store.probe().await.unwrap_err();
            assert!(matches!(refusal(&error), Refusal::NoLock { .. }), "{error:?}");
            let text = told(&error);
            assert!(text.contains(&format!("`{bucket}` {lacks}")) && text.contains("remove `object_lock`"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_store_shows_no_secret_of_its_own() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let store = open(options(&moto.endpoint, "bkt")).await;
    put(&store, &key("x"), "x").await.unwrap();
    let shown = format!("{store:?}");
    assert!(!shown.contains(SECRET) && !shown.contains(KEY_ID) || !shown.contains(SECRET), "{shown}");
    let access = AccessKey { id: KEY_ID.to_owned(), secret: SECRET.into(), session_token: Some(SECRET.into()) };
    assert!(!format!("{access:?}").contains(SECRET));
}

/// A login page or a proxy between us and the store.
#[tokio::test]
async fn what_does_not_speak_s3_is_told_as_that() {
    let moto = Moto::start().await;
    let page = "content-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
    for line in ["200 OK", "302 Found\r\nlocation: /login", "400 Bad Request"] {
        let proxy = Proxy::start(&moto.endpoint, move |_| Fate::Answer(format!("HTTP/1.1 {line}\r\n{page}"))).await;
        let error = open(options(&proxy.endpoint, "bkt")).await.list("wallet/").await.unwrap_err();
        let text = told(&error);
        assert!(matches!(refusal(&error), Refusal::NotS3 { .. }), "{line}: {text}");
        assert!(text.contains("text/html") && text.contains(&proxy.endpoint), "{text}");
    }
}
