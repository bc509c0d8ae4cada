//! `lifeboat serve` over a few schedules: backups by the clock, a restore test
//! from beside it, what it answers, the evidence of it all, and its end.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use lifeboat::clock::Clock;
use serde_json::Value;

use super::{
    nodes,
    site::{PASSWORD, Site, finished, tells, walk, wallet},
};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_protects_answers_proves_and_ends() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "0 2 29 2 *", "*/10 * * * * *");
    // Not due for a month, whatever the day is.
    assert_eq!(site.run(&["status"]).await.json(1)["verdict"], "FAIL", "nothing is protected yet");
    let mut daemon = site.serve(&["-vv"]);
    eventually("a second scheduled backup", SOON, || async { ended_backups(&site).await >= 2 }).await;
    for told in ["driving a run", "a run ended"] {
        assert!(site.text("log").contains(told), "`{told}` is not logged");
    }
    answers(&site).await;
    second_daemon_is_refused(&site).await;
    let tested = restore_tested(&site).await;
    shown_to_people(&site, &tested).await;
    let pid = daemon.id().unwrap();
    let begun = std::time::Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?} to end", begun.elapsed());
    nothing_is_left(&lab, &site, pid).await;
    due_times_ran_once(&site).await;
    evidence_is_verified_and_tampering_found(&site, &tested).await;
    no_secret_is_anywhere(&site);
}

/// Two daemons with a state database each on one vault: what one of them signs the
/// other cannot store.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_state_database_is_a_finding_and_nothing_expires() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "0 2 29 2 *", "*/30 * * * * *");
    let mut daemon = site.serve(&[]);
    // Behind the backup of this half minute, and long before the next: the daemon signs
    // nothing before the other node does.
    eventually("a scheduled backup", SOON, || async {
        (5..15).contains(&(Clock::system().now().as_second() % 30)) && ended_backups(&site).await >= 1
    })
    .await;
    // The same keys and vault, as in a copied folder. Not an edit of the daemon's own
    // file: it reads that anew, and takes over what the vault holds beyond its log.
    site.put("other.yaml", &site.text("lifeboat.yaml").replace("sqlite:lifeboat.db", "sqlite:other.db"));
    finished(nodes::command(&site, "other", &[], &["backup", "wallet"])).await.json(0);
    let words = ["holds another `evidence/", "a node with a state database of its own"];
    eventually("the daemon tells it", SOON, || async {
        let found = site.run(&["findings"]).await.stdout;
        words.iter().all(|word| found.contains(word))
    })
    .await;
    daemon.kill().await.unwrap();
    let plan = site.shown(&["vault", "prune", "wallet"]).await;
    tells(&plan, &["nothing goes", words[1]]);
}

async fn ended_backups(site: &Site) -> usize {
    let Some((200, body)) = site.get("/api/v1/runs?limit=1000").await else { return 0 };
    let runs: Value = serde_json::from_str(&body).unwrap();
    runs["items"].as_array().unwrap().iter().filter(|run| run["state"] == "done").count()
}

async fn answers(site: &Site) {
    eventually("the first heartbeat and WAL in the vault", SOON, || async {
        let status = site.get_json("/api/v1/status").await;
        let database = &status["databases"][0];
        database["exposure"][0]["seconds"].is_number() && database["wal_streaming"]["state"] == "streaming"
    })
    .await;
    assert_eq!(site.get_json("/healthz").await["status"], "ok");
    assert_eq!(site.get_json("/readyz").await["status"], "ok");
    let status = site.get_json("/api/v1/status").await;
    let database = &status["databases"][0];
    assert_eq!(database["database"], "wallet");
    assert_eq!(database["verdict"], "INCONCLUSIVE", "backed up, not proven: {database}");
    assert_eq!(database["exposure"][0]["over_objective"], false, "{database}");
    assert!(database["recoverable_to"].is_string() && database["next_runs"][0]["what"] == "full backup", "{database}");
    let run = &site.get_json("/api/v1/runs").await["items"][0];
    assert_eq!(run["flow"], "backup");
    let one = site.get_json(&format!("/api/v1/runs/{}", run["run_id"].as_str().unwrap())).await;
    assert_eq!(one["run_id"], run["run_id"]);
    let backup = &site.get_json("/api/v1/backups").await["items"][0];
    assert_eq!((&backup["database"], &backup["kind"]), (&"wallet".into(), &"full".into()));
    let (code, metrics) = site.get("/metrics").await.unwrap();
    assert_eq!(code, 200);
    for name in [
        "lifeboat_exposure_seconds{database=\"wallet\",vault=\"primary\"}",
        "lifeboat_wal_durable_lsn{database=\"wallet\",vault=\"primary\"}",
        "lifeboat_backup_age_seconds{database=\"wallet\"}",
        "lifeboat_runs_total{flow=\"backup\",verdict=\"PASS\"}",
        "lifeboat_findings_open 0",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let (code, page) = site.get("/").await.unwrap();
    assert!(code == 200 && page.contains("wallet") && page.contains("<html"), "{page}");
}

async fn second_daemon_is_refused(site: &Site) {
    let ran = site.run(&["serve"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    ran.tells(&[&site.api.to_string(), "api.listen"]);
}

/// Runs a restore test beside the daemon and answers its figures.
async fn restore_tested(site: &Site) -> Value {
    let tested = site.run(&["restore-test", "wallet"]).await.json(0);
    assert_eq!(tested["verdict"], "PASS", "{tested}");
    assert_eq!(tested["database"], "wallet");
    assert!(tested["rpo_seconds"].as_f64().unwrap() <= 15.0, "{tested}");
    assert!(tested["lost_commits"].is_u64() && tested["restore_seconds"].as_f64().unwrap() > 0.0, "{tested}");
    assert!(tested["recovery_point"].is_object() && tested["evidence"]["leaf_hash"].is_string(), "{tested}");
    let names = |list: &str| -> BTreeSet<String> {
        let items = tested[list].as_array().unwrap();
        assert!(items.iter().all(|item| item["verdict"] == "PASS" || item["seconds"].is_number()), "{tested}");
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(names("checks").is_superset(&["heartbeat", "select count(*) > 0 from bets"].map(str::to_owned).into()));
    assert!(!names("isolation").is_empty() && !names("phases").is_empty());
    assert_eq!(std::fs::read_dir(site.path("scratch")).unwrap().count(), 0, "the copy is gone");
    let backups = site.run(&["backups", "wallet"]).await.json(0);
    let proven: Vec<&Value> = backups.as_array().unwrap().iter().filter(|b| b["state"] == "PROVEN").collect();
    assert_eq!(proven.len(), 1, "exactly the restored backup is proven: {backups}");
    tested
}

async fn shown_to_people(site: &Site, tested: &Value) {
    let id = tested["run_id"].as_str().unwrap();
    let runs = site.run(&["runs"]).await.json(0);
    assert!(runs.as_array().unwrap().iter().any(|run| run["run_id"] == id), "{runs}");
    assert_eq!(site.run(&["runs", id]).await.json(0)["conclusion"]["verdict"], "PASS");
    site.run(&["runs", "no/such/run"]).await.refused(2, &["no/such/run", "lifeboat runs"]);
    let status = site.run(&["status"]).await.json(0);
    assert_eq!(status["verdict"], "PASS", "{status}");
    assert_eq!(status["databases"][0]["last_restore_test"]["run_id"], id);
    assert_eq!(site.run(&["findings"]).await.json(0), serde_json::json!([]));
    let report: Value = site.run(&["report", "--format", "json"]).await.json(0);
    assert!(report["records"].as_array().unwrap().iter().any(|record| record["run_id"] == id), "{report}");
    let csv = site.run(&["report", "--format", "csv"]).await;
    assert!(csv.code == 0 && csv.stdout.contains(id), "{csv:?}");
    let html = site.run(&["report", "--format", "html"]).await;
    assert!(html.code == 0 && html.stdout.contains(id) && html.stdout.contains("</html>"), "{html:?}");
    let shown = site.run(&["evidence", "show", id]).await.json(0);
    assert_eq!(shown["run_id"], id, "{shown}");
    assert_eq!(shown["evidence"], tested["evidence"]);
    site.run(&["evidence", "show", "9999"]).await.refused(2, &["9999"]);
}

async fn nothing_is_left(lab: &Lab, site: &Site, daemon: u32) {
    let slots = lab.psql("SELECT count(*) FROM pg_replication_slots WHERE active").await;
    assert_eq!(slots, "0", "the slot is released");
    let is_slot_kept = lab.psql("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(is_slot_kept, "1", "the slot keeps the WAL for the next start");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        assert_ne!(parent, Some(daemon.to_string().as_str()), "a child outlived the daemon: {stat}");
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let folder = site.path("");
        assert!(!String::from_utf8_lossy(&line).contains(folder.to_str().unwrap()), "{stat} is left");
    }
}

/// Every due time from the first to the last has exactly one run.
async fn due_times_ran_once(site: &Site) {
    let runs = site.run(&["runs", "--limit", "1000"]).await.json(0);
    let mut due: Vec<i64> = runs
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|run| run["run_id"].as_str().unwrap().strip_prefix("backup/wallet/full/"))
        .map(|at| at.parse::<Timestamp>().unwrap().as_second())
        .collect();
    due.sort_unstable();
    assert!(due.len() >= 2, "{runs}");
    for pair in due.windows(2) {
        assert_eq!(pair[1] - pair[0], 10, "a due time ran twice or not at all: {due:?}");
    }
}

async fn evidence_is_verified_and_tampering_found(site: &Site, tested: &Value) {
    let verified = site.run(&["evidence", "verify"]).await.json(0);
    assert_eq!(verified["problems"], serde_json::json!([]));
    assert!(verified["size"].as_u64().unwrap() >= 3 && verified["checkpoints"].as_u64().unwrap() > 0, "{verified}");
    let bundle = site.path("bundle");
    let bundle = bundle.to_str().unwrap();
    site.run(&["evidence", "export", "--to", bundle]).await.json(0);
    site.run(&["evidence", "export", "--to", bundle]).await.refused(2, &["not empty"]);
    let key = format!("{bundle}/signing.pub");
    let outside = site.run(&["evidence", "verify", "--folder", bundle, "--key", &key]).await.json(0);
    assert_eq!(outside["size"], verified["size"]);
    assert_eq!(outside["head"], verified["head"]);
    let index = tested["evidence"]["index"].as_i64().unwrap();
    let db =
        sqlx::SqlitePool::connect(&format!("sqlite:{}", site.path("lifeboat-evidence.db").display())).await.unwrap();
    let changed = sqlx::query("UPDATE evidence SET entry = replace(entry, 'PASS', 'FAIL') WHERE idx = $1");
    assert_eq!(changed.bind(index).execute(&db).await.unwrap().rows_affected(), 1);
    db.close().await;
    let tampered = site.run(&["evidence", "verify"]).await.json(1);
    let problems = tampered["problems"].to_string();
    assert!(problems.contains(&format!("entry {index}:")), "{problems}");
    // The bundle was made before and holds.
    site.run(&["evidence", "verify", "--folder", bundle, "--key", &key]).await.json(0);
}

/// Neither password nor identity stands anywhere but in the operator's own files.
fn no_secret_is_anywhere(site: &Site) {
    let identity = site.text("identity.age");
    assert!(site.text("log").contains("DEBUG"), "the log tells all it can");
    tells(site.text("log").lines().last().unwrap(), &[]);
    let own = ["wallet.password", "identity.age", "escrow.age"].map(|name| site.path(name));
    for path in walk(&site.path("")).into_iter().filter(|path| !own.contains(path)) {
        let content = std::fs::read(&path).unwrap();
        for secret in [PASSWORD, identity.trim()] {
            let is_found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_found, "{} holds a secret", path.display());
        }
    }
}
