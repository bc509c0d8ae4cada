//! WAL read back by the process that stored it, and by one that did not.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use lifeboat::{
    domain::{BackupState, Lsn, RunId, SegmentSize, Timeline},
    vault::{
        Layout, Listing, Manifest, Object, Receipts, VaultError, WalTarget, WalWriter, is_read_back, put_read_back,
        read_back, remembering,
    },
};

use super::fixture::{Fixture, begin, running};

/// A backup, and all its WAL in one tail that the stream stored.
async fn streamed() -> (Fixture, Layout, Manifest, Arc<Receipts>) {
    let fixture = Fixture::new();
    let (layout, entry) = fixture.small_backup("b1", &[("a".to_owned(), vec![7; 100])], 1 << 20).await;
    let receipts = Arc::new(Receipts::default());
    let target = WalTarget { store: remembering(&fixture.store, &receipts), required: true };
    let mut writer = running(WalWriter::new(vec![fixture.identity.to_public()], vec![target]));
    let size = SegmentSize::DEFAULT;
    let at = begin(&mut writer, layout.system_id(), Timeline(1), size, Lsn(0x0200_0000)).await.unwrap();
    writer.wal(at, Bytes::from(vec![5; 0x1000])).await.unwrap();
    writer.flush().await.unwrap();
    (fixture, layout, entry.manifest, receipts)
}

async fn told(fixture: &Fixture, layout: &Layout, manifest: &Manifest, receipts: &Receipts) -> Vec<String> {
    let listing = Listing::take(fixture.store.as_ref(), layout).await.unwrap();
    let sound = &mut BTreeSet::new();
    let unreadable = read_back(fixture.store.as_ref(), &listing, manifest, receipts, sound, &|_, _| {}).await.unwrap();
    unreadable.into_iter().map(|one| one.what).collect()
}

#[tokio::test]
async fn who_stored_it_sees_every_change_and_another_process_what_the_header_tells() {
    let (fixture, layout, manifest, receipts) = streamed().await;
    let stranger = Receipts::default();
    assert_eq!(told(&fixture, &layout, &manifest, &receipts).await, [""; 0]);
    assert_eq!(told(&fixture, &layout, &manifest, &stranger).await, [""; 0]);
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Uploaded, "it is listed, and nobody signed that it came back");
    assert!(catalog.entries[0].lists_wal && catalog.entries[0].awaits_read_back());

    let tail =
        layout.tail(lifeboat::domain::Segment { timeline: Timeline(1), number: 2 }, SegmentSize::DEFAULT, 0, 0x1000);
    let path = fixture.vault().join(tail.as_str());
    let sound = fs::read(&path).unwrap();
    let put = |bytes: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    // A bit of the content, as long as before: only who stored it can see it.
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    put(&flipped);
    assert_eq!(told(&fixture, &layout, &manifest, &receipts).await, ["holds other bytes than were stored"]);
    assert_eq!(told(&fixture, &layout, &manifest, &stranger).await, [""; 0]);
    // Another one of the same plain bytes, as a second writer would store it.
    put(&Object::seal(&[5; 0x1000], true, &[fixture.identity.to_public()]).unwrap().stored);
    assert_eq!(told(&fixture, &layout, &manifest, &receipts).await.len(), 1);
    assert_eq!(told(&fixture, &layout, &manifest, &stranger).await, [""; 0]);
    for cut in [0, 100, sound.len() - 1] {
        put(&sound[..cut]);
        for known in [receipts.as_ref(), &stranger] {
            assert_eq!(told(&fixture, &layout, &manifest, known).await.len(), 1, "{cut}");
        }
    }
    // Gone since it was listed.
    put(&sound);
    let listing = Listing::take(fixture.store.as_ref(), &layout).await.unwrap();
    fs::remove_file(&path).unwrap();
    let sound = &mut BTreeSet::new();
    let gone = read_back(fixture.store.as_ref(), &listing, &manifest, &receipts, sound, &|_, _| {}).await.unwrap_err();
    assert!(matches!(gone, VaultError::Store(_)), "{gone:?}");
}

#[tokio::test]
async fn what_an_attempt_before_found_sound_is_not_read_anew_and_bytes_are_told() {
    let (fixture, layout, manifest, receipts) = streamed().await;
    let listing = Listing::take(fixture.store.as_ref(), &layout).await.unwrap();
    let (mut sound, said) = (BTreeSet::new(), Mutex::new(Vec::new()));
    let say = |done, total| said.lock().unwrap().push((done, total));
    let (store, receipts) = (fixture.store.as_ref(), receipts.as_ref());
    let found = read_back(store, &listing, &manifest, receipts, &mut sound, &say).await.unwrap();
    assert_eq!((found.len(), sound.len()), (0, 1));
    let key = sound.first().unwrap().clone();
    let size = listing.size_of(&key).unwrap();
    assert!(size > 0);
    // It would be an error if it were read.
    fs::remove_file(fixture.vault().join(key.as_str())).unwrap();
    let found = read_back(store, &listing, &manifest, receipts, &mut sound, &say).await.unwrap();
    assert!(found.is_empty());
    assert_eq!(said.into_inner().unwrap(), [(0, size), (size, size), (size, size)]);
}

#[tokio::test]
async fn what_came_of_the_reading_is_signed_and_the_newest_counts() {
    let (fixture, layout, manifest, receipts) = streamed().await;
    let (listing, catalog) = fixture.catalog(&layout).await;
    let sha256 = catalog.entries[0].manifest_sha256.clone();
    assert_eq!(told(&fixture, &layout, &manifest, &receipts).await, [""; 0]);
    let one = lifeboat::vault::Unreadable {
        key: layout.manifest(&manifest.backup),
        name: "wal/000000010000000000000002".to_owned(),
        what: "is empty".to_owned(),
    };
    let run = |number: i64| {
        let at = manifest.finished_at + jiff::SignedDuration::from_secs(number);
        (RunId::from(format!("backup/wallet/manual/{number}")), at, 86_400)
    };
    let keys = (&fixture.signer, &fixture.signer.verifier());
    let (store, backup) = (fixture.store.as_ref(), (&manifest, sha256.as_str()));
    assert!(!is_read_back(store, &listing, backup, keys.1).await.unwrap());
    put_read_back(store, &listing, backup, &[], run(1), keys).await.unwrap();
    let (listing, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::WalComplete);
    assert!(is_read_back(store, &listing, backup, keys.1).await.unwrap());
    put_read_back(store, &listing, backup, &[one], run(2), keys).await.unwrap();
    let (listing, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Uploaded);
    assert!(!is_read_back(store, &listing, backup, keys.1).await.unwrap());
    // Bytes that come back once more mend nothing: it must be opened.
    put_read_back(store, &listing, backup, &[], run(3), keys).await.unwrap();
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Uploaded);
    assert!(catalog.entries[0].is_damaged());
}
