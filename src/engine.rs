//! An engine knows one kind of database: how it is backed up, restored,
//! checked and promoted. Flows know only this trait.
//!
//! An engine never knows about vaults: it hands bytes to sinks and takes files
//! from folders.

use std::{
    fmt,
    net::IpAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{answer, room::Combining, slot::Durable},
    domain::{Beat, ByteSize, Check, Lsn, MemberName, RecoveryTarget, Segment, SegmentSize, Timeline},
};

mod instance;
mod look;
pub mod managed;
pub mod postgres;
pub mod rds;
mod record;

pub use instance::{Ask, CopiedBeats, Instance, IsolatedParams};
pub use look::{Look, MemberFacts, Parent, Role};
pub use record::{FoundRecord, SoughtRecord, WalRange};

/// What can go wrong at a database server. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "member `{member}` at {address} cannot be reached; check host, port and firewall, and that the server runs"
    )]
    Unreachable {
        member: MemberName,
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("member `{member}` at {address} refused the login of `{user}`: {reason}; {remedy}")]
    Login {
        member: MemberName,
        address: Box<str>,
        user: String,
        reason: String,
        remedy: String,
        /// Whether it is the password, or the role, that the server does not know.
        is_password: bool,
    },
    /// Nothing to log in with; the cause is the source's own error.
    #[error("there is nothing to log in with as `{role}`")]
    Credentials {
        role: String,
        is_permanent: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("member `{member}`: {what}; {remedy}")]
    Unfit { member: MemberName, what: String, remedy: String },
    /// The server answered with an error.
    #[error("member `{member}`: {action} failed: {message} (SQLSTATE {code})")]
    Server { member: MemberName, action: &'static str, code: String, message: String },
    /// The connection broke or spoke nonsense; trying again may help.
    #[error("member `{member}`: the connection broke during {action}")]
    Broken {
        member: MemberName,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "no member is a primary that takes writes: {seen}; promote one, or name the server that is the primary now under `members` in the schedule"
    )]
    NoPrimary { seen: String },
    /// A sink refused the bytes; the cause is the sink's own error.
    #[error("the data could not be stored")]
    Sink {
        is_permanent: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What a parent left for its increments cannot be read; the cause is the source's own error.
    #[error("the backup that the increment builds upon cannot be read")]
    Parent {
        is_permanent: bool,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A restored copy answered with an error.
    #[error("the copy answered: {message} (SQLSTATE {code})")]
    Copy { message: String, code: String },
    #[error("the restored server did not {expected}: {log}")]
    Recovery { expected: String, log: String },
    /// Its processes need more memory than each may have.
    #[error("the restored server did not {expected} within {limit} of memory: {log}")]
    Memory { expected: String, limit: ByteSize, log: String },
    #[error("`{program}` is not installed; {remedy}")]
    MissingProgram { program: String, remedy: String },
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("member `{member}`: slot `{slot}` is in use by another process; only one may stream")]
    SlotBusy { member: MemberName, slot: String },
    /// The server no longer has WAL that was wanted, nor any after it that it keeps for us.
    #[error(
        "member `{member}`: WAL that slot `{slot}` was to keep is gone: {what}; give `max_slot_wal_keep_size` more room"
    )]
    WalLost { member: MemberName, slot: String, what: String },
    #[error("stopped as asked")]
    Stopped,
}

impl EngineError {
    /// Whether the same call can only fail again until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Sink { is_permanent, .. }
            | Self::Parent { is_permanent, .. }
            | Self::Credentials { is_permanent, .. } => *is_permanent,
            Self::Login { .. }
            | Self::Unfit { .. }
            | Self::MissingProgram { .. }
            | Self::Stopped
            | Self::Memory { .. }
            | Self::Recovery { .. } => true,
            Self::Server { code, .. } | Self::Copy { code, .. } => !answer::is_passing(code),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::NoPrimary { .. }
            | Self::File { .. }
            | Self::SlotBusy { .. }
            | Self::WalLost { .. } => false,
        }
    }

    /// The code of the error that a restored copy answered with; none where it is another one.
    pub fn copy_sqlstate(&self) -> Option<&str> {
        match self {
            Self::Copy { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// What backup is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOrder<'a> {
    /// What the server's `backup_label` names it.
    pub label: &'a str,
    /// The standby that sends it; the primary when none.
    pub standby: Option<&'a MemberName>,
    /// How much the server may send in a second.
    pub rate_max: Option<ByteSize>,
}

impl<'a> BackupOrder<'a> {
    /// From the primary, as fast as it can.
    pub const fn of_primary(label: &'a str) -> Self {
        Self { label, standby: None, rate_max: None }
    }
}

/// Where a backup begins, told before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupStart {
    /// On a standby its last restartpoint, which may lie far back.
    pub lsn: Lsn,
    pub timeline: Timeline,
    /// From where on the primary keeps WAL for us.
    pub kept_from: Option<Lsn>,
    pub segment_size: SegmentSize,
}

/// Takes the bytes of a backup while the server sends them. Members of one
/// archive arrive in order; archives do not interleave.
#[async_trait]
pub trait BackupSink: Send {
    /// A standby is about to send its backup: answers why it is worth nothing, if so.
    async fn begins(&mut self, _start: &BackupStart) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
    /// A tar archive begins: the data folder (`None`), or the tablespace with this oid.
    async fn archive(&mut self, tablespace: Option<u32>) -> Result<(), EngineError>;
    /// Raw tar bytes, cut anywhere.
    async fn data(&mut self, bytes: Bytes) -> Result<(), EngineError>;
    /// PostgreSQL's own `backup_manifest`, cut anywhere, after the archives.
    async fn manifest(&mut self, bytes: Bytes) -> Result<(), EngineError>;
}

/// What the server says of a finished backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    pub from: MemberFacts,
    pub timeline: Timeline,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// Plain bytes received.
    pub size_bytes: u64,
    /// Whether the server found damaged pages.
    pub damaged: bool,
    /// What a person should know of it, with the remedy: damaged pages, files that
    /// could not be read.
    pub findings: Vec<String>,
    /// PostgreSQL's settings that replay requires to be at least these.
    pub required_settings: Vec<(String, String)>,
    /// Configuration files as (name, content): postgresql.conf, `pg_hba.conf`, `pg_ident.conf`,
    /// and as `included/PATH` each file that one of these includes.
    pub config_files: Vec<(String, String)>,
}

/// PostgreSQL's own `backup_manifest` of the parent, byte for byte, cut anywhere.
pub type ParentManifest<'a> = BoxStream<'a, Result<Bytes, EngineError>>;

/// Where WAL streaming starts, as the engine found the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSource {
    pub system_id: String,
    pub timeline: Timeline,
    /// The timeline that the server writes; `timeline` may be one of its past.
    pub server_timeline: Timeline,
    pub segment_size: SegmentSize,
    /// Current end of flushed WAL on the server.
    pub server_lsn: Lsn,
    /// From where on the server keeps WAL for us, where it refused what was wanted
    /// before: older WAL is lost.
    pub oldest: Option<Lsn>,
}

/// Takes WAL while the server sends it.
#[async_trait]
pub trait WalSink: Send {
    /// Answers from where on WAL is wanted: a position on a segment boundary or
    /// the end of what is durable; none before the segment of `oldest`. The server
    /// may still refuse to stream, and it begins again: nothing is to be stored
    /// before `wal`.
    async fn begin(&mut self, source: &WalSource) -> Result<Lsn, EngineError>;
    /// The history file of a timeline.
    async fn history(&mut self, timeline: Timeline, content: Bytes) -> Result<(), EngineError>;
    /// Contiguous WAL bytes that start at `at`, and when the server sent them.
    async fn wal(&mut self, at: Lsn, bytes: Bytes, sent: Instant) -> Result<(), EngineError>;
    /// Called about every `flush_every`, where commits wait for us as soon as
    /// nothing more is there to be read, and when the stream ends: makes durable
    /// what was received so far and answers the position up to which all of it
    /// is; 0/0 while that is not known. That is what the server is told.
    async fn flush(&mut self) -> Result<Lsn, EngineError>;
}

/// How a stream of WAL ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEnd {
    /// We were asked to stop.
    Stopped,
    /// The server shut down and had sent everything up to here.
    ServerShutDown(Lsn),
    /// The timeline ended here; a newer one goes on.
    TimelineEnded(Lsn),
}

/// WAL that is fetched ahead of a recovering server. A file is there, whole, as soon
/// as it has its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The names of the files, as PostgreSQL asks for them.
    pub names: Vec<String>,
    /// A file in the WAL folder, locked (`flock`) by whoever fetches for as long as
    /// they do. Once nobody holds the lock, no file comes any more.
    pub lock: String,
}

/// How a restored folder becomes a server that recovers by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// The restored data folder.
    pub data: PathBuf,
    /// Holds every WAL segment and history file that recovery needs, plain, but those
    /// that are awaited.
    pub wal_folder: PathBuf,
    /// What comes into the WAL folder while the server recovers.
    pub awaited: Option<Awaited>,
    /// Never `Latest`: that has been turned into an LSN.
    pub target: RecoveryTarget,
    pub timeline: Timeline,
    /// Where the backup is consistent: no state before it can be restored.
    pub consistent_from: Lsn,
    /// PostgreSQL's settings that replay requires to be at least these, from the backup.
    pub required_settings: Vec<(String, String)>,
    /// Whether the copy is to be an isolated instance (private socket, no TCP)
    /// or a server that an operator will start and use.
    pub isolated: bool,
}

/// A page of a restored copy that was damaged on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPage {
    pub file: PathBuf,
    /// Of the byte that was changed, in the file.
    pub offset: u64,
    /// What stands there now.
    pub byte: u8,
}

impl DamagedPage {
    /// Whether nothing has mended it since: a server writes pages too.
    pub fn is_still_there(&self) -> std::io::Result<bool> {
        let mut byte = [0];
        std::fs::File::open(&self.file).and_then(|file| file.read_exact_at(&mut byte, self.offset))?;
        Ok(byte == [self.byte])
    }
}

/// Protecting one database: backing it up, streaming its log.
#[async_trait]
pub trait Protect: Send + Sync {
    /// Takes a physical backup: what has changed since the parent where its
    /// manifest is given, else all. A damaged page does not stop it: see
    /// `BackupFacts::damaged`. The primary keeps the WAL that it needs, also where a
    /// standby sends it.
    async fn backup(
        &self,
        order: &BackupOrder<'_>,
        parent: Option<ParentManifest<'_>>,
        sink: &mut dyn BackupSink,
    ) -> Result<BackupFacts, EngineError>;

    /// What backups and streaming leave on the server for those that follow, and how
    /// a person takes it away where nothing follows.
    fn left_on_server(&self) -> String;

    /// Streams WAL from the primary until told to stop, the server shuts down
    /// or the timeline ends. A dropped connection is an error; the caller backs
    /// off. Where the slot is active already, another process streams: `SlotBusy`.
    /// WAL that the server has not kept is passed over.
    async fn stream_wal(
        &self,
        sink: &mut dyn WalSink,
        flush_every: Duration,
        stop: CancellationToken,
    ) -> Result<WalEnd, EngineError>;

    /// Has every standby that answers keep WAL as the primary does, so that what no
    /// vault has yet is still there when it is promoted, and let go of what is
    /// durable. Answers by member that answers what could not be done; the primary has
    /// nothing to be done. Idempotent.
    async fn keep_on_standbys(&self, durable: Option<Durable>) -> Vec<(MemberName, Result<(), EngineError>)>;

    /// Writes heartbeat `seq` to the primary; returns when it is acknowledged.
    /// Retrying a `seq` whose outcome is unknown is safe.
    async fn beat(&self, seq: i64) -> Result<Beat, EngineError>;
}

/// Bringing a recovery point back from files. Needs no living server.
#[async_trait]
pub trait Recover: Send + Sync {
    /// Makes one data folder of a full backup and the increments upon it, in their
    /// order, each as it was restored. `data` is empty or not there; what is left
    /// in the folders of `chain` is of no use afterwards. All of them lie on one
    /// file system. Nothing of it need be durable yet.
    async fn combine(&self, chain: &[PathBuf], data: &Path) -> Result<(), EngineError>;

    /// How `combine` makes its files, of backups of this version.
    fn combining(&self, server_version: &str) -> Combining;

    /// The start of the last whole WAL record in the segments of `wal_folder`,
    /// which are named and sized as PostgreSQL does; the known target of a
    /// restore to the latest state. `data` is the restored data folder, whose
    /// version's programs read the WAL.
    async fn last_record(
        &self,
        data: &Path,
        wal_folder: &Path,
        newest: Segment,
        size: SegmentSize,
    ) -> Result<Lsn, EngineError>;

    /// The first sought record in a range of WAL that a server of this version
    /// wrote; none when the readable part of the range holds none.
    async fn find_record(
        &self,
        server_version: &str,
        range: &WalRange<'_>,
        sought: &SoughtRecord,
    ) -> Result<Option<FoundRecord>, EngineError>;

    /// The name of a file in a data folder that keeps the server from starting there
    /// while no process is named in it.
    fn start_lock(&self) -> &'static str;

    /// Writes settings, generated from an allow-list, into the restored folder,
    /// so that the server recovers to `plan.target` by itself when it is started.
    async fn configure(&self, plan: &RecoveryPlan) -> Result<(), EngineError>;

    /// Why the system would not keep a server that is started in `folder` from writing
    /// elsewhere; none where it does.
    async fn unconfined(&self, folder: &Path) -> Result<Option<String>, EngineError>;

    /// Starts the configured copy in `params.folder` and waits until it has reached its target.
    async fn start_isolated(&self, params: &IsolatedParams) -> Result<Box<dyn Instance>, EngineError>;

    /// Changes a byte of a page in a restored data folder that no server was started on
    /// yet: of one that neither recovery nor any check but that of all pages reads. None
    /// where there is no such page.
    async fn damage_page(&self, data: &Path) -> Result<Option<DamagedPage>, EngineError>;

    /// Stops whatever a crashed run left running in `folder`; nothing there is a success.
    async fn stop_isolated(&self, folder: &Path) -> Result<(), EngineError>;
}

/// What a server told a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAnswer {
    /// `cluster_name`, or the address that the server says it answered on.
    pub identity: String,
    pub wrote: bool,
}

/// Moving the primary. What it does cannot be undone.
#[async_trait]
pub trait Promote: Send + Sync {
    /// Makes the standby `member` a primary, once it has replayed `past`; waits
    /// until it takes writes. A member that is a primary already is a success.
    async fn promote(&self, member: &MemberName, past: Lsn, limit: Duration) -> Result<MemberFacts, EngineError>;

    /// Tries a login and a write on `member` as a client would: PASS when both fail.
    async fn prove_fenced(&self, member: &MemberName) -> Result<Vec<Check>, EngineError>;

    /// What a client finds that connects to this address: who answers, and
    /// whether a write committed there.
    async fn look_at(&self, address: IpAddr, port: u16, dbname: &str) -> Result<ServerAnswer, EngineError>;

    /// Whether `member` is a standby that receives WAL from the primary now.
    async fn is_following(&self, member: &MemberName) -> Result<bool, EngineError>;

    /// All heartbeats that the primary holds, for the count of lost commits.
    async fn heartbeats(&self) -> Result<CopiedBeats, EngineError>;
}

/// One kind of database. One value stands for one protected database.
pub trait Engine: Look + Protect + Recover + Promote + fmt::Debug {}
impl<T: Look + Protect + Recover + Promote + fmt::Debug> Engine for T {}
