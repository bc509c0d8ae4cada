//! Beside others that use the same server: an archive, a standby's slot, another
//! replication client. Lifeboat leaves all of them and every setting as they are.

#![allow(clippy::disallowed_methods, reason = "the other client is a child of the test itself")]

use std::{path::Path, process::Stdio, time::Duration};

use lifeboat::domain::Lsn;

use super::{
    chain::ended,
    journey::{backed_up, restored},
    site::{DIGEST, PASSWORD, Site, wallet},
    streaming::{bet, caught_up},
};
use crate::support::{Lab, eventually, scratch};

const SOON: Duration = Duration::from_secs(120);

const SETTINGS: &str = "SELECT md5(string_agg(name || '=' || setting || '/' || source, ',' ORDER BY name))
    FROM pg_settings WHERE name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone')";

/// `pg_receivewal` of somebody else, through a slot of its own, with the rights of ours.
fn receiver(lab: &Lab, folder: &Path) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(lab.cluster.binaries.path("pg_receivewal"));
    command.args(["-h", "127.0.0.1", "-U", "lifeboat", "--slot", "other", "--no-sync", "-p", &lab.port.to_string()]);
    command.arg("-D").arg(folder).env("PGPASSWORD", PASSWORD).env("PGAPPNAME", "other");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// How far the other client has told the server that it is.
async fn others(lab: &Lab) -> Lsn {
    let told = "SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication WHERE application_name = 'other'";
    lab.psql(told).await.parse().unwrap()
}

/// Everybody else has got what is written by now.
async fn goes_on_for_all(lab: &Lab) {
    let end: Lsn = lab.psql("SELECT pg_switch_wal()").await.parse().unwrap();
    bet(lab, 10).await;
    eventually("the other client has it", SOON, || async { others(lab).await >= end }).await;
    let file = lab.psql(&format!("SELECT pg_walfile_name('{end}'::pg_lsn)")).await;
    eventually("the archive has it", SOON, || async {
        lab.psql(&format!("SELECT last_archived_wal >= '{file}' FROM pg_stat_archiver")).await == "t"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_another_slot_and_another_client_go_on_beside_us() {
    let folder = scratch();
    let (archive, received) = (folder.path().join("archive"), folder.path().join("received"));
    for path in [&archive, &received] {
        std::fs::create_dir(path).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let archiving = format!("archive_mode = on\narchive_command = 'cp %p {}/%f'", archive.display());
    let lab = wallet(&archiving).await;
    for slot in ["other", "standby_b"] {
        lab.psql(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await;
    }
    let slots = "SELECT string_agg(slot_name || slot_type || (restart_lsn IS NOT NULL), ',' ORDER BY slot_name)
        FROM pg_replication_slots WHERE slot_name <> 'lifeboat_wallet'";
    let (settings, slots_before) = (lab.psql(SETTINGS).await, lab.psql(slots).await);
    let kept = lab.psql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'standby_b'").await;
    let _other = receiver(&lab, &received);
    goes_on_for_all(&lab).await;

    let site = Site::write(lab.port);
    assert_eq!(site.run(&["check", "--connect"]).await.json(0)["problems"], serde_json::json!([]));
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    backed_up(&site).await;
    goes_on_for_all(&lab).await;
    // Our slot is lost and made anew; the others' are as they were.
    ended(&mut daemon).await;
    lab.psql("SELECT pg_drop_replication_slot('lifeboat_wallet')").await;
    bet(&lab, 10).await;
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    goes_on_for_all(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    ended(&mut daemon).await;

    assert_eq!(lab.psql(SETTINGS).await, settings, "no setting was changed");
    assert_eq!(lab.psql(slots).await, slots_before);
    let still = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'standby_b'";
    assert_eq!(lab.psql(still).await, kept, "a slot that nobody uses keeps what it kept");
    assert_eq!(lab.psql("SELECT failed_count FROM pg_stat_archiver").await, "0");
    restored(&lab, &site, "latest", ["--latest"], &rows).await;
}
