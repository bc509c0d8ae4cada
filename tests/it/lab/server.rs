//! The PostgreSQL server behind an instance or a cluster. Its superuser is `rdsadmin`,
//! as at Amazon, and lets nobody in by TCP but with a password and TLS. What it archives
//! is what points in time are restored from.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use lifeboat::{
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::{Account, Program},
};

use super::{LIMIT, copies::Copy};
use crate::support::free_port;

/// Who owns the databases, and what an empty instance holds.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub name: String,
    pub password: String,
    pub dbname: Option<String>,
}

/// Ends only with `remove`, or with the lab.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) cluster: LocalCluster,
    pub(super) port: u16,
    /// From which and up to which instant it can be restored.
    window: Mutex<Option<(Timestamp, Timestamp)>>,
    /// Whether clients reach it; held while it must not be started anew.
    reached: tokio::sync::RwLock<bool>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn in_new_folder(below: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(below)?;
        let cluster = LocalCluster::new(Binaries::find(15)?, Account::for_postgres()?, folder.path());
        cluster.make_folders()?;
        let (window, reached) = (Mutex::new(None), tokio::sync::RwLock::new(false));
        let server = Self { cluster, port: free_port(), window, reached, _folder: folder };
        std::fs::create_dir(server.wal())?;
        server.own(&server.wal())?;
        Ok(server)
    }

    /// A new one. `lab` is the lab's own folder, with the certificate.
    pub(super) async fn create(lab: &Path, master: &Master, is_reached: bool) -> anyhow::Result<Self> {
        let server = Self::in_new_folder(lab)?;
        server.cluster.init_with(&["--username=rdsadmin", "--wal-segsize=1"]).await?;
        server.identify(lab)?;
        let hba = "local all rdsadmin trust\nlocal replication rdsadmin trust\nhostssl rdsadmin all all reject\n\
                   hostssl all rdsadmin all reject\nhostssl all all 127.0.0.0/8 scram-sha-256\n";
        std::fs::write(server.cluster.data().join("pg_hba.conf"), hba)?;
        server.start(is_reached, "").await?;
        let Master { name, password, dbname } = master;
        let role = format!(
            "CREATE ROLE rds_superuser NOLOGIN; GRANT pg_monitor, pg_signal_backend TO rds_superuser WITH ADMIN OPTION; \
             CREATE ROLE \"{name}\" LOGIN CREATEDB CREATEROLE PASSWORD '{password}' IN ROLE rds_superuser"
        );
        let owned = |dbname: &str| format!("CREATE DATABASE \"{dbname}\" OWNER \"{name}\"");
        server.psql("postgres", &[&role, &format!("ALTER DATABASE postgres OWNER TO \"{name}\"")]).await?;
        if let Some(dbname) = dbname.as_deref().filter(|dbname| *dbname != "postgres") {
            server.psql("postgres", &[&owned(dbname)]).await?;
        }
        server.psql("postgres", &["CREATE DATABASE rdsadmin"]).await?;
        let heartbeat = "CREATE TABLE rds_heartbeat2 (id int PRIMARY KEY, value timestamptz)";
        server.psql("rdsadmin", &[heartbeat, "INSERT INTO rds_heartbeat2 VALUES (1, now())"]).await?;
        Ok(server)
    }

    /// A new one from a copy and the WAL that follows it, with what was committed at this
    /// instant.
    pub(super) async fn restore(
        lab: &Path,
        copy: &Copy,
        wal: &Path,
        to: Timestamp,
        is_reached: bool,
    ) -> anyhow::Result<Self> {
        let server = Self::in_new_folder(lab)?;
        let data = server.cluster.data();
        let program = Program::new("cp").account(server.cluster.account.clone()).args(["-a", "--sparse=always"]);
        program.arg(copy.base()).arg(&data).output(LIMIT).await?;
        std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        std::fs::write(data.join("recovery.signal"), "")?;
        server.own(&data.join("recovery.signal"))?;
        let recovery = format!(
            "restore_command = 'cp \"{}/%f\" \"%p\"'\nrecovery_target_time = '{}'\n\
             recovery_target_action = promote\nrecovery_target_timeline = current\n",
            wal.display(),
            // Abbreviations of time zones, `Z` too, are not known yet where this is read.
            to.to_string().replace('Z', "+00")
        );
        server.start(is_reached, &recovery).await.with_context(|| format!("restored to {to}"))?;
        server.recovered().await.with_context(|| format!("restored to {to}"))?;
        Ok(server)
    }

    /// Waits until recovery has ended: it takes no connections before.
    async fn recovered(&self) -> anyhow::Result<()> {
        let is_over = async {
            while self.psql("postgres", &["SELECT"]).await.is_err() {
                let log = || std::fs::read_to_string(self.cluster.log()).unwrap_or_default();
                anyhow::ensure!(self.cluster.is_running(), "recovery ended the server: {}", log());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(LIMIT, is_over).await.context("recovery does not end")?
    }

    /// Where it archives its WAL.
    pub(super) fn wal(&self) -> PathBuf {
        self.cluster.folder.join("wal")
    }

    fn own(&self, path: &Path) -> std::io::Result<()> {
        self.cluster.account.as_ref().map_or(Ok(()), |account| account.own(path))
    }

    fn identify(&self, lab: &Path) -> std::io::Result<()> {
        for (from, to) in [("rds.crt", "server.crt"), ("rds.key", "server.key")] {
            let path = self.cluster.data().join(to);
            std::fs::copy(lab.join(from), &path)?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            self.own(&path)?;
        }
        Ok(())
    }

    async fn start(&self, is_reached: bool, more: &str) -> anyhow::Result<()> {
        let mut reached = self.reached.write().await;
        self.start_as(is_reached, more).await?;
        *reached = is_reached;
        Ok(())
    }

    async fn start_as(&self, is_reached: bool, more: &str) -> anyhow::Result<()> {
        let (socket, wal) = (self.cluster.socket_folder(), self.wal());
        self.cluster.configure(&format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nwal_level = replica\n\
             shared_buffers = 16MB\nmax_connections = 40\nhot_standby = off\nssl = on\nssl_cert_file = 'server.crt'\n\
             ssl_key_file = 'server.key'\npassword_encryption = scram-sha-256\narchive_mode = on\n\
             archive_command = 'cp --sparse=always \"%p\" \"{wal}/.%f\" && mv \"{wal}/.%f\" \"{wal}/%f\"'\n{more}\n",
            if is_reached { "127.0.0.1" } else { "" },
            self.port,
            socket.display(),
            wal = wal.display()
        ))?;
        Ok(self.cluster.start(LIMIT).await?)
    }

    /// Opens or closes it to clients: a cluster of no instance answers nobody.
    pub(super) async fn set_reached(&self, is_reached: bool) -> anyhow::Result<()> {
        let mut reached = self.reached.write().await;
        if *reached != is_reached {
            self.cluster.stop("fast").await?;
            self.start_as(is_reached, "").await?;
            *reached = is_reached;
        }
        Ok(())
    }

    /// It is not started anew while this is held.
    pub(super) async fn steady(&self) -> tokio::sync::RwLockReadGuard<'_, bool> {
        self.reached.read().await
    }

    /// Runs these one after the other as superuser, each in a transaction of its own.
    pub(super) async fn psql(&self, dbname: &str, sql: &[&str]) -> anyhow::Result<String> {
        let program = self.cluster.binaries.program("psql", self.cluster.account.clone());
        let program = program.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "rdsadmin", "-d", dbname]);
        let program = program.arg("-h").arg(self.cluster.socket_folder()).args(["-p", &self.port.to_string()]);
        let said = program.args(sql.iter().flat_map(|sql| ["-c", sql])).output(LIMIT).await?;
        Ok(said.trim().to_owned())
    }

    /// Gives a role another password.
    pub(super) async fn set_password(&self, role: &str, password: &str) -> anyhow::Result<()> {
        self.psql("postgres", &[&format!("ALTER ROLE \"{role}\" PASSWORD '{password}'")]).await.map(drop)
    }

    /// Archives all WAL that there is, of a server that is steady. Answers an instant up to which everything can be
    /// restored now, and the last segment that this needs: recovery to an instant ends at a
    /// commit behind it, so one is made.
    pub(super) async fn archive(&self) -> anyhow::Result<(Timestamp, String)> {
        let said = self
            .psql(
                "rdsadmin",
                &[
                    "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')",
                    "UPDATE rds_heartbeat2 SET value = clock_timestamp()",
                    "SELECT pg_walfile_name(pg_switch_wal())",
                ],
            )
            .await?;
        let (at, segment) = said.split_once('\n').with_context(|| format!("psql said {said}"))?;
        let path = self.wal().join(segment);
        let is_there = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, is_there).await.with_context(|| format!("{segment} is not archived"))?;
        Ok((at.parse()?, segment.to_owned()))
    }

    /// From when on it can be restored.
    pub(super) fn set_earliest(&self, earliest: Timestamp) {
        *self.window.lock().unwrap() = Some((earliest, earliest));
    }

    /// From which and up to which instant it can be restored; none before its first copy.
    pub(super) fn window(&self) -> Option<(Timestamp, Timestamp)> {
        *self.window.lock().unwrap()
    }

    pub(crate) fn restorable(&self) -> Option<Timestamp> {
        self.window().map(|(_, latest)| latest)
    }

    fn set_latest(&self, latest: Timestamp) {
        if let Some(window) = self.window.lock().unwrap().as_mut() {
            window.1 = window.1.max(latest);
        }
    }

    /// The same at once; answers up to which instant.
    pub(crate) async fn flush(&self) -> anyhow::Result<Timestamp> {
        let _steady = self.steady().await;
        let (archived, _) = self.archive().await?;
        self.set_latest(archived);
        Ok(archived)
    }

    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        Ok(self.cluster.stop("immediate").await?)
    }
}
