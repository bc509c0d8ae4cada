//! Locks of what is kept, in a vault that locks: set when a backup is committed,
//! renewed while it is kept. The store is a real folder with locks in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    app, config,
    flows::{Database, locks, retention},
    vault::{Locks, ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, SharedStore, Store, StoreError},
};

use super::site::{Site, wallet};

/// Refuses to delete what is locked; locks nothing while `broken`.
#[derive(Debug)]
pub(super) struct Locking {
    inner: SharedStore,
    now: Mutex<Timestamp>,
    until: Mutex<BTreeMap<ObjectKey, Timestamp>>,
    broken: AtomicBool,
    /// How often the end of a lock was asked for.
    asked: AtomicUsize,
}

impl Locking {
    pub(super) fn new(inner: &SharedStore, now: Timestamp) -> Arc<Self> {
        let (inner, now) = (Arc::clone(inner), Mutex::new(now));
        Arc::new(Self {
            inner,
            now,
            until: Mutex::default(),
            broken: AtomicBool::default(),
            asked: AtomicUsize::new(0),
        })
    }

    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    pub(super) fn set(&self, now: Timestamp) {
        *self.now.lock().unwrap() = now;
    }

    /// As whoever has the right to.
    fn lift(&self, key: &ObjectKey) {
        self.until.lock().unwrap().remove(key).unwrap();
    }

    fn ends(&self) -> Vec<Timestamp> {
        self.until.lock().unwrap().values().copied().collect()
    }
}

#[async_trait]
impl Store for Locking {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.create(key).await
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.inner.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if let Some(until) = self.locked_until(key).await? {
            return Err(StoreError::Locked { vault: self.place().vault.clone(), key: key.clone(), until });
        }
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.inner.probe().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }
}

#[async_trait]
impl Locks for Locking {
    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.until.lock().unwrap().get(key).copied().filter(|until| *until > self.now()))
    }

    async fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) && key.as_str().contains("/wal/") {
            let subject = format!("`{key}`");
            let (vault, source) = (self.place().vault.clone(), std::io::ErrorKind::PermissionDenied.into());
            return Err(StoreError::Denied { vault, subject, action: "locked", source });
        }
        let mut locks = self.until.lock().unwrap();
        let end = locks.entry(key.clone()).or_insert(until);
        *end = until.max(*end);
        Ok(())
    }
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_stays_locked() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    for _ in 0..2 {
        site.run(&["backup", "wallet"]).await.json(0);
        lab.psql("SELECT pg_switch_wal()").await;
    }
    let said = site.run(&["vault", "renew-locks"]).await.json(0);
    assert_eq!(said[0]["locks"], false, "a folder locks nothing");
    let estate = config::load(&site.path("lifeboat.yaml")).unwrap();
    let mut database: Database = app::open_for_restore(&estate, &"wallet".parse().unwrap(), None).await.unwrap();
    let now = lifeboat::clock::Clock::system().now();
    let store = Locking::new(&database.vaults[0].store, now);
    database.vaults[0].store = store.clone();
    let vault = database.vaults[0].clone();
    let (memory, mut known) = (retention::Memory::default(), locks::Known::default());

    // A new backup is locked with all its objects.
    let survey = retention::survey(&database, &vault, &memory, &[], now).await.unwrap().unwrap();
    let newest = survey.plan.keep.last().unwrap().backup.clone();
    let prefix = survey.layout.backup_prefix(&newest);
    let renewed = locks::lock_backup(store.as_ref(), vault.lock_reach, &survey.layout, &newest, now).await.unwrap();
    assert_eq!((renewed.objects, renewed.failed.len()), (survey.listing.under(&prefix).count(), 0));
    for key in survey.listing.under(&prefix) {
        assert!(matches!(store.delete(key).await, Err(StoreError::Locked { .. })), "{key}");
    }

    // Everything that is kept, keys and WAL included; a failure is named.
    store.broken.store(true, Ordering::SeqCst);
    let renewed = locks::renew(&database, &vault, &memory, &mut known, now).await.unwrap().unwrap();
    assert!(!renewed.failed.is_empty() && renewed.failed[0].contains("/wal/"), "{renewed:?}");
    store.broken.store(false, Ordering::SeqCst);
    let renewed = locks::renew(&database, &vault, &memory, &mut known, now).await.unwrap().unwrap();
    assert_eq!(renewed.failed, [""; 0]);
    let kept = survey.listing.keys().filter(|key| key.as_str().contains("/backups/") || key.as_str().contains("/wal/"));
    for key in kept {
        let is_superseded = key.as_str().contains(".tail.")
            && survey
                .listing
                .holds(&ObjectKey::new(format!("{}.zst.age", key.as_str().split('.').next().unwrap())).unwrap());
        let is_locked = store.locked_until(key).await.unwrap().is_some();
        assert!(is_locked || is_superseded, "{key} is kept and not locked");
    }
    assert!(store.ends().iter().all(|end| (now + days(15)..=now + days(22)).contains(end)), "{:?}", store.ends());
    let again = locks::renew(&database, &vault, &memory, &mut known, now).await.unwrap().unwrap();
    assert_eq!((again.objects, again.locked), (renewed.objects, 0), "it is locked far enough");
    // What nobody shortens unseen is not asked for each hour; once a day all of it is.
    let asked = store.asked.load(Ordering::SeqCst);
    locks::renew(&database, &vault, &memory, &mut known, now + SignedDuration::from_hours(1)).await.unwrap();
    let manifests = survey.plan.keep.len();
    assert_eq!(store.asked.load(Ordering::SeqCst) - asked, manifests, "the plan asks for manifests alone");
    store.lift(&survey.layout.manifest(&newest));
    let daily = locks::renew(&database, &vault, &memory, &mut known, now + days(1)).await.unwrap().unwrap();
    assert!(daily.locked >= 1 && daily.failed.is_empty(), "{daily:?}");
    assert!(
        store.locked_until(&survey.layout.manifest(&newest)).await.unwrap().is_some(),
        "it was lifted, and is seen"
    );

    // A week later the same objects are locked a week further.
    store.set(now + days(8));
    let later = locks::renew(&database, &vault, &memory, &mut known, now + days(8)).await.unwrap().unwrap();
    assert_eq!((later.objects, later.locked), (renewed.objects, renewed.objects), "{later:?}");
}
