//! Whose a vault is, and whether it is there, as commands and the daemon see it.

use std::time::Duration;

use lifeboat::domain::Lsn;
use serde_json::Value;

use super::{
    journey::backed_up,
    site::{DIGEST, Site, recovered, walk, wallet},
};
use crate::support::{Lab, eventually, moved};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn two_estates_never_share_a_prefix() {
    let lab = wallet("").await;
    let (first, second) = (Site::write(lab.port), Site::write(lab.port));
    first.run(&["backup", "wallet"]).await.json(0);
    let shared = first.path("vault");
    second.edit("lifeboat.yaml", "path: vault", &format!("path: {}", shared.display()));
    let before = walk(&shared);
    let fingerprint = |site: &Site| {
        let (signer, _) = lifeboat::vault::signature::Signer::load_or_create(&site.path("signing.key")).unwrap();
        signer.verifier().fingerprint()
    };
    // Before it has a key of its own.
    let told = second.run(&["check", "--connect"]).await.json(2);
    assert!(told["problems"][0].as_str().unwrap().contains(&fingerprint(&first)), "{told}");
    let (ours, theirs) = (fingerprint(&second), fingerprint(&first));
    let words = ["vault `primary`", &ours, &theirs, "of its own"];
    for args in [&["backup", "wallet"][..], &["restore-test", "wallet"], &["serve"]] {
        second.run(args).await.refused(2, &words);
    }
    let told = second.run(&["check", "--connect"]).await.json(2);
    super::site::tells(told["problems"][0].as_str().unwrap(), &words);
    assert_eq!(walk(&shared), before, "nothing was written");
    first.run(&["backup", "wallet"]).await.json(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmounted_vault_is_told_gets_no_byte_and_is_caught_up_from_another() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.add_vault();
    site.run(&["backup", "wallet"]).await.json(0);
    let mut daemon = site.serve(&[]);
    let exposure = async |vault: usize| {
        let Some((200, body)) = site.get("/api/v1/status").await else { return Value::Null };
        let status: Value = serde_json::from_str(&body).unwrap();
        status["databases"][0]["exposure"][vault]["seconds"].clone()
    };
    eventually("both vaults have WAL", SOON, || async {
        exposure(0).await.as_f64().is_some_and(|seconds| seconds < 5.0) && exposure(1).await.is_number()
    })
    .await;
    moved(site.path("dr"), site.path("away"));
    std::fs::create_dir(site.path("dr")).unwrap();
    eventually("a finding", SOON, || async {
        let findings = site.run(&["findings"]).await;
        findings.stdout.contains("is it mounted?") && findings.stdout.contains("\"dr\"")
    })
    .await;
    eventually("the other one has all WAL, and this one lacks some", SOON, || async {
        let small = exposure(0).await.as_f64().is_some_and(|seconds| seconds < 5.0);
        small && exposure(1).await.as_f64().is_none_or(|seconds| seconds > 5.0)
    })
    .await;
    assert_eq!(site.files_in("dr"), [""; 0].map(std::path::PathBuf::from));
    let told = site.run(&["check", "--connect"]).await.json(2);
    assert!(told["problems"].to_string().contains("is it mounted?"), "{told}");
    // What is streamed now is lost to it: the daemon that held it for the vault ends.
    let bet = async || {
        lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT 7 FROM generate_series(1, 500)").await;
        lab.psql("SELECT pg_switch_wal()").await;
    };
    for _ in 0..3 {
        bet().await;
    }
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    let mut daemon = site.serve(&[]);
    bet().await;
    bet().await;
    let status = async || site.get_json("/api/v1/status").await["databases"][0].clone();
    let held = async |vault: &str| {
        walk(&site.path(vault)).iter().filter(|path| path.to_string_lossy().contains("/wal/000")).count()
    };
    let before = held("away").await;
    eventually("segments that the other vault lacks", SOON, || async { held("vault").await >= before + 4 }).await;
    assert_eq!(site.files_in("dr"), [""; 0].map(std::path::PathBuf::from));
    std::fs::remove_dir(site.path("dr")).unwrap();
    moved(site.path("away"), site.path("dr"));
    eventually("the finding goes away", SOON, || async {
        !site.run(&["findings"]).await.stdout.contains("is it mounted?")
    })
    .await;
    bet().await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("it is caught up", SOON * 2, || async {
        let status = status().await;
        let durable = status["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse::<Lsn>().ok());
        let level = status["copies"].as_array().unwrap().iter().all(|copies| copies["missing_wal"] == 0);
        level && durable.is_some_and(|durable| durable >= end) && status["exposure"][1]["seconds"].as_f64() < Some(10.0)
    })
    .await;
    assert!(site.get("/metrics").await.unwrap().1.contains("lifeboat_copy_lag_seconds"));
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    restored_from_dr_alone(&lab, &site, &rows).await;
}

async fn restored_from_dr_alone(lab: &Lab, site: &Site, rows: &str) {
    std::fs::remove_dir_all(site.path("vault")).unwrap();
    let data = site.path("restored");
    site.run(&["restore", "wallet", "--latest", "--from", "dr", "--to", data.to_str().unwrap()]).await.json(0);
    assert_eq!(recovered(lab, &data, DIGEST).await, rows);
}

/// A new key would make all that is there nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_signing_key_is_missed_and_no_other_is_made() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let told = site.shown(&["keygen", "--fingerprint"]).await;
    let fingerprint = told.lines().next().unwrap();
    std::fs::remove_file(site.path("signing.key")).unwrap();
    for command in [&["status"][..], &["backup", "wallet"], &["findings"], &["serve"]] {
        let words = ["signing.key is not here", "vault `primary` belongs to the key", fingerprint, "--signed-by"];
        site.run(command).await.refused(2, &words);
        assert!(!site.path("signing.key").exists(), "{command:?}");
    }
}
