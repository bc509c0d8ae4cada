//! Backups from a standby by preference: sent by it, restored and compared; and
//! the way back to the primary wherever the standby gives none.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{
    journey::bet,
    site::{DIGEST, Site, finished, recovered, wallet_on},
};
use crate::support::{Lab, eventually, standby::Standby};

const LIMIT: Duration = Duration::from_secs(60);

/// How many base backups it was asked for by us.
fn asked(standby: &Standby) -> usize {
    let log = std::fs::read_to_string(standby.cluster.log()).unwrap();
    log.lines().filter(|line| line.contains("received replication command: BASE_BACKUP (LABEL 'lifeboat ")).count()
}

/// The pair's site, with `keys` in its schedule.
fn site_of(lab: &Lab, standby: &Standby, keys: &str) -> Site {
    let site = Site::write(lab.port);
    let connection = format!("connection: {{host: 127.0.0.1, port: {}}}\n", lab.port);
    site.edit("schedules/wallet.yaml", &connection, &format!("{}{keys}", standby.members(lab)));
    site
}

async fn taken(site: &Site, kind: &str) -> Value {
    let backup = site.run(&["backup", "wallet", "--kind", kind]).await.json(0);
    assert_eq!(backup["state"], "WAL_COMPLETE", "{backup}");
    backup
}

fn from(backup: &Value) -> (&str, bool) {
    (backup["from"]["member"].as_str().unwrap(), backup["from"]["is_standby"].as_bool().unwrap())
}

async fn is_restored(lab: &Lab, site: &Site, backup: &Value, rows: &str) -> PathBuf {
    let id = backup["id"].as_str().unwrap();
    let data = site.path(&format!("restored {id}"));
    let to = data.to_str().unwrap();
    site.run(&["restore", "wallet", "--to", to, "--backup", id, "--immediate"]).await.json(0);
    let sql = format!("select current_setting('primary_conninfo') || pg_is_in_recovery() || ' ' || ({DIGEST})");
    assert_eq!(recovered(lab, &data, &sql).await, format!("false {rows}"), "{backup}");
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_gives_backups_and_increments_and_the_primary_stands_in() {
    let lab = wallet_on(18, "summarize_wal = on\nlog_replication_commands = on").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: prefer_standby\n");
    bet(&lab, 5).await;
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let full = taken(&site, "full").await;
    assert_eq!((from(&full), &full["findings"], asked(&standby)), (("b", true), &json!([]), 1), "{full}");
    let log = std::fs::read_to_string(lab.cluster.log()).unwrap();
    assert!(!log.contains("BASE_BACKUP (LABEL 'lifeboat "), "the primary was not asked");
    assert_eq!(lab.psql("SELECT count(*) FROM pg_replication_slots").await, "1", "its slot keeps the WAL");
    let data = is_restored(&lab, &site, &full, &rows).await;
    assert!(!data.join("standby.signal").exists());
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    assert_eq!(listed[0]["from"], json!({"member": "b", "is_standby": true}));

    // No restartpoint since then: the standby has nothing to give.
    bet(&lab, 6).await;
    standby.caught_up(&lab).await;
    let increment = taken(&site, "incremental").await;
    assert_eq!((from(&increment), &increment["kind"]), (("a", false), &json!("incremental")), "{increment}");
    let told = increment["findings"][0].as_str().unwrap();
    assert!(told.contains("the primary gave the backup instead of a standby") && told.contains("`b`"), "{told}");

    bet(&lab, 7).await;
    lab.psql("CHECKPOINT").await;
    bet(&lab, 8).await;
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let increment = taken(&site, "incremental").await;
    assert_eq!((from(&increment), &increment["kind"]), (("b", true), &json!("incremental")), "{increment}");
    is_restored(&lab, &site, &increment, &rows).await;

    standby.cluster.stop("fast").await.unwrap();
    let full = taken(&site, "full").await;
    assert_eq!(from(&full), ("a", false));
    assert!(full["findings"][0].as_str().unwrap().contains("member `b` at 127.0.0.1"), "{full}");
    site.edit("schedules/wallet.yaml", "backup_from: prefer_standby", "backup_from: standby");
    let refused = site.run(&["backup", "wallet"]).await.json(1);
    let told = refused["findings"][0].as_str().unwrap();
    assert!(told.contains("no standby can give the backup") && told.contains("backup_from: prefer_standby"), "{told}");
}

/// Begins a slow backup from the standby, does something to it meanwhile, and
/// answers the backup.
async fn disturbed(site: &Site, standby: &Standby, disturb: &[&str]) -> Value {
    let disturbing = async {
        let sends = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
        eventually("the standby sends", LIMIT, || async { standby.psql_in("wallet", sends).await == "1" }).await;
        let pg_ctl = standby.cluster.binaries.program("pg_ctl", standby.cluster.account.clone());
        pg_ctl.arg("-D").arg(standby.cluster.data()).args(disturb.iter().copied()).output(LIMIT).await.unwrap();
    };
    let (ran, ()) = tokio::join!(finished(site.command(&["backup", "wallet"])), disturbing);
    ran.json(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_standby_awaits_nobodys_acknowledgement() {
    let lab = wallet_on(15, "").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: standby\n");
    bet(&lab, 5).await;
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    // Only a stream of ours acknowledges, and none runs.
    lab.psql("ALTER SYSTEM SET synchronous_standby_names = 'lifeboat'").await;
    lab.psql("SELECT pg_reload_conf()").await;
    eventually("commits wait", LIMIT, async || lab.psql("SHOW synchronous_standby_names").await == "lifeboat").await;
    let backup = taken(&site, "full").await;
    assert_eq!(from(&backup), ("b", true), "{backup}");
    is_restored(&lab, &site, &backup, &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_tests_prove_a_backup_of_a_standby() {
    let lab = wallet_on(15, "").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: standby\n");
    site.edit("schedules/wallet.yaml", "    - heartbeat\n", "");
    bet(&lab, 5).await;
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let backup = taken(&site, "full").await;
    assert_eq!(from(&backup), ("b", true), "{backup}");
    for target in ["--immediate", "--latest"] {
        let tested = site.run(&["restore-test", "wallet", target]).await.json(0);
        assert_eq!(tested["verdict"], "PASS", "{target}: {tested}");
    }
    is_restored(&lab, &site, &backup, &rows).await;
}

/// Has a server keep summaries of its WAL, or not.
const SUMMARIZE: [&str; 2] = ["ALTER SYSTEM SET summarize_wal = off", "ALTER SYSTEM SET summarize_wal = on"];

#[tokio::test(flavor = "multi_thread")]
async fn the_member_that_sends_an_increment_is_the_one_that_is_asked_for_summaries() {
    let lab = wallet_on(18, "summarize_wal = on").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: standby\n");
    // What the standby can begin a backup at, and the rows by then.
    let live = async |stake| {
        bet(&lab, stake).await;
        lab.psql("CHECKPOINT").await;
        standby.caught_up(&lab).await;
        lab.psql_in("wallet", DIGEST).await
    };
    let on_standby = async |sql: &str, setting: &str| {
        standby.psql_in("wallet", sql).await;
        standby.psql_in("wallet", "SELECT pg_reload_conf()").await;
        eventually("it is set", LIMIT, async || standby.psql_in("wallet", "SHOW summarize_wal").await == setting).await;
    };
    let told = |backup: &Value, words: &[&str]| {
        super::site::tells(backup["findings"][0].as_str().unwrap_or_default(), words);
    };
    live(5).await;
    taken(&site, "full").await;

    // The standby has none, and nobody else may send: a full backup.
    on_standby(SUMMARIZE[0], "off").await;
    let rows = live(6).await;
    let full = taken(&site, "incremental").await;
    assert_eq!((from(&full), &full["kind"]), (("b", true), &json!("full")), "{full}");
    told(&full, &["a full backup was taken instead of an increment", "`summarize_wal` is off on member `b`"]);
    is_restored(&lab, &site, &full, &rows).await;
    // Where the primary may, it does.
    site.edit("schedules/wallet.yaml", "backup_from: standby", "backup_from: prefer_standby");
    let increment = taken(&site, "incremental").await;
    assert_eq!((from(&increment), &increment["kind"]), (("a", false), &json!("incremental")), "{increment}");
    told(&increment, &["the primary gave the backup instead of a standby", "is off on member `b`"]);
    site.edit("schedules/wallet.yaml", "backup_from: prefer_standby", "backup_from: standby");

    // The standby has them, and the primary none.
    on_standby(SUMMARIZE[1], "on").await;
    lab.psql(SUMMARIZE[0]).await;
    lab.psql("SELECT pg_reload_conf()").await;
    live(7).await;
    let full = taken(&site, "full").await;
    live(8).await;
    let rows = live(9).await;
    let start = full["start_lsn"].as_str().unwrap();
    let summed = format!("SELECT max(end_lsn) > '{start}' FROM pg_available_wal_summaries()");
    eventually("the standby has summaries", LIMIT, async || standby.psql_in("wallet", &summed).await == "t").await;
    let increment = taken(&site, "incremental").await;
    assert_eq!((from(&increment), &increment["kind"]), (("b", true), &json!("incremental")), "{increment}");
    assert_eq!((&increment["parent"], &increment["findings"]), (&full["id"], &json!([])), "{increment}");
    is_restored(&lab, &site, &increment, &rows).await;

    // No restartpoint since: it can send no increment, and a full backup all the same.
    let full = taken(&site, "incremental").await;
    assert_eq!((from(&full), &full["kind"]), (("b", true), &json!("full")), "{full}");
    told(&full, &["a full backup was taken instead of an increment"]);
    is_restored(&lab, &site, &full, &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_lost_meanwhile_is_replaced_by_the_primary() {
    let lab = wallet_on(16, "").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: prefer_standby\nbackup_rate_max: 8MiB\n");
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let backup = disturbed(&site, &standby, &["-m", "immediate", "stop"]).await;
    assert_eq!((from(&backup), asked(&standby)), (("a", false), 1), "{backup}");
    assert!(backup["findings"][0].as_str().unwrap().contains("`b`"), "{backup}");
    is_restored(&lab, &site, &backup, &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_meanwhile_gives_it_as_the_primary() {
    let lab = wallet_on(15, "").await;
    let standby = Standby::of(&lab).await;
    let site = site_of(&lab, &standby, "backup_from: prefer_standby\nbackup_rate_max: 8MiB\n");
    standby.caught_up(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let backup = disturbed(&site, &standby, &["promote"]).await;
    assert_eq!((from(&backup), asked(&standby)), (("b", false), 2), "{backup}");
    assert_eq!(backup["timeline"], 2, "{backup}");
    is_restored(&lab, &site, &backup, &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_its_primary_is_one_clear_error() {
    let lab = wallet_on(15, "").await;
    let standby = Standby::of(&lab).await;
    standby.caught_up(&lab).await;
    let site = site_of(&lab, &standby, "");
    let told = async |words: &[&str]| {
        let refused = site.run(&["backup", "wallet"]).await.json(1);
        assert_eq!(refused["findings"].as_array().unwrap().len(), 1, "{refused}");
        super::site::tells(refused["findings"][0].as_str().unwrap(), words);
        site.nothing_half_made();
    };
    let a = format!("  a: {{host: 127.0.0.1, port: {}, site: mt-a}}\n", lab.port);
    site.edit("schedules/wallet.yaml", &a, "");
    told(&["no member is a primary", "`b` is a standby", "name the server that is the primary now under `members`"])
        .await;
    // One of another cluster in its place.
    let other = wallet_on(15, "").await;
    let stranger = a.replace(&lab.port.to_string(), &other.port.to_string());
    site.edit("schedules/wallet.yaml", "members:\n", &format!("members:\n{stranger}"));
    told(&["member `b`", "its system identifier is", "belongs to another cluster"]).await;
    let same = format!("  c: {{host: 127.0.0.1, port: {}, site: mt-c}}\n", lab.port);
    site.edit("schedules/wallet.yaml", "members:\n", &format!("members:\n{same}"));
    told(&["it takes writes, and so does", "another cluster", "remove the one that does not belong"]).await;
    site.edit("schedules/wallet.yaml", &stranger, "");
    assert_eq!(site.run(&["backup", "wallet"]).await.json(0)["from"]["member"], "c");
}
