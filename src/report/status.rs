//! The one-screen answer to "are we recoverable, to which second, how long would
//! it take, when was it last proven?". Facts go in, a judgement comes out; no
//! I/O. The page, the API and `lifeboat status` all show this.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{groups::Group, managed::ManagedStatus, points::TestedPoint, words};
use crate::{
    decide::{forecast::Forecast, severity::Severity},
    domain::{
        Backup, BackupState, DatabaseName, Exposed, ExposureOver, Lever, Lsn, MemberName, Node, Objectives, Region,
        RunId, SlotState, Span, Tier, Timeline, VaultName, Verdict,
    },
    flow::RunSummary,
};

mod judged;

/// The whole estate, as one node sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EstateStatus {
    pub node: String,
    pub region: Region,
    pub generated_at: Timestamp,
    /// The worst of the databases; INCONCLUSIVE when there is none.
    pub verdict: Verdict,
    pub headline: String,
    /// The estate, and its jurisdictions; exposure is of the last day.
    pub groups: Vec<Group>,
    pub databases: Vec<DatabaseStatus>,
    /// Those that a provider runs.
    pub managed: Vec<ManagedStatus>,
    /// Newest first.
    pub runs: Vec<RunSummary>,
    pub findings: Vec<Finding>,
    /// While it is on no drill runs.
    pub lever: Lever,
    /// The daemons that share the state database, by name.
    pub nodes: Vec<Node>,
}

/// Something that a person must fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub subject: String,
    pub message: String,
    pub opened_at: Timestamp,
}

impl Finding {
    /// What stands before one that nobody may overlook.
    pub const fn mark(&self) -> &'static str {
        match self.severity {
            Severity::Critical => "CRITICAL ",
            Severity::Ordinary => "",
        }
    }
}

/// One database: facts, and what they come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseStatus {
    pub database: DatabaseName,
    /// `PostgreSQL 15.8` or the engine's name.
    pub engine: String,
    /// The class that its schedule names.
    pub tier: Option<Tier>,
    pub objectives: Objectives,
    /// Set by `judged`.
    pub verdict: Verdict,
    /// Set by `judged`: the reason for the verdict.
    pub headline: String,
    /// The newest state that can be restored; none when nothing can.
    pub recoverable_to: Option<Timestamp>,
    pub exposure: Vec<VaultExposure>,
    /// How far the vaults are behind each other; empty where there is one.
    pub copies: Vec<VaultCopies>,
    pub wal_streaming: WalStreaming,
    /// What the primary keeps for us; none where it cannot be asked.
    pub wal_on_primary: Option<WalOnMember>,
    /// What the other members keep for us, in case one of them is promoted.
    pub wal_on_standbys: Vec<WalOnMember>,
    /// Why the primary cannot be asked; none where it can.
    pub primary_away: Option<PrimaryAway>,
    /// Where instants are missing between recovery points that are kept, oldest first.
    pub broken_windows: Vec<BrokenWindow>,
    /// When the newest heartbeat was acknowledged; none when none ever was.
    pub last_heartbeat: Option<Timestamp>,
    pub newest_backup: Option<Backup>,
    /// Over all kept backups; none when there is none.
    pub weakest_state: Option<BackupState>,
    /// The last one that came to a judgement: one that a person ended says nothing.
    pub last_restore_test: Option<LastRestoreTest>,
    /// The last one that passed.
    pub last_proven: Option<LastRestoreTest>,
    /// What restore tests take by turns, the next one first; empty where they do not.
    pub recovery_points: Vec<TestedPoint>,
    /// An estimate of how long a restore takes now, in seconds; never an RTO.
    pub would_take_seconds: Option<f64>,
    /// What it is made of.
    pub forecast: Option<Forecast>,
    pub last_drill: Option<LastDrill>,
    pub next_runs: Vec<NextRun>,
    /// The planted faults that the last self-test did not see: what restore tests said
    /// since one saw them proves nothing.
    pub unseen_faults: Vec<String>,
    pub findings: Vec<String>,
}

/// Commits that a vault is not known to have yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VaultExposure {
    pub vault: VaultName,
    /// Age of the oldest that it may lack; 0 when it has all; none when unknown.
    pub seconds: Option<f64>,
    pub over_objective: bool,
    /// Whether the vault could be looked at: of one that is away `seconds` is an upper bound.
    pub looked_at: bool,
    /// Over the last day, as far as it was measured.
    pub last_day: ExposureOver,
}

/// What a vault lacks that another one of the database has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VaultCopies {
    pub vault: VaultName,
    /// Age of the oldest backup that it lacks; 0 when it lacks none.
    pub lag_seconds: f64,
    pub missing_backups: usize,
    /// Whole segments.
    pub missing_wal: usize,
    /// Longer than `copy.lag_max`.
    pub fell_behind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamingState {
    Streaming,
    /// Connecting again, or catching up.
    CatchingUp,
    /// No process is known to stream: none in this process, and heartbeats are silent.
    Stopped,
    /// Another process acknowledges heartbeats, so it streams too.
    Elsewhere,
}

impl StreamingState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::CatchingUp => "catching up",
            Self::Stopped => "stopped",
            Self::Elsewhere => "by another process",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalStreaming {
    pub state: StreamingState,
    /// Up to here every required vault has the WAL.
    pub durable_lsn: Option<Lsn>,
    pub error: Option<String>,
}

/// A primary that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrimaryAway {
    /// When it last acknowledged a heartbeat; none when it never did.
    pub answered_at: Option<Timestamp>,
    pub why: String,
}

impl PrimaryAway {
    /// One line for people.
    pub fn in_words(&self) -> String {
        let last = self.answered_at.map_or_else(
            || "it never acknowledged a heartbeat".to_owned(),
            |at| format!("it last acknowledged a heartbeat at {}", words::instant(&at)),
        );
        format!("the primary cannot be asked; {last}: {}", self.why)
    }
}

/// What a member keeps of its WAL until the vaults have it, and how much more it can.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WalOnMember {
    pub at: Timestamp,
    pub member: MemberName,
    pub slot: String,
    pub slot_state: SlotState,
    /// Whether somebody streams through the slot.
    pub slot_active: bool,
    pub written_lsn: Lsn,
    pub kept_bytes: u64,
    /// How fast it writes; none where that is not measured.
    pub bytes_per_second: Option<f64>,
    /// `max_slot_wal_keep_size`; none where nothing limits the slot.
    pub slot_limit_bytes: Option<u64>,
    /// Size of the WAL folder; none where the role may not see it.
    pub folder_bytes: Option<u64>,
    /// Free space of its disk; none where that cannot be seen from here.
    pub free_bytes: Option<u64>,
    /// `wal.room_on_primary` of the schedule; none for a standby.
    pub room_bytes: Option<u64>,
    /// How much more it can keep; none where nobody knows.
    pub headroom_bytes: Option<u64>,
    /// How long that lasts if nothing is confirmed from now on.
    pub headroom_seconds: Option<f64>,
    /// What ends it: `slot_limit`, `disk`, `room`.
    pub ends_with: Option<String>,
    /// How long nothing was confirmed, though there was something to confirm.
    pub stands_still_seconds: f64,
}

impl WalOnMember {
    /// One line for people: how much is kept, and how long more can be.
    pub fn in_words(&self) -> String {
        let kept = format!("{} kept for slot {}", words::bytes(&self.kept_bytes), self.slot);
        let kept = match self.slot_state {
            SlotState::Missing => return format!("slot {} is not there yet", self.slot),
            SlotState::Lost => return format!("slot {} was invalidated and keeps nothing", self.slot),
            SlotState::Unreserved => format!("{kept}, which is over its limit"),
            SlotState::Reserved | SlotState::Extended => kept,
        };
        let end = match self.ends_with.as_deref() {
            Some("slot_limit") => "the slot's limit",
            Some("room") => "`wal.room_on_primary`",
            _ => "its disk",
        };
        match (self.headroom_bytes, self.headroom_seconds) {
            (Some(bytes), Some(seconds)) => format!(
                "{kept}; {end} has room for {} more, {} at the present rate",
                words::bytes(&bytes),
                words::seconds(&seconds)
            ),
            (Some(bytes), None) => format!("{kept}; {end} has room for {} more", words::bytes(&bytes)),
            (None, _) => format!("{kept}; nobody knows for how much more there is room"),
        }
    }
}

/// Instants that no backup and WAL lead to, though there are recovery points before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenWindow {
    /// `wal_lost`, `ahead`, `set_back`, `replaced`.
    pub cause: String,
    /// The history that goes on behind it.
    pub system_id: String,
    pub incarnation: u32,
    /// Of `from_lsn`.
    pub timeline: Timeline,
    /// The last position before it that can be restored.
    pub from_lsn: Lsn,
    /// Where WAL goes on.
    pub to_lsn: Lsn,
    /// The last known instant before it.
    pub after: Option<Timestamp>,
    /// The end of the first backup behind it; none while it is open.
    pub until: Option<Timestamp>,
    /// All of it in words.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastRestoreTest {
    pub run_id: RunId,
    pub at: Timestamp,
    pub verdict: Verdict,
    pub restore_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastDrill {
    pub run_id: RunId,
    pub runbook: String,
    pub at: Timestamp,
    pub verdict: Verdict,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NextRun {
    /// `full backup`, `restore test`.
    pub what: String,
    pub at: Timestamp,
}

impl EstateStatus {
    /// Judges every database and says the worst in one sentence.
    pub fn new(
        node: String,
        region: Region,
        generated_at: Timestamp,
        databases: Vec<DatabaseStatus>,
        runs: Vec<RunSummary>,
        findings: Vec<Finding>,
    ) -> Self {
        let databases: Vec<_> = databases.into_iter().map(|database| database.judged(generated_at)).collect();
        let (nodes, lever, groups) = (Vec::new(), Lever::default(), Vec::new());
        let (verdict, headline, managed) = (Verdict::Inconclusive, String::new(), Vec::new());
        Self { node, region, generated_at, verdict, headline, groups, databases, managed, runs, findings, lever, nodes }
            .summed()
    }

    /// The same with those that a provider runs.
    #[must_use]
    pub fn with_managed(self, managed: Vec<ManagedStatus>) -> Self {
        Self { managed, ..self }.summed()
    }

    fn summed(mut self) -> Self {
        let own = self.databases.iter().map(|database| database.verdict);
        let verdicts: Vec<Verdict> = own.chain(self.managed.iter().map(|database| database.verdict)).collect();
        let of = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        self.verdict = Verdict::worst(verdicts.iter().copied());
        self.headline = match verdicts.len() {
            0 => "No database is protected yet.".to_owned(),
            1 if self.verdict == Verdict::Pass => "The database is recoverable, and it was proven.".to_owned(),
            n if self.verdict == Verdict::Pass => format!("All {n} databases are recoverable, and it was proven."),
            n => format!(
                "{} of {} recoverable and proven; {} not proven, {} in danger.",
                of(Verdict::Pass),
                words::count(n, "database"),
                of(Verdict::Inconclusive),
                n - of(Verdict::Pass) - of(Verdict::Inconclusive)
            ),
        };
        self
    }
}

impl EstateStatus {
    /// What was seen of exposure, with the objective. Of a vault that is away nothing was.
    pub fn exposed(&self) -> Vec<(Exposed, Duration, Span)> {
        let of = |database: &DatabaseStatus, vault: &VaultExposure| {
            let seconds = vault.seconds.filter(|_| vault.looked_at)?;
            let exposed = Exposed { database: database.database.clone(), vault: vault.vault.clone() };
            Some((exposed, Duration::try_from_secs_f64(seconds).ok()?, database.objectives.rpo))
        };
        self.databases.iter().flat_map(|one| one.exposure.iter().filter_map(move |vault| of(one, vault))).collect()
    }

    /// What a restore of each database would take, with the objective.
    pub fn forecasts(&self) -> Vec<(DatabaseName, Forecast, Objectives)> {
        let of = |one: &DatabaseStatus| Some((one.database.clone(), one.forecast.clone()?, one.objectives));
        self.databases.iter().filter_map(of).collect()
    }
}
