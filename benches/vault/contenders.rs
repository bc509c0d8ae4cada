//! Who takes and restores the backups: Lifeboat, pgBackRest, and a pipe of
//! `pg_basebackup`, zstd and age. All compress with zstd at level 3 on two
//! cores, encrypt, and have what they wrote on disk when their time ends.

use std::path::{Path, PathBuf};

use lifeboat::process::Program;

use super::{
    daemon::Site,
    estate::{Estate, bytes_below},
    measure::{Measured, measured},
};

pub(crate) enum Contender {
    Lifeboat(Site),
    PgBackRest(PathBuf),
    Pipe(PathBuf),
}

impl Contender {
    pub(crate) fn lifeboat(estate: &Estate) -> Self {
        Self::Lifeboat(Site::new(estate, "lifeboat", "{kind: directory, path: vault, region: lab}"))
    }

    /// Lifeboat, the peer, and the pipe.
    pub(crate) async fn all(estate: &Estate) -> Vec<Self> {
        let rest = estate.folder("pgbackrest");
        pgbackrest_files(estate, &rest);
        let create = ["--stanza=bench", "--no-online", "stanza-create"];
        pgbackrest(estate, &rest).args(create).output(std::time::Duration::from_secs(60)).await.unwrap();
        let pipe = estate.folder("pipe");
        shell(estate, "age-keygen -o \"$1/key\" 2>/dev/null; age-keygen -y \"$1/key\" > \"$1/recipient\"", &[&pipe])
            .output(std::time::Duration::from_secs(10))
            .await
            .unwrap();
        vec![Self::lifeboat(estate), Self::PgBackRest(rest), Self::Pipe(pipe)]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Lifeboat(_) => "Lifeboat",
            Self::PgBackRest(_) => "pgBackRest",
            Self::Pipe(_) => "pg_basebackup, zstd, age",
        }
    }

    /// Takes a full backup; those of before are removed first.
    pub(crate) async fn back_up(&self, estate: &Estate) -> Measured {
        match self {
            Self::Lifeboat(site) => {
                let folder = &site.folder;
                for left in [
                    "vault",
                    "lifeboat.db",
                    "lifeboat.db-wal",
                    "lifeboat.db-shm",
                    "lifeboat-evidence.db",
                    "lifeboat-evidence.db-wal",
                    "lifeboat-evidence.db-shm",
                ] {
                    remove(&folder.join(left));
                }
                measured(site.program().args(["backup", "wallet"]), &folder.join("log")).await
            }
            Self::PgBackRest(folder) => {
                let backup = ["--stanza=bench", "--type=full", "--no-archive-check", "backup"];
                measured(pgbackrest(estate, folder).args(backup), &folder.join("out")).await
            }
            Self::Pipe(folder) => {
                let script = "pg_basebackup -D - -F tar -X none -c fast --no-manifest | zstd -q -3 -T2 \
                              | age -r \"$(cat \"$1/recipient\")\" > \"$1/backup\"; sync \"$1/backup\"";
                remove(&folder.join("backup"));
                measured(shell(estate, script, &[folder]), &folder.join("log")).await
            }
        }
    }

    /// Takes an increment upon the newest backup; none where there is no such thing.
    pub(crate) async fn increment(&self, estate: &Estate) -> Option<Measured> {
        match self {
            Self::Lifeboat(site) => {
                let backup = ["backup", "wallet", "--kind", "incremental"];
                Some(measured(site.program().args(backup), &site.folder.join("log")).await)
            }
            Self::PgBackRest(folder) => {
                let backup = ["--stanza=bench", "--type=incr", "--no-archive-check", "backup"];
                Some(measured(pgbackrest(estate, folder).args(backup), &folder.join("out")).await)
            }
            Self::Pipe(_) => None,
        }
    }

    /// Restores the newest backup into an empty folder, which is removed again.
    pub(crate) async fn restore(&self, estate: &Estate) -> Measured {
        let target = estate.path("restored");
        remove(&target);
        let restored = match self {
            Self::Lifeboat(site) => {
                let restore = ["restore", "wallet", "--immediate", "--to"];
                measured(site.program().args(restore).arg(&target), &site.folder.join("log")).await
            }
            Self::PgBackRest(folder) => {
                let target = estate.folder("restored");
                let restore = ["--stanza=bench", "--type=immediate", "restore"];
                let program = pgbackrest(estate, folder).arg(format!("--pg1-path={}", target.display())).args(restore);
                measured(program, &folder.join("out")).await
            }
            Self::Pipe(folder) => {
                let target = estate.folder("restored");
                let script = "age -d -i \"$1/key\" \"$1/backup\" | zstd -q -d | tar -x -C \"$2\"; sync -f \"$2\"";
                measured(shell(estate, script, &[folder, &target]), &folder.join("log")).await
            }
        };
        assert!(target.join("PG_VERSION").exists());
        remove(&target);
        restored
    }

    /// Bytes of the newest backup, without WAL.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match self {
            Self::Lifeboat(site) => newest_below(&site.folder.join("vault"), "backups"),
            Self::PgBackRest(folder) => newest_below(&folder.join("repo"), "bench"),
            Self::Pipe(folder) => std::fs::metadata(folder.join("backup")).unwrap().len(),
        }
    }
}

/// The newest folder below the one of this name, wherever that is.
fn newest_below(root: &Path, name: &str) -> u64 {
    let mut folders = vec![root.to_owned()];
    let mut newest = None;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if !entry.file_type().unwrap().is_dir() || path.ends_with("archive") {
                continue;
            }
            if folder.ends_with(name) && entry.file_name() != "backup.history" {
                newest = newest.max(Some((entry.metadata().unwrap().modified().unwrap(), path)));
            } else {
                folders.push(path);
            }
        }
    }
    bytes_below(&newest.unwrap().1)
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        std::fs::remove_file(path).unwrap();
    }
}

fn shell(estate: &Estate, script: &str, args: &[&Path]) -> Program {
    let path = format!("{}:/usr/bin:/bin", estate.cluster.binaries.path("").display());
    let program = Program::new("bash").account(estate.cluster.account.clone()).args(["-euo", "pipefail", "-c", script]);
    let program = args.iter().fold(program.arg("bash"), Program::arg);
    let program = program.env("PATH", &path).env("PGUSER", "postgres").env("PGPORT", &estate.port.to_string());
    program.env("PGHOST", estate.cluster.socket_folder().to_str().unwrap())
}

fn pgbackrest(estate: &Estate, folder: &Path) -> Program {
    Program::new("pgbackrest")
        .account(estate.cluster.account.clone())
        .arg(format!("--config={}", folder.join("pgbackrest.conf").display()))
}

fn pgbackrest_files(estate: &Estate, folder: &Path) {
    for name in ["repo", "log", "lock", "spool"] {
        estate.folder(&format!("pgbackrest/{name}"));
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[global]\nrepo1-path={}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=a-benchmark-needs-no-secret\n\
         repo1-retention-full=1\ncompress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\n\
         log-level-console=warn\nlog-level-file=off\nlog-path={}\nlock-path={}\nspool-path={}\n\
         [bench]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
        path("repo"),
        path("log"),
        path("lock"),
        path("spool"),
        estate.cluster.data().display(),
        estate.port,
        estate.cluster.socket_folder().display(),
    );
    std::fs::write(folder.join("pgbackrest.conf"), text).unwrap();
}
