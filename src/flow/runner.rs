//! Who drives runs: takes new ones in, claims those that nobody drives, tells
//! how they are. One runner per process; any number of processes share the
//! state database.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::{
    Flow, NewRun, Progress, RunState, RunSummary, Signal,
    context::RunFacts,
    drive::Driver,
    event::Event,
    journal::{Journal, LetGo, nonce, through_blips},
    lease::{Lease, call_limit},
    progress::state_name,
    wake::{Wake, heard},
};
use crate::{
    clock::Clock,
    db::{
        Db, DbError,
        agenda::MarkRow,
        instant,
        runs::{self, NewRow, RunRow},
    },
    decide::placement::Limits,
    domain::{Region, RunId},
    process::Tasks,
};

mod claim;

use claim::Candidate;

/// How long a node may be silent before others take its runs over.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

/// What can go wrong when runs are asked for.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    #[error("there is no run `{0}`; `lifeboat runs` lists them")]
    NoSuchRun(RunId),
    #[error("run `{0}` has ended already; it takes no more signals")]
    Ended(RunId),
    #[error("this node knows no flow `{flow}`, so it cannot drive run `{run_id}`; use a version that has it")]
    UnknownFlow { flow: String, run_id: RunId },
    #[error("run `{0}` was interrupted because this process ends; it resumes when it is driven again")]
    Interrupted(RunId),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    New,
    /// A run of this id was submitted before; it is untouched.
    Existing,
}

/// Who a runner is, and what it may take.
#[derive(Debug, Clone, Default)]
pub struct Station {
    /// Names this node in journals.
    pub node: String,
    /// Runs that may not be driven there are left to other nodes; none takes all.
    pub region: Option<Region>,
    /// Beside what all nodes drive at the moment.
    pub limits: Limits,
}

impl From<&str> for Station {
    /// A node that may take anything.
    fn from(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }
}

/// Drives runs on this node.
pub struct Runner {
    db: Db,
    station: Station,
    /// In place of those of the station, once they were edited.
    limits: RwLock<Limits>,
    clock: Clock,
    ttl: Duration,
    flows: RwLock<HashMap<&'static str, Arc<dyn Flow>>>,
    wake: Wake,
    progress: broadcast::Sender<Progress>,
    tasks: Tasks,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("node", &self.station.node).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Runner {
    /// `ttl` is usually `DEFAULT_TTL`.
    pub fn new(db: Db, station: impl Into<Station>, clock: Clock, ttl: Duration) -> Arc<Self> {
        let station = station.into();
        Arc::new(Self {
            db,
            limits: RwLock::new(station.limits.clone()),
            station,
            clock,
            ttl,
            flows: RwLock::default(),
            wake: Wake::default(),
            progress: broadcast::Sender::new(256),
            tasks: Tasks::new(),
        })
    }

    /// Makes this node able to drive runs of `flow`, in place of the one that it had by
    /// that name; a run under way goes on with what it began with.
    pub fn register(&self, flow: Arc<dyn Flow>) {
        self.flows.write().unwrap_or_else(PoisonError::into_inner).insert(flow.name(), flow);
        self.wake.ring();
    }

    /// From now on these limits hold for what this node takes.
    pub fn limit(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.wake.ring();
    }

    /// Whatever this node can drive.
    pub fn flows(&self) -> Vec<Arc<dyn Flow>> {
        self.flows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn flow(&self, name: &str) -> Option<Arc<dyn Flow>> {
        self.flows.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Stores a run, durably; whoever serves the state database will drive it.
    /// The flow is the first part of its id.
    pub async fn submit(&self, run: NewRun) -> Result<Submitted, FlowError> {
        let new = runs::insert(&self.db, &row(run)).await?;
        self.wake.ring();
        Ok(if new { Submitted::New } else { Submitted::Existing })
    }

    /// Stores those of these runs that are new, and with them how far schedules were
    /// dealt with: all of it or nothing.
    pub async fn submit_due(&self, due: Vec<NewRun>, marks: &[MarkRow]) -> Result<(), FlowError> {
        let rows: Vec<NewRow> = due.into_iter().map(row).collect();
        runs::insert_all(&self.db, &rows, marks).await?;
        self.wake.ring();
        Ok(())
    }

    /// Sends a signal; once this returns, it is never lost.
    pub async fn signal(&self, run_id: &RunId, signal: Signal) -> Result<(), FlowError> {
        let event = Event::Signalled(signal).to_json()?;
        let stored = runs::append_signal(&self.db, run_id.as_str(), &nonce(), &event).await?;
        self.wake.ring();
        if stored {
            return Ok(());
        }
        self.get(run_id).await?;
        Err(FlowError::Ended(run_id.clone()))
    }

    /// Asks a run to stop and undo what it did. Past its point of no return it
    /// refuses, which its progress and journal say.
    pub async fn abort(&self, run_id: &RunId, who: &str, reason: &str) -> Result<(), FlowError> {
        let payload = json!({ "reason": reason });
        self.signal(run_id, Signal { name: "abort".to_owned(), who: who.to_owned(), payload }).await
    }

    /// The same once per nonce, however often it is asked for; a run that has ended
    /// needs none.
    pub async fn abort_once(&self, run_id: &RunId, who: &str, reason: &str, nonce: &str) -> Result<(), FlowError> {
        let payload = json!({ "reason": reason });
        let event = Event::Signalled(Signal { name: "abort".to_owned(), who: who.to_owned(), payload }).to_json()?;
        if runs::append_signal(&self.db, run_id.as_str(), nonce, &event).await? {
            self.wake.ring();
        }
        Ok(())
    }

    pub async fn get(&self, run_id: &RunId) -> Result<RunSummary, FlowError> {
        let row = runs::get(&self.db, run_id.as_str()).await?;
        Ok(summary(row.ok_or_else(|| FlowError::NoSuchRun(run_id.clone()))?)?)
    }

    /// The newest runs, newest first.
    pub async fn list(&self, limit: usize) -> Result<Vec<RunSummary>, FlowError> {
        let rows = runs::list(&self.db, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        Ok(rows.into_iter().map(summary).collect::<Result<_, _>>()?)
    }

    /// The runs that have not ended, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<RunSummary>, FlowError> {
        let rows = runs::unfinished(&self.db).await?;
        Ok(rows.into_iter().map(summary).collect::<Result<_, _>>()?)
    }

    /// What the runs driven by this process say of themselves from now on.
    pub fn progress(&self) -> broadcast::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the run is in a final state, whoever drives it.
    pub async fn wait(&self, run_id: &RunId) -> Result<RunSummary, FlowError> {
        let mut bell = self.wake.hear(&self.db, &self.tasks);
        loop {
            bell.mark_unchanged();
            let found = self.found(run_id).await?;
            if let Some(run) = found.filter(|run| run.state.is_final()) {
                return Ok(run);
            }
            self.until_heard(&mut bell, run_id, self.ttl).await?;
        }
    }

    /// Drives the run to its end, or waits for its end when another node drives it.
    pub async fn drive(self: &Arc<Self>, run_id: &RunId) -> Result<RunSummary, FlowError> {
        let mut bell = self.wake.hear(&self.db, &self.tasks);
        loop {
            bell.mark_unchanged();
            if let Some(run) = self.found(run_id).await? {
                if run.state.is_final() {
                    return Ok(run);
                }
                let unknown = || FlowError::UnknownFlow { flow: run.flow.clone(), run_id: run_id.clone() };
                let flow = self.flow(&run.flow).ok_or_else(unknown)?;
                if let Some(lease) = transient_as_none(self.claim_alone(run_id).await)? {
                    let driving = Arc::clone(self).carry_out(flow, lease, self.tasks.stop().clone());
                    match self.tasks.spawn(driving).await {
                        Ok(Ok(()) | Err(LetGo::Fenced)) => continue,
                        Ok(Err(LetGo::Db(error))) => return Err(error.into()),
                        Ok(Err(LetGo::ShuttingDown)) | Err(_) => return Err(FlowError::Interrupted(run_id.clone())),
                    }
                }
            }
            let beat = self.next_look().await;
            self.until_heard(&mut bell, run_id, beat).await?;
        }
    }

    /// Drives whatever may be driven, at most `limit` runs at a time, until
    /// `stop`. Then asks the steps to stop, waits until they have, and gives the
    /// leases back: the runs resume here or elsewhere.
    pub async fn serve(self: &Arc<Self>, stop: CancellationToken, limit: usize) {
        let mut bell = self.wake.hear(&self.db, &self.tasks);
        let driving = Tasks::new();
        let places = Arc::new(Semaphore::new(limit));
        while !stop.is_cancelled() {
            bell.mark_unchanged();
            if let Err(error) = self.claim_and_drive(&driving, &places).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for runs; trying again");
            }
            let beat = self.next_look().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = heard(&mut bell, beat) => {}
            }
        }
        driving.shut_down().await;
    }

    async fn claim_and_drive(self: &Arc<Self>, driving: &Tasks, places: &Arc<Semaphore>) -> Result<(), DbError> {
        // Who has no place left need not look.
        let Ok(mut place) = Arc::clone(places).try_acquire_owned() else { return Ok(()) };
        for Candidate { id, flow, placement, late } in self.in_order().await? {
            if let Some(late) = late {
                self.let_pass(&id, late).await?;
            }
            let Some(lease) = self.claim(&id, &placement).await? else { continue };
            let taken = place;
            tracing::info!(run = %id, "driving a run");
            let (runner, stop) = (Arc::clone(self), driving.stop().clone());
            driving.spawn(async move {
                let wake = Arc::clone(&runner);
                if let Err(error @ LetGo::Db(_)) = runner.carry_out(flow, lease, stop).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "let go of a run; it is taken up again when its lease ends"
                    );
                }
                drop(taken);
                wake.wake.ring();
            });
            let Ok(next) = Arc::clone(places).try_acquire_owned() else { return Ok(()) };
            place = next;
        }
        Ok(())
    }

    /// Asks whatever this process drives to stop, waits until it has, and gives
    /// the leases back. The runner drives nothing afterwards.
    pub async fn shut_down(&self) {
        self.tasks.shut_down().await;
    }

    /// Drives a run whose lease we have until it is concluded or we must let go.
    async fn carry_out(
        self: Arc<Self>,
        flow: Arc<dyn Flow>,
        lease: Lease,
        shutdown: CancellationToken,
    ) -> Result<(), LetGo> {
        let lease = Arc::new(lease);
        let attendants = Tasks::new();
        let (kept, stop) = (Arc::clone(&lease), attendants.stop().clone());
        attendants.spawn(async move { stop.run_until_cancelled(kept.keep()).await });
        let driven = self.attend(flow, &lease, shutdown, &attendants).await;
        attendants.shut_down().await;
        // After a permanent error of the database the lease is left to end by
        // itself: that is the pause before the next try.
        if matches!(driven, Err(LetGo::ShuttingDown)) {
            lease.release().await;
        }
        self.wake.ring();
        driven
    }

    async fn attend(
        &self,
        flow: Arc<dyn Flow>,
        lease: &Arc<Lease>,
        shutdown: CancellationToken,
        attendants: &Tasks,
    ) -> Result<(), LetGo> {
        let run_id = lease.run_id().clone();
        let read = || self.db.within(lease.call_limit(), "read a run", runs::get(&self.db, run_id.as_str()));
        let Some(row) = through_blips(lease, &shutdown, read).await? else { return Err(LetGo::Fenced) };
        let params = serde_json::from_str(&row.params)
            .map_err(|error| DbError::Corrupt { place: "the parameters of a run", reason: error.to_string() })?;
        let journal = Arc::new(Journal::open(self.db.clone(), run_id.clone(), Arc::clone(lease), shutdown).await?);
        let (followed, mut bell, beat) = (Arc::clone(&journal), self.wake.hear(&self.db, &self.tasks), self.ttl);
        let stop = attendants.stop().clone();
        attendants.spawn(async move { stop.run_until_cancelled(followed.follow(&mut bell, beat)).await });
        let facts = RunFacts {
            run_id,
            requester: row.requester,
            created_at: instant("runs", row.created_ms)?,
            params,
            clock: self.clock.clone(),
            journal: Arc::clone(&journal),
            progress: self.progress.clone(),
        };
        let driven = Driver::new(flow, Arc::new(facts)).drive().await;
        journal.close().await;
        driven
    }

    /// The run; none while the state database does not answer.
    async fn found(&self, run_id: &RunId) -> Result<Option<RunSummary>, FlowError> {
        match self.db.within(call_limit(self.ttl), "read a run", runs::get(&self.db, run_id.as_str())).await {
            Ok(Some(row)) => Ok(Some(summary(row)?)),
            Ok(None) => Err(FlowError::NoSuchRun(run_id.clone())),
            Err(error) => Ok(transient_as_none(Err(error))?),
        }
    }

    /// When to look again although nobody rang: at the end of the next lease,
    /// at the latest after a ttl.
    async fn next_look(&self) -> Duration {
        let call = runs::next_expiry_ms(&self.db);
        match self.db.within(call_limit(self.ttl), "look for the next lease to end", call).await {
            Ok(Some(ms)) => Duration::from_millis(u64::try_from(ms).unwrap_or(0) + 10).min(self.ttl),
            Ok(None) => self.ttl,
            Err(_) => Duration::from_secs(1).min(self.ttl),
        }
    }

    async fn until_heard(
        &self,
        bell: &mut tokio::sync::watch::Receiver<()>,
        run_id: &RunId,
        beat: Duration,
    ) -> Result<(), FlowError> {
        let stop = self.tasks.stop();
        stop.run_until_cancelled(heard(bell, beat)).await.ok_or_else(|| FlowError::Interrupted(run_id.clone()))
    }
}

fn row(run: NewRun) -> NewRow {
    NewRow {
        flow: run.id.flow().to_owned(),
        id: run.id.to_string(),
        subject: run.subject,
        params: run.params.to_string(),
        requester: run.requester,
        state: state_name(RunState::Pending),
        placement: run.placement,
        begin_by_ms: run.begin_by.map(jiff::Timestamp::as_millisecond),
    }
}

fn transient_as_none<T>(result: Result<Option<T>, DbError>) -> Result<Option<T>, DbError> {
    match result {
        Err(error) if !error.is_permanent() => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the state database does not answer; trying again"
            );
            Ok(None)
        }
        other => other,
    }
}

fn summary(row: RunRow) -> Result<RunSummary, DbError> {
    let corrupt = |error: serde_json::Error| DbError::Corrupt { place: "runs", reason: error.to_string() };
    Ok(RunSummary {
        run_id: RunId::from(row.id),
        flow: row.flow,
        subject: row.subject,
        state: serde_json::from_value(row.state.into()).map_err(corrupt)?,
        step: row.step,
        error: row.error,
        requester: row.requester,
        created_at: instant("runs", row.created_ms)?,
        finished_at: row.finished_ms.map(|ms| instant("runs", ms)).transpose()?,
        conclusion: row.conclusion.map(|text| serde_json::from_str(&text)).transpose().map_err(corrupt)?,
    })
}
