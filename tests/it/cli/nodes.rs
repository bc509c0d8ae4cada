//! Several daemons on one PostgreSQL: regions, take-over of a node that was
//! killed or stopped, and one that is cut off from the state database while it
//! still reaches its primary.

#![allow(clippy::disallowed_methods, reason = "the daemons are children of the test itself")]

use std::{
    fs,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat::{
    clock::Clock,
    db::Db,
    domain::{BackupKind, Lsn, RunId},
    flow::{NewRun, RunState, Runner},
    flows::backup,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::{
    journey::restored,
    site::{DIGEST, Site, finished, wallet},
    streaming::bet,
};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(120);
/// How soon a node's work is taken over, and a run without a node is told.
const TAKE_OVER: Duration = Duration::from_secs(30);
const TOLD: Duration = Duration::from_secs(60);

/// The wallet, the state of several nodes beside it, and somebody who asks for runs
/// and drives none. A walsender of a node that was stopped is ended soon.
async fn shared(extra: &str) -> (Lab, Site, Arc<Runner>) {
    let lab = wallet(&format!("wal_sender_timeout = 10s\n{extra}")).await;
    lab.psql("CREATE DATABASE state").await;
    let site = Site::write(lab.port);
    let socket = lab.cluster.socket_folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/state", lab.port);
    site.edit("lifeboat.yaml", "sqlite:lifeboat.db", &url);
    let db = Db::open(&url).await.unwrap();
    (lab, site, Runner::new(db, "asker", Clock::system(), Duration::from_secs(15)))
}

/// Writes the file of a node beside the first one's.
fn describe(site: &Site, name: &str, region: &str, lease: &str) {
    let ours = format!(
        "node: {{name: {name}, region: {region}, lease: {lease}, roles: [scheduler, worker], scratch: scratch}}"
    );
    let yaml = site.text("lifeboat.yaml");
    let first = yaml.lines().next().unwrap();
    site.put(&format!("{name}.yaml"), &yaml.replace(first, &ours));
}

/// A command of a node; `within` are words before it.
pub(super) fn command(site: &Site, node: &str, within: &[&str], args: &[&str]) -> Command {
    let program = [within, &[env!("CARGO_BIN_EXE_lifeboat")]].concat();
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg("--json").args(args).arg("--config").arg(site.path(&format!("{node}.yaml")));
    command.current_dir("/").kill_on_drop(true).env("TMPDIR", site.path("tmp")).env_remove("RUST_LOG");
    command.stdin(Stdio::null());
    command
}

/// Starts a node and waits until the others know it.
async fn started(lab: &Lab, site: &Site, node: &str, within: &[&str]) -> Child {
    let log = fs::File::create(site.path(&format!("{node}.log"))).unwrap();
    let mut command = command(site, node, within, &["serve"]);
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let known = format!("SELECT count(*) FROM nodes WHERE name = '{node}'");
    eventually("the node tells that it lives", SOON, async || lab.psql_in("state", &known).await == "1").await;
    child
}

/// A full backup that takes some seconds.
fn slow_backup(due: &str) -> NewRun {
    let params = backup::Params {
        database: "wallet".parse().unwrap(),
        kind: BackupKind::Full,
        standalone: false,
        manner: backup::Manner { from: None, rate_max: Some("4MiB".parse().unwrap()) },
        due_at: None,
    };
    NewRun::new(RunId::new(backup::NAME, "wallet", "manual", due), "wallet", &params, "tester").unwrap()
}

/// Which nodes took the run, the first one first.
async fn takers(lab: &Lab, run: &RunId) -> Vec<String> {
    let sql = format!(
        "SELECT event::json->>'node' FROM journal
         WHERE run_id = '{run}' AND event::json->>'event' = 'taken' ORDER BY seq"
    );
    lab.psql_in("state", &sql).await.lines().map(str::to_owned).collect()
}

async fn uploads(lab: &Lab, run: &RunId) {
    let sql = format!(
        "SELECT count(*) FROM journal WHERE run_id = '{run}'
         AND event::json->>'event' = 'step_started' AND event::json->>'step' = 'upload'"
    );
    eventually("the upload has begun", SOON, async || lab.psql_in("state", &sql).await == "1").await;
}

async fn taken_over(lab: &Lab, run: &RunId, since: Instant) -> String {
    eventually("another node takes it over", TAKE_OVER, async || takers(lab, run).await.len() == 2).await;
    println!("taken over after {:?}", since.elapsed());
    takers(lab, run).await.remove(1)
}

async fn done(asker: &Runner, run: &RunId) {
    let ended = tokio::time::timeout(SOON, asker.wait(run)).await.unwrap().unwrap();
    assert_eq!(ended.state, RunState::Done, "{ended:?}");
}

async fn says(site: &Site, node: &str, words: &str) {
    let what = format!("{node} says: {words}");
    eventually(&what, SOON, async || site.text(&format!("{node}.log")).contains(words)).await;
}

/// Each run left one record and one backup, all sound; the newest one restores.
async fn nothing_is_wrong(lab: &Lab, site: &Site, runs: usize) {
    assert_eq!(lab.psql_in("state", "SELECT count(*) FROM evidence").await, runs.to_string());
    let backups = site.run(&["backups", "wallet"]).await.json(0);
    assert_eq!(backups.as_array().unwrap().len(), runs, "{backups}");
    site.run(&["vault", "verify", "--full"]).await.json(0);
    let rows = lab.psql_in("wallet", DIGEST).await;
    restored(lab, site, "after all", ["--latest"], &rows).await;
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_a_node_of_its_region_and_is_told() {
    let (lab, site, asker) = shared("").await;
    let residency = "residency: {jurisdiction: MT, regions: [eu-south-1]}\nvaults: [primary]";
    site.edit("schedules/wallet.yaml", "vaults: [primary]", residency);
    describe(&site, "away", "eu-central-1", "15s");
    describe(&site, "near", "eu-south-1", "15s");
    let _away = started(&lab, &site, "away", &[]).await;
    let refused = finished(command(&site, "away", &[], &["backup", "wallet"])).await;
    refused.refused(2, &["eu-south-1", "eu-central-1", "lifeboat serve"]);
    let run = slow_backup("1");
    let placement = lifeboat::domain::Placement {
        regions: vec!["eu-south-1".parse().unwrap()],
        database: Some("wallet".parse().unwrap()),
        ..Default::default()
    };
    asker.submit(run.clone().placed(placement)).await.unwrap();
    let begun = Instant::now();
    let open = "SELECT coalesce(max(message), '') FROM findings WHERE id LIKE 'stranded/%' AND closed_ms IS NULL";
    eventually("it is told", TOLD, async || lab.psql_in("state", open).await.contains("eu-south-1")).await;
    println!("told after {:?}", begun.elapsed());
    assert_eq!(takers(&lab, &run.id).await, Vec::<String>::new());
    assert_eq!(lab.psql("SELECT count(*) FROM pg_replication_slots").await, "0", "nor is WAL sent there");
    let near = started(&lab, &site, "near", &[]).await;
    done(&asker, &run.id).await;
    assert_eq!(takers(&lab, &run.id).await, ["near"]);
    eventually("it is told no more", SOON, async || lab.psql_in("state", open).await.is_empty()).await;
    let status: serde_json::Value = serde_json::from_str(&site.run(&["status"]).await.stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let told: Vec<_> = nodes.iter().map(|node| (node["name"].as_str(), node["is_alive"].as_bool())).collect();
    assert_eq!(told, [(Some("away"), Some(true)), (Some("near"), Some(true))], "{status}");
    assert_eq!(nodes[1]["roles"], serde_json::json!(["scheduler", "worker"]));
    // One that ends in order is known to be gone at once.
    kill(pid(&near), Signal::SIGTERM).unwrap();
    let known = "SELECT count(*) FROM nodes";
    eventually("it is gone", SOON, async || lab.psql_in("state", known).await == "1").await;
    nothing_is_wrong(&lab, &site, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_taken_over_and_a_stopped_one_does_no_harm_when_it_wakes() {
    let (lab, site, asker) = shared("").await;
    for (node, lease) in [("a", "15s"), ("b", "4s"), ("c", "4s")] {
        describe(&site, node, "eu-south-1", lease);
    }
    let mut first = started(&lab, &site, "a", &[]).await;
    let run = slow_backup("1");
    asker.submit(run.clone()).await.unwrap();
    uploads(&lab, &run.id).await;
    let second = started(&lab, &site, "b", &[]).await;
    let killed = Instant::now();
    first.start_kill().unwrap();
    assert_eq!(taken_over(&lab, &run.id, killed).await, "b");
    done(&asker, &run.id).await;
    let third = started(&lab, &site, "c", &[]).await;
    let run = slow_backup("2");
    asker.submit(run.clone()).await.unwrap();
    uploads(&lab, &run.id).await;
    let driver = takers(&lab, &run.id).await.remove(0);
    let asleep = if driver == "b" { &second } else { &third };
    kill(pid(asleep), Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    assert_ne!(taken_over(&lab, &run.id, stopped).await, driver);
    done(&asker, &run.id).await;
    kill(pid(asleep), Signal::SIGCONT).unwrap();
    says(&site, &driver, "another node owns this run now").await;
    assert_eq!(takers(&lab, &run.id).await.len(), 2);
    nothing_is_wrong(&lab, &site, 2).await;
}

/// A network namespace whose only way out is a line to this machine.
struct Apart {
    name: String,
    line: String,
    address: String,
}

impl Apart {
    async fn new() -> Self {
        let number = std::process::id() % 250;
        let name = format!("lifeboat-test-{number}");
        let (line, inner) = (format!("lbt{number}a"), format!("lbt{number}b"));
        let address = format!("10.213.{number}.1");
        let apart = Self { name: name.clone(), line: line.clone(), address: address.clone() };
        ip(&["netns", "add", &name]).await;
        ip(&["link", "add", &line, "type", "veth", "peer", "name", &inner, "netns", &name]).await;
        ip(&["addr", "add", &format!("{address}/24"), "dev", &line]).await;
        ip(&["link", "set", &line, "up"]).await;
        let inside = format!("10.213.{number}.2/24");
        ip(&["-n", &name, "addr", "add", &inside, "dev", &inner]).await;
        ip(&["-n", &name, "link", "set", &inner, "up"]).await;
        apart
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Its end of the line goes with it.
        let _deleted = std::process::Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

async fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    let ran = finished(command).await;
    assert_eq!(ran.code, 0, "ip {args:?}: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_from_the_state_stops_its_runs_and_streams_on() {
    let (lab, site, asker) = shared("listen_addresses = '*'").await;
    let apart = Apart::new().await;
    let hba = lab.cluster.data().join("pg_hba.conf");
    let more = "local all lifeboat scram-sha-256\nlocal replication lifeboat scram-sha-256\n\
                host state postgres 10.213.0.0/16 trust\n";
    fs::write(&hba, fs::read_to_string(&hba).unwrap() + more).unwrap();
    lab.psql("SELECT pg_reload_conf()").await;
    // The primary is reached through the file system, the state through the line.
    let socket = lab.cluster.socket_folder().display().to_string();
    site.edit("schedules/wallet.yaml", "host: 127.0.0.1", &format!("host: {socket}"));
    for node in ["cut", "free"] {
        describe(&site, node, "eu-south-1", "4s");
    }
    let reached = format!("postgres@{}:", apart.address);
    site.edit("cut.yaml", &format!("postgres@{}:", socket.replace('/', "%2F")), &reached);
    let _cut = started(&lab, &site, "cut", &["ip", "netns", "exec", &apart.name]).await;
    let run = slow_backup("1");
    asker.submit(run.clone()).await.unwrap();
    uploads(&lab, &run.id).await;
    let _free = started(&lab, &site, "free", &[]).await;
    let sender = "SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots";
    let streams = lab.psql(sender).await;
    assert_ne!(streams, "0");
    ip(&["link", "set", &apart.line, "down"]).await;
    let since = Instant::now();
    assert_eq!(taken_over(&lab, &run.id, since).await, "free");
    says(&site, "cut", "effects pause").await;
    bet(&lab, 500).await;
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    let confirmed = format!("SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication WHERE pid = {streams}");
    eventually("the node that is cut off streams on", SOON, async || {
        lab.psql(&confirmed).await.parse::<Lsn>().unwrap() >= end
    })
    .await;
    done(&asker, &run.id).await;
    assert_eq!(lab.psql(sender).await, streams, "it was the same stream all the time");
    ip(&["link", "set", &apart.line, "up"]).await;
    says(&site, "cut", "another node owns this run now").await;
    nothing_is_wrong(&lab, &site, 1).await;
}
