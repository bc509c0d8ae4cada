//! The cluster that is backed up, and the folders of everybody.

use std::{path::PathBuf, time::Duration};

use lifeboat::{
    domain::Lsn,
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::{Account, Program},
};

const LIMIT: Duration = Duration::from_secs(3600);
/// The newest that the packaged peer knows.
pub(crate) const PEERS_MAJOR: u32 = 15;
const INCREMENTS_SINCE: u32 = 17;

pub(crate) struct Estate {
    folder: tempfile::TempDir,
    pub(crate) cluster: LocalCluster,
    pub(crate) port: u16,
}

impl Estate {
    /// pgbench's tables and one of bets with the types that a betting platform has.
    pub(crate) async fn with_bets(major: u32, scale: f64) -> Self {
        let estate = Self::start(major).await;
        let factor = (100.0 * scale).ceil();
        eprintln!("filling: pgbench of scale {factor}");
        estate.program("pgbench").args(["-i", "-q", "-s", &factor.to_string()]).output(LIMIT).await.unwrap();
        let rows = (6_000_000.0 * scale).ceil();
        eprintln!("filling: {rows} bets");
        estate.psql(&format!(
            "CREATE TABLE bets (id uuid PRIMARY KEY, stake numeric(12,2) NOT NULL, placed timestamptz NOT NULL, slip jsonb NOT NULL);
             INSERT INTO bets SELECT gen_random_uuid(), (random() * 1000)::numeric(12,2), now() - random() * interval '90 days',
                jsonb_build_object('market', (random() * 500)::int, 'odds', round((1 + random() * 9)::numeric, 2),
                                   'selection', md5(n::text), 'channel', (array['web', 'app', 'shop'])[1 + n % 3])
             FROM generate_series(1, {rows}::bigint) n;
             CREATE INDEX ON bets (placed);"
        ))
        .await;
        estate.psql("VACUUM ANALYZE").await;
        estate.psql("CHECKPOINT").await;
        estate
    }

    /// Very many tables, each of a few files.
    pub(crate) async fn with_relations(count: u32) -> Self {
        let estate = Self::start(PEERS_MAJOR).await;
        eprintln!("filling: {count} relations");
        for thousand in 0..count.div_ceil(1000) {
            estate.psql(&format!(
                "DO $$ BEGIN FOR n IN 0..999 LOOP EXECUTE format('CREATE TABLE t%s_%s AS SELECT 1 AS id', {thousand}, n); END LOOP; END $$"
            ))
            .await;
        }
        estate.psql("CHECKPOINT").await;
        estate
    }

    /// Updates one in 150 of the bets, wherever they lie; others in each round.
    pub(crate) async fn settle_bets(&self, round: usize) {
        let bound =
            |nth: usize| format!("{:08x}-0000-0000-0000-000000000000", (u64::from(u32::MAX) / 150) * nth as u64);
        let (from, to) = (bound(round), bound(round + 1));
        self.psql(&format!("UPDATE bets SET stake = stake + 1 WHERE id >= '{from}' AND id < '{to}'")).await;
    }

    /// The end of the WAL.
    pub(crate) async fn written(&self) -> Lsn {
        self.psql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap()
    }

    /// Has the server write so much WAL: updates of bets wherever they lie, with the
    /// images of pages that follow a checkpoint. Vacuum keeps the table's size.
    pub(crate) async fn write_wal(&self, bytes: f64) {
        let end = self.written().await.0 as f64 + bytes;
        for round in (0..150).cycle() {
            if self.written().await.0 as f64 >= end {
                break;
            }
            self.settle_bets(round).await;
            if round % 15 == 14 {
                self.psql("VACUUM bets").await;
                self.psql("CHECKPOINT").await;
            }
        }
    }

    pub(crate) async fn start(major: u32) -> Self {
        Self::start_with(major, "").await
    }

    /// The same with further settings.
    pub(crate) async fn start_with(major: u32, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lifeboat-bench-").tempdir_in("/var/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let account = Account::for_postgres().unwrap();
        let cluster = LocalCluster::new(Binaries::find(major).unwrap(), account, folder.path().join("cluster"));
        cluster.init().await.unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        cluster
            .configure(&format!(
                "port = {port}\nlisten_addresses = ''\nunix_socket_directories = '{}'\nshared_buffers = 1GB\n\
                 max_wal_size = 8GB\nwal_level = replica\nmax_wal_senders = 8\nmax_locks_per_transaction = 2048\n\
                 autovacuum = off\n",
                cluster.socket_folder().display()
            ))
            .unwrap();
        cluster.configure(settings).unwrap();
        if major >= INCREMENTS_SINCE {
            cluster.configure("summarize_wal = on\n").unwrap();
        }
        cluster.start(Duration::from_secs(60)).await.unwrap();
        let estate = Self { folder, cluster, port };
        // What Lifeboat needs beside the data.
        estate.psql("CREATE SCHEMA lifeboat; CREATE TABLE lifeboat.heartbeat (seq bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())").await;
        estate
    }

    /// A folder of this name, given to the account that runs the server.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        if let Some(account) = &self.cluster.account {
            account.own(&path).unwrap();
        }
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client program that is told where the server is.
    pub(crate) fn program(&self, name: &str) -> Program {
        let program = self.cluster.binaries.program(name, self.cluster.account.clone()).env("PGUSER", "postgres");
        let program =
            program.env("PGHOST", self.cluster.socket_folder().to_str().unwrap()).env("PGDATABASE", "postgres");
        program.env("PGPORT", &self.port.to_string())
    }

    pub(crate) async fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql).await
    }

    pub(crate) async fn psql_in(&self, dbname: &str, sql: &str) -> String {
        let psql = self.program("psql").env("PGDATABASE", dbname).args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        psql.output(LIMIT).await.unwrap().trim().to_owned()
    }

    pub(crate) async fn size_bytes(&self) -> u64 {
        self.psql("SELECT sum(pg_database_size(oid)) FROM pg_database").await.parse().unwrap()
    }

    pub(crate) fn files(&self) -> usize {
        files_below(&self.cluster.data())
    }

    pub(crate) async fn end(self) {
        self.cluster.stop("immediate").await.unwrap();
    }
}

fn files_below(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |data| data.len()),
            _ => 0,
        })
        .sum()
}
