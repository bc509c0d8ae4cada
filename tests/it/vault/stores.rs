//! One conformance suite, run for every store.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use lifeboat::vault::{DirectoryStore, ObjectKey, Retrying, SharedStore, Store, StoreError, put, stat};
use tokio::io::AsyncReadExt;

use super::{faulty::Faulty, fixture::memory};
use crate::support::{moved, scratch};

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub(super) async fn content(store: &dyn Store, name: &str) -> String {
    let mut text = String::new();
    store.read(&key(name)).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

pub(super) async fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|object| object.key.to_string()).collect()
}

/// The contract of `Store`.
pub(super) async fn conforms(store: &dyn Store) {
    store.probe().await.unwrap();
    assert_eq!(names(store, "").await, [""; 0], "a probe leaves nothing");

    put(store, &key("a/b/one"), "first").await.unwrap();
    assert_eq!(content(store, "a/b/one").await, "first");
    assert_eq!(stat(store, &key("a/b/one")).await.unwrap().unwrap().size_bytes, 5);

    let again = put(store, &key("a/b/one"), "second").await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(content(store, "a/b/one").await, "first", "never overwritten");

    // Two writers of one name: the first commit wins, the other is refused.
    let mut left = store.create(&key("race")).await.unwrap();
    let mut right = store.create(&key("race")).await.unwrap();
    left.write("left".into()).await.unwrap();
    right.write("right".into()).await.unwrap();
    assert!(stat(store, &key("race")).await.unwrap().is_none(), "invisible before commit");
    assert!(matches!(store.read(&key("race")).await, Err(StoreError::NotFound { .. })));
    assert_eq!(right.commit().await.unwrap().size_bytes, 5);
    assert!(matches!(left.commit().await, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(content(store, "race").await, "right");

    let mut dropped = store.create(&key("dropped")).await.unwrap();
    dropped.write("x".into()).await.unwrap();
    drop(dropped);
    assert!(stat(store, &key("dropped")).await.unwrap().is_none());

    for name in ["a/b/two", "a/c", "a.b", "b", "a/b-"] {
        put(store, &key(name), "x").await.unwrap();
    }
    assert_eq!(names(store, "").await, ["a.b", "a/b-", "a/b/one", "a/b/two", "a/c", "b", "race"]);
    assert_eq!(names(store, "a/b").await, ["a/b-", "a/b/one", "a/b/two"], "a prefix is text, not a folder");
    assert_eq!(names(store, "a/b/").await, ["a/b/one", "a/b/two"]);
    assert_eq!(names(store, "nothing/").await, [""; 0]);

    store.delete(&key("a/b/one")).await.unwrap();
    store.delete(&key("a/b/one")).await.unwrap();
    assert!(matches!(store.read(&key("a/b/one")).await, Err(StoreError::NotFound { .. })));
    assert!(stat(store, &key("a/b")).await.unwrap().is_none(), "a folder is no object");
}

fn directory(root: &std::path::Path) -> SharedStore {
    Arc::new(DirectoryStore::new("primary".parse().unwrap(), root, "lab".parse().unwrap()))
}

#[tokio::test]
async fn a_directory_conforms() {
    let folder = scratch();
    conforms(directory(&folder.path().join("vault")).as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_no_empty_folder_and_loses_no_object_over_it() {
    let folder = scratch();
    let root = folder.path().join("vault");
    let store = directory(&root);
    for name in ["a/b/one", "a/b/two"] {
        put(store.as_ref(), &key(name), name).await.unwrap();
    }
    store.delete(&key("a/b/one")).await.unwrap();
    assert!(root.join("a/b").is_dir());
    store.delete(&key("a/b/two")).await.unwrap();
    assert!(!root.join("a").exists() && root.is_dir());
    // One comes into a folder while the last one goes from it.
    let writers = (0..4).map(|nth| {
        let store = Arc::clone(&store);
        async move {
            for round in 0..50 {
                let mine = key(&format!("x/y/{nth}-{round}"));
                put(store.as_ref(), &mine, "content").await.unwrap();
                assert!(stat(store.as_ref(), &mine).await.unwrap().is_some());
                store.delete(&mine).await.unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    assert!(!root.join("x").exists());
}

#[tokio::test]
async fn memory_conforms() {
    conforms(memory().as_ref()).await;
}

#[tokio::test]
async fn retrying_conforms_and_rides_out_blips() {
    conforms(&Retrying::new(memory(), 3, Duration::from_millis(1))).await;
    let faulty = Faulty::new(memory());
    let switches = faulty.faults.clone();
    let store = Retrying::new(Arc::new(faulty), 4, Duration::from_millis(1));
    for (blips, name) in [(1, "create"), (2, "twice"), (3, "thrice")] {
        switches.blips.store(blips, Ordering::SeqCst);
        put(&store, &key(name), "content").await.unwrap();
        assert_eq!(content(&store, name).await, "content");
    }
    // A write and a commit that fail are repeated from the buffer.
    let mut writer = store.create(&key("buffered")).await.unwrap();
    writer.write("one ".into()).await.unwrap();
    switches.blips.store(2, Ordering::SeqCst);
    writer.write("two".into()).await.unwrap();
    switches.blips.store(2, Ordering::SeqCst);
    writer.commit().await.unwrap();
    assert_eq!(content(&store, "buffered").await, "one two");
    // The first attempt succeeded and nobody heard of it.
    for content in ["", "content"] {
        let name = format!("unheard {content}");
        switches.lose_answer.store(true, Ordering::SeqCst);
        let info = put(&store, &key(&name), content).await.unwrap();
        assert_eq!(info.size_bytes, content.len() as u64);
        assert_eq!(self::content(&store, &name).await, content);
        // Another's object is not taken for it.
        for other in ["", "other", "content and more"] {
            let again = put(&store, &key(&name), other).await;
            assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{other}");
        }
    }
    switches.down.store(true, Ordering::SeqCst);
    assert!(matches!(stat(&store, &key("create")).await, Err(StoreError::Io { .. })), "in the end it gives up");
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed_after_a_day_and_not_before() {
    let folder = scratch();
    let store = directory(folder.path());
    store.probe().await.unwrap();
    let [old, fresh, others] =
        [".tmpAbC123", ".tmpAbC124", "notes.txt"].map(|name| folder.path().join(".tmp").join(name));
    std::fs::write(&others, "x").unwrap();
    std::fs::write(&old, "x").unwrap();
    std::fs::write(&fresh, "x").unwrap();
    let now = std::fs::metadata(&fresh).unwrap().modified().unwrap();
    let day = Duration::from_secs(25 * 3600);
    for old in [&old, &others] {
        std::fs::File::options().write(true).open(old).unwrap().set_modified(now - day).unwrap();
    }
    store.probe().await.unwrap();
    assert!(!old.exists() && fresh.exists() && others.exists(), "what we have not named is not ours");
}

/// A vault that nobody can walk to the end: its deepest folder has a longer name
/// than the system takes. Whoever stays out of it never notices.
#[tokio::test]
async fn a_listing_looks_only_where_its_prefix_leads() {
    let folder = scratch();
    let store = directory(&folder.path().join("vault"));
    for name in ["vault.json", "vault.json.sig", "wallet/1/1/wal/one"] {
        put(store.as_ref(), &key(name), "x").await.unwrap();
    }
    let half: std::path::PathBuf = std::iter::repeat_n("x".repeat(200), 11).collect();
    let (lower, upper) = (folder.path().join("lower"), folder.path().join("vault/wallet").join(&half));
    std::fs::create_dir_all(lower.join(&half)).unwrap();
    std::fs::create_dir_all(&upper).unwrap();
    moved(lower, upper.join("lower"));
    assert!(store.list("").await.is_err() && store.list("wallet/").await.is_err(), "the folder cannot be walked");
    assert_eq!(names(store.as_ref(), "vault.json").await, ["vault.json", "vault.json.sig"]);
    assert_eq!(names(store.as_ref(), "wallet/1").await, ["wallet/1/1/wal/one"]);
    store.probe().await.unwrap();
}

/// Mounts a file system of 1 MiB; none where this user may not.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    async fn mount(options: &str) -> Option<Self> {
        let folder = scratch();
        let mounted = lifeboat::process::Program::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder.path())
            .output(Duration::from_secs(5))
            .await;
        mounted.is_ok().then_some(Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing_visible() {
    let Some(disk) = Tmpfs::mount("size=1m").await else {
        // Where nothing may be mounted the same path is tested in `backup`.
        return;
    };
    let store = directory(disk.0.path());
    let error = put(store.as_ref(), &key("big"), vec![7; 3 << 20]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("free space"));
    assert!(names(store.as_ref(), "").await.is_empty());
    put(store.as_ref(), &key("small"), "fits").await.unwrap();
}

#[tokio::test]
async fn a_read_only_vault_is_told() {
    let Some(disk) = Tmpfs::mount("ro,size=1m").await else { return };
    let store = directory(disk.0.path());
    let error = put(store.as_ref(), &key("x"), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(store.probe().await.is_err());
}

#[tokio::test]
async fn what_is_wrong_with_a_folder_is_one_sentence_with_its_path() {
    let folder = scratch();
    let root = folder.path().join("vault");
    std::fs::write(&root, "a file").unwrap();
    let store = DirectoryStore::new("dr".parse().unwrap(), &root, "eu-south-1".parse().unwrap());
    let told = put(&store, &key("wallet/x"), "x").await.unwrap_err().to_string();
    assert!(told.contains("is no folder, and `path` of this vault must name one"), "{told}");
    assert!(told.contains(root.to_str().unwrap()), "{told}");
    std::fs::remove_file(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("wallet"), "a file").unwrap();
    let told = put(&store, &key("wallet/x"), "x").await.unwrap_err().to_string();
    assert!(told.contains("cannot store `wallet/x` in ") && told.contains(root.to_str().unwrap()), "{told}");
}
