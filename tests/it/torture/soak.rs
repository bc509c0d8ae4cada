//! Daemon, primary and store are killed with SIGKILL at instants of chance, alone
//! or together, and started again, while a client commits. WAL goes to two
//! vaults that are both required: a folder, which has no process to kill, and a
//! bucket. Segments are small, so that many begin and end.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc, time::Duration};

use lifeboat::{
    domain::{Lsn, SegmentSize},
    process::Tasks,
    vault::{DirectoryStore, SharedStore},
};
use serde_json::{Value, json};
use tokio::{process::Child, time::Instant};

use super::{
    chance::{self, Chance},
    client::{self, Ledger},
    estate::{archive_in, discard, durable, let_lifeboat_in, settings, tell_log},
    node::{Node, SOON},
    segments,
    store::{BUCKET, Store},
    targets::stop,
};
use crate::{
    cli::site::Site,
    support::{
        eventually,
        moto::{SECRET, open, options},
        scratch,
    },
};

const MAJOR: u32 = 15;
const VAULTS: [&str; 2] = ["primary", "dr"];
/// Between two kills, and until what was killed is started again.
const CALM: Duration = Duration::from_secs(4);
const DEAD: Duration = Duration::from_secs(3);
/// Until all is in the bucket at last: the emulator lists slowly on a busy machine.
const CALMED: Duration = Duration::from_secs(240);
/// While chance rules a backup is nearly always under way or being copied.
const OFTEN: &str = "* * * * *";
/// And then none is begun but by hand.
const RARELY: &str = "0 2 29 2 *";
/// How many rounds there are between two looks into the vaults.
const ROUNDS: u32 = 5;

struct Scene {
    site: Site,
    node: Node,
    store: Store,
    daemon: Child,
    archive: PathBuf,
    ledger: Arc<Ledger>,
    /// How often each was killed: daemon, primary, store.
    kills: [u32; 3],
    looks: u32,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let folder = scratch();
        let node = Node::new(MAJOR, folder.path(), "primary");
        let archive = archive_in(folder.path(), &node);
        node.init(&settings(&archive), &["--wal-segsize=1"]).await;
        node.start("").await;
        let_lifeboat_in(&node).await;
        node.psql("wallet", client::TABLES).await.unwrap();
        let store = Store::start(folder.path()).await;
        let site = Site::write(node.port);
        site.put_private("s3.secret", SECRET);
        site.edit("lifeboat.yaml", "durable: required}", &format!("durable: required}}\n  dr: {}", store.vault_yaml()));
        site.edit("lifeboat.yaml", "scratch: scratch", "scratch: scratch, lease: 2s");
        site.edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [primary, dr]");
        site.edit("schedules/wallet.yaml", RARELY, OFTEN);
        let daemon = site.serve(&[]);
        let ledger = Arc::default();
        Self { site, node, store, daemon, archive, ledger, kills: [0; 3], looks: 0, folder }
    }

    /// Waits until both vaults hold a backup.
    async fn protected(&self) {
        self.site.run(&["backup", "wallet"]).await.json(0);
        eventually("the bucket has the backup", SOON, || async {
            let objects = self.store.moto().client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
            objects.contents().iter().any(|object| object.key().unwrap().ends_with("/manifest.json"))
        })
        .await;
    }

    /// One to three of them die within a moment, and come back within another.
    async fn round(&mut self, chance: &mut Chance) {
        chance.instant(CALM).await;
        let mut victims = [0, 1, 2];
        chance.shuffle(&mut victims);
        let mostly_one = [1, 1, 1, 2, 3];
        let count = mostly_one[usize::try_from(chance.between(0, 5)).unwrap()];
        let victims = &mut victims[..count];
        for victim in victims.iter() {
            self.kills[*victim] += 1;
            match victim {
                0 => self.daemon.kill().await.unwrap(),
                1 => self.node.kill().await,
                _ => self.store.kill().await,
            }
            chance.instant(Duration::from_millis(200)).await;
        }
        chance.shuffle(victims);
        for victim in victims.iter() {
            chance.instant(DEAD).await;
            match victim {
                0 => self.daemon = self.site.serve(&[]),
                1 => self.node.start("").await,
                _ => self.store.revive().await,
            }
        }
    }

    /// Up to where the vaults are said to have everything: by the slot, which the
    /// server was told, and by the daemon.
    async fn confirmed(&self) -> Lsn {
        const SLOT: &str = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'";
        let slot: Lsn = self.node.psql("postgres", SLOT).await.unwrap().parse().unwrap();
        durable(&self.site).await.map_or(slot, |durable| durable.max(slot))
    }

    /// What each vault gives back holds all that was confirmed.
    async fn look(&mut self) {
        let confirmed = self.confirmed().await;
        self.looks += 1;
        for vault in VAULTS {
            let name = format!("look-{}-{vault}", self.looks);
            let copy = self.restored(&name, vault).await;
            let rows = copy.psql("wallet", "SELECT n FROM numbered").await.unwrap();
            let rows: BTreeSet<i64> = rows.lines().map(|row| row.parse().unwrap()).collect();
            self.ledger.assert_held(&name, &rows, confirmed);
            discard(copy).await;
        }
    }

    async fn restored(&self, name: &str, vault: &str) -> Node {
        let node = Node::new(MAJOR, self.folder.path(), name);
        let to = node.cluster.data();
        let args = ["restore", "wallet", "--to", to.to_str().unwrap(), "--latest", "--from", vault];
        self.site.run(&args).await.json(0);
        node.recover().await;
        node
    }

    /// Waits until the daemon has brought everything to an end that was begun.
    async fn settled(&mut self) {
        self.daemon.kill().await.unwrap();
        self.site.edit("schedules/wallet.yaml", OFTEN, RARELY);
        self.daemon = self.site.serve(&[]);
        let end = self.node.lsn("pg_current_wal_flush_lsn").await;
        let has_all = || async { durable(&self.site).await.is_some_and(|durable| durable >= end) };
        eventually("all WAL is in both vaults", CALMED, has_all).await;
        eventually("no run is left under way", CALMED, || async { self.open_runs().await.is_empty() }).await;
        // One that failed while the primary was away is a finding until the next.
        self.site.run(&["backup", "wallet"]).await.json(0);
        eventually("the backup is copied", CALMED, || async { self.open_runs().await.is_empty() }).await;
        // Their exit codes tell of findings and alarms.
        let said = async |what| serde_json::from_str::<Value>(&self.site.run(&[what]).await.stdout).unwrap();
        eventually("no finding is left", CALMED, || async { said("findings").await == json!([]) }).await;
        let status = said("status").await;
        assert_eq!(status["databases"][0]["broken_windows"], json!([]), "{status}");
    }

    async fn open_runs(&self) -> Vec<Value> {
        let runs = self.site.run(&["runs", "--limit", "1000"]).await.json(0);
        let Value::Array(runs) = runs else { panic!("{runs}") };
        runs.into_iter().filter(|run| run["finished_at"].is_null()).collect()
    }

    /// The vaults as a whole: nothing missing, nothing twice, nothing else.
    async fn assert_sound(&self) {
        let verified = self.site.run(&["vault", "verify", "wallet", "--full"]).await.json(0);
        assert_eq!(verified["verdict"], "PASS", "{verified}");
        self.site.run(&["evidence", "verify"]).await.json(0);
        let folder: SharedStore = Arc::new(DirectoryStore::new(
            "primary".parse().unwrap(),
            self.site.path("vault"),
            "eu-south-1".parse().unwrap(),
        ));
        let bucket: SharedStore = Arc::new(open(options(&self.store.moto().endpoint, BUCKET)).await);
        let size = SegmentSize::try_from(1 << 20).unwrap();
        for (vault, store) in VAULTS.into_iter().zip([folder, bucket]) {
            let identity = fs::read_to_string(self.site.path("identity.age")).unwrap().trim().parse().unwrap();
            let to = self.folder.path().join(format!("segments-{vault}"));
            let count = segments::compared(vault, store, identity, &self.archive, size, &to).await;
            println!("vault {vault}: {count} segments as the server wrote them");
            assert!(count > 3, "{vault}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("killed daemon, primary, store: {:?}; looks: {}", self.kills, self.looks);
            tell_log(&self.site);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_instant_lose_nothing_that_was_confirmed() {
    let mut chance = Chance::new("soak");
    let mut scene = Scene::start().await;
    scene.protected().await;
    let tasks = Tasks::new();
    client::commit(&scene.node, Arc::clone(&scene.ledger), &tasks);
    let length = chance::minutes().map_or(Duration::from_secs(20), |minutes| Duration::from_secs(60 * minutes));
    let until = Instant::now() + length;
    while Instant::now() < until {
        for _ in 0..ROUNDS {
            scene.round(&mut chance).await;
        }
        scene.look().await;
    }
    // Each was killed, whatever chance said.
    while scene.kills.contains(&0) {
        scene.round(&mut chance).await;
    }
    tasks.shut_down().await;
    scene.settled().await;
    let end = scene.confirmed().await;
    scene.look().await;
    stop(&mut scene.daemon).await;
    scene.assert_sound().await;
    let (acknowledged, [daemon, primary, store]) = (scene.ledger.count(), scene.kills);
    println!(
        "{acknowledged} rows acknowledged, all in both vaults at {end}; killed: daemon {daemon}, primary {primary}, \
         store {store} times; {} looks",
        scene.looks
    );
    assert!(acknowledged > 100);
}
