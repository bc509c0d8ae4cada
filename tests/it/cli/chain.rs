//! A chain of WAL that breaks: what was lost is told at once, streaming goes on,
//! and a full backup is taken that nobody asked for.

use std::{collections::BTreeMap, path::PathBuf};

use lifeboat::domain::{Lsn, Segment, SegmentSize, Timeline};
use serde_json::Value;
use tokio::process::Child;

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
    streaming::{SOON, bet, caught_up, copied, findings, status, wal},
};
use crate::support::{Lab, eventually, moved};

const SLOT: &str = "lifeboat_wallet";
/// Little is kept beyond what a slot keeps.
pub(super) const SHORT: &str = "max_wal_size = 32MB\nmin_wal_size = 32MB";

pub(super) async fn ended(daemon: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(daemon.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().await.unwrap().success());
}

pub(super) async fn written(lab: &Lab) -> Lsn {
    lab.psql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap()
}

/// Writes until the server has removed the WAL at this position, but for what the slot keeps.
pub(super) async fn write_past(lab: &Lab, lsn: Lsn) {
    let segment = Segment::holding(Timeline(1), lsn, SegmentSize::DEFAULT).file_name(SegmentSize::DEFAULT);
    let file = lab.cluster.data().join("pg_wal").join(segment);
    eventually("the server removes its WAL", SOON, || async {
        bet(lab, 500).await;
        lab.psql("SELECT pg_switch_wal()").await;
        lab.psql("CHECKPOINT").await;
        !file.exists()
    })
    .await;
}

/// The runs that nobody asked for.
pub(super) async fn own_runs(site: &Site) -> Vec<Value> {
    let runs = site.run(&["runs"]).await.json(0);
    runs.as_array().unwrap().iter().filter(|run| run["requester"] == "chain").cloned().collect()
}

/// Waits until the break is over, as its own run has taken a backup; answers the run.
pub(super) async fn mended(site: &Site, words: &[&str]) -> Value {
    eventually("the broken window has an end", SOON, || async {
        let windows = &status(site).await["broken_windows"];
        windows.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["until"].is_string()))
    })
    .await;
    eventually("the finding closes", SOON, || async { findings(site, words).await.is_empty() }).await;
    let runs = own_runs(site).await;
    let [run] = &runs[..] else { panic!("one run for one break: {runs:?}") };
    assert_eq!((&run["flow"], &run["state"]), (&Value::from("backup"), &Value::from("done")), "{run}");
    run.clone()
}

/// The history of a wallet whose stream stands still while `lose` has the server
/// lose WAL; it goes on by itself and every point that is left can be restored.
async fn loses(lose: impl AsyncFn(&Lab, Lsn)) {
    let lab = wallet(SHORT).await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let first = backed_up(&site).await;
    bet(&lab, 10).await;
    let (before, rows_before) = (written(&lab).await, lab.psql_in("wallet", DIGEST).await);
    bet(&lab, 10).await;
    let held = caught_up(&lab, &site).await;
    ended(&mut daemon).await;
    lose(&lab, held).await;
    let within = written(&lab).await;
    // More than what the new slot still finds.
    write_past(&lab, within).await;

    // Which of the findings is looked for: that of the break.
    let words = ["is in no vault", "can be restored"];
    let mut daemon = site.serve(&[]);
    let told = async || findings(&site, &words).await.pop();
    // It may be over before it is seen from here: then the log of runs has it.
    eventually("the break is told", SOON, || async { told().await.is_some() || !own_runs(&site).await.is_empty() })
        .await;
    let run = mended(&site, &words).await;
    assert!(run["run_id"].as_str().unwrap().starts_with("backup/wallet/full/wal-lost-"), "{run}");
    let seen = status(&site).await;
    let [window] = &seen["broken_windows"].as_array().unwrap()[..] else { panic!("{seen}") };
    let lsn = |name: &str| window[name].as_str().unwrap().parse::<Lsn>().unwrap();
    assert!(held <= lsn("from_lsn") && lsn("from_lsn") <= within && within < lsn("to_lsn"), "{window}");
    assert!(window["after"].is_string() && window["cause"] == "wal_lost", "{window}");
    assert!(site.shown(&["status"]).await.contains("BROKEN WINDOW: WAL of timeline 1 from"));
    bet(&lab, 10).await;
    let rows_after = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    // A restart sees the same break and asks for nothing more.
    ended(&mut daemon).await;
    let mut daemon = site.serve(&[]);
    bet(&lab, 10).await;
    let rows_last = lab.psql_in("wallet", DIGEST).await;
    assert_ne!(rows_after, rows_last);
    caught_up(&lab, &site).await;
    mended(&site, &words).await;
    ended(&mut daemon).await;

    restored(&lab, &site, "before", ["--lsn", &before.to_string()], &rows_before).await;
    restored(&lab, &site, "after", ["--latest"], &rows_last).await;
    restored(&lab, &site, "first", ["--lsn", &before.to_string(), "--backup", &first], &rows_before).await;
    let to = site.path("within");
    let refused = site.run(&["restore", "wallet", "--to", to.to_str().unwrap(), "--lsn", &within.to_string()]).await;
    let from = format!("from {} on is missing", window["from_lsn"].as_str().unwrap());
    refused.refused(refused.code, &[&from, "can be restored again from"]);
    assert_ne!(refused.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_breaks_the_chain_and_it_is_mended_without_anybody() {
    loses(async |lab, held| {
        lab.psql(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await;
        write_past(lab, held).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_invalidated_breaks_the_chain_and_it_is_mended_without_anybody() {
    loses(async |lab, held| {
        lab.psql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
        lab.psql("SELECT pg_reload_conf()").await;
        write_past(lab, held).await;
        let status = "SELECT wal_status FROM pg_replication_slots";
        eventually("the slot is invalidated", SOON, || async {
            lab.psql("SELECT pg_switch_wal()").await;
            lab.psql("CHECKPOINT").await;
            lab.psql(status).await == "lost"
        })
        .await;
        lab.psql("ALTER SYSTEM RESET max_slot_wal_keep_size").await;
        lab.psql("SELECT pg_reload_conf()").await;
    })
    .await;
}

/// Snapshots the storage of the primary, which comes back; answers the snapshot.
async fn snapshot(lab: &Lab) -> PathBuf {
    let earlier = lab.cluster.folder.join("earlier");
    lab.cluster.stop("fast").await.unwrap();
    copied(&lab.cluster.data(), &earlier).await;
    lab.cluster.start(SOON).await.unwrap();
    earlier
}

/// A primary that comes back as it was is another history: the vault keeps both.
/// `beyond`: it has written on beyond what the vault holds before anybody looks.
async fn set_back(beyond: bool) {
    let lab = wallet("wal_keep_size = 1GB").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let first = backed_up(&site).await;
    let earlier = snapshot(&lab).await;
    for _ in 0..2 {
        bet(&lab, 500).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    bet(&lab, 500).await;
    let rows_first = lab.psql_in("wallet", DIGEST).await;
    let acknowledged = caught_up(&lab, &site).await;
    if beyond {
        ended(&mut daemon).await;
    }
    lab.cluster.stop("fast").await.unwrap();
    if !beyond {
        // All of it, with what a shutdown writes.
        ended(&mut daemon).await;
    }
    let named = wal(&site, "vault", "/1/");
    moved(lab.cluster.data(), lab.cluster.folder.join("later"));
    moved(earlier, lab.cluster.data());
    lab.cluster.start(SOON).await.unwrap();
    while beyond && written(&lab).await <= acknowledged.forward(1 << 20) {
        bet(&lab, 5000).await;
    }

    daemon = site.serve(&[]);
    let words = ["was set back", "can be restored"];
    let run = mended(&site, &words).await;
    assert!(run["run_id"].as_str().unwrap().starts_with("backup/wallet/full/set-back-"), "{run}");
    let seen = status(&site).await;
    let window = &seen["broken_windows"][0];
    assert_eq!((&window["cause"], &window["incarnation"]), (&Value::from("set_back"), &Value::from(2)), "{window}");
    bet(&lab, 10).await;
    caught_up(&lab, &site).await;
    // A restart goes on in the same incarnation, and asks for nothing more.
    ended(&mut daemon).await;
    daemon = site.serve(&[]);
    bet(&lab, 10).await;
    let rows_second = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    mended(&site, &words).await;
    ended(&mut daemon).await;
    assert!(!wal(&site, "vault", "/2/incarnation.json").is_empty());
    assert!(wal(&site, "vault", "/3/").is_empty());
    let now = wal(&site, "vault", "/1/");
    assert!(named.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "nothing is overwritten");
    let wal_of = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
        files.keys().filter(|name| name.to_string_lossy().contains("/wal/")).cloned().collect()
    };
    assert_eq!(wal_of(&now), wal_of(&named), "and nothing is added to what was streamed");

    restored(&lab, &site, "second", ["--latest"], &rows_second).await;
    restored(&lab, &site, "first", ["--backup", &first], &rows_first).await;
    let verified = site.run(&["vault", "verify", "wallet"]).await.json(0);
    assert_eq!(verified["reports"].as_array().unwrap().len(), 2, "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_set_back_goes_on_in_a_new_incarnation_and_both_can_be_restored() {
    set_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_set_back_is_known_by_what_it_writes_where_it_is_ahead() {
    set_back(true).await;
}
