//! What may pass is asked again, with patience; what may not is asked once.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lifeboat::vault::{Retrying, StoreError, put};
use tokio::io::AsyncReadExt;

use super::upload::{noise, read, write};
use crate::{
    support::{
        moto::{Kind, Moto, open, options},
        proxy::{Fate, Proxy, trouble},
    },
    vault::stores::{key, names},
};

type Fates = Arc<Mutex<Vec<Fate>>>;

/// A server whose next requests meet these fates, the last one first.
async fn faulty(moto: &Moto) -> (Proxy, Fates) {
    let fates = Fates::default();
    let next = Arc::clone(&fates);
    let proxy = Proxy::start(&moto.endpoint, move |_| next.lock().unwrap().pop().unwrap_or(Fate::Pass)).await;
    (proxy, fates)
}

#[tokio::test]
async fn passing_trouble_is_ridden_out() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let (proxy, fates) = faulty(&moto).await;
    let bare = open(options(&proxy.endpoint, "bkt")).await;
    let store = Retrying::new(Arc::new(bare.clone()), 5, Duration::from_millis(1));
    put(&store, &key("first"), "content").await.unwrap();
    let troubles: [fn() -> Fate; 8] = [
        || Fate::Answer(trouble(503, "SlowDown", "")),
        || Fate::Answer(trouble(503, "ServiceUnavailable", "")),
        || Fate::Answer(trouble(500, "InternalError", "")),
        || Fate::Answer(trouble(429, "TooManyRequests", "")),
        || Fate::Answer(trouble(408, "RequestTimeout", "")),
        || {
            Fate::Answer(
                "HTTP/1.1 502 Bad Gateway\r\nconnection: close\r\ncontent-length: 9\r\n\r\nno <html>".to_owned(),
            )
        },
        || Fate::HangUp,
        || Fate::CutAfter(5),
    ];
    for (nth, trouble) in troubles.iter().enumerate() {
        fates.lock().unwrap().push(trouble());
        let error = names_of(&bare).await.unwrap_err();
        assert!(!error.is_permanent(), "trouble {nth}: {error:?}");
        fates.lock().unwrap().extend([trouble(), trouble(), trouble()]);
        assert_eq!(names(&store, "first").await, ["first"], "trouble {nth}");
        fates.lock().unwrap().extend([trouble(), trouble()]);
        let name = format!("x{nth}");
        // Also when the upload succeeded and only its answer was cut off.
        put(&store, &key(&name), name.clone()).await.unwrap_or_else(|error| panic!("trouble {nth}: {error:?}"));
        assert_eq!(read(&store, &name).await, name.as_bytes());
    }
}

async fn names_of(store: &dyn lifeboat::vault::Store) -> Result<usize, StoreError> {
    store.list("").await.map(|found| found.len())
}

#[tokio::test]
async fn what_cannot_pass_is_asked_once() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    for (status, code) in [
        (400, "InvalidRequest"),
        (401, ""),
        (403, "AccessDenied"),
        (404, "NoSuchBucket"),
        (301, "PermanentRedirect"),
        (507, ""),
    ] {
        let proxy = Proxy::start(&moto.endpoint, move |head| {
            if head.contains("list-type=2") { Fate::Answer(trouble(status, code, "")) } else { Fate::Pass }
        })
        .await;
        let store = Retrying::new(Arc::new(open(options(&proxy.endpoint, "bkt")).await), 5, Duration::from_millis(1));
        let error = names_of(&store).await.unwrap_err();
        assert!(error.is_permanent(), "{status} {code}: {error:?}");
        assert_eq!(proxy.count("list-type=2"), 1, "{status} {code}");
    }
}

#[tokio::test]
async fn a_store_that_asks_for_time_is_given_it() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let (proxy, fates) = faulty(&moto).await;
    let store = Retrying::new(Arc::new(open(options(&proxy.endpoint, "bkt")).await), 3, Duration::from_millis(1));
    names_of(&store).await.unwrap();
    fates.lock().unwrap().push(Fate::Answer(trouble(503, "SlowDown", "retry-after: 1\r\n")));
    let begun = Instant::now();
    names_of(&store).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// The requests that take a download up again.
const AGAIN: &str = "range: bytes=";

/// A body that breaks off is taken up where it ended.
#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let moto = Moto::start().await;
    for kind in [Kind::Plain, Kind::Versioned] {
        let bucket = format!("bkt-{}", kind == Kind::Plain);
        let client = moto.bucket(&bucket, kind).await;
        let mut broken = 0;
        let proxy = Proxy::start(&moto.endpoint, move |head| {
            let reads = head.starts_with("GET /bkt-") && head.contains("/prod/x");
            broken += i32::from(reads);
            if reads && broken < 4 { Fate::CutAfter(40_000) } else { Fate::Pass }
        })
        .await;
        let store = open(options(&proxy.endpoint, &bucket)).await;
        let content = noise(300_000);
        write(&store, "x", &content).await.unwrap();
        if kind == Kind::Versioned {
            client.put_object().bucket(&bucket).key("prod/x").body(noise(9).into()).send().await.unwrap();
        }
        assert!(read(&store, "x").await == content);
        assert!(proxy.count(AGAIN) >= 2, "{}", proxy.count(AGAIN));
    }
}

/// One that never gives more is an error for who reads it, never a short object;
/// nor is it when the content is another meanwhile.
#[tokio::test]
async fn a_body_that_stays_broken_is_not_an_object() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let stuck = |head: &str| {
        if !head.starts_with("GET /bkt/prod/x") {
            return Fate::Pass;
        }
        // Later answers end in the middle of their headers.
        Fate::CutAfter(if head.contains(AGAIN) { 20 } else { 4096 })
    };
    let proxy = Proxy::start(&moto.endpoint, stuck).await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    put(&store, &key("x"), vec![7; 100_000]).await.unwrap();
    let mut found = Vec::new();
    let reader = lifeboat::vault::Store::read(&store, &key("x")).await;
    assert!(reader.unwrap().read_to_end(&mut found).await.is_err());
    assert!(found.len() < 100_000);

    let cut_once = |head: &str| {
        let first = head.starts_with("GET /bkt/prod/x") && !head.contains(AGAIN);
        if first { Fate::CutAfter(4096) } else { Fate::Pass }
    };
    let proxy = Proxy::start(&moto.endpoint, cut_once).await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let mut reader = lifeboat::vault::Store::read(&store, &key("x")).await.unwrap();
    client.put_object().bucket("bkt").key("prod/x").body(vec![8; 100_000].into()).send().await.unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).await.is_err(), "two contents are no object");
}
