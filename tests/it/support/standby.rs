//! A standby of a lab's primary, made by PostgreSQL's own tool.

use std::time::Duration;

use lifeboat::engine::postgres::cluster::LocalCluster;

use super::{Lab, free_port, psql, scratch};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs, and is stopped when dropped.
pub(crate) struct Standby {
    pub cluster: LocalCluster,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Standby {
    pub(crate) async fn of(lab: &Lab) -> Self {
        let folder = scratch();
        let (binaries, account) = (lab.cluster.binaries.clone(), lab.cluster.account.clone());
        let cluster = LocalCluster::new(binaries, account, folder.path().join("standby"));
        cluster.make_folders().unwrap();
        let port = free_port();
        let copy = cluster.binaries.program("pg_basebackup", cluster.account.clone());
        copy.args(["-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-p", &lab.port.to_string(), "-h"])
            .arg(lab.cluster.socket_folder())
            .arg("-D")
            .arg(cluster.data())
            .output(LIMIT)
            .await
            .unwrap();
        let socket = cluster.socket_folder();
        cluster.configure(&format!("port = {port}\nunix_socket_directories = '{}'\n", socket.display())).unwrap();
        cluster.start(LIMIT).await.unwrap();
        Self { cluster, port, _folder: folder }
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
