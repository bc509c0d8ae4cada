//! What stands in a journal. The page `docs/journal.md` specifies each event;
//! recorded ones are read for ever.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Conclusion, Ending, Signal};
use crate::db::{DbError, runs::EntryRow};

/// What can be in a journal. Numbers named `signal` are those of the entry that
/// brought it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The only event that anybody may append, at any time.
    Signalled(Signal),
    /// A node took the lease; what follows is its work.
    Taken {
        node: String,
    },
    /// A step is about to act for the first time, with what must be undone from now on.
    StepStarted {
        step: String,
        undo_plan: Option<Value>,
    },
    StepSucceeded {
        step: String,
        output: Value,
    },
    StepFailed {
        step: String,
        error: String,
        permanent: bool,
    },
    /// The `ordinal`th wait of this step for signals of this name found none yet.
    WaitBegan {
        step: String,
        name: String,
        ordinal: usize,
    },
    /// It got this signal, or none within its limit.
    WaitEnded {
        step: String,
        name: String,
        ordinal: usize,
        signal: Option<i64>,
    },
    /// Past a point of no return a step fails: a person must help it forward.
    Held {
        step: String,
        error: String,
    },
    Resumed {
        signal: i64,
        who: String,
    },
    AbortRefused {
        signal: i64,
        reason: String,
    },
    /// From now on the steps are undone; `cause` is how the run ends when all are.
    UnwindBegan {
        cause: Ending,
    },
    UndoSucceeded {
        step: String,
    },
    UndoFailed {
        step: String,
        error: String,
        permanent: bool,
    },
    /// How the steps ended is settled; only the conclusion is missing.
    Ended {
        ending: Ending,
    },
    Concluded {
        conclusion: Conclusion,
    },
}

impl Event {
    /// The name of the event, as in its JSON form and in its fault points.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Signalled(_) => "signalled",
            Self::Taken { .. } => "taken",
            Self::StepStarted { .. } => "step_started",
            Self::StepSucceeded { .. } => "step_succeeded",
            Self::StepFailed { .. } => "step_failed",
            Self::WaitBegan { .. } => "wait_began",
            Self::WaitEnded { .. } => "wait_ended",
            Self::Held { .. } => "held",
            Self::Resumed { .. } => "resumed",
            Self::AbortRefused { .. } => "abort_refused",
            Self::UnwindBegan { .. } => "unwind_began",
            Self::UndoSucceeded { .. } => "undo_succeeded",
            Self::UndoFailed { .. } => "undo_failed",
            Self::Ended { .. } => "ended",
            Self::Concluded { .. } => "concluded",
        }
    }

    pub(super) fn to_json(&self) -> Result<String, DbError> {
        serde_json::to_string(self)
            .map_err(|error| DbError::Corrupt { place: "an event to be journaled", reason: error.to_string() })
    }
}

/// An event with its place and time, in milliseconds by the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub seq: i64,
    pub at_ms: i64,
    pub event: Event,
}

/// How often the run was taken up anew, after a stop or by another node, between the
/// begin of one step and the success of another: nobody worked on it for that time.
pub(super) fn taken_anew(entries: &[Entry], from: &str, until: &str) -> usize {
    let begun =
        entries.iter().skip_while(|entry| !matches!(&entry.event, Event::StepStarted { step, .. } if step == from));
    let between = begun.take_while(|entry| !matches!(&entry.event, Event::StepSucceeded { step, .. } if step == until));
    between.filter(|entry| matches!(entry.event, Event::Taken { .. })).count()
}

impl TryFrom<EntryRow> for Entry {
    type Error = DbError;

    fn try_from(row: EntryRow) -> Result<Self, DbError> {
        let event = serde_json::from_str(&row.event)
            .map_err(|error| DbError::Corrupt { place: "journal", reason: format!("entry {}: {error}", row.seq) })?;
        Ok(Self { seq: row.seq, at_ms: row.at_ms, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_taken_anew_only_within_its_steps() {
        let of = |letter| match letter {
            't' => Event::Taken { node: "n".to_owned() },
            'F' | 'P' => Event::StepStarted { step: letter.to_string(), undo_plan: None },
            'x' => Event::StepFailed { step: "F".to_owned(), error: "no".to_owned(), permanent: false },
            done => Event::StepSucceeded { step: done.to_uppercase().to_string(), output: Value::Null },
        };
        for (journal, times) in [
            ("tFfPp", 0),
            ("ttFfPp", 0),
            ("tFxfPpt", 0),
            ("tFtfPp", 1),
            ("tFftPtpt", 2),
            ("tFft", 1),
            ("t", 0),
            ("", 0),
        ] {
            let entries: Vec<Entry> =
                (1..).zip(journal.chars()).map(|(seq, letter)| Entry { seq, at_ms: seq, event: of(letter) }).collect();
            assert_eq!(taken_anew(&entries, "F", "P"), times, "{journal}");
        }
    }
}
