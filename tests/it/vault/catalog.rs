//! The catalog of whoever looks at a vault again and again.

use std::fs;

use lifeboat::{
    domain::{BackupId, Opener, RunId},
    vault::{Catalog, Listing, Proof, Remembered, put_proof},
};

use super::fixture::Fixture;

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
