//! A primary on 127.0.0.1 and its streaming standby on 127.0.0.2, on one port.

use std::time::Duration;

use lifeboat::{
    domain::{Beat, Lsn, MemberName, Timeline},
    engine::postgres::{Login, Member, Postgres, Tls, cluster::LocalCluster},
};

use crate::support::{Lab, eventually};

pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Pair {
    pub(super) primary: Lab,
    pub(super) standby: LocalCluster,
    pub(super) postgres: Postgres,
    /// Heartbeats that the primary acknowledged.
    pub(super) beats: Vec<Beat>,
}

pub(super) fn member(name: &str) -> MemberName {
    name.parse().unwrap()
}

impl Pair {
    pub(super) async fn start() -> Self {
        let primary = Lab::start("cluster_name = 'site-a'\nwal_log_hints = on\nwal_keep_size = '256MB'").await;
        primary.psql(&crate::readme::role_sql("never asked for")).await;
        let folder = primary.cluster.folder.parent().unwrap().join("standby");
        let standby = LocalCluster::new(primary.cluster.binaries.clone(), primary.cluster.account.clone(), folder);
        copy(&primary.cluster, &standby, "127.0.0.1", "127.0.0.2", primary.port, "site-b").await;
        standby.start(LIMIT).await.unwrap();
        let at = |name: &str, host: &str| Member {
            name: member(name),
            host: host.to_owned(),
            port: primary.port,
            site: format!("site-{name}").parse().unwrap(),
        };
        let postgres = Postgres {
            database: "wallet".parse().unwrap(),
            members: vec![at("a", "127.0.0.1"), at("b", "127.0.0.2")],
            login: Login {
                user: "lifeboat".to_owned(),
                credentials: None,
                tls: Tls::Disable,
                certificate: None,
                dbname: "postgres".to_owned(),
            },
            account: primary.cluster.account.clone(),
            beats: lifeboat::engine::postgres::protect::BeatSession::default(),
            patience: lifeboat::engine::postgres::protect::Patience::default(),
        };
        let pair = Self { primary, standby, postgres, beats: Vec::new() };
        pair.wait_until_following("b").await;
        pair
    }

    pub(super) async fn wait_until_following(&self, name: &str) {
        use lifeboat::engine::Promote;
        eventually("the standby streams", LIMIT, async || {
            self.postgres.is_following(&member(name)).await.unwrap_or(false)
        })
        .await;
    }

    /// Writes the next heartbeats to the primary, one by one.
    pub(super) async fn beat(&mut self, count: i64) {
        for _ in 0..count {
            let seq = self.beats.last().map_or(1, |beat| beat.seq + 1);
            self.primary.psql(&format!("insert into lifeboat.heartbeat values ({seq}, now())")).await;
            let acknowledged_at = lifeboat::clock::Clock::system().now();
            let commit_lsn = self.lsn().await;
            self.beats.push(Beat { seq, acknowledged_at, commit_lsn, timeline: Timeline(1) });
        }
    }

    /// The primary's write position.
    pub(super) async fn lsn(&self) -> Lsn {
        self.primary.psql("select pg_current_wal_flush_lsn()").await.parse().unwrap()
    }

    /// Runs SQL on the standby, over its own address.
    pub(super) async fn on_standby(&self, sql: &str) -> String {
        self.standby
            .binaries
            .program("psql", self.standby.account.clone())
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h", "127.0.0.2", "-p"])
            .arg(self.primary.port.to_string())
            .args(["-c", sql])
            .output(LIMIT)
            .await
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Makes the old primary a standby of the new one from a fresh copy.
    pub(super) async fn rejoin(&self) {
        std::fs::remove_dir_all(self.primary.cluster.data()).unwrap();
        copy(&self.standby, &self.primary.cluster, "127.0.0.2", "127.0.0.1", self.primary.port, "site-a").await;
        self.primary.cluster.start(LIMIT).await.unwrap();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(pid) = self.standby.pid() {
            // It may have ended in the meantime.
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
    }
}

/// Copies a running cluster into a standby of it that listens on `host`.
async fn copy(from: &LocalCluster, to: &LocalCluster, from_host: &str, host: &str, port: u16, name: &str) {
    to.make_folders().unwrap();
    from.binaries
        .program("pg_basebackup", from.account.clone())
        .args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-U", "postgres", "-h", from_host, "-p"])
        .arg(port.to_string())
        .arg("-D")
        .arg(to.data())
        .output(Duration::from_secs(60))
        .await
        .unwrap();
    to.configure(&format!(
        "listen_addresses = '{host}'\nunix_socket_directories = '{}'\ncluster_name = '{name}'\n",
        to.socket_folder().display()
    ))
    .unwrap();
}
