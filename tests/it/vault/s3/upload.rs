//! Uploads: in parts side by side, aborted when dropped, and never over another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lifeboat::{
    clock::Clock,
    process::Tasks,
    vault::{S3Store, Store, StoreError, s3::S3Options},
};
use tokio::{io::AsyncReadExt, sync::Semaphore};

use crate::{
    support::{
        eventually,
        moto::{Kind, Moto, open, options},
        proxy::{Fate, Proxy, trouble},
    },
    vault::stores::key,
};

pub(super) fn noise(length: usize) -> Bytes {
    let mut state = 7_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

pub(super) async fn write(store: &dyn Store, name: &str, content: &Bytes) -> Result<u64, StoreError> {
    let mut writer = store.create(&key(name)).await?;
    for piece in content.chunks(1_000_003) {
        writer.write(content.slice_ref(piece)).await?;
    }
    Ok(writer.commit().await?.size_bytes)
}

pub(super) async fn read(store: &dyn Store, name: &str) -> Vec<u8> {
    let mut found = Vec::new();
    store.read(&key(name)).await.unwrap().read_to_end(&mut found).await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_goes_in_parts_and_comes_back() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let proxy = Proxy::start(&moto.endpoint, |_| Fate::Pass).await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let part = 8 << 20;
    for (name, length, parts) in [
        ("empty", 0, 0),
        ("one", part, 0),
        ("just-more", part + 1, 2),
        ("whole-parts", 2 * part, 2),
        ("many", 6 * part + 5, 7),
    ] {
        let before = proxy.count("partNumber=");
        let content = noise(length);
        assert_eq!(write(&store, name, &content).await.unwrap(), length as u64);
        assert!(read(&store, name).await == content, "{name} differs");
        assert_eq!(proxy.count("partNumber=") - before, parts, "{name}");
        let again = write(&store, name, &noise(length + 1)).await;
        assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{name}: {again:?}");
        assert!(read(&store, name).await == content, "{name} was overwritten");
    }
    let left = client.list_multipart_uploads().bucket("bkt").send().await.unwrap();
    assert_eq!(left.uploads().len(), 0);
    let sent = proxy.seen.lock().unwrap();
    let uploads = sent.iter().filter(|head| head.starts_with("PUT "));
    assert!(uploads.clone().all(|head| head.contains("x-amz-checksum-sha256:")), "every upload carries its digest");
    assert!(uploads.count() > 10);
}

/// A store that does not keep up is sent four parts at once, and a fifth is in
/// memory; what writes more waits. So an upload holds 40 MiB, whatever its size.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_waited_for() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let proxy = Proxy::start(&moto.endpoint, move |head| {
        if head.contains("partNumber=") { Fate::Hold(Arc::clone(&held)) } else { Fate::Pass }
    })
    .await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let content = noise(60 << 20);
    let (wanted, writing) = (content.clone(), store.clone());
    let tasks = Tasks::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let upload = tasks.spawn(async move {
        let mut writer = writing.create(&key("x")).await.unwrap();
        for piece in wanted.chunks(1 << 20) {
            writer.write(wanted.slice_ref(piece)).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
        writer.commit().await.unwrap()
    });
    let full = || async { taken.load(Ordering::SeqCst) == 40 };
    eventually("40 MiB are taken", Duration::from_secs(30), full).await;
    let four = || async { proxy.count("partNumber=") == 4 };
    eventually("four parts are on their way", Duration::from_secs(30), four).await;
    // However long one looks: the next MiB is not taken.
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert_eq!((taken.load(Ordering::SeqCst), proxy.count("partNumber=")), (40, 4));
    }
    gate.add_permits(100);
    assert_eq!(upload.await.unwrap().size_bytes, 60 << 20);
    assert!(read(&store, "x").await == content);
}

/// The name is taken while the upload is under way: the store itself refuses.
#[tokio::test]
async fn the_last_request_of_parts_is_conditional() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let store = open(options(&moto.endpoint, "bkt")).await;
    let mut writer = store.create(&key("x")).await.unwrap();
    writer.write(noise(9 << 20)).await.unwrap();
    client.put_object().bucket("bkt").key("prod/x").body(b"first".to_vec().into()).send().await.unwrap();
    assert!(matches!(writer.commit().await, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(read(&store, "x").await, b"first");
    assert!(client.list_multipart_uploads().bucket("bkt").send().await.unwrap().uploads().is_empty(), "it was aborted");
}

/// The last answer of an upload in parts is lost. Asked again, a store may no
/// longer know the upload, or say that the name is taken: by us.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_last_answer_is_lost_is_there() {
    let moto = Moto::start().await;
    for (nth, kind) in [Kind::Plain, Kind::Versioned].into_iter().enumerate() {
        let bucket = format!("bkt{nth}");
        moto.bucket(&bucket, kind).await;
        for (name, status, code, blind) in [
            ("gone", 404, "NoSuchUpload", 0),
            ("taken", 412, "PreconditionFailed", 0),
            ("later", 404, "NoSuchUpload", 1),
        ] {
            let (mut lost, mut blind) = (false, blind);
            let proxy = Proxy::start(&moto.endpoint, move |head| {
                if head.starts_with("POST ") && head.contains("uploadId=") {
                    let again = std::mem::replace(&mut lost, true);
                    return if again { Fate::Answer(trouble(status, code, "")) } else { Fate::CutAfter(5) };
                }
                if lost && blind > 0 {
                    blind -= 1;
                    return Fate::HangUp;
                }
                Fate::Pass
            })
            .await;
            let store = open(options(&proxy.endpoint, &bucket)).await;
            let content = noise(20 << 20);
            let size = write(&store, name, &content).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(size, 20 << 20);
            assert!(read(&store, name).await == content, "{name}");
        }
    }
}

/// Another node's object under that name is never taken for ours, whatever its size.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_one_completed_is_not_ours() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let (ours, theirs) = (noise(20 << 20), noise((20 << 20) + 1).slice(1..));
    let mut asked = 0;
    let proxy = Proxy::start(&moto.endpoint, move |head| {
        asked += i32::from(head.starts_with("POST ") && head.contains("uploadId="));
        // The first never arrives; meanwhile the other one is quicker.
        if asked == 1 { Fate::HangUp } else { Fate::Pass }
    })
    .await;
    let (store, other) = (open(options(&proxy.endpoint, "bkt")).await, open(options(&moto.endpoint, "bkt")).await);
    let mut writer = store.create(&key("x")).await.unwrap();
    writer.write(ours).await.unwrap();
    write(&other, "x", &theirs).await.unwrap();
    let refused = writer.commit().await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })), "{refused:?}");
    assert!(read(&other, "x").await == theirs);
}

#[tokio::test]
async fn a_dropped_writer_leaves_no_upload() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let store = open(options(&moto.endpoint, "bkt")).await;
    let uploads = || async { client.list_multipart_uploads().bucket("bkt").send().await.unwrap().uploads().len() };
    let mut writer = store.create(&key("x")).await.unwrap();
    writer.write(noise(30 << 20)).await.unwrap();
    assert_eq!(uploads().await, 1);
    drop(writer);
    let none = || async { uploads().await == 0 };
    eventually("the upload is aborted", Duration::from_secs(30), none).await;
    assert!(store.list("").await.unwrap().is_empty());
}

/// What a crash left is removed by the probe once it is a day old. The server
/// says of every upload that it began on 2010-11-10 at 20:48:33.
#[tokio::test]
async fn uploads_of_a_crash_are_swept_after_a_day_and_not_before() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    for key in ["prod/crashed", "other/prefix"] {
        client.create_multipart_upload().bucket("bkt").key(key).send().await.unwrap();
    }
    let names = || async {
        let found = client.list_multipart_uploads().bucket("bkt").send().await.unwrap();
        found.uploads().iter().map(|upload| upload.key().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let probed_at = async |now: &str| {
        let clock = Clock::held_at(now.parse().unwrap());
        let store = S3Store::open("dr".parse().unwrap(), options(&moto.endpoint, "bkt"), clock).await;
        store.probe().await.unwrap();
    };
    probed_at("2010-11-11T20:48:00Z").await;
    assert_eq!(names().await.len(), 2);
    probed_at("2010-11-11T20:49:00Z").await;
    assert_eq!(names().await, ["other/prefix"]);
}

/// A part that fails is sent again alone; the others are not.
#[tokio::test]
async fn a_part_that_fails_is_sent_again_by_itself() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Plain).await;
    let mut failed = 0;
    let proxy = Proxy::start(&moto.endpoint, move |head| {
        if head.contains("partNumber=2") && failed < 2 {
            failed += 1;
            return if failed == 1 { Fate::Answer(trouble(503, "SlowDown", "")) } else { Fate::HangUp };
        }
        Fate::Pass
    })
    .await;
    let store = open(options(&proxy.endpoint, "bkt")).await;
    let content = noise(20 << 20);
    write(&store, "x", &content).await.unwrap();
    assert!(read(&store, "x").await == content);
    assert_eq!(proxy.count("partNumber=2"), 3);
    assert_eq!(proxy.count("partNumber="), 5);
}

/// The store is told how and where to keep what it is given.
#[tokio::test]
async fn encryption_and_storage_class_are_asked_for() {
    let moto = Moto::start().await;
    let client = moto.bucket("bkt", Kind::Plain).await;
    let chosen = S3Options {
        kms_key: Some("arn:aws:kms:eu-central-1:1:key/a".to_owned()),
        storage_class: Some("STANDARD_IA".to_owned()),
        ..options(&moto.endpoint, "bkt")
    };
    let store = open(chosen).await;
    for (name, length) in [("small", 9), ("large", 9 << 20)] {
        write(&store, name, &noise(length)).await.unwrap();
        let found = client.head_object().bucket("bkt").key(format!("prod/{name}")).send().await.unwrap();
        assert_eq!(found.server_side_encryption().unwrap().as_str(), "aws:kms", "{name}");
        assert_eq!(found.ssekms_key_id(), Some("arn:aws:kms:eu-central-1:1:key/a"), "{name}");
        assert_eq!(found.storage_class().unwrap().as_str(), "STANDARD_IA", "{name}");
    }
}
