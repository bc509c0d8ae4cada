//! Whose a vault is, and which: refused before a byte is written.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use lifeboat::{
    clock::Clock,
    domain::VaultName,
    vault::{DirectoryStore, Known, ObjectKey, Owned, Store, StoreError, VaultIdentity, put, signature::Signer, stat},
};

use crate::support::{moved, scratch};

/// Ids of vaults, as a state database keeps them.
#[derive(Debug, Default)]
struct Remembered(Mutex<BTreeMap<VaultName, String>>);

#[async_trait]
impl Known for Remembered {
    async fn recall(&self, vault: &VaultName) -> Result<Option<String>, StoreError> {
        Ok(self.0.lock().unwrap().get(vault).cloned())
    }

    async fn remember(&self, vault: &VaultName, id: &str) -> Result<(), StoreError> {
        self.0.lock().unwrap().insert(vault.clone(), id.to_owned());
        Ok(())
    }
}

struct World {
    folder: tempfile::TempDir,
    known: Arc<Remembered>,
}

impl World {
    fn new() -> Self {
        Self { folder: scratch(), known: Arc::default() }
    }

    fn directory(&self) -> Arc<DirectoryStore> {
        let root = self.folder.path().join("vault");
        Arc::new(DirectoryStore::new("primary".parse().unwrap(), root, "lab".parse().unwrap()))
    }

    /// As a process that has just started.
    fn owned(&self, signer: Option<&Signer>) -> Owned {
        let known: Arc<dyn Known> = self.known.clone();
        Owned::new(self.directory(), signer.cloned(), known, Clock::system())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("vault")).map_or(0, Iterator::count)
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[tokio::test]
async fn the_first_writer_owns_the_vault_and_another_key_writes_nothing() {
    let world = World::new();
    let (ours, theirs) = (Signer::ephemeral(), Signer::ephemeral());
    let store = world.owned(Some(&ours));
    assert_eq!(store.list("").await.unwrap(), [], "looking makes nothing");
    assert_eq!(world.files(), 0);
    put(&store, &key("one"), "x").await.unwrap();
    let identity = VaultIdentity::read(&store).await.unwrap().unwrap();
    assert_eq!(identity.owner, ours.verifier().fingerprint());
    assert!(stat(&store, &key("vault.json.sig")).await.unwrap().is_some());

    // Another node of the estate, and one that has lost its memory, go on.
    put(&world.owned(Some(&ours)), &key("two"), "x").await.unwrap();
    world.known.0.lock().unwrap().clear();
    put(&world.owned(Some(&ours)), &key("three"), "x").await.unwrap();
    assert_eq!(world.known.0.lock().unwrap().values().next(), Some(&identity.id));

    world.known.0.lock().unwrap().clear();
    let before = world.files();
    let stranger = world.owned(Some(&theirs));
    for refused in [
        put(&stranger, &key("four"), "x").await.unwrap_err(),
        stranger.delete(&key("one")).await.unwrap_err(),
        stranger.probe().await.unwrap_err(),
    ] {
        let text = refused.to_string();
        for word in ["primary", &ours.verifier().fingerprint(), &theirs.verifier().fingerprint(), "prefix of its own"] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
    let error = world.owned(None).probe().await.unwrap_err().to_string();
    assert!(error.contains(&ours.verifier().fingerprint()) && error.contains("no key yet"), "{error}");
    assert_eq!(world.files(), before);
    assert_eq!(stranger.list("one").await.unwrap().len(), 1, "reading is free");
}

#[tokio::test]
async fn of_two_estates_that_begin_at_once_one_wins() {
    let world = World::new();
    let signers = [Signer::ephemeral(), Signer::ephemeral()];
    let stores = signers.each_ref().map(|signer| {
        let known: Arc<dyn Known> = Arc::new(Remembered::default());
        Owned::new(world.directory(), Some(signer.clone()), known, Clock::system())
    });
    let (a, b) = tokio::join!(stores[0].claim(), stores[1].claim());
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    assert!(matches!(a.and(b).unwrap_err(), StoreError::Foreign { .. }));
}

#[tokio::test]
async fn a_vault_that_is_away_or_replaced_is_neither_listed_nor_written() {
    let world = World::new();
    let signer = Signer::ephemeral();
    let store = world.owned(Some(&signer));
    put(&store, &key("one"), "x").await.unwrap();
    let (vault, away) = (world.folder.path().join("vault"), world.folder.path().join("away"));
    moved(&vault, &away);
    for mounted in [false, true] {
        if mounted {
            std::fs::create_dir(&vault).unwrap();
        }
        // The process that was there before, and one that starts now.
        for store in [&store, &world.owned(Some(&signer))] {
            for refused in [
                put(store, &key("two"), "x").await.unwrap_err(),
                store.probe().await.unwrap_err(),
                store.list("").await.unwrap_err(),
            ] {
                assert!(matches!(refused, StoreError::NotThere { .. }), "{refused}");
                assert!(refused.to_string().contains("is it mounted?"), "{refused}");
            }
        }
        assert_eq!(world.files(), 0);
    }
    std::fs::remove_dir(&vault).unwrap();
    // Another vault of ours is mounted in its place.
    let other = Arc::new(Remembered::default()) as Arc<dyn Known>;
    put(&Owned::new(world.directory(), Some(signer.clone()), other, Clock::system()), &key("x"), "x").await.unwrap();
    let before = world.files();
    assert!(matches!(put(&store, &key("two"), "x").await, Err(StoreError::Replaced { .. })));
    assert!(matches!(store.list("").await, Err(StoreError::Replaced { .. })));
    assert_eq!(world.files(), before);
    std::fs::remove_dir_all(&vault).unwrap();
    moved(&away, &vault);
    put(&store, &key("two"), "x").await.unwrap();
}

#[tokio::test]
async fn a_signature_that_a_crash_left_out_is_added_and_a_forged_one_refused() {
    let world = World::new();
    let signer = Signer::ephemeral();
    world.owned(Some(&signer)).claim().await.unwrap();
    let signature = world.folder.path().join("vault/vault.json.sig");
    let written = std::fs::read(&signature).unwrap();
    std::fs::remove_file(&signature).unwrap();
    world.owned(Some(&signer)).claim().await.unwrap();
    assert_eq!(std::fs::read(&signature).unwrap(), written);
    let file = world.folder.path().join("vault/vault.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"made_at\": \"2", "\"made_at\": \"3")).unwrap();
    let error = world.owned(Some(&signer)).claim().await.unwrap_err().to_string();
    assert!(error.contains("cannot be trusted"), "{error}");
    std::fs::write(&file, "{").unwrap();
    let error = world.owned(Some(&signer)).claim().await.unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
}
