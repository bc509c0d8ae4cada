//! The whole way on each major version that is supported: streaming, a full backup
//! with a tablespace, restores to the latest state, an LSN and a time, and
//! `restore.sh`.

use std::time::Duration;

use lifeboat::process::Program;

use super::{
    journey::{backed_up, lived, restored},
    site::{DIGEST, Site, recovered, wallet_in},
};
use crate::support::{Lab, scratch};

const LIMIT: Duration = Duration::from_secs(120);

async fn whole_way(major: u32, initdb: &[&str], segment_size: u64) {
    let lab = wallet_in(Lab::start_with(major, initdb, "").await).await;
    let found = lab.psql("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").await;
    assert_eq!(found, segment_size.to_string());
    let space = scratch();
    lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(space.path())).unwrap();
    lab.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.path().display())).await;
    lab.psql_in("wallet", "ALTER TABLE bets SET TABLESPACE space").await;
    let site = Site::write(lab.port);
    let first = backed_up(&site).await;
    let points = lived(&lab, &site, first).await;
    lab.cluster.stop("immediate").await.unwrap();
    // The copies must not lean upon the source's own files.
    std::fs::remove_dir_all(space.path()).unwrap();
    restored(&lab, &site, "latest", ["--latest"], &points.latest).await;
    restored(&lab, &site, "lsn", ["--lsn", &points.at_lsn.0], &points.at_lsn.1).await;
    restored(&lab, &site, "time", ["--at", &points.at_time.0], &points.at_time.1).await;
    let first = &points.first_backup;
    restored(&lab, &site, "immediate", ["--immediate", "--backup", first], &points.at_first_backup).await;
    by_script(&lab, &site, first, &[], &points.at_first_backup).await;
    by_script(&lab, &site, first, &["latest"], &points.latest).await;
}

/// Without Lifeboat.
async fn by_script(lab: &Lab, site: &Site, backup: &str, mode: &[&str], rows: &str) {
    let manifest = site.files_in("vault").into_iter().find(|path| path.ends_with(format!("{backup}/manifest.json")));
    let folder = manifest.unwrap().parent().unwrap().to_owned();
    let data = site.path(&format!("by script {}", mode.concat()));
    let waldump = lab.cluster.binaries.path("pg_waldump");
    let script = Program::new("sh").arg(folder.join("restore.sh")).arg(site.path("identity.age")).arg(&data);
    script.args(mode.iter().copied()).env("PG_WALDUMP", waldump.to_str().unwrap()).output(LIMIT).await.unwrap();
    if let Some(account) = &lab.cluster.account {
        Program::new("chown").arg("-R").arg(&account.name).arg(&data).output(LIMIT).await.unwrap();
    }
    assert_eq!(recovered(lab, &data, DIGEST).await, rows, "{mode:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_15() {
    whole_way(15, &[], 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_16_with_large_segments() {
    whole_way(16, &["--wal-segsize=64"], 64 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_18() {
    whole_way(18, &[], 16 << 20).await;
}
