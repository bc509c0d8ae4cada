//! The catalog of whoever looks at a vault again and again.

use std::fs;

use lifeboat::{
    domain::{BackupId, Opener, RunId},
    vault::{Catalog, Listing, Proof, Remembered, put_proof},
};

use super::{faulty::Faulty, fixture::Fixture};

/// One object that cannot be read costs its own backup and no other; only a vault
/// that does not answer at all is given up.
#[tokio::test]
async fn a_backup_that_cannot_be_read_is_a_problem_and_the_others_stand() {
    let fixture = Fixture::new();
    let file = || vec![("a".to_owned(), vec![7; 100])];
    let (layout, one) = fixture.small_backup("b1", &file(), 1 << 20).await;
    let (_, other) = fixture.small_backup("b2", &file(), 1 << 20).await;
    let store = Faulty::new(fixture.store.clone());
    let listing = Listing::take(&store, &layout).await.unwrap();
    let read = async || Catalog::read(&listing, &store, &fixture.signer.verifier()).await;
    for unreadable in ["b1/manifest.json", "b1/manifest.json.sig"] {
        *store.faults.unreadable.lock().unwrap() = Some(unreadable);
        let catalog = read().await.unwrap();
        assert_eq!(catalog.entries, std::slice::from_ref(&other), "{unreadable}");
        assert_eq!(catalog.problems.len(), 1, "{unreadable}: expiry is told");
        assert_eq!(catalog.problems[0].backup, one.manifest.backup);
    }
    store.faults.down.store(true, std::sync::atomic::Ordering::SeqCst);
    read().await.unwrap_err();
    store.faults.down.store(false, std::sync::atomic::Ordering::SeqCst);
    *store.faults.unreadable.lock().unwrap() = None;
    // Expired since it was listed: it is no backup any more, and no problem.
    fs::remove_file(fixture.vault().join(layout.manifest(&one.manifest.backup).as_str())).unwrap();
    let catalog = read().await.unwrap();
    assert_eq!((catalog.entries.as_slice(), catalog.problems.len()), (std::slice::from_ref(&other), 0));
}

#[tokio::test]
async fn what_is_listed_as_it_was_is_not_read_again() {
    let fixture = Fixture::new();
    let (layout, entry) = fixture.small_backup("b1", &[("a".to_owned(), vec![7; 100])], 1 << 20).await;
    let (store, verifier) = (fixture.store.as_ref(), fixture.signer.verifier());
    let mut remembered = Remembered::default();
    let mut again = async || {
        let listing = Listing::take(store, &layout).await.unwrap();
        Catalog::read_again(&listing, store, &verifier, &mut remembered).await.unwrap()
    };
    assert_eq!(again().await.entries, std::slice::from_ref(&entry));

    // The same size with other bytes: who reads sees it, and nobody read.
    let backup: BackupId = "b1".parse().unwrap();
    let manifest = fixture.vault().join(layout.manifest(&backup).as_str());
    let sound = fs::read(&manifest).unwrap();
    let mut flipped = sound.clone();
    flipped[10] ^= 1;
    fs::write(&manifest, flipped).unwrap();
    assert_eq!(again().await.entries, std::slice::from_ref(&entry));
    assert_eq!(fixture.catalog(&layout).await.1.problems.len(), 1);
    fs::write(&manifest, sound).unwrap();

    // What is new of it is read at once, and what is gone is gone.
    let proof = Proof {
        backup: backup.clone(),
        manifest_sha256: entry.manifest_sha256.clone(),
        run: RunId::from("restore_test/wallet/manual/1".to_owned()),
        proven_at: "2026-05-01T10:00:00Z".parse().unwrap(),
        opener: Opener::Node,
        opened_by: Vec::new(),
    };
    put_proof(store, &layout, &proof, &fixture.signer).await.unwrap();
    assert_eq!(again().await.entries[0].proof, Some(proof));
    fs::remove_file(&manifest).unwrap();
    let catalog = again().await;
    assert_eq!((catalog.entries.len(), catalog.uncommitted), (0, vec![backup]));
}
