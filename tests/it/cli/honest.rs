//! What a backup says of itself when something is not as it should be: WAL that
//! cannot be read back, damaged pages, a rate that holds it back.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, finished, wallet},
};
use crate::support::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// All WAL objects of the first vault, without keys.
fn wal(site: &Site) -> Vec<PathBuf> {
    let is_wal = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.contains("/wal/0") && path.ends_with(".zst.age")
    };
    site.files_in("vault").into_iter().filter(is_wal).collect()
}

async fn state(site: &Site) -> Value {
    site.run(&["backups", "wallet"]).await.json(0)[0]["state"].clone()
}

/// What becomes of the bytes of an object.
type Spoil = fn(Vec<u8>) -> Vec<u8>;

/// Spoils a file that lies there, as a store does that lost what it had taken.
fn spoil(path: &Path, spoilt: Spoil) {
    let bytes = fs::read(path).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, spoilt(bytes)).unwrap();
}

fn backup_run(runs: &Value) -> Value {
    let is_backup = |run: &&Value| run["run_id"].as_str().unwrap().starts_with("backup/wallet/manual/");
    runs.as_array().unwrap().iter().find(is_backup).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_spoilt_before_it_was_read_back_makes_no_backup_complete() {
    let spoilt: [(&str, Spoil); 3] = [
        ("is empty", |_| Vec::new()),
        ("behind its header", |bytes| bytes[..bytes.len() - 7].to_vec()),
        ("is no age file", |bytes| vec![b'x'; bytes.len()]),
    ];
    for (told, how) in spoilt {
        let lab = wallet("").await;
        let site = Site::write(lab.port);
        site.edit("lifeboat.yaml", "scratch: scratch", "scratch: scratch, lease: 2s");
        // All its WAL is stored, and the step that says so is not over.
        let mut command = site.command(&["backup", "wallet"]);
        command.env("LIFEBOAT_FAULT", "kill@flow.step_succeeded.before:4");
        assert_eq!(finished(command).await.code, -1);
        let objects = wal(&site);
        assert!(!objects.is_empty());
        for object in &objects {
            spoil(object, how);
        }
        let mut daemon = site.serve(&[]);
        eventually("the run has ended", LIMIT, || async {
            let runs = site.run(&["runs"]).await.json(0);
            backup_run(&runs)["conclusion"].is_object()
        })
        .await;
        daemon.kill().await.unwrap();
        let run = backup_run(&site.run(&["runs"]).await.json(0));
        let finding = run["conclusion"]["output"]["findings"][0].as_str().unwrap_or_else(|| panic!("{run}")).to_owned();
        assert!(finding.contains("cannot be read back from vault `primary`") && finding.contains(told), "{run}");
        assert_eq!(
            (&run["conclusion"]["verdict"], &run["conclusion"]["output"]["state"]),
            (&json!("ERROR"), &json!("UPLOADED"))
        );
        assert_eq!(state(&site).await, "UPLOADED", "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_run_is_gone_for_ever_is_completed_by_a_verification() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut command = site.command(&["backup", "wallet"]);
    // All its WAL is listed, and the step that reads it back has not begun.
    command.env("LIFEBOAT_FAULT", "kill@flow.step_succeeded.before:4");
    assert_eq!(finished(command).await.code, -1);
    for file in fs::read_dir(site.path("")).unwrap().map(|file| file.unwrap().path()) {
        if file.to_string_lossy().contains(".db") {
            fs::remove_file(file).unwrap();
        }
    }
    assert_eq!(state(&site).await, "UPLOADED", "nobody has read its WAL back");
    // It can be restored all the same: a restore holds everything against what was signed.
    let rows = lab.psql_in("wallet", DIGEST).await;
    restored(&lab, &site, "unread", ["--latest"], &rows).await;
    let looked = |depth: &'static [&'static str]| {
        let args: Vec<&str> = ["vault", "verify", "wallet", "--record"].iter().chain(depth).copied().collect();
        let site = &site;
        async move { site.run(&args).await }
    };
    assert_eq!(looked(&["--quick"]).await.code, 0);
    assert_eq!(state(&site).await, "UPLOADED", "no content was read");
    let objects = wal(&site);
    let sound: Vec<Vec<u8>> = objects.iter().map(|object| fs::read(object).unwrap()).collect();
    let marks =
        || site.files_in("vault").iter().filter(|path| path.to_string_lossy().contains("/verifications/")).count();
    assert_eq!(marks(), 0);
    // However small the share is whose turn it is.
    let ran = looked(&["--sample", "1%"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(state(&site).await, "WAL_COMPLETE");
    assert!(marks() > 0);
    // What is spoilt later takes it back, whoever reads it.
    for object in &objects {
        spoil(object, |bytes| vec![b'x'; bytes.len()]);
    }
    assert_eq!(looked(&["--full"]).await.code, 1);
    assert_eq!(state(&site).await, "UPLOADED");
    for (object, bytes) in objects.iter().zip(&sound) {
        fs::write(object, bytes).unwrap();
    }
    looked(&["--full"]).await;
    assert_eq!(state(&site).await, "VERIFIED");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_can_hold_nothing_completes_no_backup() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let backup = backed_up(&site).await;
    for left in [199, 1, 0] {
        for object in wal(&site) {
            fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::OpenOptions::new().write(true).open(&object).unwrap().set_len(left).unwrap();
        }
        assert_eq!(state(&site).await, "UPLOADED", "{left}");
    }
    let to = site.path("nothing");
    let args = ["restore", "wallet", "--to", to.to_str().unwrap(), "--backup", &backup, "--immediate"];
    let ran = site.run(&args).await;
    ran.refused(1, &["WAL of timeline 1", "is missing"]);
    assert!(!to.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_damaged_pages_is_kept_and_told() {
    let lab = wallet("").await;
    lab.psql_in("wallet", "CREATE TABLE rotten AS SELECT generate_series(1, 10000) AS id").await;
    lab.psql("CHECKPOINT").await;
    let file = lab.psql_in("wallet", "SELECT pg_relation_filepath('rotten')").await;
    let path = lab.cluster.data().join(&file);
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"flipped", 8192 + 4000).unwrap();
    let site = Site::write(lab.port);
    let backup = site.run(&["backup", "wallet"]).await.json(1);
    assert_eq!((&backup["state"], &backup["verdict"]), (&json!("DEGRADED"), &json!("FAIL")), "{backup}");
    let findings = backup["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{backup}");
    super::site::tells(findings[0].as_str().unwrap(), &["damaged pages", &file, "block 1", "another full backup"]);
    assert_eq!(state(&site).await, "DEGRADED");
    let rows = lab.psql_in("wallet", DIGEST).await;
    let id = backup["id"].as_str().unwrap();
    restored(&lab, &site, "degraded", ["--backup", id, "--immediate"], &rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_sent_no_faster_than_it_may() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "backups:\n", "backup_rate_max: 8MiB\nbackups:\n");
    let begun = Instant::now();
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    let took = begun.elapsed().as_secs();
    let sent = backup["size_bytes"].as_u64().unwrap();
    assert!(sent > 16 << 20, "{backup}");
    // The server holds itself back eight times a second; the last time may be none.
    assert!(took + 1 >= sent / (8 << 20), "{sent} bytes in {took} s");
    let rows = lab.psql_in("wallet", DIGEST).await;
    restored(&lab, &site, "slow", ["--latest"], &rows).await;

    for wrong in ["31KiB", "2GiB"] {
        site.edit("schedules/wallet.yaml", "backup_rate_max: 8MiB", &format!("backup_rate_max: {wrong}"));
        let told = site.run(&["check"]).await.json(2)["problems"].to_string();
        assert!(told.contains("schedules/wallet.yaml") && told.contains("32KiB to 1GiB a second"), "{told}");
        site.edit("schedules/wallet.yaml", &format!("backup_rate_max: {wrong}"), "backup_rate_max: 8MiB");
    }
    site.edit("schedules/wallet.yaml", "backup_rate_max: 8MiB", "backup_from: standby");
    let told = site.run(&["check"]).await.json(2)["problems"].to_string();
    assert!(told.contains("there is one server, so no standby gives a backup"), "{told}");
}
