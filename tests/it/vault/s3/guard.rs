//! What somebody does behind our back changes nothing; locks; deletes.
//!
//! The server lets a compliance lock be shortened, which Amazon's does not: that
//! Lifeboat never asks for it is proven here, that it would be refused is not.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    clock::Clock,
    vault::{
        Locks, Store, StoreError, put,
        s3::{LockMode, S3Options},
        stat,
    },
};

use super::upload::{noise, read, write};
use crate::{
    support::{
        moto::{Kind, Known, Moto, open, options},
        proxy::{Fate, Proxy},
    },
    vault::stores::{key, names},
};

async fn overwrite(client: &aws_sdk_s3::Client, name: &str, content: &str) {
    let body = content.as_bytes().to_vec().into();
    client.put_object().bucket("bkt").key(format!("prod/{name}")).body(body).send().await.unwrap();
}

async fn hide(client: &aws_sdk_s3::Client, name: &str) {
    client.delete_object().bucket("bkt").key(format!("prod/{name}")).send().await.unwrap();
}

#[tokio::test]
async fn what_is_put_or_deleted_over_an_object_hides_it_from_nobody() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Versioned).await;
    let store = open(options(&moto.endpoint, "bkt")).await;
    for name in ["a", "a.sig", "b", "c"] {
        put(&store, &key(name), name.to_owned()).await.unwrap();
    }
    overwrite(&client, "a", "forged, and longer").await;
    hide(&client, "b").await;
    hide(&client, "c").await;
    overwrite(&client, "c", "forged").await;
    overwrite(&client, "c", "forged again").await;
    // Another process, which knows nothing of what this one listed, sees the same.
    for store in [&store, &open(options(&moto.endpoint, "bkt")).await] {
        for name in ["a", "a.sig", "b", "c"] {
            assert_eq!(read(store, name).await, name.as_bytes());
            assert_eq!(stat(store, &key(name)).await.unwrap().unwrap().size_bytes, name.len() as u64);
            let again = put(store, &key(name), "another").await;
            assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{name}: {again:?}");
        }
        assert_eq!(names(store, "").await, ["a", "a.sig", "b", "c"]);
    }
    let again = write(&store, "b", &noise(9 << 20)).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "in parts: {again:?}");

    let found = store.versions("c").await.unwrap();
    let shown: Vec<_> = found.iter().map(|version| (version.size_bytes, version.is_delete_marker)).collect();
    // All within a second or not: the object is the first, what is seen without asking the last.
    assert_eq!((shown.len(), shown[0], shown[3]), (4, (1, false), (12, false)), "{shown:?}");
    assert!(shown.contains(&(0, true)) && shown.contains(&(6, false)), "{shown:?}");
    let second = found.iter().find(|version| version.size_bytes == 6).unwrap();
    let mut forged = String::new();
    let mut reader = store.read_version(&key("c"), second.version.as_ref().unwrap()).await.unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut forged).await.unwrap();
    assert_eq!(forged, "forged");

    store.delete(&key("c")).await.unwrap();
    assert!(store.versions("c").await.unwrap().is_empty(), "with all its versions and marks");
    assert_eq!(names(&store, "").await, ["a", "a.sig", "b"]);
    put(&store, &key("c"), "anew").await.unwrap();
    assert_eq!(read(&store, "c").await, b"anew");
}

/// A name of which only a mark is left never had an object.
#[tokio::test]
async fn a_mark_alone_takes_no_name() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Versioned).await;
    let store = open(options(&moto.endpoint, "bkt")).await;
    hide(&client, "a").await;
    assert!(matches!(store.read(&key("a")).await, Err(StoreError::NotFound { .. })));
    assert!(names(&store, "").await.is_empty());
    put(&store, &key("a"), "first").await.unwrap();
    assert_eq!(read(&store, "a").await, b"first");
}

fn in_a(time: SignedDuration) -> Timestamp {
    Clock::system().now().checked_add(time).unwrap()
}

#[tokio::test]
async fn a_locked_object_stays_and_its_lock_is_only_extended() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Locking).await;
    let (hour, day) = (SignedDuration::from_hours(1), SignedDuration::from_hours(24));
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let locking = |mode| S3Options { object_lock: Some(mode), ..options(&moto.endpoint, "bkt") };
        let store = open(locking(mode)).await;
        let name = format!("{mode:?}");
        let object = key(&name);
        put(&store, &object, "content").await.unwrap();
        let locks: &dyn Locks = store.locks().unwrap();
        assert_eq!(locks.locked_until(&object).await.unwrap(), None);
        let until = in_a(day);
        locks.lock(&object, until).await.unwrap();
        let locked = locks.locked_until(&object).await.unwrap().unwrap();
        assert!(locked >= until && locked.as_second() <= until.as_second() + 1, "{locked} for {until}");
        locks.lock(&object, in_a(hour)).await.unwrap();
        assert_eq!(locks.locked_until(&object).await.unwrap(), Some(locked), "an earlier time shortens nothing");

        // Put over, it is still the first version that is locked and read.
        overwrite(&client, &name, "forged").await;
        hide(&client, &name).await;
        let refused = store.delete(&object).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Locked { until, .. } if *until == locked), "{refused}");
        assert!(refused.is_permanent());
        assert_eq!(read(&store, &name).await, b"content");

        let later = in_a(day * 2);
        locks.lock(&object, later).await.unwrap();
        assert!(locks.locked_until(&object).await.unwrap().unwrap() >= later, "a later time extends it");
        // Whatever is configured now, a compliance lock is not weakened.
        let other = open(locking(LockMode::Governance)).await;
        other.locks().unwrap().lock(&object, in_a(day * 3)).await.unwrap();
        let found = client
            .get_object_retention()
            .bucket("bkt")
            .key(format!("prod/{name}"))
            .version_id(first(&store, &name).await);
        let kept = found.send().await.unwrap().retention.unwrap().mode.unwrap();
        assert_eq!(kept.as_str().to_ascii_lowercase(), name.to_ascii_lowercase());
    }
    assert!(open(options(&moto.endpoint, "bkt")).await.locks().is_none(), "not where no lock is configured");
}

async fn first(store: &dyn Store, name: &str) -> String {
    store.versions(name).await.unwrap()[0].version.clone().unwrap().0
}

#[tokio::test]
async fn deletes_alone_use_their_own_credentials() {
    for kind in [Kind::Plain, Kind::Versioned] {
        let moto = Moto::start().await;
        moto.bucket("bkt", kind).await;
        let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
        let store = open(S3Options {
            delete_credentials: Some(Arc::new(Known("AKIADELETESONLY"))),
            ..options(&proxy.endpoint, "bkt")
        })
        .await;
        write(&store, "x", &noise(9 << 20)).await.unwrap();
        store.delete(&key("x")).await.unwrap();
        assert!(names(&store, "").await.is_empty());
        for head in proxy.seen.lock().unwrap().iter() {
            let deletes = head.starts_with("DELETE ");
            assert_eq!(head.contains("Credential=AKIADELETESONLY/"), deletes, "{head}");
        }
        assert_eq!(proxy.count("AKIADELETESONLY"), 1, "{kind:?}");
    }
}
