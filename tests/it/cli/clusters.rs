//! A database that has become another cluster: by an upgrade, or made anew.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat::{
    domain::{Lsn, Segment, SegmentSize, Timeline},
    vault::{DirectoryStore, WalTarget, WalWriter},
};
use serde_json::Value;

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
};
use crate::{
    support::Lab,
    vault::fixture::{begin, running},
};

async fn system_id(lab: &Lab) -> String {
    lab.psql("SELECT system_identifier FROM pg_control_system()").await
}

/// Streams what the server has written so far of its open segment to one vault.
async fn stream_to(site: &Site, vault: &str, lab: &Lab) {
    let store = Arc::new(DirectoryStore::new(vault.parse().unwrap(), site.path(vault), "lab".parse().unwrap()));
    let identity: age::x25519::Identity = site.text("identity.age").trim().parse().unwrap();
    let target = WalTarget { store, required: true };
    let mut writer = running(WalWriter::new(vec![identity.to_public()], vec![target]));
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    let start = begin(&mut writer, &system_id(lab).await, Timeline(1), SegmentSize::DEFAULT, end).await.unwrap();
    let segment = Segment::holding(Timeline(1), start, SegmentSize::DEFAULT).file_name(SegmentSize::DEFAULT);
    let mut bytes = std::fs::read(lab.cluster.data().join("pg_wal").join(segment)).unwrap();
    bytes.truncate(usize::try_from(end.0 - start.0).unwrap());
    writer.wal(start, Bytes::from(bytes)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), end);
}

/// The primary is lost right after the database became another cluster, whose
/// WAL has reached one vault and whose first backup none.
#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_from_before_comes_back_on_purpose_only() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.add_vault();
    site.edit("schedules/wallet.yaml", "    - heartbeat\n", "");
    let first = backed_up(&site).await;
    let (rows, old) = (lab.psql_in("wallet", DIGEST).await, system_id(&lab).await);
    assert_eq!(site.run(&["restore-test", "wallet", "--latest"]).await.json(0)["verdict"], "PASS");
    lab.cluster.stop("fast").await.unwrap();
    let after = wallet("").await;
    let new = system_id(&after).await;
    stream_to(&site, "dr", &after).await;

    let to = site.path("refused");
    let try_with = async |args: &[&str]| {
        site.run(&[&["restore", "wallet", "--to", to.to_str().unwrap()][..], args].concat()).await
    };
    let words = [&old[..], &new, &first, "it was made later", "in vault `dr`", "--system-id"];
    try_with(&["--latest"]).await.refused(2, &words);
    try_with(&["--immediate"]).await.refused(2, &words);
    try_with(&["--system-id", &new]).await.refused(2, &["no vault holds a backup", &new, &old]);
    assert!(!to.exists());
    restored(&lab, &site, "by id", ["--system-id", &old], &rows).await;
    restored(&lab, &site, "by backup", ["--backup", &first], &rows).await;
    // A test of the old one proves nothing about the database as it is.
    let tested = site.run(&["restore-test", "wallet", "--latest"]).await.json(3);
    let checks = tested["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "cluster").unwrap();
    assert_eq!((&tested["verdict"], &check["verdict"]), (&Value::from("INCONCLUSIVE"), &Value::from("INCONCLUSIVE")));
    assert!(check["actual"].as_str().unwrap().contains(&new), "{check}");

    // With its first backup the new one is the latest, and the old one can still be named.
    site.edit("schedules/wallet.yaml", &lab.port.to_string(), &after.port.to_string());
    let second = backed_up(&site).await;
    let rows_after = after.psql_in("wallet", DIGEST).await;
    restored(&lab, &site, "new", ["--latest"], &rows_after).await;
    restored(&lab, &site, "old", ["--backup", &first], &rows).await;
    assert_eq!(site.run(&["restore-test", "wallet", "--latest"]).await.json(0)["verdict"], "PASS");

    // Its manifest is damaged in every vault.
    for vault in ["vault", "dr"] {
        let manifest = format!("{vault}/wallet/{new}/1/backups/{second}/manifest.json");
        let text = site.text(&manifest);
        site.put(&manifest, &text.replacen("\"format\"", "\"Format\"", 1));
    }
    let told = try_with(&["--latest"]).await;
    let last = told.stderr.lines().next_back().unwrap();
    assert_eq!(told.code, 2, "{told:?}");
    for word in [&old, &new, &second, "has no valid manifest"] {
        assert!(last.contains(word), "`{word}`: {last}");
    }
}
