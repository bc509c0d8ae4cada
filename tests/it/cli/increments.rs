//! Increments on PostgreSQL 18: each restored from its chain and compared, the
//! way back to a full backup where none can be taken, and chains with a hole.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, recovered, wallet, wallet_on},
};
use crate::support::{Lab, eventually, scratch};

const SUMMARIES: &str = "summarize_wal = on";

/// Takes one and answers what it is.
async fn increment(site: &Site) -> Value {
    site.run(&["backup", "wallet", "--kind", "incremental"]).await.json(0)
}

fn text<'a>(backup: &'a Value, name: &str) -> &'a str {
    backup[name].as_str().unwrap_or_default()
}

async fn live_bets(lab: &Lab) {
    lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT 7 FROM generate_series(1, 300)").await;
}

/// Rows in the default tablespace and in `space`, in tables that come and go.
async fn live(lab: &Lab, nth: u32) {
    let sql = format!(
        "INSERT INTO bets (stake) SELECT {nth} FROM generate_series(1, 3000);
         UPDATE bets SET stake = stake + 1 WHERE id % 97 = {nth};
         INSERT INTO far SELECT g, {nth} FROM generate_series(1, 500) g;
         CREATE TABLE made_{nth} AS SELECT g AS id, repeat('x', 50) AS v FROM generate_series(1, 2000) g;"
    );
    lab.psql_in("wallet", &sql).await;
}

/// The rows of all tables that `live` makes.
const ALL: &str = "select (select count(*) || md5(string_agg(b::text, ',' order by id)) from bets b)
    || (select count(*) || ' ' || coalesce(sum(n), 0) from far)
    || coalesce((select string_agg(relname, ',' order by relname) from pg_class where relname like 'made%'), '')";

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_increments_is_restored_to_the_rows_of_each() {
    let lab = wallet_on(18, SUMMARIES).await;
    let space = scratch();
    lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(space.path())).unwrap();
    lab.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.path().display())).await;
    lab.psql_in("wallet", "CREATE TABLE far (id int, n int) TABLESPACE space").await;
    let site = Site::write(lab.port);
    let findings = site.run(&["check", "--connect"]).await.json(0)["findings"].clone();
    assert_eq!(findings, serde_json::json!([]));

    // There is nothing to build upon yet.
    let first = increment(&site).await;
    assert_eq!((text(&first, "kind"), first["parent"].is_null()), ("full", true), "{first}");
    assert!(
        text(&first["findings"], "0").is_empty()
            && first["findings"][0].as_str().unwrap().contains("holds no sound backup")
    );
    let mut taken = vec![(text(&first, "id").to_owned(), lab.psql_in("wallet", ALL).await)];
    for nth in 1..=3 {
        live(&lab, nth).await;
        let rows = lab.psql_in("wallet", ALL).await;
        let backup = increment(&site).await;
        assert_eq!(text(&backup, "kind"), "incremental", "{backup}");
        assert_eq!(text(&backup, "state"), "WAL_COMPLETE");
        assert_eq!(text(&backup, "parent"), taken.last().unwrap().0, "upon the one before");
        assert!(backup["stored_bytes"].as_u64() < first["stored_bytes"].as_u64(), "{backup} {first}");
        taken.push((text(&backup, "id").to_owned(), rows));
    }
    let verified = site.run(&["vault", "verify", "wallet", "--full"]).await.json(0);
    assert_eq!(verified["verdict"], "PASS", "{verified}");
    room_for_what_is_combined(&site).await;
    lab.cluster.stop("immediate").await.unwrap();
    // The copy must not lean upon the source's own files.
    std::fs::remove_dir_all(space.path()).unwrap();

    for (id, rows) in &taken {
        let data = site.path(&format!("restored {id}"));
        let to = data.to_str().unwrap();
        site.run(&["restore", "wallet", "--to", to, "--backup", id, "--immediate"]).await.json(0);
        assert!(!data.join("lifeboat_chain").exists());
        assert_eq!(recovered(&lab, &data, ALL).await, *rows, "{id}");
    }
    by_script(&lab, &site, &taken).await;
    broken_chain(&site, &taken).await;
}

/// A restore of the chain is refused, before its first byte, where there is no room for
/// all of it, its WAL and what is made of it.
async fn room_for_what_is_combined(site: &Site) {
    let (without, with) = ("  checks:\n", "  target: {kind: local, disk: 1MiB}\n  checks:\n");
    site.edit("schedules/wallet.yaml", without, with);
    let test = site.run(&["restore-test", "wallet", "--latest"]).await.json(3);
    site.edit("schedules/wallet.yaml", with, without);
    let told = test["findings"].to_string();
    let (_, needed) = told.split_once("needs at least ").unwrap_or_else(|| panic!("{test}"));
    let needed: f64 = needed.split("MiB").next().unwrap().parse().unwrap();
    let backups = site.run(&["backups", "wallet"]).await.json(0);
    let bytes: u64 = backups.as_array().unwrap().iter().map(|backup| backup["size_bytes"].as_u64().unwrap()).sum();
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let beside = needed - bytes as f64 / f64::from(1 << 20);
    // Segments of WAL are whole ones; what is told is rounded.
    assert!(beside > 0.2 && (0.2..15.8).contains(&(beside % 16.0)), "{beside} of {needed}");
}

/// Without Lifeboat, from the newest increment's own folder.
async fn by_script(lab: &Lab, site: &Site, taken: &[(String, String)]) {
    let (id, rows) = taken.last().unwrap();
    let data = site.path("by script");
    let folder = backup_folder(site, id);
    let program = lifeboat::process::Program::new("sh").arg(folder.join("restore.sh")).arg(site.path("identity.age"));
    let program =
        program.arg(&data).env("PG_COMBINEBACKUP", lab.cluster.binaries.path("pg_combinebackup").to_str().unwrap());
    program.output(Duration::from_secs(120)).await.unwrap();
    if let Some(account) = &lab.cluster.account {
        lifeboat::process::Program::new("chown")
            .arg("-R")
            .arg(&account.name)
            .arg(&data)
            .output(Duration::from_secs(60))
            .await
            .unwrap();
    }
    assert_eq!(recovered(lab, &data, ALL).await, *rows);
}

fn backup_folder(site: &Site, id: &str) -> PathBuf {
    let manifest = site.files_in("vault").into_iter().find(|path| path.ends_with(format!("{id}/manifest.json")));
    manifest.unwrap().parent().unwrap().to_owned()
}

/// A backup in the middle is gone: what is built upon it is no backup any more,
/// and what lies before it is.
async fn broken_chain(site: &Site, taken: &[(String, String)]) {
    let (lost, newest) = (&taken[2].0, &taken[3].0);
    std::fs::remove_dir_all(backup_folder(site, lost)).unwrap();
    let verified = site.run(&["vault", "verify", "wallet", "--quick"]).await;
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.stdout.contains(&format!("builds upon backup `{lost}`")), "{}", verified.stdout);
    let to = site.path("broken");
    let to = to.to_str().unwrap();
    let refused = site.run(&["restore", "wallet", "--to", to, "--backup", newest]).await;
    refused.refused(1, &[newest, lost, "choose another backup"]);
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    let state = |id: &str| {
        let listed = listed.as_array().unwrap().iter().find(|one| one["id"] == *id).unwrap();
        listed["state"].as_str().unwrap().to_owned()
    };
    assert_eq!((state(newest).as_str(), state(&taken[1].0).as_str()), ("UPLOADED", "WAL_COMPLETE"));
    let plan = site.shown(&["vault", "prune", "wallet"]).await;
    assert!(plan.contains(&format!("{newest} needs {lost}")), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_cannot_give_an_increment_a_full_backup_is_taken_and_told() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let lone = site.run(&["backup", "wallet"]).await.json(0);
    assert!(text(&lone, "nobody_streams").contains("pg_drop_replication_slot('lifeboat_wallet')"), "{lone}");
    let backup = increment(&site).await;
    assert_eq!(text(&backup, "kind"), "full", "{backup}");
    assert!(backup["findings"][0].as_str().unwrap().contains("upgrade to version 17 or later"), "{backup}");
    let lines = "  - {kind: full, cron: \"0 2 29 2 *\", keep: {yearly: 3}}\n";
    site.edit("schedules/wallet.yaml", lines, &format!("{lines}  - {{kind: incremental, cron: \"0 3 29 2 *\"}}\n"));
    let found = site.run(&["check", "--connect"]).await.json(0);
    assert!(found["findings"][0].as_str().unwrap().contains("no increment is possible"), "{found}");
    site.edit("schedules/wallet.yaml", lines, "");
    let found = site.run(&["check"]).await.json(2);
    assert!(found["problems"].to_string().contains("no line takes the full backups"), "{found}");
    site.run(&["backup", "wallet", "--kind", "incremental", "--standalone"]).await.refused(2, &["only a full backup"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn summaries_that_are_off_or_gone_are_noticed_before() {
    let lab = wallet_on(18, "").await;
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    let why = async || {
        let backup = increment(&site).await;
        assert_eq!(text(&backup, "kind"), "full", "{backup}");
        backup["findings"][0].as_str().unwrap().to_owned()
    };
    assert!(why().await.contains("`summarize_wal` is off"));
    lab.psql("ALTER SYSTEM SET summarize_wal = on").await;
    lab.psql("SELECT pg_reload_conf()").await;
    let carries = backed_up(&site).await;
    site.run(&["backup", "wallet", "--standalone"]).await.json(0);
    live_bets(&lab).await;
    let backup = increment(&site).await;
    assert_eq!(text(&backup, "parent"), carries, "one that stands alone carries none: {backup}");
    // As when they were kept for too short a time, also the one that begins where the parent does.
    let folder = lab.cluster.data().join("pg_wal/summaries");
    let files = || std::fs::read_dir(&folder).unwrap().count();
    let before = files();
    live_bets(&lab).await;
    lab.psql("CHECKPOINT").await;
    eventually("another summary", Duration::from_secs(60), async || files() > before).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    for summary in std::fs::read_dir(&folder).unwrap() {
        std::fs::remove_file(summary.unwrap().path()).unwrap();
    }
    let told = why().await;
    assert!(told.contains("no summary of its WAL"), "{told}");
    restored(&lab, &site, "increment", ["--latest"], &rows).await;
}
