//! A standby of a lab's primary, made by PostgreSQL's own tool. It logs what is asked
//! of it.

use std::time::Duration;

use lifeboat::{domain::Lsn, engine::postgres::cluster::LocalCluster};

use super::{Lab, eventually, free_port, psql, scratch};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs, and is stopped when dropped.
pub(crate) struct Standby {
    pub cluster: LocalCluster,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Standby {
    pub(crate) async fn of(lab: &Lab) -> Self {
        Self::with(lab, "").await
    }

    /// The same with `extra` lines in its configuration.
    pub(crate) async fn with(lab: &Lab, extra: &str) -> Self {
        let folder = scratch();
        let (binaries, account) = (lab.cluster.binaries.clone(), lab.cluster.account.clone());
        let cluster = LocalCluster::new(binaries, account, folder.path().join("standby"));
        cluster.make_folders().unwrap();
        let port = free_port();
        let copy = cluster.binaries.program("pg_basebackup", cluster.account.clone());
        copy.args([
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-U",
            "postgres",
            "-p",
            &lab.port.to_string(),
            "-h",
        ])
        .arg(lab.cluster.socket_folder())
        .arg("-D")
        .arg(cluster.data())
        .output(LIMIT)
        .await
        .unwrap();
        let socket = cluster.socket_folder();
        let own = format!("port = {port}\nunix_socket_directories = '{}'\n", socket.display());
        cluster.configure(&format!("{own}log_replication_commands = on\n{extra}\n")).unwrap();
        cluster.start(LIMIT).await.unwrap();
        Self { cluster, port, _folder: folder }
    }

    /// What a schedule says of it, `b`, and of its primary, `a`.
    pub(crate) fn members(&self, lab: &Lab) -> String {
        let member = |name, port| format!("  {name}: {{host: 127.0.0.1, port: {port}, site: mt-{name}}}\n");
        format!("members:\n{}{}", member("a", lab.port), member("b", self.port))
    }

    /// Waits until it has replayed all that the primary has written by now.
    pub(crate) async fn caught_up(&self, lab: &Lab) {
        let written: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        eventually("the standby has replayed", LIMIT, async || {
            let replayed = self.psql_in("postgres", "SELECT pg_last_wal_replay_lsn()").await;
            replayed.parse::<Lsn>().is_ok_and(|replayed| replayed >= written)
        })
        .await;
    }

    /// Runs SQL as superuser and answers psql's unaligned output.
    pub(crate) async fn psql_in(&self, dbname: &str, sql: &str) -> String {
        psql(&self.cluster, self.port, dbname, sql).await
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(pid) = self.cluster.pid() {
            // One that has ended by itself is what we want.
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
    }
}
