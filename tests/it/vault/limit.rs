//! Limits on bytes and calls, measured.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat::{
    domain::ByteSize,
    vault::{Limited, Limits, Store, put},
};
use tokio::io::AsyncReadExt;

use super::{
    fixture::memory,
    stores::{conforms, key},
};

#[tokio::test]
async fn limited_conforms() {
    let few = NonZeroU32::new(1);
    let some = Some(ByteSize::from_bytes(50 << 20));
    let limits = Limits { upload: some, download: some, requests: NonZeroU32::new(1000), concurrent: few };
    conforms(&Limited::new(memory(), limits)).await;
    conforms(&Limited::new(memory(), Limits::default())).await;
}

/// Bytes pass at the rate that is allowed: no faster, and not much slower.
#[tokio::test]
async fn bytes_pass_at_the_rate_that_is_allowed() {
    let rate = ByteSize::from_bytes(1 << 20);
    let inner = memory();
    let content = vec![7_u8; 1 << 20];
    let about_a_second = |took: Duration, what: &str| {
        assert!(took > Duration::from_millis(900), "{what} took {took:?}");
        assert!(took < Duration::from_secs(10), "{what} took {took:?}");
    };
    let up = Limited::new(inner.clone(), Limits { upload: Some(rate), ..Limits::default() });
    let begun = Instant::now();
    put(&up, &key("a"), content.clone()).await.unwrap();
    about_a_second(begun.elapsed(), "an upload");
    // Two at once share it.
    let begun = Instant::now();
    let half = || vec![7_u8; 1 << 19];
    let (left, right) = (key("left"), key("right"));
    let (a, b) = tokio::join!(put(&up, &left, half()), put(&up, &right, half()));
    a.unwrap();
    b.unwrap();
    about_a_second(begun.elapsed(), "two uploads");
    let (mut found, mut took) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begun = Instant::now();
        found.clear();
        up.read(&key("a")).await.unwrap().read_to_end(&mut found).await.unwrap();
        took.push(begun.elapsed());
    }
    assert!(took.iter().any(|took| *took < Duration::from_millis(900)), "the way back is not limited: {took:?}");
    let down = Limited::new(inner, Limits { download: Some(rate), ..Limits::default() });
    let begun = Instant::now();
    found.clear();
    down.read(&key("a")).await.unwrap().read_to_end(&mut found).await.unwrap();
    about_a_second(begun.elapsed(), "a download");
    assert!(found == content);
}

#[tokio::test]
async fn calls_are_spread_over_time() {
    let limits = Limits { requests: NonZeroU32::new(20), ..Limits::default() };
    let store = Arc::new(Limited::new(memory(), limits));
    let begun = Instant::now();
    let calls = (0..21).map(|_| {
        let store = Arc::clone(&store);
        async move { store.list("").await.unwrap() }
    });
    futures::future::join_all(calls).await;
    assert!(begun.elapsed() > Duration::from_millis(950), "{:?}", begun.elapsed());
}
