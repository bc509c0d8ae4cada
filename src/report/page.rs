//! The status page: one look tells whether the estate is recoverable, to which
//! second, how long it would take, and when that was last proven. No script; it
//! reloads itself.

use askama::Template;

use super::{EstateStatus, draw, html::kind_in_words, words};
use crate::{
    domain::Verdict,
    flow::{RunState, RunSummary},
};

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage<'a> {
    status: &'a EstateStatus,
}

/// Renders the status page; it needs `/style.css` beside it.
pub fn page(status: &EstateStatus) -> Result<String, askama::Error> {
    StatusPage { status }.render()
}

/// The badge of a run: its verdict when judged, else where it is.
pub(super) fn badge(run: &RunSummary) -> (&'static str, String) {
    match (&run.conclusion, run.state) {
        (Some(conclusion), _) => (conclusion.verdict.as_str(), conclusion.verdict.to_string()),
        (None, RunState::Pending) => ("RUNNING", "pending".to_owned()),
        (None, RunState::Running) => ("RUNNING", "running".to_owned()),
        (None, RunState::Waiting) => ("RUNNING", "waiting".to_owned()),
        (None, RunState::Unwinding) => ("INCONCLUSIVE", "unwinding".to_owned()),
        (None, RunState::Done | RunState::Unwound) => ("INCONCLUSIVE", "ended".to_owned()),
        (None, RunState::Holding) => ("FAIL", "holding: needs a person".to_owned()),
        (None, RunState::Stuck) => ("FAIL", "stuck: needs a person".to_owned()),
    }
}

/// The state of the estate in one or two words.
fn verdict_in_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "Recoverable",
        Verdict::Inconclusive => "Not proven",
        Verdict::Aborted | Verdict::Error | Verdict::Fail => "In danger",
    }
}
