//! What a step may know and ask for while it runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Progress, Signal, StepError,
    event::{self, Entry, Event},
    journal::{Journal, LetGo},
    progress, read,
};
use crate::{clock::Clock, domain::RunId};

/// Handed to every step, undo and conclusion of one run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StepContext {
    run: Arc<RunFacts>,
    scope: Arc<Scope>,
    stop: CancellationToken,
}

/// What every context of a run shares.
#[derive(Debug)]
pub(super) struct RunFacts {
    pub run_id: RunId,
    pub requester: String,
    pub created_at: Timestamp,
    pub params: Value,
    pub clock: Clock,
    pub journal: Arc<Journal>,
    pub progress: broadcast::Sender<Progress>,
}

/// What belongs to one call of a step, undo or conclusion.
#[derive(Debug)]
struct Scope {
    /// The step's name, `undo of NAME` or `conclusion`.
    name: String,
    undo_plan: Option<Value>,
    attempt: u32,
    /// When the call must be over; none while it waits for a signal.
    deadline: watch::Sender<Option<Instant>>,
    /// How many waits for signals of a name have returned to the caller.
    waits: Mutex<HashMap<String, usize>>,
}

/// When a step of this run began and ended, from the journal, for phases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTimes {
    pub step: String,
    pub began_at: Timestamp,
    /// None while it runs, or when it failed.
    pub succeeded_at: Option<Timestamp>,
}

impl StepContext {
    pub(super) fn new(run: Arc<RunFacts>, name: String, undo_plan: Option<Value>, attempt: u32) -> Self {
        let (deadline, waits) = (watch::Sender::new(None), Mutex::default());
        Self {
            run,
            scope: Arc::new(Scope { name, undo_plan, attempt, deadline, waits }),
            stop: CancellationToken::new(),
        }
    }

    pub fn run_id(&self) -> &RunId {
        &self.run.run_id
    }

    /// Who asked for the run.
    pub fn requester(&self) -> &str {
        &self.run.requester
    }

    /// When the run was asked for.
    pub fn created_at(&self) -> Timestamp {
        self.run.created_at
    }

    pub fn clock(&self) -> &Clock {
        &self.run.clock
    }

    /// The parameters of the run.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        read("parameters", &self.run.params)
    }

    /// What an earlier step returned; `Permanent` when it has not succeeded.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        self.output_if_any(step)?
            .ok_or_else(|| StepError::permanent(format!("step `{step}` has no output: it has not succeeded")))
    }

    /// The same, none when that step has not succeeded (for conclusions and undos).
    pub fn output_if_any<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, StepError> {
        let found = self.run.journal.entries().iter().find_map(|entry| match &entry.event {
            Event::StepSucceeded { step: name, output } if name == step => Some(output.clone()),
            _ => None,
        });
        found.map(|output| read("step output", &output)).transpose()
    }

    /// What `undo_plan` of the running step answered when it was first asked.
    pub fn undo_plan(&self) -> Option<&Value> {
        self.scope.undo_plan.as_ref()
    }

    /// 1 for the first try of the running step in this process.
    pub fn attempt(&self) -> u32 {
        self.scope.attempt
    }

    /// Cancelled when the step is to stop: abort, time limit, lost lease, shutdown.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// To be awaited before every effect on a vault, DNS or server: returns
    /// when this node surely owns the run, waits through a blip of the state
    /// database, and is `Fenced` or `Stopped` when it will not any more.
    pub async fn guard(&self) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.run.journal.lease.lost() => Err(StepError::Fenced),
            () = self.stop.cancelled() => Err(StepError::Stopped),
            () = self.run.journal.lease.valid() => Ok(()),
        }
    }

    /// Waits for the next unread signal of this name, whenever it was sent.
    /// None when `limit` passed. The limit counts from the first time that the
    /// run waited here, also across restarts; repeated after a restart or a
    /// failed attempt, the same waits have the same answers. To be awaited by
    /// one caller at a time per name.
    pub async fn wait_for_signal(&self, name: &str, limit: Duration) -> Result<Option<Signal>, StepError> {
        let ordinal = self.waits().get(name).copied().unwrap_or(0);
        let _paused = PausedLimit::new(&self.scope.deadline);
        let signal = self.nth_signal(name, ordinal, limit).await?;
        self.waits().insert(name.to_owned(), ordinal + 1);
        Ok(signal)
    }

    async fn nth_signal(&self, name: &str, ordinal: usize, limit: Duration) -> Result<Option<Signal>, StepError> {
        let journal = &self.run.journal;
        let mut changes = journal.subscribe();
        loop {
            let (looked, began_ms) = {
                let entries = changes.borrow_and_update();
                (self.look(&entries, name, ordinal), self.wait_began_ms(&entries, name, ordinal))
            };
            let (step, name) = (self.scope.name.clone(), name.to_owned());
            match looked {
                Looked::Ended(signal) => return Ok(signal),
                Looked::Unread(signal) => {
                    self.append(Event::WaitEnded { step, name, ordinal, signal: Some(signal) }).await?;
                    continue;
                }
                Looked::Nothing => {}
            }
            let Some(began_ms) = began_ms else {
                self.append(Event::WaitBegan { step, name, ordinal }).await?;
                continue;
            };
            tokio::select! {
                biased;
                () = journal.lease.lost() => return Err(StepError::Fenced),
                () = self.stop.cancelled() => return Err(StepError::Stopped),
                _ = changes.changed() => {}
                () = tokio::time::sleep(limit.saturating_sub(journal.since(began_ms))) => {
                    self.append(Event::WaitEnded { step, name, ordinal, signal: None }).await?;
                }
            }
        }
    }

    fn look(&self, entries: &[Entry], name: &str, ordinal: usize) -> Looked {
        let ended = entries.iter().find_map(|entry| match &entry.event {
            Event::WaitEnded { step, name: of, ordinal: nth, signal } => {
                (*step == self.scope.name && of == name && *nth == ordinal).then_some(*signal)
            }
            _ => None,
        });
        let Some(ended) = ended else {
            return progress::unread(entries, name).map_or(Looked::Nothing, |(seq, _)| Looked::Unread(seq));
        };
        Looked::Ended(entries.iter().find_map(|entry| match &entry.event {
            Event::Signalled(signal) if ended == Some(entry.seq) => Some(signal.clone()),
            _ => None,
        }))
    }

    fn wait_began_ms(&self, entries: &[Entry], name: &str, ordinal: usize) -> Option<i64> {
        entries.iter().find_map(|entry| match &entry.event {
            Event::WaitBegan { step, name: of, ordinal: nth } => {
                (*step == self.scope.name && of == name && *nth == ordinal).then_some(entry.at_ms)
            }
            _ => None,
        })
    }

    async fn append(&self, event: Event) -> Result<(), StepError> {
        self.run.journal.append(event).await.map_err(|let_go| match let_go {
            LetGo::Fenced => StepError::Fenced,
            LetGo::ShuttingDown => StepError::Stopped,
            LetGo::Db(error) => StepError::from_error(error, false),
        })
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.scope.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, or is `Stopped` when the step is asked to stop.
    pub async fn sleep(&self, duration: Duration) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(StepError::Stopped),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }

    /// Tells people how far the step is; cheap, never fails, never journaled.
    pub fn progress(&self, message: impl Into<String>, done: Option<u64>, total: Option<u64>) {
        self.send(message.into(), (done, total), false);
    }

    /// Tells whoever asked for the run, and nobody else, something that evidence
    /// and log must not hold.
    pub fn tell(&self, message: impl Into<String>) {
        self.send(message.into(), (None, None), true);
    }

    fn send(&self, message: String, (done, total): (Option<u64>, Option<u64>), is_lasting: bool) {
        let (run_id, step) = (self.run.run_id.clone(), self.scope.name.clone());
        // Nobody listening is no failure.
        drop(self.run.progress.send(Progress { run_id, step, message, done, total, is_lasting }));
    }

    /// When each step began and succeeded, in order.
    pub fn step_times(&self) -> Vec<StepTimes> {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut times: Vec<StepTimes> = Vec::new();
        for entry in self.run.journal.entries().iter() {
            match &entry.event {
                Event::StepStarted { step, .. } => {
                    times.push(StepTimes { step: step.clone(), began_at: at(entry.at_ms), succeeded_at: None });
                }
                Event::StepSucceeded { step, .. } => {
                    if let Some(times) = times.iter_mut().find(|times| times.step == *step) {
                        times.succeeded_at = Some(at(entry.at_ms));
                    }
                }
                _ => {}
            }
        }
        times
    }

    /// How often nobody drove the run for a time, between the begin of one step and the
    /// success of another.
    pub fn taken_anew(&self, from: &str, until: &str) -> usize {
        event::taken_anew(&self.run.journal.entries(), from, until)
    }

    /// From now on the call may take this long.
    pub(super) fn allow(&self, limit: Duration) {
        self.scope.deadline.send_replace(Instant::now().checked_add(limit));
    }

    /// Returns when the call has taken longer than it may.
    pub(super) async fn overdue(&self) {
        let mut deadline = self.scope.deadline.subscribe();
        loop {
            let at = *deadline.borrow_and_update();
            let passed = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                _ = deadline.changed() => {}
            }
        }
    }
}

/// What the journal says of a wait.
enum Looked {
    Ended(Option<Signal>),
    Unread(i64),
    Nothing,
}

/// Holds the time limit of a step while it waits for a signal.
struct PausedLimit<'a> {
    deadline: &'a watch::Sender<Option<Instant>>,
    left: Option<Duration>,
}

impl<'a> PausedLimit<'a> {
    fn new(deadline: &'a watch::Sender<Option<Instant>>) -> Self {
        let left = deadline.send_replace(None).map(|at| at.saturating_duration_since(Instant::now()));
        Self { deadline, left }
    }
}

impl Drop for PausedLimit<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.left {
            self.deadline.send_replace(Instant::now().checked_add(left));
        }
    }
}
