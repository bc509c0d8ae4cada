//! The ledger of heartbeats: vaults that hang or fail, hours that become one
//! object, and restore tests that read no more of it than they need.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    app::{self, App, Role},
    clock::Clock,
    config::{self, vault::Durability},
    db::{Db, findings, heartbeats},
    decide::{recovery::gaps::Need, retention::locks::Reach},
    domain::{Beat, BeatRange, DatabaseName, Lsn, Timeline},
    flows::{
        Database, Vault,
        ledger::{Locked, Swept, sweep},
    },
    process::Tasks,
    tasks,
    vault::{
        Layout, Listing, Locks, MemoryStore, ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, SharedStore,
        Store, StoreError, identities_from, ledger, put,
        verify::{Depth, Verify, verify},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    locks::Locking,
    site::{Site, wallet},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

fn name() -> DatabaseName {
    "wallet".parse().unwrap()
}

/// How a vault takes heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Sound,
    Failing,
    Hanging,
}

/// A vault in memory that takes WAL, and heartbeats as its mood is.
#[derive(Debug)]
struct Moody {
    inner: MemoryStore,
    mood: watch::Sender<Mood>,
    /// Heartbeats that were begun to be written, by name.
    tried: Mutex<BTreeMap<ObjectKey, usize>>,
    reads: AtomicUsize,
}

impl Moody {
    fn new(name: &str, mood: Mood) -> Arc<Self> {
        let inner = MemoryStore::new(name.parse().unwrap(), "eu-south-1".parse().unwrap());
        Arc::new(Self { inner, mood: watch::Sender::new(mood), tried: Mutex::default(), reads: AtomicUsize::default() })
    }

    fn tries(&self) -> usize {
        self.tried.lock().unwrap().values().sum()
    }

    async fn beats(&self) -> Vec<BeatRange> {
        let mut found: Vec<BeatRange> = Vec::new();
        for listing in Listing::of_all(&self.inner, &name()).await.unwrap() {
            found.extend(ledger::list(&self.inner, listing.layout()).await.unwrap());
        }
        found
    }
}

#[async_trait]
impl Store for Moody {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        if key.as_str().contains("/heartbeats/") {
            *self.tried.lock().unwrap().entry(key.clone()).or_default() += 1;
            let mood = *self.mood.subscribe().wait_for(|mood| *mood != Mood::Hanging).await.unwrap();
            if mood == Mood::Failing {
                let (vault, source) = (self.place().vault.clone(), std::io::ErrorKind::ConnectionReset.into());
                return Err(StoreError::Io { vault, subject: format!("`{key}`"), action: "write", source });
            }
        }
        self.inner.create(key).await
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.inner.probe().await
    }
}

/// The site's application, and its database with these vaults.
async fn open(site: &Site, stores: &[SharedStore]) -> (Arc<App>, Arc<Database>) {
    let estate = config::load(&site.path("lifeboat.yaml")).unwrap();
    let app = App::open(estate, Clock::system(), Role::WithoutDns).await.unwrap();
    let mut database = app::open_to_look(&app.estate, &app.secrets, &name()).await.unwrap().database;
    let vault = |store: &SharedStore| Vault {
        store: Arc::clone(store),
        durability: Durability::Required,
        lock_reach: Reach::default(),
        bucket: None,
    };
    database.vaults = stores.iter().map(vault).collect();
    (app, Arc::new(database))
}

async fn known(db: &Db) -> Vec<Beat> {
    heartbeats::between(db, &name(), Timestamp::UNIX_EPOCH, Timestamp::MAX).await.unwrap()
}

async fn told(app: &App) -> String {
    let open = findings::open_findings(&app.resources.db).await.unwrap();
    open.into_iter().map(|finding| finding.message + "\n").collect()
}

/// Every number of the ranges once, ascending.
fn numbers(ranges: &[BeatRange]) -> Vec<i64> {
    let mut numbers: Vec<i64> = ranges.iter().flat_map(|range| range.first..=range.last).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_hangs_or_fails_keeps_no_heartbeat_from_the_others() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let (hanging, failing) = (Moody::new("hanging", Mood::Hanging), Moody::new("failing", Mood::Failing));
    let sound = Moody::new("sound", Mood::Sound);
    let stores = [hanging.clone() as SharedStore, failing.clone() as SharedStore, sound.clone() as SharedStore];
    let (app, database) = open(&site, &stores).await;
    let db = &app.resources.db;
    let background = Tasks::new();
    background.spawn(tasks::wal::run(app.clone(), database.clone(), background.stop().clone()));
    background.spawn(tasks::heartbeat::run(app.clone(), database.clone(), background.stop().clone()));

    // Before anything is released: beats go on, and the sound vault has them.
    eventually("one vault hangs, one fails", SOON, || async { hanging.tries() >= 1 && failing.tries() >= 2 }).await;
    let (begun, pieces) = (known(db).await.len(), sound.beats().await.len());
    eventually("beats go on", SOON, || async { known(db).await.len() >= begun + 20 }).await;
    eventually("the sound vault has them", SOON, || async { sound.beats().await.len() >= pieces + 2 }).await;
    eventually("who is behind is told by name", SOON * 3, || async {
        let told = told(&app).await;
        told.contains("`hanging` has taken no heartbeats") && told.contains("`failing` has taken no heartbeats")
    })
    .await;
    let all = told(&app).await;
    assert!(all.contains("a write to it does not end") && all.contains("connection reset"), "{all}");
    assert!(!all.contains("sound") && !all.contains("no heartbeat was acknowledged"), "{all}");
    assert_eq!((hanging.tries(), hanging.beats().await.len(), failing.beats().await.len()), (1, 0, 0));

    // Back again, each gets what it missed in the same pieces, once.
    hanging.mood.send_replace(Mood::Sound);
    failing.mood.send_replace(Mood::Sound);
    eventually("the others are level", SOON, || async {
        let held = sound.beats().await;
        hanging.beats().await == held && failing.beats().await == held
    })
    .await;
    eventually("nobody is behind", SOON, || async { told(&app).await.is_empty() }).await;
    assert!(hanging.tried.lock().unwrap().values().all(|tries| *tries == 1), "{:?}", hanging.tried);

    // The end does not wait for one that hangs, and leaves nothing out elsewhere.
    hanging.mood.send_replace(Mood::Hanging);
    let tries = hanging.tries();
    eventually("it hangs", SOON, || async { hanging.tries() > tries }).await;
    tokio::time::timeout(SOON, background.shut_down()).await.unwrap();
    let all: Vec<i64> = known(db).await.iter().map(|beat| beat.seq).collect();
    assert_eq!(all, (1..=i64::try_from(all.len()).unwrap()).collect::<Vec<_>>());
    for vault in [&sound, &failing] {
        assert_eq!(numbers(&vault.beats().await), all, "{}: each once", vault.place().vault);
    }
    assert!(hanging.beats().await.len() < sound.beats().await.len());
}

fn beat(seq: i64) -> Beat {
    let acknowledged_at = Timestamp::from_second(1_700_000_000 + seq).unwrap();
    Beat { seq, acknowledged_at, commit_lsn: Lsn(seq.unsigned_abs() << 8), timeline: Timeline(1) }
}

/// A site whose state database knows these heartbeats; one vault in memory,
/// which holds them in pieces of a hundred.
async fn estate(site: &Site, vault: &Arc<Moody>, last: i64) -> (Arc<App>, Arc<Database>, Layout) {
    let (app, database) = open(site, &[vault.clone() as SharedStore]).await;
    let layout = Layout::new(name(), "7412345678901234567", 1).unwrap();
    let beats: Vec<Beat> = (1..=last).map(beat).collect();
    heartbeats::append(&app.resources.db, &name(), &beats).await.unwrap();
    for piece in beats.chunk_by(|a, b| a.seq / 100 == b.seq / 100) {
        ledger::append(vault.as_ref(), &layout, &database.keys.recipients, piece).await.unwrap();
    }
    (app, database, layout)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_heartbeats_becomes_one_object_and_what_is_old_goes() {
    let site = Site::write(1);
    let vault = Moody::new("primary", Mood::Sound);
    let (app, database, layout) = estate(&site, &vault, 10_900).await;
    let (db, identities) = (&app.resources.db, identities_from(&site.text("identity.age")).unwrap());
    let now = app.clock.now();
    let locking = Locking::new(&(vault.clone() as SharedStore), now);
    let held =
        Vault { store: locking.clone(), durability: Durability::Required, lock_reach: Reach::default(), bucket: None };
    let place = (&held, &layout);
    let read = async || ledger::read_since(vault.as_ref(), &layout, &identities, Timestamp::MIN).await.unwrap();
    let all = read().await;
    assert_eq!(all.len(), 10_900);
    let of = |first, last| BeatRange { first, last };
    let mut locked = Locked::new();

    // One piece is locked for a day.
    locking.lock(&layout.heartbeats(of(100, 199)), now + SignedDuration::from_hours(24)).await.unwrap();
    let swept = sweep(db, &database, place, &mut locked, now).await.unwrap();
    assert_eq!(swept, Swept { merged: 2, deleted: 36 - 1 + 36 });
    let ranges = vault.beats().await;
    assert_eq!(ranges[..4], [of(1, 3599), of(100, 199), of(3600, 7199), of(7200, 7299)], "{ranges:?}");
    assert_eq!(read().await, all, "nothing is lost, and nothing told twice");
    let again = sweep(db, &database, place, &mut locked, now).await.unwrap();
    assert_eq!(again, Swept::default(), "what is locked is left until then");
    let later = now + SignedDuration::from_hours(25);
    locking.set(later);
    let swept = sweep(db, &database, place, &mut locked, later).await.unwrap();
    assert_eq!((swept.deleted, numbers(&vault.beats().await).len()), (1, all.len()), "{swept:?}");
    is_sound(&vault, &layout, &identities, &site).await;

    // Whoever wants the newest reads two objects, however many there are.
    vault.reads.store(0, Ordering::SeqCst);
    let since = |seq: i64| beat(seq).acknowledged_at;
    let newest = ledger::newest(vault.as_ref(), &layout, &identities, (2, since(1)), |beat| beat.seq <= 10_899).await;
    assert_eq!(newest.unwrap(), [beat(10_899), beat(10_898)]);
    assert!(vault.reads.load(Ordering::SeqCst) <= 2, "{:?}", vault.reads);
    let newest = ledger::newest(vault.as_ref(), &layout, &identities, (2, since(10_000)), |_| false).await.unwrap();
    assert!(newest.is_empty() && vault.reads.load(Ordering::SeqCst) <= 2 + 11, "{:?}", vault.reads);

    // So many newer ones that the first hour is older than the window.
    let many = layout.heartbeats(of(10_901, 10_900 + 31 * 86_400 + 3600 - 7300));
    put(vault.as_ref(), &many, "age-encryption.org/v1\n").await.unwrap();
    let swept = sweep(db, &database, place, &mut locked, later).await.unwrap();
    assert_eq!((swept.deleted >= 1, vault.beats().await[0]), (true, of(3600, 7199)), "{swept:?}");
}

/// A number that the state database does not know keeps its hour from being merged.
#[tokio::test(flavor = "multi_thread")]
async fn what_this_node_does_not_know_is_left_as_it_is() {
    let site = Site::write(1);
    let vault = Moody::new("primary", Mood::Sound);
    let (app, database, layout) = estate(&site, &vault, 7200).await;
    let unknown: Vec<Beat> = (7201..=10_900).map(beat).collect();
    ledger::append(vault.as_ref(), &layout, &database.keys.recipients, &unknown).await.unwrap();
    let (held, last) = (&database.vaults[0], beat(3700).acknowledged_at);
    heartbeats::trim(&app.resources.db, last).await.unwrap();
    let before = vault.beats().await;
    let swept = sweep(&app.resources.db, &database, (held, &layout), &mut Locked::new(), app.clock.now()).await;
    assert_eq!((swept.unwrap(), vault.beats().await), (Swept::default(), before));
}

/// `vault verify` reads merged objects like the others.
async fn is_sound(vault: &Arc<Moody>, layout: &Layout, identities: &[age::x25519::Identity], site: &Site) {
    let (signer, _) = lifeboat::vault::signature::Signer::load_or_create(&site.path("signing.key")).unwrap();
    let store = vault.clone() as SharedStore;
    let report = verify(
        &Verify {
            store: &store,
            layout,
            verifier: &signer.verifier(),
            identities,
            depth: Depth::Full,
            others: &[],
            lock_until: None,
            retained: &|_| Need::Unknown,
            now: Clock::system().now(),
            stop: &CancellationToken::new(),
            done: Arc::default(),
        },
        &|_, _, _| {},
    )
    .await
    .unwrap();
    assert_eq!(report.defects, []);
}

/// Objects of heartbeats from before the window, that nobody could read, do not
/// matter to a random instant; the test of it passes on a real server.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_test_at_a_random_instant_reads_no_old_heartbeats() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "algorithm: latest_at_disaster", "algorithm: random_within_window, window: 30d");
    lab.psql_in("wallet", "INSERT INTO lifeboat.heartbeat VALUES (100000)").await;
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    // Of nearly all instants from here on this commit is an earlier one.
    lab.psql_in("wallet", "INSERT INTO bets (stake) VALUES (1)").await;
    let mut daemon = site.serve(&[]);
    let ledger = || -> Vec<_> {
        let files = site.files_in("vault").into_iter();
        files.filter(|path| path.to_string_lossy().contains("/heartbeats/00000000001")).collect()
    };
    eventually("heartbeats are in the vault", SOON, || async { ledger().len() >= 2 }).await;
    let folder = ledger()[0].parent().unwrap().to_owned();
    for first in (1..10_000).step_by(10) {
        let range = BeatRange { first, last: first + 9 };
        std::fs::write(folder.join(range.file_name()), "age-encryption.org/v1\nnothing that opens\n").unwrap();
    }
    let tested = site.run(&["restore-test", "wallet"]).await.json(0);
    assert_eq!(tested["verdict"], "PASS", "{tested}");
    let scenario = tested["scenario"].as_str().unwrap();
    assert!(scenario.starts_with("a random instant between"), "{scenario}");
    // Where nothing was committed between the backup and that instant, there is nothing to compare.
    let error = tested["target_error_seconds"].as_f64();
    assert!(error.is_none_or(|error| error >= 0.0), "{tested}");
    assert_eq!(error.is_none(), tested["recovery_point"]["last_commit_at"].is_null(), "{tested}");
    assert!(backup["id"].is_string());
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
