//! `lifeboat vault verify`: with nothing but the vault, as a run with evidence
//! and findings, and by the schedule.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::site::{Site, wallet};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

async fn state(site: &Site) -> String {
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    listed[0]["state"].as_str().unwrap().to_owned()
}

fn part(site: &Site) -> PathBuf {
    let mut parts = site.files_in("vault").into_iter().filter(|path| path.ends_with("data/00000.tar.zst.age"));
    parts.next().unwrap()
}

fn flip(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_verified_from_the_vault_alone_and_as_a_run() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["vault", "verify"]).await.refused(2, &["--signed-by", "signing key"]);
    site.run(&["findings"]).await.json(0);
    assert_eq!(site.run(&["vault", "verify"]).await.json(3)["verdict"], "INCONCLUSIVE", "nothing is there");
    site.run(&["backup", "wallet"]).await.json(0);
    from_the_vault_alone(&site).await;
    wrong_usage(&site).await;
    as_a_run(&site).await;
    by_the_schedule(&site).await;
}

async fn from_the_vault_alone(site: &Site) {
    site.edit("lifeboat.yaml", "sqlite:lifeboat.db", "sqlite:nothing.db");
    for depth in ["--quick", "--full", "--sample=5%"] {
        let verified = site.run(&["vault", "verify", "wallet", depth]).await.json(0);
        assert_eq!(verified["verdict"], "PASS", "{depth}: {verified}");
        assert_eq!(verified["reports"][0]["defects"], serde_json::json!([]));
    }
    let told = site.shown(&["vault", "verify"]).await;
    assert!(told.contains("WAL segments") && told.ends_with("PASS\n"), "{told}");
    let part = part(site);
    flip(&part);
    let found = site.run(&["vault", "verify", "wallet"]).await.json(1);
    let defect = &found["reports"][0]["defects"][0];
    assert!(defect["object"].as_str().unwrap().ends_with("data/00000.tar.zst.age"), "{found}");
    assert_eq!(defect["fault"], "damaged", "{found}");
    assert!(defect["remedy"].as_str().unwrap().contains("lifeboat vault copy"), "{found}");
    assert_eq!(site.run(&["vault", "verify", "wallet", "--quick"]).await.code, 0, "no content is read");
    flip(&part);
    // The same of a piece of WAL, which nothing restores either.
    let is_wal =
        |path: &PathBuf| path.to_string_lossy().contains("/wal/0000") && path.to_string_lossy().ends_with(".zst.age");
    let segment = site.files_in("vault").into_iter().find(is_wal).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    flip(&segment);
    let found = site.run(&["vault", "verify", "wallet"]).await.json(1);
    let defect = &found["reports"][0]["defects"][0];
    assert!(defect["object"].as_str().unwrap().ends_with(name) && defect["fault"] == "damaged", "{found}");
    let to = site.path("from damaged WAL");
    site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await.refused(1, &[name]);
    assert!(!to.exists());
    flip(&segment);
    // Who trusts another key sees no backup; who has another identity opens nothing.
    let foreign = format!("SHA256:{}", "A".repeat(43));
    let found = site.run(&["vault", "verify", "wallet", "--signed-by", &foreign]).await.json(1);
    assert_eq!(found["reports"][0]["defects"][0]["fault"], "foreign_signature", "{found}");
    site.new_identity("stranger.age");
    site.edit("lifeboat.yaml", "identity.age", "stranger.age");
    let found = site.run(&["vault", "verify", "wallet"]).await.json(3);
    assert!(found["reports"][0]["unchecked"].as_array().is_some_and(|all| !all.is_empty()), "{found}");
    site.edit("lifeboat.yaml", "stranger.age", "identity.age");
    assert!(!site.path("nothing.db").exists(), "no state was needed or made");
    site.edit("lifeboat.yaml", "sqlite:nothing.db", "sqlite:lifeboat.db");
}

async fn wrong_usage(site: &Site) {
    for args in [
        &["vault", "verify", "--quick", "--full"][..],
        &["vault", "verify", "--sample", "0%"],
        &["vault", "verify", "nobody"],
        &["vault", "verify", "wallet", "--vault", "nowhere"],
    ] {
        let ran = site.run(args).await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    }
}

async fn as_a_run(site: &Site) {
    assert_eq!(state(site).await, "WAL_COMPLETE");
    let record = ["vault", "verify", "wallet", "--full", "--record"];
    let passed = site.run(&record).await.json(0);
    assert_eq!(passed["runs"][0]["verdict"], "PASS", "{passed}");
    assert_eq!(state(site).await, "VERIFIED");
    let shown = site.run(&["evidence", "show", passed["runs"][0]["run_id"].as_str().unwrap()]).await.json(0);
    assert_eq!(shown["kind"], "verify", "{shown}");
    assert_eq!(site.run(&["status"]).await.json(1)["databases"][0]["weakest_state"], "VERIFIED");
    let part = part(site);
    flip(&part);
    let failed = site.run(&record).await.json(1);
    assert!(failed["runs"][0]["findings"][0].as_str().unwrap().contains("data/00000.tar.zst.age"), "{failed}");
    assert_eq!(state(site).await, "WAL_COMPLETE", "it was verified, and is damaged now");
    let findings = site.run(&["findings"]).await;
    assert!(findings.stdout.contains("data/00000.tar.zst.age"), "{findings:?}");
    flip(&part);
    site.run(&record).await.json(0);
    assert_eq!(state(site).await, "VERIFIED");
    let findings = site.run(&["findings"]).await;
    assert!(!findings.stdout.contains("data/00000.tar.zst.age"), "it was mended: {findings:?}");
    assert_eq!(site.run(&["evidence", "verify"]).await.code, 0);
}

async fn by_the_schedule(site: &Site) {
    site.edit(
        "schedules/wallet.yaml",
        "verify: {every: 365d, sample: 100%, period: 365d}",
        "verify: {every: 1s, sample: 50%, period: 1h}",
    );
    let mut daemon = site.serve(&[]);
    let scheduled = || async {
        let Some((200, body)) = site.get("/api/v1/runs?limit=100").await else { return Vec::new() };
        let runs: Value = serde_json::from_str(&body).unwrap();
        let is_ours =
            |run: &&Value| run["flow"] == "verify" && run["requester"] == "schedule" && run["state"] == "done";
        runs["items"].as_array().unwrap().iter().filter(is_ours).cloned().collect()
    };
    eventually("a scheduled verification", SOON, || async { !scheduled().await.is_empty() }).await;
    let run = scheduled().await.remove(0);
    assert!(run["run_id"].as_str().unwrap().starts_with("verify/wallet/primary/2"), "{run}");
    assert_eq!(run["conclusion"]["verdict"], "PASS", "{run}");
    daemon.kill().await.unwrap();
}
