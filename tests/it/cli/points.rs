//! Points whose position only the WAL tells, and positions that no whole record
//! follows: restored exactly, or refused by name before anything is fetched.

use std::time::Duration;

use lifeboat::domain::Lsn;
use serde_json::json;

use super::{
    journey::{backed_up, bet, restored, streaming},
    site::{DIGEST, Site, wallet},
};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(60);

/// All that was written by now is in the vault.
pub(super) async fn is_held(lab: &Lab, site: &Site) {
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("the vault has it all", SOON, || async {
        let status = site.get_json("/api/v1/status").await;
        let held = status["databases"][0]["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse().ok());
        held.is_some_and(|held: Lsn| held >= end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_before_the_newest_backup_is_restored_from_the_one_before_it() {
    let lab = wallet("max_prepared_transactions = 2").await;
    let site = Site::write(lab.port);
    let first = backed_up(&site).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    let xid = lab
        .psql_in("wallet", "WITH bet AS (INSERT INTO bets (stake) VALUES (7)) SELECT pg_current_xact_id()::text")
        .await;
    let at_xid = lab.psql_in("wallet", DIGEST).await;
    let prepare =
        "BEGIN; INSERT INTO bets (stake) VALUES (8); SELECT pg_current_xact_id()::text; PREPARE TRANSACTION 'two';";
    let prepared = lab.psql_in("wallet", prepare).await;
    bet(&lab, 9).await;
    lab.psql_in("wallet", "COMMIT PREPARED 'two'").await;
    let at_prepared = lab.psql_in("wallet", DIGEST).await;
    lab.psql("SELECT pg_create_restore_point('noon')").await;
    bet(&lab, 10).await;
    lab.psql("SELECT pg_create_restore_point('noonday')").await;
    let at_noonday = lab.psql_in("wallet", DIGEST).await;
    // Zeros follow up to the end of the segment; the next record stands behind them.
    let switched: Lsn = lab.psql("SELECT pg_switch_wal()").await.parse().unwrap();
    let padding = switched.forward(512).to_string();
    bet(&lab, 11).await;
    let second = backed_up(&site).await;
    bet(&lab, 12).await;
    is_held(&lab, &site).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();

    tokio::join!(
        restored(&lab, &site, "xid", ["--xid", &xid], &at_xid),
        restored(&lab, &site, "prepared", ["--xid", &prepared], &at_prepared),
        restored(&lab, &site, "noon", ["--name", "noon"], &at_prepared),
    );
    tokio::join!(
        restored(&lab, &site, "noonday", ["--name", "noonday", "--backup", &first], &at_noonday),
        restored(&lab, &site, "padding", ["--lsn", &padding], &at_noonday),
    );
    refused(&site, &first, &second).await;
    let runs = site.run(&["runs"]).await.json(0).to_string();
    assert!(!runs.contains("restore_test"), "what is refused makes no run: {runs}");
    let tested = site.run(&["restore-test", "wallet", "--name", "noon"]).await.json(0);
    assert_eq!(tested["verdict"], "PASS", "{tested}");
    assert_eq!(std::fs::read_dir(site.path("scratch")).unwrap().count(), 0, "nothing is left of the looks");
}

/// By `restore` and by `restore-test` alike; each leaves nothing.
async fn refused(site: &Site, first: &str, second: &str) {
    let to = site.path("refused");
    let try_with = async |args: &[&str], words: &[&str]| {
        let restore = ["restore", "wallet", "--to", to.to_str().unwrap()];
        site.run(&[&restore[..], args].concat()).await.refused(2, words);
        assert!(!to.exists(), "{args:?}");
    };
    let nowhere = ["is nowhere in the WAL from LSN", first, "the oldest recovery point", "with the last commit at"];
    try_with(&["--name", "noo"], &nowhere).await;
    try_with(&["--xid", "4000000"], &nowhere).await;
    try_with(&["--xid", "99999999999999999999"], &["is not a transaction number"]).await;
    try_with(&["--name", "noon", "--backup", second], &["restore point `noon`", "nowhere", second]).await;
    // The end of all that is held: no record starts at its last byte.
    let beyond = site.run(&["restore-test", "wallet", "--lsn", "FF/0"]).await;
    beyond.refused(
        2,
        &["lies after everything that the vault holds", "the newest lies before LSN", "`--latest` restores to that"],
    );
    let newest = beyond.stderr.split("before LSN ").nth(1).unwrap();
    assert!(newest.contains("with the last commit at "), "{newest}");
    let tip: Lsn = newest.split(',').next().unwrap().parse().unwrap();
    let last = Lsn(tip.0 - 1).to_string();
    let words = ["lies after the last whole record that is held, which starts at LSN"];
    try_with(&["--lsn", &last], &words).await;
    site.run(&["restore-test", "wallet", "--lsn", &last]).await.refused(2, &words);
    site.run(&["restore-test", "wallet", "--name", "noo"]).await.refused(2, &nowhere);
    assert_eq!(site.run(&["findings"]).await.json(0), json!([]));
}
