//! The pages with forms: one run, and the safety lever. Unlike the status page
//! they do not reload themselves, which would empty what a person writes.

use askama::Template;

use super::{html::kind_in_words, page::badge, words};
use crate::{
    domain::Lever,
    flow::{RunState, RunSummary},
};

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage<'a> {
    run: &'a RunSummary,
    token: &'a str,
}

#[derive(Template)]
#[template(path = "lever.html")]
struct LeverPage<'a> {
    lever: &'a Lever,
    token: &'a str,
}

/// One run, and what can be said to it as it stands.
pub fn run(run: &RunSummary, token: &str) -> Result<String, askama::Error> {
    RunPage { run, token }.render()
}

/// The lever, and the one way in which it can be turned.
pub fn lever(lever: &Lever, token: &str) -> Result<String, askama::Error> {
    LeverPage { lever, token }.render()
}

/// Whether the run may still be approved or aborted.
fn is_open(run: &RunSummary) -> bool {
    matches!(run.state, RunState::Pending | RunState::Running | RunState::Waiting)
}
