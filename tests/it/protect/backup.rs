//! Base backups of a real cluster.

use std::{collections::BTreeSet, os::unix::fs::FileExt};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::engine::{BackupOrder, BackupSink, EngineError, Protect};

use super::{documented, over_tcp};
use crate::support::{Lab, scratch};

/// Keeps a backup in memory.
#[derive(Default)]
pub(super) struct Memory {
    archives: Vec<(Option<u32>, Vec<u8>)>,
    manifest: Vec<u8>,
    fails: bool,
}

#[async_trait]
impl BackupSink for Memory {
    async fn archive(&mut self, tablespace: Option<u32>) -> Result<(), EngineError> {
        assert!(self.manifest.is_empty(), "the manifest comes last");
        self.archives.push((tablespace, Vec::new()));
        Ok(())
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        if self.fails {
            return Err(EngineError::Sink { is_permanent: true, source: "the disk is full".into() });
        }
        self.archives.last_mut().unwrap().1.extend_from_slice(&bytes);
        Ok(())
    }

    async fn manifest(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.manifest.extend_from_slice(&bytes);
        Ok(())
    }
}

impl Memory {
    fn names(&self, archive: usize) -> BTreeSet<String> {
        let mut archive = tar::Archive::new(self.archives[archive].1.as_slice());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    fn size(&self) -> u64 {
        (self.archives.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + self.manifest.len()) as u64
    }
}

#[tokio::test]
async fn a_backup_holds_all_archives_and_a_manifest() {
    let lab = Lab::start("").await;
    let folder = scratch();
    if let Some(account) = &lab.cluster.account {
        account.own(folder.path()).unwrap();
    }
    lab.psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.path().display())).await;
    lab.psql("CREATE TABLE bets TABLESPACE elsewhere AS SELECT generate_series(1, 10000) AS id").await;
    let table = lab.psql("SELECT pg_relation_filepath('bets')").await;
    let oid: u32 = lab.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'").await.parse().unwrap();

    let mut sink = Memory::default();
    let facts =
        over_tcp(&lab, "postgres").backup(&BackupOrder::of_primary("it's a test"), None, &mut sink).await.unwrap();

    let order: Vec<Option<u32>> = sink.archives.iter().map(|(oid, _)| *oid).collect();
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([None, Some(oid)]));
    let base = order.iter().position(Option::is_none).unwrap();
    let names = sink.names(base);
    for name in ["PG_VERSION", "backup_label", "tablespace_map", "global/pg_control"] {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
    let (_, in_tablespace) = table.split_once(&format!("pg_tblspc/{oid}/")).unwrap();
    assert!(sink.names(1 - base).contains(in_tablespace), "{in_tablespace}");

    let manifest: serde_json::Value = serde_json::from_slice(&sink.manifest).unwrap();
    let range = &manifest["WAL-Ranges"][0];
    assert_eq!(range["Start-LSN"], facts.start_lsn.to_string());
    assert_eq!(range["End-LSN"], facts.stop_lsn.to_string());
    assert!(facts.stop_lsn >= facts.start_lsn && !facts.damaged && facts.timeline.0 == 1, "{facts:?}");
    assert_eq!(facts.size_bytes, sink.size());
    let files: Vec<&str> = facts.config_files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(files, ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"]);
    assert_eq!(facts.findings, [""; 0]);
    assert!(facts.config_files[0].1.contains(&format!("port = {}", lab.port)));
    assert_eq!(
        lab.psql("SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'").await,
        "t"
    );
}

#[tokio::test]
async fn a_damaged_page_is_told_and_the_backup_is_whole() {
    let lab = Lab::start("").await;
    lab.psql("CREATE TABLE bets AS SELECT generate_series(1, 10000) AS id").await;
    lab.psql("CHECKPOINT").await;
    let file = lab.cluster.data().join(lab.psql("SELECT pg_relation_filepath('bets')").await);
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"flipped", 8192 + 4000).unwrap();

    let mut sink = Memory::default();
    let facts = documented(&lab).await.backup(&BackupOrder::of_primary("damaged"), None, &mut sink).await.unwrap();
    assert!(facts.damaged && facts.stop_lsn >= facts.start_lsn, "{facts:?}");
    assert!(facts.findings[0].contains("block 1"), "{:?}", facts.findings);
    let manifest: serde_json::Value = serde_json::from_slice(&sink.manifest).unwrap();
    assert_eq!(manifest["WAL-Ranges"][0]["End-LSN"], facts.stop_lsn.to_string());
}

#[tokio::test]
async fn a_role_without_rights_to_files_still_gets_a_backup_and_a_full_disk_is_told() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION").await;
    let postgres = over_tcp(&lab, "plain");
    let mut sink = Memory::default();
    let facts = postgres.backup(&BackupOrder::of_primary("plain"), None, &mut sink).await.unwrap();
    assert_eq!(facts.config_files, []);
    assert!(sink.names(0).contains("PG_VERSION"));
    // Where they lie is not told to it.
    assert!(facts.findings[0].contains("GRANT pg_read_all_settings TO \"plain\""), "{:?}", facts.findings);

    let mut sink = Memory { fails: true, ..Memory::default() };
    let error = postgres.backup(&BackupOrder::of_primary("full"), None, &mut sink).await.unwrap_err();
    assert!(matches!(error, EngineError::Sink { .. }), "{error:?}");
}
