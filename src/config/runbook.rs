//! `runbooks/*.yaml`: drills.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{DatabaseName, Objectives, RunbookName, SiteName, Span};

/// A drill's plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunbookConfig {
    /// Its name; no two runbooks have the same.
    pub runbook: RunbookName,
    /// What kind of change of primary it rehearses.
    pub mode: DrillMode,
    /// How users are moved.
    pub path: DnsPath,
    /// The database whose primary changes.
    pub database: DatabaseName,
    /// The site of the primary before.
    pub from: SiteName,
    /// The site of the primary after.
    pub to: SiteName,
    /// What the drill is to show, as a sentence.
    #[schemars(extend("format" = "filled"))]
    pub hypothesis: String,
    /// What is promised for this change.
    pub objectives: Objectives,
    /// The most that the drill may touch.
    pub blast_radius: BlastRadius,
    /// What must hold before it starts and before it promotes.
    pub guards: Guards,
    /// What a client does to see whether the service is healthy, by name.
    pub probes: BTreeMap<String, ProbeConfig>,
    /// Probes that must pass before the first step and after the last one.
    pub steady_state: Vec<String>,
    /// Who must agree before it starts.
    pub approvals: Approvals,
    /// What is done, in order.
    pub steps: Vec<StepConfig>,
}

/// What kind of change of primary a drill rehearses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillMode {
    /// Nothing may be lost: promotion waits for the fenced LSN.
    Switchover,
}

/// How users are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsPath {
    /// Edits records.
    ControlPlane,
}

/// The most that a drill may touch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlastRadius {
    /// Names that the drill may change.
    #[schemars(extend("items" = {"type": "string", "format": "fqdn"}))]
    pub records: Vec<String>,
    /// A drill that takes longer is unwound, or held if it has promoted.
    pub max_duration: Span,
}

/// What must hold before a drill starts and before it promotes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    /// Newest acknowledged heartbeat minus newest replayed one; unknown refuses.
    pub max_replica_lag: Span,
}

/// Who must agree before a drill starts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approvals {
    /// How many approvals a live drill waits for (`lifeboat approve RUN`).
    pub required: u32,
    /// Whose approval does not count. A person counts once in any case.
    #[serde(default)]
    pub distinct_from: DistinctFrom,
    /// Demanded when `required` is 0.
    #[schemars(extend("format" = "filled"))]
    pub reason: Option<String>,
}

/// Whose approval of a drill does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DistinctFrom {
    /// Who asked for the drill.
    #[default]
    Requester,
}

/// A client's look at the service: resolves `record` afresh, connects to
/// `port`, writes and reads, and learns from the response which site answered.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// The name that users connect to.
    #[schemars(extend("format" = "fqdn"))]
    pub record: String,
    /// TCP port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The database that it writes to and reads from.
    #[schemars(extend("format" = "filled"))]
    pub dbname: String,
}

/// One step of a drill, told apart by its first key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StepConfig {
    Fence(FenceStep),
    Promote(PromoteStep),
    Dns(DnsStep),
    Observe(ObserveStep),
    Rejoin(RejoinStep),
}

/// A side of the change of primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The primary before.
    From,
    /// The primary after.
    To,
}

/// Shuts the old primary off. Reversible.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FenceStep {
    /// Which side; always `from`.
    pub fence: Side,
    /// What shuts it off.
    pub by: CommandConfig,
    /// What opens it again when the drill unwinds.
    pub release: CommandConfig,
    /// How it is shown that the fence holds; at least one way.
    pub prove: Vec<FenceProof>,
}

/// A way to show that a fence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FenceProof {
    /// A new login is refused.
    Login,
    /// A write is refused.
    Write,
}

/// A program with its arguments; no shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The program by its absolute path, then its arguments.
    pub command: Vec<String>,
}

/// Makes the standby the primary. Point of no return.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteStep {
    /// Which side; always `to`.
    pub promote: Side,
}

/// Changes a record.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsStep {
    /// What is done to the record.
    pub dns: DnsAction,
    /// A provider of `lifeboat.yaml`; may be left out when there is only one.
    pub provider: Option<String>,
    /// Full name of the record; must be in the blast radius.
    #[schemars(extend("format" = "fqdn"))]
    pub record: String,
    /// The address it has afterwards.
    pub to: std::net::IpAddr,
}

/// What is done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsAction {
    /// Its address is replaced, if it still is what it was when the drill was planned.
    Switch,
}

/// Watches until every observer has seen the new site and it held.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveStep {
    /// What is watched.
    pub observe: Observed,
    /// How long it must stay so.
    pub hold: Span,
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// The records as resolvers answer them.
    Dns,
}

/// Brings the old primary back as a standby.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejoinStep {
    /// Which side; always `from`.
    pub rejoin: Side,
    /// What makes it follow the new primary.
    pub by: CommandConfig,
}
