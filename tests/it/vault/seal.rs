//! Sealed objects: readable by the age program, write-once by their plain
//! digest, and nothing unencrypted gets out.

use std::{sync::atomic::Ordering, time::Duration};

use age::secrecy::ExposeSecret;
use lifeboat::{
    process::Program,
    vault::{Object, ObjectKey, VaultError, put, put_once, read_sealed, seal::Gate},
};

use super::{
    faulty::Faulty,
    fixture::{Fixture, memory},
};

fn key() -> ObjectKey {
    ObjectKey::new("wallet/1/1/wal/00000001/000000010000000000000001.zst.age").unwrap()
}

#[tokio::test]
async fn the_age_program_opens_what_we_seal() {
    let fixture = Fixture::new();
    let other = age::x25519::Identity::generate();
    let object = Object::seal(b"content", false, &[fixture.identity.to_public(), other.to_public()]).unwrap();
    put_once(fixture.store.as_ref(), &key(), &object).await.unwrap();
    for identity in [&fixture.identity, &other] {
        let file = fixture.folder.path().join(identity.to_public().to_string());
        std::fs::write(&file, identity.to_string().expose_secret()).unwrap();
        let opened = Program::new("age")
            .args(["-d", "-i"])
            .arg(&file)
            .arg(fixture.vault().join(key().as_str()))
            .output(Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(opened, "content");
        assert_eq!(
            read_sealed(fixture.store.as_ref(), &key(), false, std::slice::from_ref(identity)).await.unwrap(),
            b"content"
        );
    }
    let stranger = [age::x25519::Identity::generate()];
    let error = read_sealed(fixture.store.as_ref(), &key(), false, &stranger).await.unwrap_err();
    assert!(matches!(error, VaultError::NoIdentity { .. }));
}

#[tokio::test]
async fn the_same_content_is_a_success_retried_and_another_is_a_conflict() {
    let fixture = Fixture::new();
    let recipients = [fixture.identity.to_public()];
    let seal = |plain: &[u8]| Object::seal(plain, true, &recipients).unwrap();
    let (first, again) = (seal(b"WAL"), seal(b"WAL"));
    assert_ne!(first.stored, again.stored, "age output differs each time");
    put_once(fixture.store.as_ref(), &key(), &first).await.unwrap();
    put_once(fixture.store.as_ref(), &key(), &again).await.unwrap();
    let error = put_once(fixture.store.as_ref(), &key(), &seal(b"other")).await.unwrap_err();
    assert!(matches!(error, VaultError::Conflict { .. }) && error.is_permanent());
    assert!(error.to_string().contains("000000010000000000000001.zst.age"));

    let faulty = Faulty::new(memory());
    faulty.faults.lose_answer.store(true, Ordering::SeqCst);
    assert!(put_once(&faulty, &key(), &first).await.is_err(), "the answer of the commit was lost");
    put_once(&faulty, &key(), &again).await.unwrap();
}

#[tokio::test]
async fn what_is_not_sealed_never_leaves_the_process() {
    let store = memory();
    for (name, content) in [
        ("wallet/1/1/wal/00000001/000000010000000000000001.zst.age", &b"plain WAL, long enough to be judged"[..]),
        ("wallet/1/1/wal/00000001/000000010000000000000001.zst.age", b"short"),
        ("wallet/1/1/backups/b/data/00000.tar.zst", b"a name that is not on the list"),
        ("wallet/1/1/notes.txt", b"the same"),
    ] {
        let key = ObjectKey::new(name).unwrap();
        let planted = put_once(store.as_ref(), &key, &Object::plain(content)).await;
        assert!(matches!(planted, Err(VaultError::Unsealed { .. })), "{name}");
    }
    assert!(store.list("").await.unwrap().is_empty());
    // The magic may arrive in pieces.
    let mut gate = Gate::create(store.as_ref(), &key()).await.unwrap();
    gate.write("age-encryption".into()).await.unwrap();
    gate.write(".org/v1\nrest".into()).await.unwrap();
    assert_eq!(gate.commit().await.unwrap().size_bytes, 26);
}

#[tokio::test]
async fn a_changed_sealed_object_is_named() {
    let store = memory();
    let identity = age::x25519::Identity::generate();
    let object = Object::seal(b"content", true, &[identity.to_public()]).unwrap();
    let mut bytes = object.stored.to_vec();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    put(store.as_ref(), &key(), bytes).await.unwrap();
    let error = read_sealed(store.as_ref(), &key(), true, &[identity]).await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged { key: named, .. } if *named == key()), "{error}");
}
