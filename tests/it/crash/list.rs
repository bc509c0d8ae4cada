//! The one list of flows for the generic tests. Whoever adds a flow to the app writes a
//! `Case` for it and adds a line to `flows!`; `every_flow_of_the_app_is_in_the_list`
//! fails until then.

use std::{collections::BTreeSet, path::Path};

use age::x25519::Identity;
use async_trait::async_trait;
use lifeboat::{
    app::Role,
    cli::demo::estate::{ADDRESSES, Estate},
    decide::agenda::Why,
    domain::{BackupKind, RecoveryTarget},
    flow::NewRun,
    flows::{backup, copy, drill, missed, prune, restore_test, rotate_keys, self_test, verify},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    at_provider::RestoreTestAtProvider,
    copy::{backups_in, copy, with_two_vaults},
    end::{End, VAULTS, linked},
    generic::{self, Ordeal, Part},
    lab::{Lab, edit, swapped, wallet},
    managed::{PruneSnapshots, Snapshot},
};
use crate::torture;

/// What takes part in every run of every case is small.
const BETS: u64 = 2000;

/// A flow, or one way to run it: how a fresh run begins, and what is looked at besides
/// what `End` tells of any run.
#[async_trait]
pub(super) trait Case: Send + Sync {
    /// The name by which the app knows the flow.
    fn flow(&self) -> &'static str;

    /// The version of the servers.
    fn major(&self) -> u32 {
        15
    }

    /// Edits the estate's files before anything is opened.
    fn write(&self, _folder: &Path) {}

    /// Whether WAL and heartbeats go on during runs. Where they do not, each run begins
    /// with the vaults exactly as they were before the first one.
    fn is_live(&self) -> bool {
        false
    }

    /// What there is before the first run; WAL and heartbeats are going on.
    async fn prepare(&self, _lab: &mut Lab) {}

    /// A run, once the estate is such that it can begin.
    async fn run(&self, lab: &Lab) -> NewRun;

    /// What it changes outside of the vaults.
    async fn world(&self, _lab: &Lab) -> Value {
        Value::Null
    }

    /// What a record says, as it would say it of a run that began in the first world.
    fn alike(&self, _world: &Value, record: String) -> String {
        record
    }

    /// The verdict of a run that nothing disturbs.
    fn verdict(&self) -> &'static str {
        "PASS"
    }

    /// What else holds once a run is done.
    async fn holds(&self, _lab: &Lab, _end: &End, _record: &Value) {}

    /// The step that leaves what no unwinding takes away, as it is of use by itself.
    fn keeps_from(&self) -> Option<&'static str> {
        None
    }

    /// Whether it makes what an unwinding takes away again.
    fn undoes(&self) -> bool {
        true
    }

    /// Whether the suite has no time to kill it on both sides of each journal write.
    fn is_long(&self) -> bool {
        false
    }

    /// What holds once it was killed at all points.
    async fn finally(&self, _lab: &Lab) {}
}

/// For each case tests that share out what it must bear: all of `Trouble`, and all parts
/// of the `Kills`.
macro_rules! flows {
    ($($name:ident: $case:expr, { $($test:ident: [$($ordeal:expr),*]),* };)*) => {
        fn all() -> Vec<Box<dyn Case>> {
            vec![$(Box::new($case)),*]
        }
        $(mod $name {
            use super::{Ordeal::{Kills, Trouble}, *};
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                generic::borne(&$case, &[$($ordeal),*]).await;
            })*
        })*
    };
}

flows! {
    full_backup: Backup(BackupKind::Full), { borne: [Trouble, Kills(Part(1, 1))] };
    differential: Backup(BackupKind::Differential), { borne: [Trouble, Kills(Part(1, 1))] };
    increment: Backup(BackupKind::Incremental), { borne: [Trouble, Kills(Part(1, 1))] };
    copied: Copy, { borne: [Trouble, Kills(Part(1, 1))] };
    restore_tested_at_provider: RestoreTestAtProvider::default(), {
        borne: [Trouble], killed: [Kills(Part(1, 2))], killed_later: [Kills(Part(2, 2))]
    };
    restore_tested: RestoreTest, { borne: [Trouble, Kills(Part(1, 2))], borne_later: [Kills(Part(2, 2))] };
    self_tested: SelfTest, { troubled: [Trouble], killed: [Kills(Part(1, 2))], killed_later: [Kills(Part(2, 2))] };
    switchover: Drill, { troubled: [Trouble], killed: [Kills(Part(1, 1))] };
    expiry: Prune, { borne: [Trouble, Kills(Part(1, 1))] };
    verification: Verify, { borne: [Trouble, Kills(Part(1, 1))] };
    rotation_of_keys: RotateKeys, { borne: [Trouble, Kills(Part(1, 1))] };
    snapshot: Snapshot::default(), { borne: [Trouble, Kills(Part(1, 1))] };
    expiry_of_snapshots: PruneSnapshots::default(), { borne: [Trouble, Kills(Part(1, 1))] };
    missed_runs: Missed, { borne: [Trouble, Kills(Part(1, 1))] };
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flow_of_the_app_is_in_the_list() {
    // No server is asked by whoever opens an estate.
    let estate = Estate::plan().unwrap();
    estate.password().unwrap();
    estate.write_files().unwrap();
    let loaded = lifeboat::config::load(&estate.config_file()).unwrap();
    let app = lifeboat::app::App::open(loaded, lifeboat::clock::Clock::system(), Role::WithoutDns).await.unwrap();
    let registered: BTreeSet<&str> = app.runner.flows().iter().map(|flow| flow.name()).collect();
    let listed: BTreeSet<&str> = all().iter().map(|case| case.flow()).collect();
    app.runner.shut_down().await;
    app.resources.db.close().await;
    estate.tear_down().await.unwrap();
    assert_eq!(listed, registered);
}

impl Lab {
    /// A lab on which runs of a case may begin.
    pub(super) async fn of(case: &dyn Case, role: Role) -> Self {
        let estate = Estate::plan_on(case.major(), BETS).unwrap();
        let mut lab = Self::start_planned(estate, role, |folder| case.write(folder)).await;
        lab.protect();
        lab.protected().await;
        case.prepare(&mut lab).await;
        if !case.is_live() {
            lab.unprotect().await;
            lab.between_vaults(linked);
        }
        lab
    }

    /// Brings the vaults back to what they were before the first run of a case during
    /// which nothing else goes on.
    pub(super) fn begin_anew(&self) {
        self.between_vaults(|vault, kept| {
            if self.estate.folder().join("kept").exists() {
                let _was_there = std::fs::remove_dir_all(vault);
                linked(kept, vault);
            }
        });
    }

    /// Each vault's folder of the database, and where it is kept.
    fn between_vaults(&self, act: impl Fn(&Path, &Path)) {
        for vault in VAULTS {
            let folder = self.estate.folder();
            act(&folder.join(vault).join("wallet"), &folder.join("kept").join(vault));
        }
    }
}

/// From its commit on it is a backup, whatever becomes of the run.
struct Backup(BackupKind);

#[async_trait]
impl Case for Backup {
    fn flow(&self) -> &'static str {
        backup::NAME
    }

    fn major(&self) -> u32 {
        if self.0 == BackupKind::Incremental { 18 } else { 15 }
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn prepare(&self, lab: &mut Lab) {
        if self.0 == BackupKind::Incremental {
            let primary = &lab.estate.clusters[0];
            primary.configure("summarize_wal = on\n").unwrap();
            kill(Pid::from_raw(primary.pid().unwrap()), Signal::SIGHUP).unwrap();
        }
        if self.0 != BackupKind::Full {
            lab.passed(lab.backup()).await;
        }
    }

    /// What the runs before it have left is in the way of none, and takes time to look at.
    async fn run(&self, lab: &Lab) -> NewRun {
        lab.forget_backups(usize::from(self.0 != BackupKind::Full));
        lab.backup_of(self.0)
    }

    async fn holds(&self, lab: &Lab, end: &End, record: &Value) {
        assert_eq!(end.judged["backup_kind"], self.0.as_str(), "{record:#}");
        assert_eq!(end.judged["verdicts"], json!({"wal_complete": "PASS"}));
        let id = record["source"]["backup_id"].as_str().unwrap();
        assert_eq!(lab.stored_backups().last().map(String::as_str), Some(id), "the newest");
    }

    fn keeps_from(&self) -> Option<&'static str> {
        Some("commit")
    }

    /// The steps are those of a full backup, and one more.
    fn is_long(&self) -> bool {
        self.0 != BackupKind::Full
    }

    /// All that lies between its start and now is there, and exactly it is proven.
    async fn finally(&self, lab: &Lab) {
        lab.restored().await;
        let newest: Vec<String> = lab.stored_backups().into_iter().rev().take(1).collect();
        assert_eq!(lab.proven_backups(), newest);
    }
}

/// What was copied stays: it is written once, and the next run goes on from there.
struct Copy;

#[async_trait]
impl Case for Copy {
    fn flow(&self) -> &'static str {
        copy::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    fn write(&self, folder: &Path) {
        with_two_vaults(folder);
    }

    async fn prepare(&self, lab: &mut Lab) {
        lab.passed(lab.backup()).await;
        lab.unprotect().await;
        // As a vault that is new to the schedule.
        std::fs::remove_dir_all(lab.estate.folder().join("dr/wallet")).unwrap();
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        copy(lab)
    }

    async fn holds(&self, lab: &Lab, _end: &End, _record: &Value) {
        let [primary, dr] = VAULTS.map(|vault| backups_in(&lab.estate.folder().join(vault)));
        assert!(!primary.is_empty() && primary == dr, "byte by byte");
    }

    fn keeps_from(&self) -> Option<&'static str> {
        Some("copy")
    }
}

/// In `make torture` of a disaster that is drawn ahead: that is seconds of waiting.
struct RestoreTest;

#[async_trait]
impl Case for RestoreTest {
    fn flow(&self) -> &'static str {
        restore_test::NAME
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn prepare(&self, lab: &mut Lab) {
        lab.passed(lab.backup()).await;
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        match torture::minutes() {
            Some(_) => lab.restore_test(),
            None => lab.restore_test_of(restore_test::Point::Asked(RecoveryTarget::Latest)),
        }
    }

    async fn holds(&self, _lab: &Lab, end: &End, _record: &Value) {
        let is_proof = |change: &&String| change.starts_with('+') && change.contains("/proofs/old1/RUN.json");
        assert_eq!(end.changes.iter().filter(is_proof).count(), 2, "a proof and its signature: {:?}", end.changes);
    }

    fn is_long(&self) -> bool {
        true
    }
}

/// It changes nothing: the faults are in what it throws away.
struct SelfTest;

#[async_trait]
impl Case for SelfTest {
    fn flow(&self) -> &'static str {
        self_test::NAME
    }

    async fn prepare(&self, lab: &mut Lab) {
        lab.passed(lab.backup()).await;
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        lab.new_run(self_test::NAME, "wallet", &self_test::Params { database: wallet(), due_at: None })
    }

    async fn holds(&self, _lab: &Lab, end: &End, _record: &Value) {
        assert!(end.changes.is_empty(), "{:?}", end.changes);
        assert_eq!(end.judged["checks"].as_array().map(Vec::len), Some(5), "{}", end.judged);
    }

    fn is_long(&self) -> bool {
        true
    }
}

/// There and back again: each drill begins on what the one before it left.
struct Drill;

impl Drill {
    /// The site that takes writes; there is exactly one.
    async fn primary(lab: &Lab) -> usize {
        let writes = [lab.writes(0).await, lab.writes(1).await];
        assert_ne!(writes[0], writes[1], "one of them takes writes");
        usize::from(writes[1])
    }
}

#[async_trait]
impl Case for Drill {
    fn flow(&self) -> &'static str {
        drill::NAME
    }

    fn is_live(&self) -> bool {
        true
    }

    async fn prepare(&self, lab: &mut Lab) {
        lab.passed(lab.backup()).await;
        lab.watch_primaries();
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let primary = Self::primary(lab).await;
        lab.follows(1 - primary).await;
        lab.protected().await;
        lab.drill(["wallet-switchover", "wallet-switchback"][primary], |_| {})
    }

    /// Who takes writes, and where a restart sends clients.
    async fn world(&self, lab: &Lab) -> Value {
        let changed = std::fs::read(lab.estate.folder().join("dns.json")).unwrap_or_default();
        let changed: Value = serde_json::from_slice(&changed).unwrap_or_default();
        let addresses = changed.as_object().and_then(|names| names.values().next()).map(|one| &one["now"]["addresses"]);
        let sent_to = addresses.cloned().unwrap_or_else(|| json!([ADDRESSES[0]]));
        json!([lab.writes(0).await, lab.writes(1).await, sent_to])
    }

    fn alike(&self, world: &Value, record: String) -> String {
        if world[0] == true {
            return record;
        }
        let members = ["role of {}", "\"{} follows", "\"{} rejoined"]
            .map(|told| (told.replace("{}", "a"), told.replace("{}", "b")));
        let addresses = (ADDRESSES[0].to_string(), ADDRESSES[1].to_string());
        members.iter().chain([&addresses]).fold(record, |record, (one, other)| swapped(&record, one, other))
    }

    async fn holds(&self, lab: &Lab, end: &End, record: &Value) {
        assert!(end.is_world_changed, "{record:#}");
        assert_eq!(record["measured"]["lost_commits"], 0, "{record:#}");
        let primary = Self::primary(lab).await;
        assert_eq!(self.world(lab).await, json!([primary == 0, primary == 1, [ADDRESSES[primary]]]), "{record:#}");
        lab.assert_no_heartbeat_lost("drill").await;
    }

    fn is_long(&self) -> bool {
        true
    }

    async fn finally(&self, lab: &Lab) {
        lab.restored().await;
    }
}

/// What expires lies behind a point of no return.
struct Prune;

#[async_trait]
impl Case for Prune {
    fn flow(&self) -> &'static str {
        prune::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    fn write(&self, folder: &Path) {
        edit(folder, "schedules/wallet.yaml", &[("daily: 31", "daily: 1"), ("window: 31d", "window: 1h")]);
    }

    async fn prepare(&self, lab: &mut Lab) {
        for _ in 0..5 {
            lab.passed(lab.backup()).await;
        }
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let vault = "primary".parse().unwrap();
        let params = prune::Params { database: wallet(), vault, due_at: None, expected: None };
        lab.new_run(prune::NAME, "wallet", &params)
    }

    async fn holds(&self, lab: &Lab, end: &End, _record: &Value) {
        // The window's base, the one after it and the newest of the day stay.
        assert_eq!(lab.backups().await, 3);
        let is_of = |change: &String, what: &str| change.starts_with('-') && change.contains(what);
        let expired = |change: &String| ["/old2/", "/old3/", "/wal/"].iter().any(|what| is_of(change, what));
        assert!(end.changes.len() > 10 && end.changes.iter().all(expired), "{:?}", end.changes);
    }

    async fn finally(&self, lab: &Lab) {
        lab.restored().await;
    }
}

/// What was found is signed, and stays.
struct Verify;

#[async_trait]
impl Case for Verify {
    fn flow(&self) -> &'static str {
        verify::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    async fn prepare(&self, lab: &mut Lab) {
        for _ in 0..2 {
            lab.passed(lab.backup()).await;
        }
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let (database, vault) = (wallet(), "primary".parse().unwrap());
        let params = verify::Params { database, vault, depth: verify::Asked::Full, due_at: None };
        lab.new_run(verify::NAME, "wallet", &params)
    }

    async fn holds(&self, _lab: &Lab, end: &End, _record: &Value) {
        assert_eq!(end.changes.len(), 4, "each backup has a verification and its signature: {:?}", end.changes);
    }

    fn keeps_from(&self) -> Option<&'static str> {
        Some("verify")
    }
}

/// A recipient left and another one came. Keys are added, and stay.
struct RotateKeys;

#[async_trait]
impl Case for RotateKeys {
    fn flow(&self) -> &'static str {
        rotate_keys::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    async fn prepare(&self, lab: &mut Lab) {
        lab.passed(lab.backup()).await;
        lab.unprotect().await;
        let folder = lab.estate.folder();
        let left: Identity = std::fs::read_to_string(folder.join("escrow.age")).unwrap().trim().parse().unwrap();
        let came = Identity::generate().to_public().to_string();
        edit(folder, "lifeboat.yaml", &[(&left.to_public().to_string(), &came)]);
        lab.reopen().await;
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        lab.new_run(rotate_keys::NAME, "wallet", &rotate_keys::Params { database: wallet(), due_at: None })
    }

    async fn holds(&self, _lab: &Lab, end: &End, record: &Value) {
        let is_key = |change: &String| change.starts_with('+') && change.contains("/keys/");
        // One of the backup, and one of its WAL at least.
        assert!(end.changes.len() >= 2 && end.changes.iter().all(is_key), "{:?}", end.changes);
        assert!(record["findings"].to_string().contains("can still open 1 backups"), "{record:#}");
    }

    fn keeps_from(&self) -> Option<&'static str> {
        Some("rotate")
    }
}

/// A record of what did not take place: it has no steps.
struct Missed;

#[async_trait]
impl Case for Missed {
    fn flow(&self) -> &'static str {
        missed::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let due = vec!["2026-11-01T04:00:00Z".parse().unwrap()];
        let (flow, kind) = (restore_test::NAME.to_owned(), "scheduled".to_owned());
        let params = missed::Params { database: wallet(), flow, kind, why: Why::Down, due };
        lab.new_run(missed::NAME, "wallet", &params)
    }

    fn verdict(&self) -> &'static str {
        "FAIL"
    }

    async fn holds(&self, _lab: &Lab, end: &End, _record: &Value) {
        assert!(end.changes.is_empty(), "{:?}", end.changes);
    }
}
