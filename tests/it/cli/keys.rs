//! Recipients come and go, and the identity that is kept elsewhere is proven.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    journey::{backed_up, restored, streaming},
    site::{DIGEST, Site, wallet},
};
use crate::support::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// Every file of the vault with its content.
fn contents(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = site.files_in("vault").into_iter().filter(|path| !path.to_string_lossy().contains("/evidence/"));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_wrapped_for_new_recipients_and_data_is_not_touched() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let written = site.text("lifeboat.yaml");
    let public = |name: &str| {
        let identity: age::x25519::Identity = site.text(name).trim().parse().unwrap();
        identity.to_public().to_string()
    };
    let (ours, escrow) = (public("identity.age"), public("escrow.age"));
    let current = site.run(&["vault", "rotate-keys"]).await.json(0);
    assert_eq!(current["vaults"][0]["added"], 0, "all keys are for the configured recipients: {current}");
    assert_eq!(current["findings"], serde_json::json!([]));

    // The first recipient leaves, another one comes.
    let new = site.new_identity("new.age");
    site.edit("lifeboat.yaml", &ours, &new);
    let before = contents(&site);
    let rotated = site.run(&["vault", "rotate-keys", "wallet"]).await.json(0);
    let vault = &rotated["vaults"][0];
    let wal_keys = vault["wal_keys"].as_u64().unwrap();
    assert!(vault["backups"] == 1 && wal_keys >= 1, "{rotated}");
    assert_eq!(vault["added"].as_u64().unwrap(), 1 + wal_keys, "{rotated}");
    for recipient in [&new, &escrow, &ours] {
        let reach = &vault["recipients"][recipient];
        assert_eq!((&reach["backups"], &reach["wal_keys"]), (&Value::from(1), &Value::from(wal_keys)), "{rotated}");
        assert_eq!(reach["is_configured"], *recipient != ours);
    }
    let told = rotated["findings"][0].as_str().unwrap();
    assert!(told.contains(&ours) && told.contains("can still open 1 backups"), "{told}");
    let mut after = contents(&site);
    after.retain(|path, _| before.contains_key(path));
    assert!(after == before, "what was there is untouched");
    assert_eq!(site.run(&["vault", "rotate-keys"]).await.json(0)["vaults"][0]["added"], 0, "done is done");

    // The new one alone opens backup and WAL; the one that left still does.
    lab.cluster.stop("fast").await.unwrap();
    site.edit("lifeboat.yaml", "identity.age", "new.age");
    restored(&lab, &site, "new", ["--latest"], &rows).await;
    site.edit("lifeboat.yaml", "new.age", "identity.age");
    restored(&lab, &site, "old", ["--latest"], &rows).await;

    // A node whose identity opens nothing says so and adds nothing.
    site.put("lifeboat.yaml", &written);
    site.new_identity("stranger.age");
    let stranger = site.new_identity("other.age");
    site.edit("lifeboat.yaml", &ours, &stranger);
    site.edit("lifeboat.yaml", "identity.age", "stranger.age");
    let closed = site.run(&["vault", "rotate-keys"]).await.json(1);
    assert_eq!(closed["vaults"][0]["added"], 0);
    assert!(closed["findings"][0].as_str().unwrap().contains("no identity of this node opens them"), "{closed}");
}

/// One flipped bit: the others are wrapped, and it is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_stops_no_rotation() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let keys: Vec<PathBuf> = site
        .files_in("vault")
        .into_iter()
        .filter(|path| path.parent().unwrap().parent().unwrap().ends_with("wal/keys"))
        .collect();
    let mut bytes = std::fs::read(&keys[0]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&keys[0], bytes).unwrap();
    let identity: age::x25519::Identity = site.text("identity.age").trim().parse().unwrap();
    let new = site.new_identity("new.age");
    site.edit("lifeboat.yaml", &identity.to_public().to_string(), &new);
    let damaged = keys[0].strip_prefix(site.path("vault")).unwrap().to_str().unwrap();
    // Done once or again: the verdict is what it is.
    for added in [keys.len(), 0] {
        let rotated = site.run(&["vault", "rotate-keys"]).await.json(1);
        assert_eq!((&rotated["verdict"], &rotated["vaults"][0]["added"]), (&Value::from("FAIL"), &Value::from(added)));
        let told = rotated["findings"][0].as_str().unwrap();
        assert!(told.contains(damaged) && told.contains("lifeboat vault copy"), "{told}");
        assert_eq!(rotated["vaults"][0]["recipients"][&new]["backups"], 1, "{rotated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_test_of_a_quarter_opens_with_the_escrow_identity_alone() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let tested = async || site.run(&["restore-test", "wallet"]).await;
    let escrow_check = |test: &Value| {
        let check = test["checks"].as_array().unwrap().iter().find(|check| check["name"] == "escrow_identity");
        check.map(|check| check["verdict"].as_str().unwrap().to_owned())
    };
    site.edit("lifeboat.yaml", "  signing:", "  escrow: {file: elsewhere.age}\n  signing:");
    // Heartbeats are what a test that passes must find.
    let _daemon = site.serve(&[]);
    eventually("the daemon streams WAL", LIMIT, || async { streaming(&site).await }).await;
    let without = tested().await;
    let told: Value = serde_json::from_str(&without.stdout).unwrap();
    assert_eq!(escrow_check(&told).as_deref(), Some("INCONCLUSIVE"), "nobody has brought it: {told}");
    assert_eq!(without.code, 3, "{told}");

    // One that opens nothing fails the test.
    site.new_identity("elsewhere.age");
    let wrong = tested().await;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stdout.contains("none of the given identities opens"), "{wrong:?}");

    std::fs::copy(site.path("escrow.age"), site.path("elsewhere.age")).unwrap();
    let proven = tested().await;
    let told: Value = serde_json::from_str(&proven.stdout).unwrap();
    assert_eq!(escrow_check(&told).as_deref(), Some("PASS"), "{told}");
    let next = tested().await;
    let told: Value = serde_json::from_str(&next.stdout).unwrap();
    assert_eq!(escrow_check(&told), None, "once a quarter is enough: {told}");
}
