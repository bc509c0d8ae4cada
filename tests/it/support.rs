//! What the tests share: throw-away PostgreSQL clusters, an S3 server, a mail server, a
//! receiver of webhooks, a proxy that fails on demand, free ports, waits on conditions with a bound.

pub(crate) mod authority;
pub(crate) mod iam;
pub(crate) mod line;
pub(crate) mod moto;
pub(crate) mod openbao;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod smtp;
pub(crate) mod standby;

use std::{net::SocketAddr, path::Path, time::Duration};

use lifeboat::{
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::Account,
};

/// A folder that the unprivileged account can enter, gone when dropped.
pub(crate) fn scratch() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("lifeboat-test-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// A TCP port that nobody listens on. It stays bound as long as this process lives,
/// so that nobody else is given it; a server that is told to may still listen there.
pub(crate) fn free_port() -> u16 {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    std::mem::forget(socket);
    port
}

/// A running PostgreSQL primary on 127.0.0.1, stopped when dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    pub cluster: LocalCluster,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Lab {
    /// Starts a primary that allows replication, with `extra` lines in its configuration.
    pub(crate) async fn start(extra: &str) -> Self {
        Self::start_major(15, extra).await
    }

    /// The same of another major version.
    pub(crate) async fn start_major(major: u32, extra: &str) -> Self {
        Self::start_with(major, &[], extra).await
    }

    /// The same with further options of `initdb`.
    pub(crate) async fn start_with(major: u32, initdb: &[&str], extra: &str) -> Self {
        let folder = scratch();
        let port = free_port();
        let account = Account::for_postgres().unwrap();
        let cluster = LocalCluster::new(Binaries::find(major).unwrap(), account, folder.path().join("primary"));
        cluster.init_with(initdb).await.unwrap();
        cluster.configure(&Self::settings(port, &cluster.socket_folder(), extra)).unwrap();
        cluster.start(Duration::from_secs(30)).await.unwrap();
        Self { cluster, port, _folder: folder }
    }

    fn settings(port: u16, socket: &Path, extra: &str) -> String {
        format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             wal_level = replica\nmax_wal_senders = 10\nmax_replication_slots = 10\n{extra}\n",
            socket.display()
        )
    }

    /// Runs SQL as superuser and answers psql's unaligned output.
    pub(crate) async fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql).await
    }

    /// The same in another database of the cluster.
    pub(crate) async fn psql_in(&self, dbname: &str, sql: &str) -> String {
        psql(&self.cluster, self.port, dbname, sql).await
    }

    /// Lets `role` in over TCP with a password, for SQL and replication, and nobody else.
    pub(crate) async fn let_in(&self, role: &str) {
        let hba = format!(
            "local all postgres trust\nlocal replication postgres trust\n\
             host all {role} 127.0.0.0/8 scram-sha-256\nhost replication {role} 127.0.0.0/8 scram-sha-256\n"
        );
        std::fs::write(self.cluster.data().join("pg_hba.conf"), hba).unwrap();
        self.psql("SELECT pg_reload_conf()").await;
    }
}

/// Runs SQL in a cluster by its socket, and answers psql's unaligned output.
pub(crate) async fn psql(cluster: &LocalCluster, port: u16, dbname: &str, sql: &str) -> String {
    cluster
        .binaries
        .program("psql", cluster.account.clone())
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", dbname, "-h"])
        .arg(cluster.socket_folder())
        .args(["-p", &port.to_string(), "-c", sql])
        .output(Duration::from_secs(60))
        .await
        .unwrap()
        .trim()
        .to_owned()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(pid) = self.cluster.pid() {
            // One that has ended by itself is what we want.
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
    }
}

/// Gives a folder another name: a vault that is unmounted, or mounted again.
#[expect(clippy::disallowed_methods, reason = "what is moved is another process's, and need not survive a crash")]
pub(crate) fn moved(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    std::fs::rename(from, to).unwrap();
}

/// Waits until `condition` holds, at most `limit`; fails naming `what`.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) {
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
