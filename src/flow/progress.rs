//! Pure: what a journal asks for next. No clock, no I/O; the same journal always
//! has the same answer, which is why a run resumes where it was.

use super::{
    Conclusion, Ending, Policy, Reversal, RunState, Signal,
    event::{Entry, Event},
};
use crate::db::{DbError, runs::Cached};
use serde_json::Value;

/// What a decision needs to know of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    pub policy: Policy,
}

/// What a run needs next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A decision is due: it must be in the journal before anything follows from it.
    Record(Event),
    /// Run this step, which has failed so often already.
    Run {
        index: usize,
        failures: u32,
    },
    /// Undo this step with the plan recorded for it.
    Undo {
        index: usize,
        plan: Value,
        failures: u32,
    },
    /// Nothing until somebody signals `resume`.
    AwaitResume,
    Conclude(Ending),
    Nothing,
}

/// What the journal says of one step.
#[derive(Debug, Default)]
struct StepHistory<'a> {
    started: bool,
    undo_plan: Option<&'a Value>,
    succeeded: bool,
    /// Since it began or was resumed.
    failures: u32,
    error: Option<(&'a str, bool)>,
    undone: bool,
    undo_failures: u32,
    undo_error: Option<(&'a str, bool)>,
}

/// What the journal says of the whole run.
struct History<'a> {
    steps: Vec<StepHistory<'a>>,
    /// A step that this version of the flow does not have.
    stranger: Option<&'a str>,
    held: bool,
    cause: Option<&'a Ending>,
    ending: Option<&'a Ending>,
    concluded: bool,
}

impl<'a> History<'a> {
    fn read(outline: &[Outline], entries: &'a [Entry]) -> Self {
        let mut history = Self {
            steps: outline.iter().map(|_| StepHistory::default()).collect(),
            stranger: None,
            held: false,
            cause: None,
            ending: None,
            concluded: false,
        };
        for entry in entries {
            history.fold(outline, &entry.event);
        }
        history
    }

    fn fold(&mut self, outline: &[Outline], event: &'a Event) {
        match event {
            Event::StepStarted { step, undo_plan } => {
                self.at(outline, step, |it| (it.started, it.undo_plan) = (true, undo_plan.as_ref()));
            }
            Event::StepSucceeded { step, .. } => self.at(outline, step, |it| it.succeeded = true),
            Event::StepFailed { step, error, permanent } => self.at(outline, step, |it| {
                it.failures += 1;
                it.error = Some((error, *permanent));
            }),
            Event::UndoSucceeded { step } => self.at(outline, step, |it| it.undone = true),
            Event::UndoFailed { step, error, permanent } => self.at(outline, step, |it| {
                it.undo_failures += 1;
                it.undo_error = Some((error, *permanent));
            }),
            Event::Held { .. } => self.held = true,
            Event::Resumed { .. } => {
                self.held = false;
                for step in &mut self.steps {
                    (step.failures, step.error) = (0, None);
                }
            }
            Event::UnwindBegan { cause } => self.cause = Some(cause),
            Event::Ended { ending } => self.ending = Some(ending),
            Event::Concluded { .. } => self.concluded = true,
            Event::Signalled(_)
            | Event::Taken { .. }
            | Event::WaitBegan { .. }
            | Event::WaitEnded { .. }
            | Event::AbortRefused { .. } => {}
        }
    }

    fn at(&mut self, outline: &[Outline], name: &'a str, change: impl FnOnce(&mut StepHistory<'a>)) {
        match outline.iter().zip(&mut self.steps).find(|(step, _)| step.name == name) {
            Some((_, history)) => change(history),
            None => self.stranger = Some(name),
        }
    }

    fn is_past_no_return(&self, outline: &[Outline]) -> bool {
        outline
            .iter()
            .zip(&self.steps)
            .any(|(step, history)| history.started && step.policy.reversal == Reversal::PointOfNoReturn)
    }

    /// Undoes backwards. An undo that fails for good ends it: the undos before
    /// it were written for a world in which it had succeeded.
    fn unwind(&self, outline: &[Outline], cause: &Ending) -> Action {
        for (index, (step, history)) in outline.iter().zip(&self.steps).enumerate().rev() {
            let Some(plan) = history.undo_plan.filter(|_| !history.undone) else { continue };
            return match history.undo_error {
                Some((error, permanent)) if permanent || history.undo_failures >= step.policy.attempts.max(1) => {
                    let (step, error) = (step.name.clone(), error.to_owned());
                    Action::Record(Event::Ended { ending: Ending::Stuck { step, error } })
                }
                _ => Action::Undo { index, plan: plan.clone(), failures: history.undo_failures },
            };
        }
        Action::Record(Event::Ended { ending: cause.clone() })
    }

    fn advance(&self, outline: &[Outline], entries: &[Entry]) -> Action {
        let next = outline.iter().zip(&self.steps).enumerate().find(|(_, (_, history))| !history.succeeded);
        let Some((index, (step, history))) = next else {
            return Action::Record(Event::Ended { ending: Ending::Done });
        };
        if self.held {
            return unread(entries, "resume").map_or(Action::AwaitResume, |(signal, resume)| {
                Action::Record(Event::Resumed { signal, who: resume.who.clone() })
            });
        }
        match history.error {
            Some((error, permanent)) if permanent || history.failures >= step.policy.attempts.max(1) => {
                let (step, error) = (step.name.clone(), error.to_owned());
                Action::Record(if self.is_past_no_return(outline) {
                    Event::Held { step, error }
                } else {
                    Event::UnwindBegan { cause: Ending::Unwound { step, error } }
                })
            }
            _ => Action::Run { index, failures: history.failures },
        }
    }
}

/// What a run with these steps and this journal needs next.
pub fn next(outline: &[Outline], entries: &[Entry]) -> Action {
    let history = History::read(outline, entries);
    if history.concluded {
        return Action::Nothing;
    }
    if let Some(ending) = history.ending {
        return Action::Conclude(ending.clone());
    }
    if let Some(step) = history.stranger {
        let error = "this version of the flow has no such step; finish the run with the version that began it";
        let ending = Ending::Stuck { step: step.to_owned(), error: error.to_owned() };
        return Action::Record(Event::Ended { ending });
    }
    if let Some(cause) = history.cause {
        return history.unwind(outline, cause);
    }
    if let Some(decision) = abort_decision(outline, entries) {
        return Action::Record(decision);
    }
    history.advance(outline, entries)
}

/// How a run ends whose flow can make no steps of its parameters, or none any
/// more: what they name is gone. Nothing can be undone then, so what the run made
/// and has not undone is named by the plans recorded for it. None when the run
/// is over anyway.
pub fn end_without_steps(entries: &[Entry], error: &str) -> Option<Event> {
    let mut begun: Option<&str> = None;
    let mut left: Vec<(&str, &Value)> = Vec::new();
    for entry in entries {
        match &entry.event {
            Event::StepStarted { step, undo_plan } => {
                begun = Some(step);
                left.extend(undo_plan.as_ref().map(|plan| (step.as_str(), plan)));
            }
            Event::UndoSucceeded { step } => left.retain(|(of, _)| of != step),
            Event::Ended { .. } => return None,
            _ => {}
        }
    }
    let ending = match left.last() {
        Some((step, _)) => {
            let plans: Vec<String> = left.iter().map(|(step, plan)| format!("`{step}` made {plan}")).collect();
            let error = format!("{error}; what may be left: {}", plans.join(", "));
            Ending::Stuck { step: (*step).to_owned(), error }
        }
        None => Ending::Unwound { step: begun.unwrap_or("steps").to_owned(), error: error.to_owned() },
    };
    Some(Event::Ended { ending })
}

/// What is to be recorded about an abort that nobody has decided on yet. None
/// when there is none, or when the run goes down or is over anyway.
pub fn abort_decision(outline: &[Outline], entries: &[Entry]) -> Option<Event> {
    let (signal, abort) = unread(entries, "abort")?;
    let history = History::read(outline, entries);
    if history.cause.is_some() || history.ending.is_some() {
        return None;
    }
    Some(if history.is_past_no_return(outline) {
        let reason = format!("{} came too late: the run is past its point of no return and goes forward", abort.who);
        Event::AbortRefused { signal, reason }
    } else {
        let reason = abort.payload.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        Event::UnwindBegan { cause: Ending::Aborted { who: abort.who.clone(), reason } }
    })
}

/// The first signal of this name that no event has taken note of.
pub fn unread<'a>(entries: &'a [Entry], name: &str) -> Option<(i64, &'a Signal)> {
    let is_read = |seq: i64| {
        entries.iter().any(|entry| match &entry.event {
            Event::Resumed { signal, .. } | Event::AbortRefused { signal, .. } => *signal == seq,
            Event::WaitEnded { signal, .. } => *signal == Some(seq),
            _ => false,
        })
    };
    entries.iter().find_map(|entry| match &entry.event {
        Event::Signalled(signal) if signal.name == name && !is_read(entry.seq) => Some((entry.seq, signal)),
        _ => None,
    })
}

/// The row that listings show once `event` follows these entries.
pub(super) fn cached(entries: &[Entry], event: &Event) -> Result<Cached, DbError> {
    let mut shown = Shown { state: RunState::Pending, step: None, error: None, ending: None };
    for event in entries.iter().map(|entry| &entry.event).chain([event]) {
        shown.fold(event);
    }
    let conclusion = match event {
        Event::Concluded { conclusion } => Some(conclusion_json(conclusion)?),
        _ => None,
    };
    Ok(Cached { state: state_name(shown.state), step: shown.step, error: shown.error, conclusion })
}

struct Shown {
    state: RunState,
    step: Option<String>,
    error: Option<String>,
    ending: Option<RunState>,
}

impl Shown {
    fn fold(&mut self, event: &Event) {
        match event {
            Event::Taken { .. } if self.state == RunState::Pending => self.state = RunState::Running,
            Event::StepStarted { step, .. } => {
                (self.state, self.step, self.error) = (RunState::Running, Some(step.clone()), None);
            }
            Event::StepFailed { step, error, .. } | Event::UndoFailed { step, error, .. } => {
                (self.step, self.error) = (Some(step.clone()), Some(error.clone()));
                if self.state == RunState::Waiting {
                    self.state = RunState::Running;
                }
            }
            Event::StepSucceeded { .. } => (self.state, self.error) = (RunState::Running, None),
            Event::WaitBegan { .. } => self.state = RunState::Waiting,
            Event::WaitEnded { .. } | Event::Resumed { .. } => self.state = RunState::Running,
            Event::Held { .. } => self.state = RunState::Holding,
            Event::UnwindBegan { cause } => {
                self.state = RunState::Unwinding;
                if let Ending::Aborted { who, reason } = cause {
                    self.error = Some(format!("aborted by {who}: {reason}"));
                }
            }
            Event::Ended { ending } => {
                if let Ending::Unwound { step, error } | Ending::Stuck { step, error } = ending {
                    (self.step, self.error) = (Some(step.clone()), Some(error.clone()));
                }
                self.ending = Some(match ending {
                    Ending::Done => RunState::Done,
                    Ending::Unwound { .. } | Ending::Aborted { .. } => RunState::Unwound,
                    Ending::Stuck { .. } => RunState::Stuck,
                });
            }
            // Only a concluded run is in a final state.
            Event::Concluded { .. } => self.state = self.ending.unwrap_or(self.state),
            Event::Signalled(_) | Event::Taken { .. } | Event::UndoSucceeded { .. } | Event::AbortRefused { .. } => {}
        }
    }
}

fn conclusion_json(conclusion: &Conclusion) -> Result<String, DbError> {
    serde_json::to_string(conclusion)
        .map_err(|error| DbError::Corrupt { place: "a conclusion", reason: error.to_string() })
}

/// As stored.
pub(super) const fn state_name(state: RunState) -> &'static str {
    match state {
        RunState::Pending => "pending",
        RunState::Running => "running",
        RunState::Waiting => "waiting",
        RunState::Holding => "holding",
        RunState::Unwinding => "unwinding",
        RunState::Done => "done",
        RunState::Unwound => "unwound",
        RunState::Stuck => "stuck",
    }
}

#[cfg(test)]
mod tests;
