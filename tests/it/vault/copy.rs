//! Objects copied from vault to vault as they are stored.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lifeboat::vault::{
    Expected, Layout, Object, ObjectKey, Retrying, SharedStore, VaultError, copy_manifest, copy_object, copy_plain,
    put_once, signature::Signer, stat,
};
use tokio_util::sync::CancellationToken;

use super::{
    faulty::Faulty,
    fixture::{Fixture, named_memory},
};

struct World {
    fixture: Fixture,
    layout: Layout,
    objects: Vec<(ObjectKey, Expected)>,
}

impl World {
    /// A vault with one backup of several parts.
    async fn new() -> Self {
        let fixture = Fixture::new();
        let members: Vec<_> = (0..6u8).map(|n| (format!("base/{n}"), vec![n.wrapping_mul(37); 90_000])).collect();
        let (layout, entry) = fixture.small_backup("b", &members, 200_000).await;
        let object = |record: &lifeboat::vault::ObjectRecord| {
            (layout.backup_object(&"b".parse().unwrap(), &record.name).unwrap(), Expected::Named(record.clone()))
        };
        let objects = entry.manifest.objects.iter().map(object).collect();
        Self { fixture, layout, objects }
    }

    async fn copy(&self, to: &SharedStore, key: &ObjectKey, expected: &Expected) -> Result<u64, VaultError> {
        copy_object(self.fixture.store.as_ref(), to.as_ref(), key, expected, &CancellationToken::new()).await
    }

    fn part(&self) -> &(ObjectKey, Expected) {
        self.objects.iter().find(|(key, _)| key.as_str().contains("/data/00000")).unwrap()
    }

    /// Changes the stored bytes of an object in the first vault.
    fn change(&self, key: &ObjectKey, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.fixture.vault().join(key.as_str());
        let mut bytes = std::fs::read(&file).unwrap();
        change(&mut bytes);
        std::fs::write(file, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_copy_through_failing_calls_is_the_same_backup() {
    let world = World::new().await;
    let faulty = Faulty::new(named_memory("dr"));
    let trouble = faulty.faults.clone();
    let to: SharedStore = Arc::new(Retrying::new(Arc::new(faulty), 5, Duration::from_millis(1)));
    for (key, expected) in &world.objects {
        trouble.blips.store(2, Ordering::SeqCst);
        world.copy(&to, key, expected).await.unwrap();
        assert_eq!(world.copy(&to, key, expected).await.unwrap(), 0, "it is there already");
    }
    let (verifier, backup) = (world.fixture.signer.verifier(), "b".parse().unwrap());
    let store = world.fixture.store.as_ref();
    let (part, expected) = world.part();
    to.delete(part).await.unwrap();
    let swept = copy_manifest(store, to.as_ref(), &world.layout, &backup, &verifier).await.unwrap_err();
    assert!(matches!(&swept, VaultError::Missing { key, .. } if key == part), "{swept}");
    world.copy(&to, part, expected).await.unwrap();
    trouble.lose_answer.store(true, Ordering::SeqCst);
    copy_manifest(store, to.as_ref(), &world.layout, &backup, &verifier).await.unwrap();
    let listing = lifeboat::vault::Listing::take(to.as_ref(), &world.layout).await.unwrap();
    let catalog = lifeboat::vault::Catalog::read(&listing, to.as_ref(), &verifier).await.unwrap();
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let target = world.fixture.folder.path().join("target");
    let mut fixture = world.fixture;
    fixture.store = to;
    let identities = [fixture.identity.clone()];
    fixture.fetch(&[], &catalog.entries[0], &identities, &target).await.unwrap();
    assert_eq!(std::fs::read(target.join("base/5")).unwrap(), vec![185; 90_000]);
}

#[tokio::test]
async fn a_damaged_object_is_named_and_not_stored() {
    let world = World::new().await;
    let to = named_memory("dr");
    let (key, expected) = world.part();
    let changes: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[200] ^= 1, |bytes| bytes.truncate(300), |bytes| bytes.push(0)];
    let sound = std::fs::read(world.fixture.vault().join(key.as_str())).unwrap();
    for change in changes {
        world.change(key, change);
        let error = world.copy(&to, key, expected).await.unwrap_err();
        assert!(matches!(&error, VaultError::Damaged { key: named, .. } if named == key), "{error}");
        assert!(error.to_string().contains("primary"), "the vault that holds it is named: {error}");
        assert!(stat(to.as_ref(), key).await.unwrap().is_none());
        world.change(key, |bytes| bytes.clone_from(&sound));
    }
    std::fs::remove_file(world.fixture.vault().join(key.as_str())).unwrap();
    assert!(matches!(world.copy(&to, key, expected).await, Err(VaultError::Missing { .. })));
    // What is not encrypted does not leave, whatever its name says.
    let wal =
        ObjectKey::new(format!("{}wal/00000001/000000010000000000000002.zst.age", world.layout.prefix())).unwrap();
    lifeboat::vault::put(world.fixture.store.as_ref(), &wal, vec![7; 100]).await.unwrap();
    assert!(matches!(world.copy(&to, &wal, &Expected::Sealed(100)).await, Err(VaultError::Damaged { .. })));
    assert!(stat(to.as_ref(), &wal).await.unwrap().is_none());
}

#[tokio::test]
async fn wal_is_judged_by_size_and_digest_and_a_taken_name_by_its_content() {
    let world = World::new().await;
    let (from, to) = (world.fixture.store.as_ref(), named_memory("dr"));
    let recipients = [world.fixture.identity.to_public()];
    let key = |number: u32| {
        let name = format!("{}wal/00000001/0000000100000000000000{number:02X}.zst.age", world.layout.prefix());
        ObjectKey::new(name).unwrap()
    };
    let object = Object::seal(&[1; 9000], true, &recipients).unwrap();
    let size = object.stored.len() as u64;
    put_once(from, &key(2), &object).await.unwrap();
    assert_eq!(world.copy(&to, &key(2), &Expected::Sealed(size)).await.unwrap(), size);
    let error = world.copy(&to, &key(2), &Expected::Sealed(size)).await;
    assert_eq!(error.unwrap(), 0);
    put_once(from, &key(3), &object).await.unwrap();
    world.change(&key(3), |bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(world.copy(&to, &key(3), &Expected::Sealed(size)).await, Err(VaultError::Damaged { .. })));
    // The same WAL sealed anew is the same; other WAL is an alarm.
    for (number, content, is_same) in [(4, 1, true), (5, 2, false)] {
        put_once(from, &key(number), &object).await.unwrap();
        let there = Object::seal(&[content; 9000], true, &recipients).unwrap();
        put_once(to.as_ref(), &key(number), &there).await.unwrap();
        let copied = world.copy(&to, &key(number), &Expected::Sealed(size)).await;
        assert_eq!(copied.is_ok(), is_same, "{copied:?}");
        assert!(is_same || matches!(copied, Err(VaultError::Conflict { .. })));
    }
}

#[tokio::test]
async fn what_is_signed_by_nobody_we_trust_is_not_copied() {
    let world = World::new().await;
    let (from, to) = (world.fixture.store.as_ref(), named_memory("dr"));
    let stranger = Signer::ephemeral().verifier();
    let backup = "b".parse().unwrap();
    let error = copy_manifest(from, to.as_ref(), &world.layout, &backup, &stranger).await.unwrap_err();
    assert!(matches!(error, VaultError::Signature(_)), "{error}");
    assert!(stat(to.as_ref(), &world.layout.manifest(&backup)).await.unwrap().is_none());
    let history = world.layout.history(lifeboat::domain::Timeline(2));
    lifeboat::vault::put(from, &history, "1\t0/3000000\tno recovery target specified\n").await.unwrap();
    let verifier = world.fixture.signer.verifier();
    copy_plain(from, to.as_ref(), &history, &verifier).await.unwrap();
    let swapped = world.layout.history(lifeboat::domain::Timeline(3));
    lifeboat::vault::put(from, &swapped, "nonsense").await.unwrap();
    let error = copy_plain(from, to.as_ref(), &swapped, &verifier).await.unwrap_err();
    assert!(error.to_string().contains("no history file"), "{error}");
    let proof = ObjectKey::new(format!("{}proofs/b/run.json", world.layout.prefix())).unwrap();
    let signature = ObjectKey::new(format!("{proof}.sig")).unwrap();
    lifeboat::vault::put(from, &proof, "{}").await.unwrap();
    for signer in [Signer::ephemeral(), world.fixture.signer.clone()] {
        from.delete(&signature).await.unwrap();
        lifeboat::vault::put(from, &signature, signer.sign("lifeboat-proof", b"{}").unwrap()).await.unwrap();
        let is_ours = signer.verifier() == verifier;
        assert_eq!(copy_plain(from, to.as_ref(), &signature, &verifier).await.is_ok(), is_ours);
        assert_eq!(copy_plain(from, to.as_ref(), &proof, &verifier).await.is_ok(), is_ours);
    }
    assert!(matches!(
        copy_plain(
            from,
            to.as_ref(),
            &ObjectKey::new(format!("{}proofs/b/none.json", world.layout.prefix())).unwrap(),
            &verifier
        )
        .await,
        Err(VaultError::Missing { .. })
    ));
}
