//! Physical copies of a server with all the WAL that they need: what a snapshot and an
//! automated backup are. Restored, a copy holds what was committed at its instant, and
//! nothing that was committed later.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat::process::{Account, Program};

use super::{LIMIT, server::Server};

/// Gone when dropped.
#[derive(Debug)]
pub(super) struct Copy {
    pub taken_at: Timestamp,
    folder: tempfile::TempDir,
}

impl Copy {
    pub(super) async fn of(server: &Server, below: &Path) -> anyhow::Result<Self> {
        let account = server.cluster.account.as_ref();
        let copy = Self { taken_at: Timestamp::UNIX_EPOCH, folder: folder(below, account)? };
        let _steady = server.steady().await;
        let program = server.cluster.binaries.program("pg_basebackup", account.cloned());
        program
            .args(["-X", "none", "-c", "fast", "--no-sync", "-U", "rdsadmin", "-p", &server.port.to_string(), "-h"])
            .arg(server.cluster.socket_folder())
            .arg("-D")
            .arg(copy.base())
            .output(LIMIT)
            .await?;
        let (taken_at, last) = server.archive().await?;
        let label = std::fs::read_to_string(copy.base().join("backup_label"))?;
        let first = label.split_once("(file ").and_then(|(_, rest)| rest.split_once(')')).map(|(name, _)| name);
        let first = first.ok_or_else(|| anyhow::anyhow!("no WAL is named in {label}"))?;
        let is_needed = |name: &String| name.len() == first.len() && (first..=last.as_str()).contains(&name.as_str());
        let names = std::fs::read_dir(server.wal())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<std::io::Result<_>>()?;
        let segments = names.iter().filter(|name| is_needed(name)).map(|name| server.wal().join(name));
        let wal = copy.wal();
        Program::new("mkdir").arg(&wal).account(account.cloned()).output(LIMIT).await?;
        let program = Program::new("cp").account(account.cloned()).arg("--sparse=always").arg("-t").arg(wal);
        program.args(segments).output(LIMIT).await?;
        Ok(Self { taken_at, ..copy })
    }

    /// The same once more, with files of its own.
    pub(super) async fn copied(&self, below: &Path, account: Option<Account>) -> anyhow::Result<Self> {
        let copy = Self { taken_at: self.taken_at, folder: folder(below, account.as_ref())? };
        let (base, wal) = (self.base(), self.wal());
        let program = Program::new("cp").account(account).args(["-a", "--sparse=always", "-t"]);
        program.arg(copy.folder.path()).args([base, wal]).output(LIMIT).await?;
        Ok(copy)
    }

    pub(super) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.folder.path().join("wal")
    }
}

fn folder(below: &Path, account: Option<&Account>) -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("copy-").tempdir_in(below)?;
    if let Some(account) = account {
        account.own(folder.path())?;
    }
    Ok(folder)
}
