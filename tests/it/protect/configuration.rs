//! Configuration files outside of the data folder, as distributions keep them.

use std::{fs, path::Path, time::Duration};

use lifeboat::engine::{BackupOrder, Protect};

use super::{backup::Memory, over_tcp};
use crate::support::{Lab, scratch};

/// Moves the configuration to `etc`, with an included folder, and starts the server on it.
async fn moved_to(lab: &Lab, etc: &Path) {
    lab.cluster.stop("fast").await.unwrap();
    let data = lab.cluster.data();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::copy(data.join(name), etc.join(name)).unwrap();
        fs::remove_file(data.join(name)).unwrap();
    }
    fs::create_dir(etc.join("conf.d")).unwrap();
    fs::write(etc.join("conf.d/10-work.conf"), "work_mem = 5MB\n").unwrap();
    fs::write(etc.join("conf.d/20-work.conf"), "work_mem = 6MB\n").unwrap();
    let conf = format!(
        "{}\ndata_directory = '{}'\nhba_file = '{3}/pg_hba.conf'\nident_file = '{3}/pg_ident.conf'\ninclude_dir = '{2}'\n",
        fs::read_to_string(etc.join("postgresql.conf")).unwrap(),
        data.display(),
        "conf.d",
        etc.display()
    );
    fs::write(etc.join("postgresql.conf"), conf).unwrap();
    for path in
        ["", "postgresql.conf", "pg_hba.conf", "pg_ident.conf", "conf.d", "conf.d/10-work.conf", "conf.d/20-work.conf"]
    {
        lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&etc.join(path))).unwrap();
    }
    let pg_ctl = lab.cluster.binaries.program("pg_ctl", lab.cluster.account.clone());
    let option = format!("-c config_file={}/postgresql.conf", etc.display());
    let pg_ctl = pg_ctl.args(["start", "-w", "-s", "-o", &option, "-D"]).arg(data).arg("-l").arg(lab.cluster.log());
    pg_ctl.output(Duration::from_secs(60)).await.unwrap();
}

async fn files_outside_are_told_and_kept(major: u32) {
    let lab = Lab::start_major(major, "").await;
    let folder = scratch();
    let etc = folder.path().join("etc");
    fs::create_dir(&etc).unwrap();
    moved_to(&lab, &etc).await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION").await;
    let postgres = over_tcp(&lab, "plain");
    let take = async || postgres.backup(&BackupOrder::of_primary("plain"), None, &mut Memory::default()).await.unwrap();
    let grants = |findings: &[String]| -> Vec<String> {
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].split('`').filter(|part| part.starts_with("GRANT ")).map(str::to_owned).collect()
    };

    // It may not even know where they lie, then may not read them, and then may.
    let facts = take().await;
    assert_eq!(facts.config_files, []);
    let first = grants(&facts.findings);
    assert_eq!(first, ["GRANT pg_read_all_settings TO \"plain\""]);
    lab.psql(&first[0]).await;
    let facts = take().await;
    assert_eq!(facts.config_files, []);
    assert!(facts.findings[0].contains(etc.join("conf.d/20-work.conf").to_str().unwrap()), "{:?}", facts.findings);
    for grant in grants(&facts.findings) {
        lab.psql(&grant).await;
    }
    let facts = take().await;
    assert_eq!(facts.findings, [""; 0]);
    let read = |path: &str| fs::read_to_string(etc.join(path)).unwrap();
    let included = |path: &str| format!("included{}/{path}", etc.display());
    let wanted = [
        ("postgresql.conf".to_owned(), read("postgresql.conf")),
        ("pg_hba.conf".to_owned(), read("pg_hba.conf")),
        ("pg_ident.conf".to_owned(), read("pg_ident.conf")),
        (included("conf.d/10-work.conf"), read("conf.d/10-work.conf")),
        (included("conf.d/20-work.conf"), read("conf.d/20-work.conf")),
    ];
    assert_eq!(facts.config_files, wanted);
}

#[tokio::test]
async fn files_outside_of_the_data_folder_are_told_and_kept_on_15() {
    files_outside_are_told_and_kept(15).await;
}

#[tokio::test]
async fn files_outside_of_the_data_folder_are_told_and_kept_on_18() {
    files_outside_are_told_and_kept(18).await;
}
