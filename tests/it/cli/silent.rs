//! A vault that hangs, or is away, beside one that is sound.

use std::net::TcpListener;

use serde_json::json;

use super::site::{Site, wallet};

/// Takes connections and never answers one.
fn hole(site: &Site) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    site.put_private("s3.secret", "secret");
    let hole = format!(
        "{{kind: s3, bucket: backups, region: eu-central-1, endpoint: \"http://127.0.0.1:{port}\", credentials: {{access_key_id: A, secret_access_key: {{file: s3.secret}}}}, durable: best_effort}}"
    );
    site.edit("lifeboat.yaml", "durable: required}", &format!("durable: required}}\n  hole: {hole}"));
    listener
}

/// That no command takes longer than its limit is what is shown here.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_hangs_holds_up_nobody_and_is_named() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    let _hole = hole(&site);
    site.edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [hole, primary]");
    let to = site.path("restored");
    let ran = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await;
    assert_eq!(ran.json(0)["vault"], "primary");
    ran.tells(&["waiting for vault `hole`", "`--from primary` goes without it", "answered nothing for"]);
    let checked = site.run(&["check", "--connect"]).await.json(2);
    let problems = checked["problems"].to_string();
    super::site::tells(&problems, &["vault `hole` has answered nothing for"]);
    assert!(!problems.contains("primary"), "{problems}");
    let ran = site.run(&["status"]).await;
    assert!(ran.stdout.contains("\"newest_backup\": {"), "{ran:?}");
    ran.tells(&["hole"]);
    assert_eq!(site.run(&["findings"]).await.stderr, "", "it asks no vault");
    let ran = site.run(&["evidence", "verify"]).await;
    ran.json(0);
    ran.tells(&["hole", "not looked at"]);
}

/// A vault that nothing waits for stops no backup; it is told until it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_best_effort_vault_that_is_away_stops_no_backup() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.add_vault();
    site.put("dr", "a file where the vault should be");
    let taken = site.run(&["backup", "wallet"]).await.json(0);
    assert_eq!((&taken["verdict"], &taken["state"]), (&json!("PASS"), &json!("WAL_COMPLETE")));
    let told = site.run(&["findings"]).await.json(1).to_string();
    super::site::tells(&told, &["vault `dr`", "the last backup of `wallet` went on without it"]);
    std::fs::remove_file(site.path("dr")).unwrap();
    site.run(&["backup", "wallet"]).await.json(0);
    let told = site.run(&["findings"]).await.stdout;
    assert!(!told.contains("went on without it"), "{told}");
    // The first one, and one that WAL must reach, are waited for.
    site.edit("lifeboat.yaml", "durable: best_effort", "durable: required");
    std::fs::remove_dir_all(site.path("dr")).unwrap();
    site.put("dr", "a file where the vault should be");
    let failed = site.run(&["backup", "wallet"]).await.json(1);
    super::site::tells(&failed["findings"].to_string(), &["step `check`", "vault `dr`"]);
}

/// A folder that is not mounted is told as that, and not as a vault without backups.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_not_mounted_is_told_to_who_reads_it_alone() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    site.add_vault();
    std::fs::create_dir(site.path("dr")).unwrap();
    let to = site.path("restored");
    let ran = site.run(&["restore", "wallet", "--from", "dr", "--to", to.to_str().unwrap()]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("vault `dr`: there is no vault, as `vault.json` is not there"), "{ran:?}");
    let verified = site.run(&["vault", "verify", "--quick"]).await.json(3);
    assert_eq!(verified["reports"].as_array().unwrap().len(), 1, "{verified}");
    assert_eq!(verified["unverified"][0]["vault"], "dr", "{verified}");
    super::site::tells(verified["unverified"][0]["reason"].as_str().unwrap(), &["`vault.json` is not there"]);
    assert!(site.shown(&["vault", "verify", "--quick"]).await.contains("wallet in dr: not verified: "));
}
