//! A switchover drill: the primary moves to another site, clients follow by
//! DNS, the old primary comes back as a standby, and the whole is measured.
//!
//! What must never happen: a promotion without a proven fence, or before the
//! standby has everything that the fenced primary wrote; a change of DNS that
//! is not compare-and-set; a PASS without proof of steady state and clean-up.
//!
//! `prepare` approves and guards, `shift` moves the primary and its clients,
//! `settle` brings the old primary back, `account` writes the evidence record.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::runbook::{CommandConfig, DnsStep, FenceProof, ProbeConfig, RunbookConfig, Side, StepConfig},
    decide::drill::{StepKind, refuse_order},
    dns::{Dns, observer::Client},
    domain::{
        Beat, DatabaseName, EvidenceRecord, Lever, Lsn, MemberName, SiteName,
        record::{PlanFile, kind},
    },
    engine::Engine,
    evidence::EvidenceRef,
    flow::{Conclusion, Ending, Flow, Step, StepContext, StepError, read},
    process::Program,
};

pub mod account;
pub mod client;
pub mod estate;
pub mod prepare;
pub mod probe;
pub mod settle;
pub mod shift;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::DRILL;

/// Pause between two looks of an observer; the ± of every DNS instant.
pub const SAMPLING: Duration = Duration::from_millis(100);
/// New answers in a row that every authoritative server must give.
pub const CONSECUTIVE: usize = 3;

/// What a drill is run with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrillParams {
    pub runbook: RunbookConfig,
    pub plan: PlanFile,
    /// `schedule` or `manual`.
    pub trigger: String,
    pub due_at: Option<Timestamp>,
    /// Of the database, as its schedule states it.
    pub jurisdiction: Option<String>,
}

/// The acknowledged heartbeats of one database, which are kept outside it.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Those acknowledged from `from` to `to`, both included.
    async fn acknowledged_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Beat>, StepError>;

    /// The newest WAL position that the primary, which is fenced by now, is
    /// known to have written: what its stream sent last, or more.
    async fn fenced_lsn(&self) -> Result<Lsn, StepError>;
}

/// Keeps evidence records.
#[async_trait]
pub trait Recorder: Send + Sync {
    /// Appends the record. A run that has a record already keeps that one and
    /// gets its place: conclusions are retried.
    async fn record(&self, record: EvidenceRecord) -> Result<EvidenceRef, StepError>;
}

/// What a drill finds by name. An unknown name is a permanent error.
#[async_trait]
pub trait Estate: Send + Sync {
    fn engine(&self, database: &DatabaseName) -> Result<Arc<dyn Engine>, StepError>;
    /// The member of `database` that stands at `site`.
    fn member(&self, database: &DatabaseName, site: &SiteName) -> Result<MemberName, StepError>;
    /// The provider of this name; the only one when none is named.
    fn dns(&self, provider: Option<&str>) -> Result<Arc<dyn Dns>, StepError>;
    fn client(&self, database: &DatabaseName, probe: &ProbeConfig) -> Result<Arc<dyn Client>, StepError>;
    fn ledger(&self, database: &DatabaseName) -> Result<Arc<dyn Ledger>, StepError>;
    fn recorder(&self) -> Arc<dyn Recorder>;
    /// How the safety lever stands now.
    async fn lever(&self) -> Result<Lever, StepError>;
    /// What holds drills of a database back at this instant; they begin after it.
    fn held_by(&self, database: &DatabaseName, at: Timestamp) -> Result<Option<String>, StepError>;
}

/// The workflow `drill`.
pub struct DrillFlow {
    estate: Arc<dyn Estate>,
}

impl DrillFlow {
    pub fn new(estate: Arc<dyn Estate>) -> Self {
        Self { estate }
    }
}

#[async_trait]
impl Flow for DrillFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let drill = Drill::new(self.estate.clone(), read("parameters", params)?)?;
        let runbook = drill.runbook().clone();
        let mut steps: Vec<Box<dyn Step>> = Vec::new();
        if runbook.approvals.required > 0 {
            steps.push(Box::new(prepare::Approve(drill.clone())));
        }
        steps.push(Box::new(prepare::Guards(drill.clone())));
        for step in runbook.steps {
            let drill = drill.clone();
            steps.push(match step {
                StepConfig::Fence(config) => Box::new(shift::Fence { drill, config }),
                StepConfig::Promote(_) => Box::new(shift::Promote(drill)),
                StepConfig::Dns(config) => Box::new(shift::Switch { drill, config }),
                StepConfig::Observe(config) => Box::new(shift::Observe { drill, config }),
                StepConfig::Rejoin(config) => Box::new(settle::Rejoin { drill, config }),
            });
        }
        steps.push(Box::new(settle::Steady(drill)));
        Ok(steps)
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        // A runbook that would be refused by now is accounted for all the same.
        let drill = Drill { estate: self.estate.clone(), params: Arc::new(cx.params()?) };
        until_stopped(cx, account::conclude(&drill, cx, ending)).await
    }
}

/// One drill and what it works on. Cheap to clone.
#[derive(Clone)]
pub struct Drill {
    estate: Arc<dyn Estate>,
    params: Arc<DrillParams>,
}

impl Drill {
    /// Refuses a runbook that cannot be carried out safely.
    pub fn new(estate: Arc<dyn Estate>, params: DrillParams) -> Result<Self, StepError> {
        let runbook = &params.runbook;
        let kinds: Vec<StepKind> = runbook.steps.iter().map(kind).collect();
        if let Some(why) = refuse_order(&kinds).or_else(|| refuse_content(runbook)) {
            return Err(StepError::permanent(format!("runbook `{}` is refused: {why}", runbook.runbook)));
        }
        Ok(Self { estate, params: Arc::new(params) })
    }

    pub fn runbook(&self) -> &RunbookConfig {
        &self.params.runbook
    }

    pub(crate) fn params(&self) -> &DrillParams {
        &self.params
    }

    pub(crate) fn engine(&self) -> Result<Arc<dyn Engine>, StepError> {
        self.estate.engine(&self.runbook().database)
    }

    pub(crate) fn ledger(&self) -> Result<Arc<dyn Ledger>, StepError> {
        self.estate.ledger(&self.runbook().database)
    }

    /// What holds this drill back at this instant.
    pub(crate) fn held_by(&self, at: Timestamp) -> Result<Option<String>, StepError> {
        self.estate.held_by(&self.runbook().database, at)
    }

    pub(crate) fn recorder(&self) -> Arc<dyn Recorder> {
        self.estate.recorder()
    }

    pub(crate) async fn lever(&self) -> Result<Lever, StepError> {
        self.estate.lever().await
    }

    /// The primary before the drill.
    pub(crate) fn from(&self) -> Result<MemberName, StepError> {
        self.estate.member(&self.runbook().database, &self.runbook().from)
    }

    /// The primary after the drill.
    pub(crate) fn to(&self) -> Result<MemberName, StepError> {
        self.estate.member(&self.runbook().database, &self.runbook().to)
    }

    /// How the runbook wants its fence proven.
    pub(crate) fn fence_proofs(&self) -> &[FenceProof] {
        let fence = self.runbook().steps.iter().find_map(|step| match step {
            StepConfig::Fence(config) => Some(config.prove.as_slice()),
            _ => None,
        });
        fence.unwrap_or_default()
    }

    pub(crate) fn dns_step(&self) -> Option<&DnsStep> {
        self.runbook().steps.iter().find_map(|step| match step {
            StepConfig::Dns(config) => Some(config),
            _ => None,
        })
    }

    /// The provider that the drill's DNS step names.
    pub(crate) fn dns(&self) -> Result<Arc<dyn Dns>, StepError> {
        self.estate.dns(self.dns_step().and_then(|step| step.provider.as_deref()))
    }

    /// The probes of the steady state, by name.
    pub(crate) fn steady_probes(&self) -> impl Iterator<Item = (&str, &ProbeConfig)> {
        let runbook = self.runbook();
        runbook.steady_state.iter().filter_map(|name| Some((name.as_str(), runbook.probes.get(name)?)))
    }

    pub(crate) fn client(&self, probe: &ProbeConfig) -> Result<Arc<dyn Client>, StepError> {
        self.estate.client(&self.runbook().database, probe)
    }

    /// The client by which traffic is observed: the first steady-state probe of
    /// the record that moves.
    pub(crate) fn observing_client(&self) -> Result<Arc<dyn Client>, StepError> {
        let record = self.dns_step().map(|step| step.record.as_str());
        let probe = self.steady_probes().find(|(_, probe)| record.is_none_or(|record| record == probe.record));
        let (_, probe) = probe.ok_or_else(|| StepError::permanent("no steady-state probe looks at the record"))?;
        self.client(probe)
    }
}

fn kind(step: &StepConfig) -> StepKind {
    match step {
        StepConfig::Fence(_) => StepKind::Fence,
        StepConfig::Promote(_) => StepKind::Promote,
        StepConfig::Dns(_) => StepKind::Dns,
        StepConfig::Observe(_) => StepKind::Observe,
        StepConfig::Rejoin(_) => StepKind::Rejoin,
    }
}

/// What `config` cannot see step by step: sides, blast radius, probes.
fn refuse_content(runbook: &RunbookConfig) -> Option<String> {
    for step in &runbook.steps {
        let (side, wanted) = match step {
            StepConfig::Fence(step) if step.prove.is_empty() => {
                return Some("a fence must be proven; write `prove: [login, write]`".to_owned());
            }
            StepConfig::Fence(step) => (step.fence, Side::From),
            StepConfig::Promote(step) => (step.promote, Side::To),
            StepConfig::Rejoin(step) => (step.rejoin, Side::From),
            StepConfig::Dns(step) if !runbook.blast_radius.records.contains(&step.record) => {
                return Some(format!("`{}` is not in `blast_radius.records`; add it", step.record));
            }
            StepConfig::Dns(step) if !runbook.probes.values().any(|probe| probe.record == step.record) => {
                return Some(format!("no probe looks at `{}`; add one and put it in `steady_state`", step.record));
            }
            StepConfig::Dns(_) | StepConfig::Observe(_) => continue,
        };
        if side != wanted {
            return Some("the old primary is fenced and rejoins (`from`), the standby is promoted (`to`)".to_owned());
        }
    }
    let unknown = runbook.steady_state.iter().find(|name| !runbook.probes.contains_key(*name));
    match unknown {
        Some(name) => Some(format!("`steady_state` names the unknown probe `{name}`")),
        None if runbook.steady_state.is_empty() => Some("`steady_state` is empty; name a probe".to_owned()),
        None => None,
    }
}

/// Runs an operator's command to its end; it must be safe to run again.
pub(crate) async fn run_command(what: &str, command: &CommandConfig, limit: Duration) -> Result<(), StepError> {
    let (program, args) =
        command.command.split_first().ok_or_else(|| StepError::permanent(format!("the {what} command is empty")))?;
    // Not interrupted when the run is asked to stop: an undo must not overlap it.
    Program::new(program).args(args).output(limit).await.map(drop).map_err(|error| StepError::from_error(error, false))
}

/// Looks and waits until the step is asked to stop. Only for what may be dropped
/// at any point: it changes nothing, or can be repeated.
pub(crate) async fn until_stopped<T>(
    cx: &StepContext,
    looking: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    tokio::select! {
        found = looking => found,
        () = cx.stop().cancelled() => Err(StepError::Stopped),
    }
}

/// For `map_err` of an engine.
pub(crate) fn engine_failed(error: crate::engine::EngineError) -> StepError {
    let permanent = error.is_permanent();
    StepError::from_error(error, permanent)
}

/// For `map_err` of a DNS provider.
pub(crate) fn dns_failed(error: crate::dns::DnsError) -> StepError {
    if matches!(error, crate::dns::DnsError::Fenced { .. }) {
        return StepError::Fenced;
    }
    let permanent = error.is_permanent();
    StepError::from_error(error, permanent)
}

/// A step's output as the journal keeps it.
pub(crate) fn output(value: &impl Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value).map_err(|error| StepError::from_error(error, true))
}
