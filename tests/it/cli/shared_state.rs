//! The same commands with the state in a PostgreSQL database, as many nodes share it.

use super::site::{Site, wallet};

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_evidence_are_kept_in_postgresql() {
    let lab = wallet("").await;
    lab.psql("CREATE DATABASE state").await;
    let site = Site::write(lab.port);
    let socket = lab.cluster.socket_folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/state", lab.port);
    site.edit("lifeboat.yaml", "sqlite:lifeboat.db", &url);
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    assert_eq!(backup["state"], "WAL_COMPLETE");
    let mut daemon = site.serve(&[]);
    crate::support::eventually("heartbeats", std::time::Duration::from_secs(60), || async {
        lab.psql_in("state", "SELECT count(*) > 2 FROM heartbeats").await == "t"
    })
    .await;
    let tested = site.run(&["restore-test", "wallet"]).await.json(0);
    assert_eq!(tested["verdict"], "PASS", "{tested}");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    let runs = site.run(&["runs"]).await.json(0);
    let ids: Vec<&str> = runs.as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&tested["run_id"], &backup["run_id"]], "the newest first");
    assert_eq!(lab.psql_in("state", "SELECT count(*) FROM evidence").await, "2");
    assert_eq!(site.run(&["evidence", "verify"]).await.json(0)["size"], 2);
    assert!(!site.path("lifeboat.db").exists());
}
