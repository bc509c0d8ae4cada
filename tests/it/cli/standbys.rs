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
