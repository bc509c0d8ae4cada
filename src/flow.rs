//! Durable runs. A flow is a sequence of named steps; one execution is a run.
//! Every step's beginning, with what must be undone, is in the journal before
//! it acts, and its result before the next one begins. A run therefore resumes
//! after a crash at any instant, or unwinds, on this node or another.
//!
//! What must never happen: an undo that runs while its step still acts; a
//! signal that is lost because nobody waited for it yet; an effect by a node
//! that no longer owns the run.
//!
//! Read `Step` and `Flow` below for what a flow is made of, `progress` for the
//! pure decision what a journal asks for next, `drive` for who carries it out,
//! `lease` for who may, `runner` for what everybody else calls.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::domain::{Placement, RunId, Verdict, with_causes};

pub mod context;
mod drive;
pub mod event;
pub mod journal;
mod lease;
pub mod progress;
pub mod runner;
mod wake;

pub use context::StepContext;
pub use runner::{DEFAULT_TTL, FlowError, Runner, Station, Submitted};

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Trying again may help.
    #[error("{0}")]
    Transient(String),
    /// Trying again can only fail again.
    #[error("{0}")]
    Permanent(String),
    /// The step was asked to stop, and did.
    #[error("stopped as asked")]
    Stopped,
    /// This node no longer owns the run.
    #[error("this node no longer owns the run")]
    Fenced,
}

impl StepError {
    /// Wraps an error of a boundary by whether it is permanent. It becomes text
    /// with all its causes: the journal keeps it.
    pub fn from_error(error: impl std::error::Error + Send + Sync + 'static, is_permanent: bool) -> Self {
        let text = with_causes(&error);
        if is_permanent { Self::Permanent(text) } else { Self::Transient(text) }
    }

    pub fn permanent(message: impl fmt::Display) -> Self {
        Self::Permanent(message.to_string())
    }

    pub fn transient(message: impl fmt::Display) -> Self {
        Self::Transient(message.to_string())
    }
}

/// How a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A step that takes longer is asked to stop and counts as failed. Waits
    /// for signals carry their own limit.
    pub limit: Duration,
    /// How often it is tried, at least once.
    pub attempts: u32,
    /// Pause before the second try; doubles up to a minute, with jitter.
    pub backoff: Duration,
    pub reversal: Reversal,
}

/// Whether what a step does can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reversal {
    /// Its recorded undo, if any, brings the state before it back.
    Undo,
    /// From the moment it begins the run rolls forward or holds; nothing before
    /// it is undone any more.
    PointOfNoReturn,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(60),
            attempts: 3,
            backoff: Duration::from_millis(200),
            reversal: Reversal::Undo,
        }
    }
}

/// One step of a flow. `run` must be idempotent: look first, then act. It is
/// repeated after a crash, after a transient error and when another node takes
/// over.
#[async_trait]
pub trait Step: Send + Sync {
    /// Stable and unique in its flow.
    fn name(&self) -> &str;

    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// What must be undone once this step has begun; recorded before `run` is
    /// called for the first time, and handed to `undo`. Must not act.
    async fn undo_plan(&self, _cx: &StepContext) -> Result<Option<Value>, StepError> {
        Ok(None)
    }

    /// Acts. Returns its output for later steps. Watches `cx.stop()` when it
    /// takes long.
    async fn run(&self, cx: &StepContext) -> Result<Value, StepError>;

    /// Takes back what `run` did, wholly, partly or not at all. Idempotent.
    async fn undo(&self, _cx: &StepContext, _plan: &Value) -> Result<(), StepError> {
        Ok(())
    }
}

/// A durable workflow.
#[async_trait]
pub trait Flow: Send + Sync {
    /// `backup`, `restore_test`, `drill`.
    fn name(&self) -> &'static str;

    /// The steps for these parameters: the same ones for the same parameters,
    /// always, without I/O.
    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError>;

    /// Runs once the steps are done or unwound, however it went, and judges the
    /// run. Idempotent; retried until it succeeds.
    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError>;
}

/// How the steps of a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps succeeded.
    Done,
    /// A step failed and everything before it was undone.
    Unwound { step: String, error: String },
    /// Somebody aborted it and everything was undone.
    Aborted { who: String, reason: String },
    /// An undo failed: a person must act. Names the step whose undo it was.
    Stuck { step: String, error: String },
}

/// The judgement of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    pub verdict: Verdict,
    /// What the command that asked for the run prints with `--json`.
    pub output: Value,
}

/// What a run is asked to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewRun {
    pub id: RunId,
    /// Database or runbook; at most one run of a subject and flow is driven at a time.
    pub subject: String,
    pub params: Value,
    pub requester: String,
    /// Anywhere, and counted by no limit, unless said otherwise.
    pub placement: Placement,
    /// Where it has not begun by then, it ends without a step.
    pub begin_by: Option<Timestamp>,
}

impl NewRun {
    pub fn new(
        id: RunId,
        subject: impl fmt::Display,
        params: &impl Serialize,
        requester: impl Into<String>,
    ) -> Result<Self, StepError> {
        let params = serde_json::to_value(params).map_err(|error| StepError::from_error(error, true))?;
        Ok(Self {
            id,
            subject: subject.to_string(),
            params,
            requester: requester.into(),
            placement: Placement::default(),
            begin_by: None,
        })
    }

    /// Says until when it may begin.
    #[must_use]
    pub fn by(mut self, begin_by: Timestamp) -> Self {
        self.begin_by = Some(begin_by);
        self
    }

    /// Says where it may be driven and what it works on.
    #[must_use]
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Nobody has begun.
    Pending,
    Running,
    /// For a signal.
    Waiting,
    /// Past the point of no return a step fails: a person must help it forward (`resume`).
    Holding,
    Unwinding,
    Done,
    Unwound,
    /// An undo failed: a person must act.
    Stuck,
}

impl RunState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Unwound | Self::Stuck)
    }
}

/// A message to a run; kept until the run reads it, whenever it arrives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// `abort`, `approve`, `resume`, or a name that a step waits for.
    pub name: String,
    pub who: String,
    pub payload: Value,
}

/// A run as status shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    pub run_id: RunId,
    pub flow: String,
    pub subject: String,
    pub state: RunState,
    /// The step that is running, waiting or has failed last.
    pub step: Option<String>,
    pub error: Option<String>,
    pub requester: String,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub conclusion: Option<Conclusion>,
}

/// Progress of a step, for people; never journaled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub run_id: RunId,
    pub step: String,
    pub message: String,
    pub done: Option<u64>,
    pub total: Option<u64>,
    /// To be read by whoever asked for the run, also when it has ended.
    pub is_lasting: bool,
}

/// Reads a journaled value as the type that a step stored.
pub fn read<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T, StepError> {
    serde_json::from_value(value.clone())
        .map_err(|error| StepError::permanent(format!("the journal's {what} cannot be read: {error}")))
}
