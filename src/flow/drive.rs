//! Carries one run out: asks `progress` what is next, does it, journals it,
//! until the run is concluded or this node must let go of it.
//!
//! A step that was asked to stop is awaited, never dropped: an undo must not
//! begin while its step still acts.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use serde_json::Value;

use super::{
    Ending, Flow, Step, StepContext, StepError,
    context::RunFacts,
    event::Event,
    journal::{Journal, LetGo},
    progress::{self, Action, Outline},
};
use crate::telemetry;

/// A step that ignores the request to stop is complained about this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const CONCLUSION_BACKOFF: Duration = Duration::from_millis(200);

/// Drives one run that this node has the lease of.
pub(super) struct Driver {
    flow: Arc<dyn Flow>,
    run: Arc<RunFacts>,
    steps: Vec<Box<dyn Step>>,
    outline: Vec<Outline>,
    /// The step that was tried last in this process, and how often in a row.
    tried: Option<(usize, u32)>,
}

/// Why a call was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Aborted,
    Overdue,
    ShuttingDown,
    Fenced,
}

/// How a call is supervised.
#[derive(Debug, Clone, Copy)]
struct Terms {
    limit: Option<Duration>,
    /// Whether an abort stops it.
    abortable: bool,
}

impl Driver {
    pub(super) fn new(flow: Arc<dyn Flow>, run: Arc<RunFacts>) -> Self {
        Self { flow, run, steps: Vec::new(), outline: Vec::new(), tried: None }
    }

    fn journal(&self) -> &Arc<Journal> {
        &self.run.journal
    }

    /// Returns when the run is concluded.
    pub(super) async fn drive(mut self) -> Result<(), LetGo> {
        match self.flow.steps(&self.run.params) {
            Ok(steps) => {
                self.outline =
                    steps.iter().map(|step| Outline { name: step.name().to_owned(), policy: step.policy() }).collect();
                self.steps = steps;
            }
            Err(error) => self.end_without_steps(&error).await?,
        }
        loop {
            let action = progress::next(&self.outline, &self.journal().entries());
            match action {
                Action::Record(event) => self.record(event).await?,
                Action::Run { index, failures } => self.step(index, failures).await?,
                Action::Undo { index, plan, failures } => self.undo(index, plan, failures).await?,
                Action::AwaitResume => self.await_news().await?,
                Action::Conclude(ending) => self.conclude(&ending).await?,
                Action::Nothing => return Ok(()),
            }
        }
    }

    /// Where no steps can be made any more, the run ends, with what it made named.
    async fn end_without_steps(&self, error: &StepError) -> Result<(), LetGo> {
        let ended = progress::end_without_steps(&self.journal().entries(), &error.to_string());
        match ended {
            Some(event) => self.record(event).await,
            None => Ok(()),
        }
    }

    async fn record(&self, event: Event) -> Result<(), LetGo> {
        match &event {
            Event::AbortRefused { reason, .. } => self.tell("abort", reason),
            Event::Held { step, error } => {
                tracing::error!(run_id = %self.run.run_id, step, error, "the run holds: mend the cause, then `resume` it");
                self.tell(step, error);
            }
            Event::Ended { ending: Ending::Stuck { step, error } } => {
                tracing::error!(run_id = %self.run.run_id, step, error, "the run is stuck: a person must clean up");
            }
            _ => {}
        }
        self.journal().append(event).await
    }

    fn tell(&self, step: &str, message: &str) {
        self.context(step.to_owned(), None, 0).progress(message, None, None);
    }

    fn context(&self, name: String, undo_plan: Option<Value>, attempt: u32) -> StepContext {
        StepContext::new(Arc::clone(&self.run), name, undo_plan, attempt)
    }

    /// The first time: asks for the undo plan and journals that the step begins.
    /// After that: runs it.
    async fn step(&mut self, index: usize, failures: u32) -> Result<(), LetGo> {
        let (Some(step), Some(outline)) = (self.steps.get(index), self.outline.get(index)) else { return Ok(()) };
        if self.pause(outline.policy.backoff, failures).await? {
            return Ok(());
        }
        let terms = Terms { limit: Some(outline.policy.limit), abortable: true };
        let started = self.journal().entries().iter().find_map(|entry| match &entry.event {
            Event::StepStarted { step, undo_plan } if *step == outline.name => Some(undo_plan.clone()),
            _ => None,
        });
        let name = outline.name.clone();
        let attempted = if let Some(plan) = started {
            let attempt = self.tried.filter(|(tried, _)| *tried == index).map_or(1, |(_, times)| times + 1);
            self.tried = Some((index, attempt));
            let cx = self.context(name.clone(), plan, attempt);
            self.supervise(&cx, terms, step.run(&cx)).await?.map(|output| Event::StepSucceeded { step: name, output })
        } else {
            let cx = self.context(name.clone(), None, 1);
            self.supervise(&cx, terms, step.undo_plan(&cx))
                .await?
                .map(|undo_plan| Event::StepStarted { step: name, undo_plan })
        };
        match attempted {
            Ok(event @ Event::StepStarted { .. }) => self.begin(event).await,
            Ok(event) => self.journal().append(event).await,
            // The decision on the abort is what comes next.
            Err(StepError::Stopped) => Ok(()),
            Err(error) => {
                let permanent = matches!(error, StepError::Permanent(..));
                tracing::warn!(run_id = %self.run.run_id, step = outline.name, permanent,
                    error = &error as &dyn std::error::Error, "a step failed");
                let failed = Event::StepFailed { step: outline.name.clone(), error: error.to_string(), permanent };
                self.journal().append(failed).await
            }
        }
    }

    /// Journals that a step begins, unless an abort has come before it.
    async fn begin(&self, started: Event) -> Result<(), LetGo> {
        if let Err(error) = self.journal().read_signals().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "cannot look for signals");
        }
        let aborted = progress::abort_decision(&self.outline, &self.journal().entries()).is_some();
        if aborted { Ok(()) } else { self.journal().append(started).await }
    }

    async fn undo(&self, index: usize, plan: Value, failures: u32) -> Result<(), LetGo> {
        let (Some(step), Some(outline)) = (self.steps.get(index), self.outline.get(index)) else { return Ok(()) };
        self.pause(outline.policy.backoff, failures).await?;
        let cx = self.context(format!("undo of {}", outline.name), Some(plan.clone()), failures + 1);
        let terms = Terms { limit: Some(outline.policy.limit), abortable: false };
        let name = outline.name.clone();
        let event = match self.supervise(&cx, terms, step.undo(&cx, &plan)).await? {
            Ok(()) => Event::UndoSucceeded { step: name },
            Err(error) => {
                let permanent = matches!(error, StepError::Permanent(..));
                tracing::warn!(run_id = %self.run.run_id, step = name, permanent,
                    error = &error as &dyn std::error::Error, "an undo failed");
                Event::UndoFailed { step: name, error: error.to_string(), permanent }
            }
        };
        self.journal().append(event).await
    }

    async fn conclude(&self, ending: &Ending) -> Result<(), LetGo> {
        for attempt in 1.. {
            let cx = self.context("conclusion".to_owned(), None, attempt);
            let terms = Terms { limit: None, abortable: false };
            match self.supervise(&cx, terms, self.flow.conclude(&cx, ending)).await? {
                Ok(conclusion) => {
                    let verdict = conclusion.verdict.to_string();
                    self.journal().append(Event::Concluded { conclusion }).await?;
                    tracing::info!(run = %cx.run_id(), verdict, "a run ended");
                    metrics::counter!(telemetry::RUNS_TOTAL, "flow" => self.flow.name(), "verdict" => verdict)
                        .increment(1);
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(run_id = %self.run.run_id, attempt,
                        error = &error as &dyn std::error::Error, "cannot conclude the run; trying again");
                    cx.progress(error.to_string(), None, None);
                    self.pause(CONCLUSION_BACKOFF, attempt).await?;
                }
            }
        }
        Ok(())
    }

    /// Polls `work` until it returns, however often it is asked to stop.
    /// `Stopped` means: stopped for an abort.
    async fn supervise<T>(
        &self,
        cx: &StepContext,
        terms: Terms,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<Result<T, StepError>, LetGo> {
        if let Some(limit) = terms.limit {
            cx.allow(limit);
        }
        let mut work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
        let mut why = None;
        let returned = tokio::select! {
            biased;
            returned = &mut work => Some(returned),
            reason = self.reason_to_stop(cx, terms) => {
                why = Some(reason);
                None
            }
        };
        let returned = if let Some(returned) = returned {
            returned
        } else {
            cx.stop().cancel();
            loop {
                tokio::select! {
                    returned = &mut work => break returned,
                    () = tokio::time::sleep(COMPLAINT_EVERY) => tracing::warn!(run_id = %self.run.run_id, ?why,
                        "a step was asked to stop and has not yet; nothing is undone before it has"),
                }
            }
        };
        if self.journal().lease.is_lost() {
            return Err(LetGo::Fenced);
        }
        let result = returned.unwrap_or_else(|panic| Err(StepError::permanent(panic_message(panic.as_ref()))));
        match (why, result) {
            (Some(Why::Overdue), _) => Ok(Err(StepError::transient(format!(
                "took longer than its limit of {:?}",
                terms.limit.unwrap_or_default()
            )))),
            (_, Ok(value)) => Ok(Ok(value)),
            (Some(Why::ShuttingDown | Why::Fenced), Err(_)) => Err(LetGo::ShuttingDown),
            (Some(Why::Aborted), Err(_)) => Ok(Err(StepError::Stopped)),
            (None, Err(StepError::Stopped)) => Ok(Err(StepError::transient("stopped without being asked to"))),
            (None, Err(error)) => Ok(Err(error)),
        }
    }

    async fn reason_to_stop(&self, cx: &StepContext, terms: Terms) -> Why {
        tokio::select! {
            () = self.journal().lease.lost() => Why::Fenced,
            () = self.journal().shutdown.cancelled() => Why::ShuttingDown,
            () = cx.overdue() => Why::Overdue,
            () = self.aborted(), if terms.abortable => Why::Aborted,
        }
    }

    /// Returns when an abort has arrived that is not too late. One that is too
    /// late is told at once; it is journaled when the step has ended.
    async fn aborted(&self) {
        let mut changes = self.journal().subscribe();
        let mut told = None;
        loop {
            let decision = progress::abort_decision(&self.outline, &changes.borrow_and_update());
            match decision {
                Some(Event::AbortRefused { signal, reason }) if told != Some(signal) => {
                    self.tell("abort", &reason);
                    told = Some(signal);
                }
                Some(Event::UnwindBegan { .. }) => return,
                _ => {}
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits before the next try; true when an abort cut it short.
    async fn pause(&self, backoff: Duration, failures: u32) -> Result<bool, LetGo> {
        if failures == 0 {
            return Ok(false);
        }
        let doubled = backoff.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(doubled.mul_f64(rand::random_range(0.75..=1.25))) => Ok(false),
            () = self.aborted() => Ok(true),
            () = self.journal().lease.lost() => Err(LetGo::Fenced),
            () = self.journal().shutdown.cancelled() => Err(LetGo::ShuttingDown),
        }
    }

    /// Waits until the journal has another entry.
    async fn await_news(&self) -> Result<(), LetGo> {
        let mut changes = self.journal().subscribe();
        let held = progress::next(&self.outline, &changes.borrow_and_update()) == Action::AwaitResume;
        if !held {
            return Ok(());
        }
        tokio::select! {
            _ = changes.changed() => Ok(()),
            () = self.journal().lease.lost() => Err(LetGo::Fenced),
            () = self.journal().shutdown.cancelled() => Err(LetGo::ShuttingDown),
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", message.unwrap_or("without a message"))
}
