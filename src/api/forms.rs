//! The pages on which a person does something: plain forms, no script. Each one
//! bears a token of this process, which no other page can know, and asks for a
//! name and a confirmation.

use axum::{
    Form,
    extract::{Path, State, rejection::FormRejection},
    http::StatusCode,
    response::{Html, Redirect},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Acting, Problem, Shared, control::Word};
use crate::{
    domain::{Attribution, RunId},
    report::forms,
};

impl From<FormRejection> for Problem {
    fn from(rejection: FormRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// What every form sends.
#[derive(Debug, Deserialize)]
pub(super) struct Sent<T> {
    token: String,
    who: String,
    #[serde(default)]
    reason: String,
    confirm: Option<String>,
    /// Which button was pressed.
    press: T,
}

impl<T> Sent<T> {
    /// The form is one of ours, and its box is ticked.
    fn check(&self, token: &str) -> Result<(), Problem> {
        // Digests, so that how long it takes tells nothing of the token.
        if Sha256::digest(&self.token) != Sha256::digest(token) {
            let detail = "this form is not from the daemon that runs now; load its page again";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        if self.confirm.as_deref() != Some("yes") {
            return Err(Problem::bad_request("nothing was done: go back and tick the box that confirms it"));
        }
        Ok(())
    }
}

pub(super) async fn run(
    State(source): State<Shared>,
    State(acting): State<Acting>,
    Path(id): Path<String>,
) -> Result<Html<String>, Problem> {
    let id = RunId::from(id);
    let run = source.run(&id).await?.ok_or_else(|| Problem::not_found(format!("there is no run `{id}`")))?;
    Ok(Html(forms::run(&run, &acting.token)?))
}

pub(super) async fn signal(
    State(acting): State<Acting>,
    Path(id): Path<String>,
    form: Result<Form<Sent<Word>>, FormRejection>,
) -> Result<Redirect, Problem> {
    let Form(sent) = form?;
    sent.check(&acting.token)?;
    let by = Attribution::new(&sent.who, &sent.reason)?;
    acting.control.signal(&RunId::from(id), sent.press, &by).await?;
    Ok(Redirect::to("/"))
}

pub(super) async fn lever(State(acting): State<Acting>) -> Result<Html<String>, Problem> {
    Ok(Html(forms::lever(&acting.control.lever().await?, &acting.token)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Position {
    On,
    Off,
}

pub(super) async fn turn_lever(
    State(acting): State<Acting>,
    form: Result<Form<Sent<Position>>, FormRejection>,
) -> Result<Redirect, Problem> {
    let Form(sent) = form?;
    sent.check(&acting.token)?;
    let by = Attribution::with_reason(&sent.who, &sent.reason)?;
    acting.control.turn_lever(sent.press == Position::On, &by).await?;
    Ok(Redirect::to("/"))
}
