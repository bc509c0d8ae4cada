//! What an operator gets wrong, or what breaks: one clear error that names the
//! thing and what to do, the right exit code, and nothing half-made.

use serde_json::Value;

use super::site::{PASSWORD, Ran, Site, tells, wallet};
use crate::support::{Lab, free_port};

/// A run that failed: exit code 1, and one finding that holds all of `words`.
#[track_caller]
fn failed(ran: &Ran, words: &[&str]) -> Value {
    let told = ran.json(1);
    assert_eq!(told["verdict"], "ERROR", "{told}");
    let findings = told["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{told}");
    tells(findings[0].as_str().unwrap(), words);
    assert!(!ran.stderr.contains(PASSWORD), "{ran:?}");
    told
}

/// A backup that fails, and `check --connect` that would have told before.
async fn fails_as_foretold(site: &Site, words: &[&str]) {
    failed(&site.run(&["backup", "wallet"]).await, words);
    let checked = site.run(&["check", "--connect"]).await.json(2);
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{checked}");
    tells(problems[0].as_str().unwrap(), words);
    assert_eq!(site.run(&["backups"]).await.json(0), serde_json::json!([]));
    site.nothing_half_made();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_backed_up_is_named_with_the_remedy() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let address = format!("127.0.0.1:{}", lab.port);
    site.put_private("wallet.password", "another");
    fails_as_foretold(&site, &["`connection`", &address, "refused the login of `lifeboat`", "pg_hba.conf"]).await;
    let shown = site.shown(&["backup", "wallet"]).await;
    assert_eq!(shown.matches("refused the login").count(), 1, "{shown}");
    std::fs::remove_file(site.path("wallet.password")).unwrap();
    for args in [&["backup", "wallet"][..], &["serve"]] {
        site.run(args).await.refused(2, &["password of `wallet`", "wallet.password", "No such file"]);
    }
    site.put_private("wallet.password", PASSWORD);
    lab.psql("ALTER ROLE lifeboat NOREPLICATION").await;
    fails_as_foretold(&site, &["may not replicate", "ALTER ROLE \"lifeboat\" REPLICATION"]).await;
    lab.psql("ALTER ROLE lifeboat REPLICATION").await;
    let nobody = free_port();
    site.edit("schedules/wallet.yaml", &format!("port: {}", lab.port), &format!("port: {nobody}"));
    fails_as_foretold(&site, &["`connection`", &format!("127.0.0.1:{nobody}"), "cannot be reached", "refused"]).await;
    site.edit("schedules/wallet.yaml", &format!("port: {nobody}"), &format!("port: {}", lab.port));
    site.run(&["backup", "walet"]).await.refused(2, &["`walet`", "there are: wallet"]);
    site.run(&["restore-test", "walet"]).await.refused(2, &["`walet`", "there are: wallet"]);
    // After all that the same site backs up.
    assert_eq!(site.run(&["backup", "wallet"]).await.json(0)["state"], "WAL_COMPLETE");
    without_the_right_identity_nothing_is_tested(&site).await;
}

async fn without_the_right_identity_nothing_is_tested(site: &Site) {
    site.new_identity("stranger.age");
    site.edit("lifeboat.yaml", "{file: identity.age}", "{file: stranger.age}");
    failed(&site.run(&["restore-test", "wallet"]).await, &["none of the given identities opens"]);
    let to = site.path("closed");
    let restore = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await;
    restore.refused(2, &["none of the given identities opens"]);
    assert!(!to.exists());
    site.edit("lifeboat.yaml", "{file: stranger.age}", "{file: missing.age}");
    site.run(&["restore-test", "wallet"]).await.refused(2, &["keys.identity", "missing.age"]);
    site.edit("lifeboat.yaml", "  identity: {file: missing.age}\n", "");
    site.run(&["restore-test", "wallet"]).await.refused(2, &["a restore test needs an age identity", "keys"]);
    // Backing up needs public keys alone.
    let schedule = site.text("schedules/wallet.yaml");
    site.put("schedules/wallet.yaml", schedule.split_once("restore_test:").unwrap().0);
    assert_eq!(std::fs::read_dir(site.path("scratch")).unwrap().count(), 0, "no copy is left");
    let backups = site.run(&["backups"]).await.json(0);
    assert_eq!(backups[0]["state"], "WAL_COMPLETE", "nothing was proven");
    assert_eq!(site.run(&["backup", "wallet"]).await.json(0)["verdict"], "PASS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_enough_wal_is_refused() {
    let lab: Lab = wallet("wal_level = minimal\nmax_wal_senders = 0").await;
    let site = Site::write(lab.port);
    let words = ["`wal_level` is minimal", "ALTER SYSTEM SET wal_level = 'replica'", "max_wal_senders"];
    failed(&site.run(&["backup", "wallet"]).await, &words);
    let problems = site.run(&["check", "--connect"]).await.json(2)["problems"].clone();
    tells(&problems.to_string(), &words);
    assert_eq!(problems.as_array().unwrap().len(), 2, "the senders are told once: {problems}");
    site.nothing_half_made();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_takes_nothing_is_named_and_holds_nothing() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let vault = site.path("vault");
    std::fs::create_dir(&vault).unwrap();
    let vault = vault.to_str().unwrap();
    let read_only = format!("mount -t tmpfs -o ro none {vault}");
    let ran = site.run_mounted(&read_only, &["backup", "wallet"], "").await;
    failed(&ran, &["vault `primary`", "Read-only file system"]);
    let ran = site.run_mounted(&read_only, &["check", "--connect"], "").await;
    tells(&ran.json(2)["problems"].to_string(), &["vault `primary`", "Read-only file system"]);
    // Four times too small for the backup; what is left in it is told behind the result.
    let small = format!("mount -t tmpfs -o size=1m none {vault}");
    let listed = format!("echo; echo LEFT; find {vault} -type f -path '*/backups/*'");
    let mut ran = site.run_mounted(&small, &["backup", "wallet"], &listed).await;
    let (told, left) = ran.stdout.split_once("\nLEFT").unwrap();
    assert_eq!(left.trim(), "", "the upload is swept");
    ran.stdout = told.to_owned();
    failed(&ran, &["step `upload`", "vault `primary`", "no space left"]);
    site.nothing_half_made();
    // Nor does a restore begin where it surely has too little room.
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    let target = site.path("restored");
    std::fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap();
    let small = format!("mount -t tmpfs -o size=1m none {target}");
    let ran = site.run_mounted(&small, &["restore", "wallet", "--to", target], &format!("ls {target}")).await;
    ran.refused(2, &["needs at least", target, "are free"]);
}
