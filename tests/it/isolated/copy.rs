//! A copy of a lab cluster as a restore would leave it: a base backup without
//! WAL, and a folder with the WAL that a vault would have held.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::disallowed_methods, reason = "the folder is copied by `cp` as it lies")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lifeboat::{
    domain::{Lsn, RecoveryTarget, Segment, SegmentSize, Timeline},
    engine::{
        Awaited, EngineError, FoundRecord, Instance, IsolatedParams, Recover, RecoveryPlan, SoughtRecord, WalRange,
        postgres::{Login, Member, Postgres, Tls, cluster::LocalCluster},
    },
};

use crate::support::{Lab, scratch};

pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A copy in a folder whose name needs quoting.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) postgres: Postgres,
    pub(super) folder: PathBuf,
    _scratch: tempfile::TempDir,
}

/// The lab as a protected database: one member over TCP, one over its Unix socket.
pub(super) fn protected(lab: &Lab) -> Postgres {
    let member = |name: &str, host: String| Member {
        name: name.parse().unwrap(),
        host,
        port: lab.port,
        site: "here".parse().unwrap(),
    };
    Postgres {
        database: "wallet".parse().unwrap(),
        members: vec![
            member("tcp", "127.0.0.1".to_owned()),
            member("socket", lab.cluster.socket_folder().display().to_string()),
        ],
        login: Login {
            user: "postgres".to_owned(),
            credentials: None,
            tls: Tls::Disable,
            certificate: None,
            dbname: "postgres".to_owned(),
        },
        account: lab.cluster.account.clone(),
        beats: lifeboat::engine::postgres::protect::BeatSession::default(),
        patience: lifeboat::engine::postgres::protect::Patience::default(),
    }
}

impl Copy {
    /// A base backup of `server`, which listens on `port`, with no WAL yet.
    pub(super) async fn take(lab: &Lab, server: &LocalCluster, port: u16, tablespace: Option<&Path>) -> Self {
        let scratch = scratch();
        let folder = scratch.path().join("it's a copy");
        for made in [folder.clone(), folder.join("wal")] {
            fs::create_dir(&made).unwrap();
            if let Some(account) = &server.account {
                account.own(&made).unwrap();
            }
        }
        let mut program = server
            .binaries
            .program("pg_basebackup", server.account.clone())
            .args(["-X", "none", "-c", "fast", "--no-sync", "-U", "postgres", "-h"])
            .arg(server.socket_folder())
            .args(["-p", &port.to_string(), "-D"])
            .arg(folder.join("data"));
        if let Some(from) = tablespace {
            let to = folder.join("tablespace");
            program = program.arg("-T").arg(format!("{}={}", from.display(), to.display()));
        }
        program.output(LIMIT).await.unwrap();
        // A flow that runs as root makes such a folder.
        std::os::unix::fs::chown(&folder, Some(nix::unistd::geteuid().as_raw()), None).unwrap();
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { postgres: protected(lab), folder, _scratch: scratch }
    }

    pub(super) async fn of(lab: &Lab) -> Self {
        Self::take(lab, &lab.cluster, lab.port, None).await
    }

    /// The same again, to be recovered apart from this one.
    pub(super) fn twin(&self) -> Self {
        let scratch = scratch();
        let copied = std::process::Command::new("cp").arg("-a").arg(&self.folder).arg(scratch.path()).status().unwrap();
        assert!(copied.success());
        let folder = scratch.path().join(self.folder.file_name().unwrap());
        Self { postgres: self.postgres.clone(), folder, _scratch: scratch }
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.folder.join("wal")
    }

    /// Looks in the WAL folder for a record from here on, of each number in the
    /// newest timeline that has it.
    pub(super) async fn find(&self, sought: SoughtRecord, from: Lsn) -> Option<FoundRecord> {
        let size = SegmentSize::DEFAULT;
        let names = fs::read_dir(self.wal()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut held: Vec<Segment> =
            names.filter_map(|name| Segment::parse(name.to_str().unwrap(), size).ok()).collect();
        held.sort();
        let newest: std::collections::BTreeMap<u64, Segment> =
            held.into_iter().map(|segment| (segment.number, segment)).collect();
        let segments: Vec<Segment> = newest.into_values().collect();
        let to = segments.last().unwrap().end(size);
        let range = WalRange { folder: &self.wal(), segments: &segments, size, from, to };
        self.postgres.find_record("15.8 (Debian)", &range, &sought).await.unwrap()
    }

    /// Fills the WAL folder with what the lab has written, but for the last
    /// `cut` bytes; the rest of the open segment is zeros. Answers the newest segment.
    pub(super) async fn archive(&self, lab: &Lab, cut: u64) -> Segment {
        let end: Lsn = lab.psql("select pg_current_wal_flush_lsn()").await.parse().unwrap();
        let timeline =
            lab.psql("select ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int").await;
        let (end, size) = (Lsn(end.0 - cut), SegmentSize::DEFAULT);
        let newest = Segment::holding(Timeline(timeline.parse().unwrap()), end, size);
        for entry in fs::read_dir(lab.cluster.data().join("pg_wal")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.ends_with(".history") {
                fs::copy(&path, self.wal().join(name)).unwrap();
            }
            let Ok(segment) = Segment::parse(name, size) else { continue };
            // What lies beyond the end is recycled: an old segment under a new name.
            if segment < newest && segment.number <= newest.number {
                fs::copy(&path, self.wal().join(name)).unwrap();
            } else if segment == newest {
                let mut bytes = fs::read(&path).unwrap();
                bytes[usize::try_from(size.offset(end)).unwrap()..].fill(0);
                fs::write(self.wal().join(name), bytes).unwrap();
            }
        }
        newest
    }

    fn newest_timeline(&self) -> Timeline {
        let names = fs::read_dir(self.wal()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let segments = names.filter_map(|name| Segment::parse(&name, SegmentSize::DEFAULT).ok());
        segments.map(|segment| segment.timeline).max().unwrap_or(Timeline(1))
    }

    pub(super) async fn last_record(&self, newest: Segment) -> Lsn {
        self.postgres.last_record(&self.folder.join("data"), &self.wal(), newest, SegmentSize::DEFAULT).await.unwrap()
    }

    pub(super) async fn configure(&self, target: RecoveryTarget) -> Result<(), EngineError> {
        self.configure_for(target, true).await
    }

    pub(super) async fn configure_for(&self, target: RecoveryTarget, isolated: bool) -> Result<(), EngineError> {
        self.configure_awaiting(target, isolated, None).await
    }

    pub(super) async fn configure_awaiting(
        &self,
        target: RecoveryTarget,
        isolated: bool,
        awaited: Option<Awaited>,
    ) -> Result<(), EngineError> {
        let plan = RecoveryPlan {
            data: self.folder.join("data"),
            wal_folder: self.wal(),
            awaited,
            target,
            timeline: self.newest_timeline(),
            consistent_from: Lsn(0),
            required_settings: vec![("max_connections".to_owned(), "100".to_owned())],
            isolated,
        };
        self.postgres.configure(&plan).await
    }

    pub(super) fn params(&self) -> IsolatedParams {
        IsolatedParams {
            folder: self.folder.clone(),
            recovery_timeout: LIMIT,
            is_wal_searched: false,
            memory_max: None,
        }
    }

    pub(super) async fn recover(&self, target: RecoveryTarget) -> Result<Box<dyn Instance>, EngineError> {
        self.configure(target).await?;
        self.postgres.start_isolated(&self.params()).await
    }
}

/// Makes the table of heartbeats and writes some, each in its own transaction.
pub(super) async fn beat(lab: &Lab, seqs: std::ops::RangeInclusive<i64>) {
    lab.psql(
        "create schema if not exists lifeboat; \
         create table if not exists lifeboat.heartbeat (seq bigint primary key, at timestamptz not null default now())",
    )
    .await;
    for seq in seqs {
        lab.psql(&format!("insert into lifeboat.heartbeat (seq) values ({seq})")).await;
    }
}

/// Ends the open segment, so that the next record goes into another file.
pub(super) async fn switch_segment(lab: &Lab) {
    lab.psql("select pg_switch_wal()").await;
}

/// Every process that works in the folder, whatever it is.
pub(super) fn processes_in(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.canonicalize().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::read_link(path.join("cwd")).is_ok_and(|at| at.starts_with(&folder)))
        .collect()
}
