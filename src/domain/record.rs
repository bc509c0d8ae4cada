//! The evidence record: the immutable account of one run. It is written once,
//! when the run ends; a correction is a new record that points back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Check, Objectives, Phase, RecoveryPoint, Region, Residency, Selection, TakenFrom, Verdict};

/// Version of this structure; a reader refuses a later one.
pub const RECORD_SCHEMA: u32 = 1;

/// The kinds of runs that somebody looks for.
pub mod kind {
    pub const BACKUP: &str = "backup";
    pub const DRILL: &str = "drill";
    /// A turn of the safety lever, which is about no database.
    pub const LEVER: &str = "lever";
    pub const RESTORE_TEST: &str = "restore_test";
    /// Faults planted into restore tests, each of which has to turn red.
    pub const SELF_TEST: &str = "self_test";
}

/// The account of one run. Free of personal data: values of checks are digests
/// unless the operator said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    pub schema: u32,
    pub run_id: String,
    /// The flow: `backup`, `restore_test`, `drill`, `verify`.
    pub kind: String,
    /// Database or runbook.
    pub subject: String,
    pub daemon_version: String,
    /// SHA-256 of the file that defined the run, as hex, and its name.
    pub plan: Option<PlanFile>,
    pub jurisdiction: Option<String>,
    pub why: Why,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub objectives: Option<Objectives>,
    pub source: Option<Source>,
    pub target: Option<Target>,
    pub phases: Vec<Phase>,
    pub measured: Measured,
    pub checks: Vec<Check>,
    pub isolation: Vec<Check>,
    /// What was done to keep the run safe, and whether it went away again.
    pub safety: Vec<Check>,
    /// One verdict per objective or duty, by name.
    pub verdicts: BTreeMap<String, Verdict>,
    /// The worst of `verdicts`.
    pub verdict: Verdict,
    /// What a person must fix, in plain words.
    pub findings: Vec<String>,
}

/// The file that defined a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    pub file: String,
    pub sha256: String,
}

/// Who asked for the run, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// `schedule` or `manual`.
    pub trigger: String,
    pub requester: String,
    /// When it was due; its lateness is `started_at` minus this.
    pub due_at: Option<Timestamp>,
    pub hypothesis: Option<String>,
    /// How the recovery point or the disaster was chosen, in words.
    pub scenario: Option<String>,
    /// The choice of a restore test; none where a person named the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

impl Why {
    /// A run that was due, or that somebody asked for.
    pub fn of(due_at: Option<Timestamp>, requester: &str) -> Self {
        let trigger = if due_at.is_some() { "schedule" } else { "manual" };
        Self {
            trigger: trigger.to_owned(),
            requester: requester.to_owned(),
            due_at,
            hypothesis: None,
            scenario: None,
            selection: None,
        }
    }
}

/// What was restored or taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub vault: String,
    pub region: Region,
    /// Whether the region was verified with the provider or only declared.
    pub region_verified: bool,
    pub backup_id: String,
    pub backup_kind: String,
    /// SHA-256 of the signed manifest, as hex; empty where the provider keeps the backup.
    pub manifest_sha256: String,
    pub size_bytes: u64,
    pub recipients: usize,
    /// Which member sent it; older backups do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TakenFrom>,
    /// What the provider keeps in place of what a vault would; its `vault` is the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSource>,
}

/// A snapshot as its provider names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSource {
    pub arn: String,
    /// The key that it is encrypted with; none where it is not encrypted.
    pub kms_key: Option<String>,
    /// The state of the database that it holds.
    pub taken_at: Option<Timestamp>,
}

/// Where it was restored to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub kind: String,
    pub region: Region,
    pub residency: Option<Residency>,
    pub server_version: String,
    /// What the copy may use, and how it is kept to that; older records do not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// What the run created, and whether it is gone again.
    pub resources: Vec<Check>,
}

/// The numbers. `null` means not measured by this kind of run, never zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// T5 − T3. Excludes detection, decision, traffic and users: not an RTO.
    pub restore_seconds: Option<f64>,
    /// How often the run stood still in that time, as nobody drove it; older records do
    /// not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruptions: Option<usize>,
    /// T8 − T0; only drills, declared failovers and incidents have one.
    pub rto_seconds: Option<f64>,
    /// Disaster instant minus acknowledgement of the newest heartbeat in the copy.
    pub rpo_seconds: Option<f64>,
    /// Half-width of the uncertainty of `rpo_seconds`.
    pub rpo_bound_seconds: Option<f64>,
    /// Acknowledged heartbeats up to the disaster instant that the copy lacks.
    pub lost_commits: Option<u64>,
    /// Asked against reached, for a point in the past.
    pub target_error_seconds: Option<f64>,
    pub recovery_point: Option<RecoveryPoint>,
    pub disaster_at: Option<Timestamp>,
    pub size_bytes: Option<u64>,
    pub stored_bytes: Option<u64>,
    /// Plain bytes of the backup that was restored and of what it builds upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_bytes: Option<u64>,
    /// WAL from the backup's start to the recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_bytes: Option<u64>,
    /// How long its replay took, as the server tells; waiting for WAL is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_seconds: Option<f64>,
    pub dns: Option<DnsTimes>,
}

/// Instants of a change of DNS; see `docs/measurement.md` for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsTimes {
    pub d0: Option<Timestamp>,
    pub d1: Option<Timestamp>,
    pub d2: Option<Timestamp>,
    pub d3: Option<Timestamp>,
    pub d4: Option<Timestamp>,
    pub d5: Option<Timestamp>,
    pub d6: Option<Timestamp>,
    pub d7: Option<Timestamp>,
    /// Sampling interval, part of every figure (±).
    pub sampling_ms: u64,
}
