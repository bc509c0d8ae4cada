//! A fetch takes the first sound copy that any vault has, and leaves nothing
//! running behind it.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc};

use age::secrecy::ExposeSecret;
use lifeboat::{
    decide::recovery::{Selection, WalPiece},
    domain::{RecoveryTarget, Segment, SegmentSize, Timeline},
    process::Account,
    vault::{
        DirectoryStore, EmptyFolder, Fetch, Object, ObjectKey, SharedStore, VaultError, WalFolder, fetch_backup,
        openers, put_once,
    },
};
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, layout};
use crate::support::{eventually, scratch};

fn members(count: usize, size: usize) -> Vec<(String, Vec<u8>)> {
    (0..count)
        .map(|n| (format!("base/{n}"), (0..size).map(|at| u8::try_from(at * (n + 7) % 251).unwrap()).collect()))
        .collect()
}

/// A second vault with the same objects.
fn copied(fixture: &Fixture) -> SharedStore {
    let root = fixture.folder.path().join("second");
    copy_folder(&fixture.vault(), &root);
    Arc::new(DirectoryStore::new("second".parse().unwrap(), root, "lab".parse().unwrap()))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy_folder(&entry.path(), &to) } else { drop(std::fs::copy(entry.path(), to)) }
    }
}

#[tokio::test]
async fn what_one_vault_lost_or_damaged_comes_from_another() {
    let fixture = Fixture::new();
    let members = members(40, 20_000);
    let (_, entry) = fixture.small_backup("b", &members, 200_000).await;
    let second = copied(&fixture);
    let path = |name: &str| fixture.vault().join(format!("{}backups/b/{name}", layout().prefix()));
    // Damaged at its very end: most of its members were written by then.
    let damaged = path("data/00000.tar.zst.age");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    std::fs::remove_file(path("data/00001.tar.zst.age")).unwrap();
    std::fs::write(path("keys/0.age"), "age-encryption.org/v1\nrubbish").unwrap();
    let identities = [fixture.identity.clone()];
    let target = fixture.folder.path().join("target");
    let fetched = fixture.fetch(std::slice::from_ref(&second), &entry, &identities, &target).await.unwrap();
    for (name, content) in &members {
        assert!(std::fs::read(target.join(name)).unwrap() == *content, "{name}");
    }
    let stop = CancellationToken::new();
    let (sources, stranger) = ([fixture.store.clone(), second.clone()], age::x25519::Identity::generate());
    let both = [stranger, fixture.identity.clone()];
    let fetch = Fetch { sources: &sources, identities: &both, stop: &stop };
    let openers = openers(&fetch, &layout(), std::slice::from_ref(&entry.manifest.backup)).await.unwrap();
    assert_eq!(openers, [fixture.identity.to_public().to_string()], "the other vault's key object tells");
    let plain: u64 = members.iter().map(|(_, content)| content.len() as u64).sum();
    assert_eq!(fetched.plain_bytes, plain, "what a damaged copy gave is not counted");

    // Where no vault has a sound copy, the first one's is named.
    let other = fixture.folder.path().join("second").join(format!("{}backups/b/data", layout().prefix()));
    std::fs::remove_file(other.join("00000.tar.zst.age")).unwrap();
    let error = fixture.fetch(&[second], &entry, &identities, &fixture.folder.path().join("other")).await.unwrap_err();
    assert!(matches!(error, VaultError::Damaged { .. }) && error.to_string().contains("vault `primary`"), "{error}");
}

#[tokio::test]
async fn a_damaged_key_that_another_one_replaces_is_not_missed() {
    let fixture = Fixture::new();
    let (_, entry) = fixture.small_backup("b", &members(3, 5000), 1 << 20).await;
    let keys = fixture.vault().join(format!("{}backups/b/keys", layout().prefix()));
    std::fs::copy(keys.join("0.age"), keys.join("1.age")).unwrap();
    let damage = |name: &str| {
        let mut bytes = std::fs::read(keys.join(name)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(keys.join(name), bytes).unwrap();
    };
    let identities = [fixture.identity.clone()];
    let fetch = async |target: &str| fixture.fetch(&[], &entry, &identities, &fixture.folder.path().join(target)).await;
    damage("0.age");
    fetch("one").await.unwrap();
    let (sources, stop) = ([fixture.store.clone()], CancellationToken::new());
    let opening = Fetch { sources: &sources, identities: &identities, stop: &stop };
    let found = openers(&opening, &layout(), std::slice::from_ref(&entry.manifest.backup)).await.unwrap();
    assert_eq!(found, [fixture.identity.to_public().to_string()]);
    // One that is sound and another backup's opens nothing here.
    fixture.small_backup("c", &members(3, 5000), 1 << 20).await;
    let other = fixture.vault().join(format!("{}backups/c/keys/0.age", layout().prefix()));
    std::fs::copy(other, keys.join("1.age")).unwrap();
    let error = fetch("two").await.unwrap_err();
    let VaultError::LostKeys { lost, .. } = &error else { panic!("{error}") };
    assert!(matches!(&lost[..], [key] if key.as_str().ends_with("b/keys/0.age")), "{error}");
    damage("1.age");
    let error = fetch("three").await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged { key, .. } if key.as_str().ends_with("keys/0.age")), "{error}");
}

/// A server may look for a file at any moment.
#[tokio::test]
async fn wal_has_its_name_only_when_it_was_verified() {
    let fixture = Fixture::new();
    let size = SegmentSize::try_from(1 << 20).unwrap();
    let segment = |number| Segment { timeline: Timeline(1), number };
    let content = |number: u64| vec![u8::try_from(number).unwrap(); 1 << 20];
    let own = age::x25519::Identity::generate();
    let store = async |key: &ObjectKey, plain: &[u8], to: &age::x25519::Identity| {
        put_once(fixture.store.as_ref(), key, &Object::seal(plain, true, &[to.to_public()]).unwrap()).await.unwrap();
    };
    let text = own.to_string().expose_secret().to_owned();
    let key = Object::seal(text.as_bytes(), false, &[fixture.identity.to_public()]).unwrap();
    put_once(fixture.store.as_ref(), &layout().wal_key(segment(1), size, 0), &key).await.unwrap();
    for number in 1..=6 {
        store(&layout().segment(segment(number), size), &content(number), &own).await;
    }
    let damaged = fixture.vault().join(layout().segment(segment(4), size).as_str());
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let selection = Selection {
        chain: Vec::new(),
        backup: "b".parse().unwrap(),
        timeline: Timeline(1),
        segment_size: size,
        wal: (1..=6).map(|number| WalPiece { segment: segment(number), tails: Vec::new() }).collect(),
        histories: Vec::new(),
        end: segment(6).end(size),
        target: RecoveryTarget::Latest,
    };
    let folder = scratch();
    let owner = Account::for_postgres().unwrap();
    if let Some(account) = &owner {
        account.own(folder.path()).unwrap();
    }
    let (sources, identities) = ([fixture.store.clone()], [fixture.identity.clone()]);
    let stop = CancellationToken::new();
    let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
    let layout = layout();
    let mut wal = WalFolder::open(&fetch, &layout, &selection, folder.path()).await.unwrap().beside_replay();
    let error = wal.bring(&selection.wal).await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged { key, .. } if *key == layout.segment(segment(4), size)), "{error}");
    assert!(!folder.path().join(segment(4).file_name(size)).exists());
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let number = Segment::parse(&name, size).unwrap().number;
        assert!(std::fs::read(entry.path()).unwrap() == content(number), "{name}");
        let uid = entry.metadata().unwrap().uid();
        assert!(owner.as_ref().is_none_or(|account| account.uid == uid), "{name} belongs to {uid}");
    }
    // Without the damaged one all come; a second fetch of the same is no harm.
    let sound: Vec<WalPiece> = selection.wal.iter().filter(|piece| piece.segment.number != 4).cloned().collect();
    let fetched = wal.bring(&sound).await.unwrap();
    assert_eq!(fetched.plain_bytes, 5 << 20);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
}

/// Ending the runtime waits for every thread that still works for it.
#[test]
fn a_stopped_or_failed_fetch_writes_nothing_more() {
    for is_stopped in [true, false] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let target = runtime.block_on(async {
            let fixture = Fixture::new();
            let (_, entry) = fixture.small_backup("b", &members(20_000, 700), 1 << 20).await;
            let target = fixture.folder.path().join("target");
            let stop = CancellationToken::new();
            let (sources, identities) = ([fixture.store.clone()], [fixture.identity.clone()]);
            let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
            let outcome = if is_stopped {
                let begun = eventually("files are written", std::time::Duration::from_secs(30), || async {
                    std::fs::read_dir(target.join("base")).is_ok_and(|mut entries| entries.next().is_some())
                });
                let fetching = fetch_backup(&fetch, &entry, EmptyFolder::open(&target).unwrap(), |_| {});
                let stopping = async {
                    begun.await;
                    stop.cancel();
                };
                tokio::join!(fetching, stopping).0
            } else {
                let last = entry.manifest.parts().last().unwrap().name.clone();
                std::fs::remove_file(fixture.vault().join(format!("{}backups/b/{last}", layout().prefix()))).unwrap();
                fetch_backup(&fetch, &entry, EmptyFolder::open(&target).unwrap(), |_| {}).await
            };
            let error = outcome.unwrap_err();
            let expected = if is_stopped {
                matches!(error, VaultError::Stopped)
            } else {
                matches!(error, VaultError::Missing { .. })
            };
            assert!(expected, "{error}");
            std::fs::remove_dir_all(&target).unwrap();
            target
        });
        drop(runtime);
        assert!(!target.exists());
    }
}
