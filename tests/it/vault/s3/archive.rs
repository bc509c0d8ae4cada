//! Objects in an archive, over HTTP. The emulator is told how many looks a copy takes; where
//! it knows nothing, as of tiers, a proxy answers.

use std::time::Duration;

use aws_sdk_s3::types::StorageClass;
use lifeboat::{
    domain::archive::{ArchiveClass, Cold, Retrieval, Thawing},
    vault::{Bucket, Standing, Store, StoreError, put, s3::S3Options},
};

use super::upload::read;
use crate::{
    support::{
        eventually,
        moto::{Kind, Moto, open, options},
        proxy::{Fate, Proxy, trouble},
    },
    vault::stores::key,
};

#[tokio::test]
async fn an_object_in_an_archive_is_refused_asked_for_and_read() {
    for (kind, class, archive) in [
        (Kind::Plain, StorageClass::Glacier, ArchiveClass::Glacier),
        (Kind::Versioned, StorageClass::DeepArchive, ArchiveClass::DeepArchive),
    ] {
        let moto = Moto::start_with(&[("MOTO_THAW_LOOKS", "1")]).await;
        moto.bucket("bkt", kind).await;
        let store =
            open(S3Options { storage_class: Some(class.as_str().to_owned()), ..options(&moto.endpoint, "bkt") }).await;
        put(&store, &key("a"), "content").await.unwrap();
        let listed = store.list("").await.unwrap();
        assert_eq!(listed[0].cold, Some(Cold::Archived(archive)));
        let refused = store.read(&key("a")).await.err().unwrap();
        assert!(matches!(refused, StoreError::Archived { class: Some(class), .. } if class == archive), "{refused}");
        assert!(refused.is_permanent() && refused.to_string().contains(class.as_str()), "{refused}");
        assert_eq!(store.standing(&key("a")).await.unwrap(), Standing::Archived(archive));
        store.thaw(&key("a"), archive).await.unwrap();
        assert_eq!(store.standing(&key("a")).await.unwrap(), Standing::Coming(archive));
        store.thaw(&key("a"), archive).await.unwrap();
        let is_there = || async { store.standing(&key("a")).await.unwrap() == Standing::Readable };
        eventually("the copy can be read", Duration::from_secs(30), is_there).await;
        assert_eq!(read(&store, "a").await, b"content");
        assert!(matches!(store.standing(&key("none")).await, Err(StoreError::NotFound { .. })));
    }
}

#[tokio::test]
async fn what_is_readable_is_neither_cold_nor_asked_for_in_vain() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    for (class, cold) in [("STANDARD_IA", None), ("GLACIER_IR", None), ("INTELLIGENT_TIERING", Some(Cold::Tiered))] {
        let chosen = S3Options { storage_class: Some(class.to_owned()), ..options(&moto.endpoint, "bkt") };
        let store = open(chosen).await;
        put(&store, &key(class), "content").await.unwrap();
        assert_eq!(store.list(class).await.unwrap()[0].cold, cold, "{class}");
        assert_eq!(store.standing(&key(class)).await.unwrap(), Standing::Readable, "{class}");
        // Somebody else's copy may be there just before ours is asked for.
        store.thaw(&key(class), ArchiveClass::Glacier).await.unwrap();
        assert_eq!(read(&store, class).await, b"content");
    }
}

#[tokio::test]
async fn a_tier_is_told_by_the_object_alone() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let proxy = Proxy::start(&moto.endpoint, |head| match head {
        head if head.starts_with("HEAD ") => Fate::Answer(
            "HTTP/1.1 200 OK\r\nx-amz-storage-class: INTELLIGENT_TIERING\r\nx-amz-archive-status: DEEP_ARCHIVE_ACCESS\r\ncontent-length: 7\r\nconnection: close\r\n\r\n"
                .to_owned(),
        ),
        head if head.starts_with("GET /bkt/prod/a") => {
            let body = "<Error><Code>InvalidObjectState</Code><StorageClass>INTELLIGENT_TIERING</StorageClass><AccessTier>DEEP_ARCHIVE_ACCESS</AccessTier></Error>";
            Fate::Answer(format!(
                "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
        }
        _ => Fate::Pass,
    })
    .await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let deep = ArchiveClass::DeepArchiveAccess;
    assert_eq!(store.standing(&key("a")).await.unwrap(), Standing::Archived(deep));
    let refused = store.read(&key("a")).await.err().unwrap();
    assert!(matches!(refused, StoreError::Archived { class: Some(class), .. } if class == deep), "{refused}");
}

/// Amazon may have no room for expedited retrievals: then a slower one is better than none.
#[tokio::test]
async fn a_standard_copy_is_asked_for_where_there_is_no_room_for_an_expedited_one() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let mut asked = 0;
    let proxy = Proxy::start(&moto.endpoint, move |head| {
        if !head.contains("?restore") {
            return Fate::Pass;
        }
        asked += 1;
        if asked == 1 { Fate::Answer(trouble(503, "GlacierExpeditedRetrievalNotAvailable", "")) } else { Fate::Pass }
    })
    .await;
    let store = open(S3Options {
        storage_class: Some("GLACIER".to_owned()),
        thawing: Thawing { retrieval: Retrieval::Expedited, ..Thawing::default() },
        ..options(&proxy.endpoint, "bkt")
    })
    .await;
    put(&store, &key("a"), "content").await.unwrap();
    store.thaw(&key("a"), ArchiveClass::Glacier).await.unwrap();
    assert_eq!(proxy.count("?restore"), 2);
    assert_eq!(read(&store, "a").await, b"content");
}

#[tokio::test]
async fn who_may_not_ask_is_told_the_right() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let proxy = Proxy::start(&moto.endpoint, |head| {
        if head.contains("?restore") { Fate::Answer(trouble(403, "AccessDenied", "")) } else { Fate::Pass }
    })
    .await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let refused = store.thaw(&key("a"), ArchiveClass::Glacier).await.unwrap_err();
    assert!(refused.to_string().contains("allow `s3:RestoreObject`"), "{refused}");
}
