//! How recoverable the estate is: exposure over time, what a restore would take now and
//! what shortens it, and several databases at one common instant.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    journey::{backed_up, bet, streaming},
    points::is_held,
    site::{Site, wallet},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

async fn wallet_of(site: &Site) -> Value {
    site.get_json("/api/v1/status").await["databases"][0].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_would_take_follows_what_there_is_to_do_and_is_a_finding_over_the_objective() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.edit("lifeboat.yaml", "api:", "objectives: {rto: 1h, jurisdictions: {MT: {rto: 30m}}}\napi:");
    // Before there is a backup all is exposed; that must not come near the objective.
    site.edit("schedules/wallet.yaml", "rpo: 15s", "rpo: 15m");
    let residency = "residency: {jurisdiction: MT, regions: [eu-south-1]}\ntimezone:";
    site.edit("schedules/wallet.yaml", "timezone:", residency);
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    backed_up(&site).await;
    assert!(wallet_of(&site).await["forecast"].is_null(), "no restore was measured yet");
    bet(&lab, 1).await;
    let test = site.run(&["restore-test", "wallet"]).await.json(0);
    let record = site.run(&["evidence", "show", test["run_id"].as_str().unwrap()]).await.json(0);
    let measured = &record["measured"];
    let backup = site.run(&["backups", "wallet"]).await.json(0)[0].clone();
    assert_eq!(measured["restored_bytes"], backup["size_bytes"], "{measured}");
    assert!(number(&measured["replayed_bytes"]) > 0.0 && number(&measured["replay_seconds"]) > 0.0, "{measured}");
    assert!(number(&measured["replay_seconds"]) <= number(&measured["restore_seconds"]), "{measured}");

    let before = wallet_of(&site).await["forecast"].clone();
    assert_eq!((&before["chain_bytes"], &before["chain_length"]), (&backup["size_bytes"], &json!(1)), "{before}");
    let parts = ["fetch_seconds", "replay_seconds", "check_seconds", "rest_seconds"];
    let sum: f64 = parts.iter().map(|part| number(&before[part])).sum();
    assert!((sum - number(&before["seconds"])).abs() < 1e-6 && parts.iter().all(|part| number(&before[part]) > 0.0));
    // Much more WAL behind the same backup.
    lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT n % 50 FROM generate_series(1, 200000) n").await;
    is_held(&lab, &site).await;
    let after = wallet_of(&site).await;
    let (now, would_take) = (&after["forecast"], &after["would_take_seconds"]);
    assert!(number(&now["wal_bytes"]) > number(&before["wal_bytes"]) + 10e6, "{now}");
    assert!(number(&now["replay_seconds"]) > number(&before["replay_seconds"]), "{now}");
    assert_eq!((&now["chain_bytes"], &now["seconds"]), (&before["chain_bytes"], would_take));
    site.run(&["backup", "wallet"]).await.json(0);
    eventually("a new backup leaves little to replay", SOON, || async {
        number(&wallet_of(&site).await["forecast"]["wal_bytes"]) < number(&now["wal_bytes"])
    })
    .await;

    site.edit("schedules/wallet.yaml", "rto: 60s", "rto: 1ms");
    let found = async |words: &str| {
        let findings = site.run(&["findings"]).await;
        findings.stdout.contains(words)
    };
    let over = "longer than the RTO of 1ms allows (estimated from 1 restore tests; no RTO)";
    eventually("a finding with advice", SOON, || found(over)).await;
    site.edit("schedules/wallet.yaml", "rto: 1ms", "rto: 20m");
    eventually("it is closed", SOON, async || !found("longer than the RTO").await).await;
    shown(&site).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}

/// One screen, the page and the report tell of the estate, and of exposure over time.
async fn shown(site: &Site) {
    eventually("exposure was measured", SOON, || async {
        wallet_of(site).await["exposure"][0]["last_day"]["measured_seconds"].as_f64() > Some(5.0)
    })
    .await;
    let day = wallet_of(site).await["exposure"][0]["last_day"].clone();
    assert_eq!((&day["period_seconds"], &day["over_seconds"]), (&json!(86_400.0), &json!(0.0)), "{day}");
    assert!(day["max_seconds"].is_f64() && number(&day["measured_seconds"]) < 86_400.0, "{day}");
    let screen = site.shown(&["status"]).await;
    for words in [
        "estate (RTO 1h): 1 database",
        "Recoverable to 20",
        "A restore would take about ",
        "(wallet), estimated.",
        "A restore test passed in the last 31 days for 1 of 1 database;",
        "PROVEN: 1 of 2 backups, 1 of 2 chains.",
        "Exposure: at most ",
        "wallet: exposure of primary in the last day: at most ",
        "0.0 % of the time over the objective, measured ",
    ] {
        assert!(screen.contains(words), "`{words}`: {screen}");
    }
    let text = site.shown(&["report", "--format", "text"]).await;
    for words in
        ["all time: ", "estate (RTO 1h): 1 database", "MT (RTO 30m): 1 database", "Exposure of primary: at most"]
    {
        assert!(text.contains(words), "`{words}`: {text}");
    }
    let report = site.run(&["report", "--format", "json"]).await.json(0);
    let names: Vec<&str> = report["groups"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["estate", "MT"]);
    let malta = &report["groups"][1];
    assert_eq!((&malta["objectives"]["rto"], &malta["untested"]), (&json!("30m"), &json!([])), "{malta}");
    assert_eq!(malta["lines"][0]["figures"]["n"], 1, "{malta}");
    assert!(number(&malta["exposure"]["measured_seconds"]) > 5.0, "{malta}");
    assert!(number(&report["subjects"][0]["forecast"]["seconds"]) > 0.0);
    let (_, page) = site.get("/").await.unwrap();
    assert!(page.contains("estate (RTO 1h): 1 database"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_are_restored_to_one_common_instant() {
    let lab = wallet("max_replication_slots = 8").await;
    let site = Site::write(lab.port);
    let schedule = site.text("schedules/wallet.yaml");
    // One server stands for both: each has its own slot, stream and vault prefix.
    site.put("schedules/ledger.yaml", &schedule.replace("database: wallet", "database: ledger"));
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    for database in ["wallet", "ledger"] {
        site.run(&["backup", database]).await.json(0);
    }
    let instant = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    eventually("both have an instant in common", SOON, || async {
        let status = site.get_json("/api/v1/status").await;
        let databases = status["databases"].as_array().unwrap();
        let backup = databases.iter().map(|one| instant(&one["newest_backup"]["finished_at"])).max().unwrap();
        databases.iter().all(|one| instant(&one["recoverable_to"]) > backup + jiff::SignedDuration::from_secs(2))
    })
    .await;

    let drawn = site.run(&["restore-test", "wallet", "ledger"]).await.json(0);
    let at = instant(&drawn["instant"]);
    let tests = drawn["tests"].as_array().unwrap();
    assert_eq!(tests.iter().map(|test| &test["database"]).collect::<Vec<_>>(), ["wallet", "ledger"]);
    let commits: Vec<_> = tests.iter().map(|test| instant(&test["recovery_point"]["last_commit_at"])).collect();
    let (oldest, newest) = (*commits.iter().min().unwrap(), *commits.iter().max().unwrap());
    assert!(newest <= at, "{drawn}");
    assert!((number(&drawn["skew_seconds"]) - newest.duration_since(oldest).as_secs_f64()).abs() < 1e-6, "{drawn}");
    assert_eq!(instant(&drawn["recovery_point"]["last_commit_at"]), oldest, "the worst of them: {drawn}");
    assert_eq!(drawn["verdict"], "PASS", "{drawn}");
    // A record each.
    let report = site.run(&["report", "--format", "json"]).await.json(0);
    for test in tests {
        let is_of_test = |record: &&Value| record["run_id"] == test["run_id"];
        let record = report["records"].as_array().unwrap().iter().find(is_of_test).unwrap();
        assert_eq!((&record["subject"], &record["verdict"]), (&test["database"], &json!("PASS")));
    }

    let asked = site.shown(&["restore-test", "wallet", "ledger", "--at", &at.to_string()]).await;
    for words in [&format!("2 databases to {at}: PASS")[..], "recovery point: ", "skew: "] {
        assert!(asked.contains(words), "`{words}`: {asked}");
    }
    let runs = site.run(&["runs"]).await.json(0).to_string();
    let refused = async |args: &[&str], words: &[&str]| {
        site.run(&[&["restore-test"][..], args].concat()).await.refused(2, words);
    };
    refused(&["wallet", "ledger", "wallet"], &["`wallet` is named twice"]).await;
    refused(&["wallet", "ledger", "--latest"], &["one instant in common", "`--at`"]).await;
    refused(&["wallet", "ledger", "--at", "2020-01-01T00:00:00Z"], &["the oldest recovery point"]).await;
    assert_eq!(site.run(&["runs"]).await.json(0).to_string(), runs, "what is refused makes no run");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
