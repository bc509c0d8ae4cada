//! A daemon that keeps two vaults level: what lags is a finding until it does not.

use std::time::Duration;

use serde_json::Value;

use super::site::{Site, walk, wallet};
use crate::support::{eventually, moved};

const SOON: Duration = Duration::from_secs(60);

async fn copies_to_dr(site: &Site) -> Value {
    let Some((200, body)) = site.get("/api/v1/status").await else { return Value::Null };
    serde_json::from_str::<Value>(&body).unwrap()["databases"][0]["copies"][1].clone()
}

async fn finding(site: &Site, words: &[&str]) -> bool {
    let findings = site.run(&["findings"]).await.stdout;
    words.iter().all(|word| findings.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fell_behind_is_a_finding_until_it_caught_up() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.add_vault();
    site.edit("schedules/wallet.yaml", "timezone:", "copy: {lag_max: 1ms}\ntimezone:");
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    let id = backup["id"].as_str().unwrap();
    std::fs::remove_dir_all(site.path("dr/wallet")).unwrap();
    let status = site.run(&["status"]).await.json(1);
    let lag = &status["databases"][0]["copies"][1];
    assert_eq!((&lag["vault"], &lag["missing_backups"]), (&"dr".into(), &1.into()), "{lag}");
    let mut daemon = site.serve(&[]);
    eventually("a finding that it lags", SOON, || finding(&site, &["`copy.lag_max` (1ms)", "vault copy wallet"])).await;
    eventually("it is caught up", SOON, || async { copies_to_dr(&site).await["missing_backups"] == 0 }).await;
    eventually("the finding goes away", SOON, || async { !finding(&site, &["copy.lag_max"]).await }).await;
    assert_eq!(copies_to_dr(&site).await["lag_seconds"], 0.0);

    // What is damaged is not copied, and told until it is mended.
    let part = walk(&site.path("vault")).into_iter().find(|path| path.ends_with("data/00000.tar.zst.age")).unwrap();
    let sound = std::fs::read(&part).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&part, flipped).unwrap();
    moved(site.path("dr/wallet"), site.path("gone"));
    let words = ["cannot be brought level", "vault `primary`", id, "data/00000.tar.zst.age` is damaged"];
    eventually("a finding that names the object", SOON * 2, || finding(&site, &words)).await;
    assert_eq!(copies_to_dr(&site).await["fell_behind"], true);
    std::fs::write(&part, sound).unwrap();
    let copied = site.run(&["vault", "copy", "wallet"]).await.json(0);
    assert_eq!((&copied[0]["verdict"], &copied[0]["backups"][0]["id"]), (&"PASS".into(), &id.into()), "{copied}");
    eventually("the finding goes away", SOON, || async { !finding(&site, &["brought level"]).await }).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    let shown = site.shown(&["backups"]).await;
    assert!(shown.contains("primary") && shown.contains("dr"), "{shown}");
}
