//! Servers that are not what they were: made anew under the same address, lost with
//! commits that no standby has, or run for a while with `wal_level` minimal. Each
//! is told at once, and what was before can be restored as before.

use std::time::Duration;

use lifeboat::domain::Lsn;
use serde_json::Value;

use super::{
    chain::{SHORT, ended, mended, own_runs, write_past, written},
    journey::{backed_up, restored},
    site::{DIGEST, Site, finished, furnish, wallet},
    streaming::{bet, caught_up, findings, status},
};
use crate::support::{Lab, eventually, moved, standby::Standby};

const SOON: Duration = Duration::from_secs(120);

async fn told(site: &Site, words: &[&str]) {
    eventually(&format!("a finding with {words:?}"), SOON, || async { !findings(site, words).await.is_empty() }).await;
}

async fn window(site: &Site) -> Value {
    let seen = status(site).await;
    let [window] = &seen["broken_windows"].as_array().unwrap()[..] else { panic!("{seen}") };
    window.clone()
}

/// The server is made anew by `initdb`, with the same files of configuration.
async fn made_anew(lab: &Lab) {
    lab.cluster.stop("fast").await.unwrap();
    let before = lab.cluster.folder.join("before");
    moved(lab.cluster.data(), &before);
    lab.cluster.init().await.unwrap();
    let settings = std::fs::read(before.join("postgresql.conf")).unwrap();
    std::fs::write(lab.cluster.data().join("postgresql.conf"), settings).unwrap();
    lab.cluster.start(SOON).await.unwrap();
    furnish(lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_made_anew_is_told_and_both_clusters_can_be_restored() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let first = backed_up(&site).await;
    bet(&lab, 100).await;
    let rows_first = lab.psql_in("wallet", DIGEST).await;
    let system_id = "SELECT system_identifier FROM pg_control_system()";
    let old = lab.psql(system_id).await;
    caught_up(&lab, &site).await;

    made_anew(&lab).await;
    let new = lab.psql(system_id).await;
    let words = ["another cluster took the place", "can be restored"];
    // It may be over before it is seen from here: then the log of runs has it.
    eventually("it is told", SOON, || async {
        !findings(&site, &words).await.is_empty() || !own_runs(&site).await.is_empty()
    })
    .await;
    let run = mended(&site, &words).await;
    assert!(run["run_id"].as_str().unwrap().starts_with("backup/wallet/full/replaced-"), "{run}");
    let window = window(&site).await;
    assert_eq!((&window["cause"], &window["system_id"]), (&"replaced".into(), &new.as_str().into()), "{window}");
    assert!(window["after"].is_string(), "{window}");
    bet(&lab, 10).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    ended(&mut daemon).await;

    restored(&lab, &site, "new", ["--latest"], &rows).await;
    restored(&lab, &site, "old", ["--latest", "--system-id", &old], &rows_first).await;
    restored(&lab, &site, "first", ["--backup", &first], &rows_first).await;
}

/// The primary is lost with commits that the vault has and the standby has not.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_the_vault_alone_has_after_a_promotion_are_told_and_kept() {
    let lab = wallet("").await;
    let standby = Standby::of(&lab).await;
    let site = Site::write(lab.port);
    let only = format!("connection: {{host: 127.0.0.1, port: {}}}", lab.port);
    site.edit("schedules/wallet.yaml", &format!("{only}\n"), &standby.members(&lab));
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    backed_up(&site).await;
    bet(&lab, 100).await;
    standby.caught_up(&lab).await;
    standby.psql_in("postgres", "ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.psql_in("postgres", "SELECT pg_reload_conf()").await;
    eventually("the standby receives no more", SOON, || async {
        standby.psql_in("postgres", "SELECT count(*) FROM pg_stat_wal_receiver").await == "0"
    })
    .await;
    // Further than the segment in which the standby stopped.
    for _ in 0..2 {
        bet(&lab, 700).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    bet(&lab, 700).await;
    let rows_ahead = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    lab.cluster.stop("immediate").await.unwrap();
    moved(lab.cluster.data(), lab.cluster.folder.join("lost"));
    standby.psql_in("postgres", "SELECT pg_promote()").await;
    let rows_behind = standby.psql_in("wallet", DIGEST).await;
    assert_ne!(rows_ahead, rows_behind);

    let words =
        ["is in the vaults alone", "a standby was promoted that had not received it", "`--timeline 1` brings it back"];
    eventually("it is told", SOON, || async {
        !findings(&site, &words).await.is_empty() || !own_runs(&site).await.is_empty()
    })
    .await;
    let run = mended(&site, &words).await;
    assert!(run["run_id"].as_str().unwrap().starts_with("backup/wallet/full/ahead-"), "{run}");
    let window = window(&site).await;
    assert_eq!((&window["cause"], &window["timeline"]), (&"ahead".into(), &1.into()), "{window}");
    standby.psql_in("wallet", "INSERT INTO bets (stake) VALUES (1)").await;
    let rows = standby.psql_in("wallet", DIGEST).await;
    let end: Lsn = standby.psql_in("postgres", "SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("the new timeline is in the vault", SOON, || async {
        let durable = status(&site).await["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse().ok());
        durable.is_some_and(|durable: Lsn| durable >= end)
    })
    .await;
    ended(&mut daemon).await;
    restored(&lab, &site, "promoted", ["--latest"], &rows).await;
    // What was acknowledged on the old timeline, as the finding says.
    restored(&lab, &site, "ahead", ["--latest", "--timeline", "1"], &rows_ahead).await;
}

async fn restarted(lab: &Lab) {
    lab.cluster.stop("fast").await.unwrap();
    lab.cluster.start(SOON).await.unwrap();
}

/// PostgreSQL does not start with `wal_level` minimal while a slot is there: so it is
/// dropped first, and WAL goes on without a gap afterwards, of which recovery refuses
/// to pass what was written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ran_with_wal_level_minimal_is_told_and_backed_up_anew() {
    let lab = wallet("wal_keep_size = 1GB").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let first = backed_up(&site).await;
    bet(&lab, 100).await;
    let rows_first = lab.psql_in("wallet", DIGEST).await;
    let held = caught_up(&lab, &site).await;
    ended(&mut daemon).await;

    let file = lab.cluster.data().join("postgresql.auto.conf");
    let usual = std::fs::read(&file).unwrap();
    lab.cluster.stop("fast").await.unwrap();
    std::fs::write(&file, "wal_level = minimal\nmax_wal_senders = 0\n").unwrap();
    lab.cluster.start(SOON).await.unwrap_err();
    let log = std::fs::read_to_string(lab.cluster.log()).unwrap();
    assert!(log.contains("exists, but wal_level < replica"), "{log}");
    std::fs::write(&file, &usual).unwrap();
    lab.cluster.start(SOON).await.unwrap();
    lab.psql("SELECT pg_drop_replication_slot('lifeboat_wallet')").await;
    std::fs::write(&file, "wal_level = minimal\nmax_wal_senders = 0\n").unwrap();
    restarted(&lab).await;
    lab.psql_in("wallet", "CREATE TABLE unlogged AS SELECT generate_series(1, 100000) AS n").await;
    bet(&lab, 10).await;

    daemon = site.serve(&[]);
    told(&site, &["WAL is not streamed", "`wal_level` is minimal", "take a full backup"]).await;
    std::fs::write(&file, &usual).unwrap();
    restarted(&lab).await;
    let words = ["wrote with `wal_level` minimal", "can be restored"];
    let run = mended(&site, &words).await;
    assert!(run["run_id"].as_str().unwrap().starts_with("backup/wallet/full/wal-level-"), "{run}");
    assert_eq!(findings(&site, &["WAL is not streamed"]).await, [""; 0]);
    let window = window(&site).await;
    assert_eq!((&window["cause"], &window["incarnation"]), (&"wal_level".into(), &2.into()), "{window}");
    let from: Lsn = window["from_lsn"].as_str().unwrap().parse().unwrap();
    assert!(from >= held, "{window}");
    bet(&lab, 10).await;
    caught_up(&lab, &site).await;
    // A restart goes on in the same incarnation, and asks for nothing more.
    ended(&mut daemon).await;
    daemon = site.serve(&[]);
    bet(&lab, 10).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    mended(&site, &words).await;
    ended(&mut daemon).await;

    restored(&lab, &site, "latest", ["--latest"], &rows).await;
    restored(&lab, &site, "first", ["--backup", &first], &rows_first).await;
}

/// The server loses WAL of a backup between its commit and its WAL's arrival.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_own_wal_is_lost_is_never_called_complete() {
    let lab = wallet(SHORT).await;
    let site = Site::write(lab.port);
    let mut command = site.command(&["backup", "wallet"]);
    // Its steps are check, upload, commit, wal, read_back.
    command.env("LIFEBOAT_FAULT", "kill@flow.step_started.after:4");
    assert_eq!(finished(command).await.code, -1, "it was killed");
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    assert_eq!(listed[0]["state"], "UPLOADED", "{listed}");
    let start: Lsn = listed[0]["start_lsn"].as_str().unwrap().parse().unwrap();
    lab.psql("SELECT pg_drop_replication_slot('lifeboat_wallet')").await;
    write_past(&lab, start).await;
    let end = written(&lab).await;
    write_past(&lab, end).await;

    let mut daemon = site.serve(&[]);
    let ended_run = async || {
        let runs = site.run(&["runs"]).await.json(0);
        runs.as_array().unwrap().iter().find(|run| run["flow"] == "backup" && run["finished_at"].is_string()).cloned()
    };
    eventually("the run ends", SOON, || async { ended_run().await.is_some() }).await;
    let run = ended_run().await.unwrap();
    assert!(run.to_string().contains("the server lost WAL from"), "{run}");
    ended(&mut daemon).await;
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    assert_eq!(listed[0]["state"], "UPLOADED", "{listed}");
    let to = site.path("refused");
    let refused = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(!to.exists());
}
