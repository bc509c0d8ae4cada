//! What `status` and `findings` say when something is not as it should be.

use std::time::Duration;

use serde_json::Value;

use super::{
    journey::streaming,
    site::{Site, wallet},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

/// The wallet, after `status` ended with this code.
async fn status(site: &Site, code: i32) -> Value {
    site.run(&["status"]).await.json(code)["databases"][0].clone()
}

fn instant(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_run_is_an_alarm_and_no_all_clear() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    let files = ["lifeboat.db", "lifeboat-evidence.db"];
    for name in files.iter().flat_map(|file| ["", "-wal", "-shm"].map(|more| format!("{file}{more}"))) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(site.path(&name)).map(|data| data.permissions().mode() & 0o777);
        assert!(!files.contains(&name.as_str()) || mode.is_ok());
        assert!(mode.is_err() || mode.is_ok_and(|mode| mode == 0o600), "{name}");
    }
    let never = status(&site, 1).await;
    assert!(never["primary_away"].is_null(), "{never}");
    assert!(never["headline"].as_str().unwrap().contains("there never was a heartbeat"), "{never}");
    assert!(never["exposure"][0]["seconds"].as_f64() > Some(0.0), "{never}");

    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    eventually("a heartbeat", SOON, || async {
        site.get_json("/api/v1/status").await["databases"][0]["last_heartbeat"].is_string()
    })
    .await;
    assert_eq!(site.run(&["restore-test", "wallet"]).await.json(0)["verdict"], "PASS");
    eventually("all is clear beside the daemon", SOON, || async {
        let status = site.run(&["status"]).await;
        status.code == 0 && status.json(0)["databases"][0]["wal_streaming"]["state"] == "elsewhere"
    })
    .await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();

    lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT n % 50 FROM generate_series(1, 77777) n").await;
    eventually("an alarm", SOON, || async { site.run(&["status"]).await.code == 1 }).await;
    let stopped = status(&site, 1).await;
    let headline = stopped["headline"].as_str().unwrap();
    assert!(headline.contains("No daemon streams WAL (the last heartbeat was"), "{stopped}");
    assert_eq!((&stopped["verdict"], &stopped["wal_streaming"]["state"]), (&"FAIL".into(), &"stopped".into()));
    let exposed = stopped["exposure"][0]["seconds"].as_f64().unwrap();
    assert!(site.shown(&["status"]).await.contains("No daemon streams WAL"));
    // That nobody streams is seen before a heartbeat is missed for long.
    eventually("it grows", SOON, || async {
        status(&site, 1).await["exposure"][0]["seconds"].as_f64() > Some(exposed.max(10.0))
    })
    .await;

    // A backup brings the commits in; nobody streams all the same.
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    eventually("the alarm goes on", SOON, || async { site.run(&["status"]).await.code == 1 }).await;
    let after = status(&site, 1).await;
    assert_eq!(instant(&after["recoverable_to"]), instant(&backup["finished_at"]), "{after}");
    assert!(instant(&stopped["recoverable_to"]) < instant(&after["recoverable_to"]));
    assert_eq!(after["wal_streaming"]["state"], "stopped");

    lab.cluster.stop("immediate").await.unwrap();
    eventually("an alarm without it", SOON, || async { site.run(&["status"]).await.code == 1 }).await;
    let away = status(&site, 1).await["primary_away"].clone();
    assert_eq!(away["answered_at"], after["last_heartbeat"], "{away}");
    assert!(away["why"].as_str().unwrap().contains("cannot be reached"), "{away}");
    let shown = site.shown(&["status"]).await;
    assert!(shown.contains("wallet: the primary cannot be asked") && shown.contains("at 127.0.0.1:"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_test_is_a_finding_until_one_passes_and_an_ended_one_says_nothing() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    site.run(&["backup", "wallet"]).await.json(0);
    let passed = site.run(&["restore-test", "wallet"]).await.json(0);
    let all_clear = async || site.run(&["status"]).await.code == 0;
    eventually("all is clear", SOON, all_clear).await;

    let sound = site.text("schedules/wallet.yaml");
    let more = "expect: \"nobody\"}\n    - {sql: \"select 1/0\", dbname: wallet, expect: \"1\"}";
    site.edit("schedules/wallet.yaml", "expect: \"t\"}", more);
    let ran = site.run(&["restore-test", "wallet"]).await;
    // Who asks sees what came back; evidence has its digest.
    ran.tells(&["gave `t` instead of `nobody`", "select 1/0", "division by zero"]);
    let failed = ran.json(1);
    let told = failed["checks"].to_string();
    assert!(told.contains("sha256:") && !told.contains("division by zero"), "{told}");
    let findings = site.run(&["findings"]).await.json(1);
    let message = findings[0]["message"].as_str().unwrap();
    for words in ["restore test ended FAIL", "count(*)", "instead of nobody", failed["run_id"].as_str().unwrap()] {
        assert!(message.contains(words), "`{words}`: {message}");
    }
    let status = status(&site, 1).await;
    assert_eq!(status["last_restore_test"]["run_id"], failed["run_id"], "{status}");
    assert_eq!(status["last_proven"]["run_id"], passed["run_id"], "{status}");
    let shown = site.shown(&["status"]).await;
    assert!(shown.contains("last test: FAIL"), "{shown}");

    site.put("schedules/wallet.yaml", &sound);
    let passed = site.run(&["restore-test", "wallet"]).await.json(0);
    assert_eq!(site.run(&["findings"]).await.json(0), serde_json::json!([]));
    // Ctrl-C.
    let mut ended = site.command(&["restore-test", "wallet"]);
    let mut ended = ended.stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("a second test runs", SOON, || async { std::fs::read_dir(site.path("scratch")).unwrap().count() > 0 })
        .await;
    let pid = nix::unistd::Pid::from_raw(ended.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(ended.wait().await.unwrap().code(), Some(1));
    let records = site.run(&["report", "--format", "json"]).await.json(0);
    assert!(records.to_string().contains("ABORTED"), "{records}");
    eventually("all is clear", SOON, all_clear).await;
    assert_eq!(self::status(&site, 0).await["last_restore_test"]["run_id"], passed["run_id"]);
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
