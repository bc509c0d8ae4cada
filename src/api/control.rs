//! What can be done by the API: send a signal to a run, turn the safety lever.
//! Who does it is what the caller says: whoever reaches this address may.

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};

use super::{Acting, Problem};
use crate::domain::{Attribution, AttributionError, Lever, RunId};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no run `{0}`")]
    NoSuchRun(RunId),
    #[error("run `{0}` has ended; nothing can be sent to it")]
    Ended(RunId),
    #[error("cannot {action} now; try again, and see the daemon's log when it lasts")]
    Failed {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What the API does; the composition root implements it. What a method answers
/// has been stored.
#[async_trait]
pub trait Control: Send + Sync {
    async fn signal(&self, run: &RunId, word: Word, by: &Attribution) -> Result<(), ControlError>;

    async fn lever(&self) -> Result<Lever, ControlError>;

    /// Turning it to where it stands changes nothing.
    async fn turn_lever(&self, to_on: bool, by: &Attribution) -> Result<Lever, ControlError>;
}

/// What can be said to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Approve,
    Abort,
    Resume,
}

impl Word {
    /// The signal's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Abort => "abort",
            Self::Resume => "resume",
        }
    }
}

impl From<ControlError> for Problem {
    /// The cause is logged and not shown: it may name hosts and paths.
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NoSuchRun(_) => StatusCode::NOT_FOUND,
            ControlError::Ended(_) => StatusCode::CONFLICT,
            ControlError::Failed { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request could not be carried out");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<AttributionError> for Problem {
    fn from(error: AttributionError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    who: String,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Sent {
    run_id: RunId,
    sent: Word,
}

/// `POST /api/v1/runs/RUN/approve`, `/abort`, `/resume`; a run's id holds slashes.
pub(super) async fn signal(
    State(acting): State<Acting>,
    Path(path): Path<String>,
    body: Result<Json<Said>, JsonRejection>,
) -> Result<(StatusCode, Json<Sent>), Problem> {
    let (run, word) = path.rsplit_once('/').unwrap_or((&path, ""));
    let word = match word {
        "approve" => Word::Approve,
        "abort" => Word::Abort,
        "resume" => Word::Resume,
        _ => return Err(Problem::not_found(format!("a run takes `approve`, `abort` and `resume`, not `{word}`"))),
    };
    let Json(Said { who, reason }) = body?;
    let run_id = RunId::from(run.to_owned());
    acting.control.signal(&run_id, word, &Attribution::new(&who, &reason)?).await?;
    Ok((StatusCode::ACCEPTED, Json(Sent { run_id, sent: word })))
}

pub(super) async fn lever(State(acting): State<Acting>) -> Result<Json<Lever>, Problem> {
    Ok(Json(acting.control.lever().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
    on: bool,
    who: String,
    reason: String,
}

pub(super) async fn turn_lever(
    State(acting): State<Acting>,
    body: Result<Json<Turn>, JsonRejection>,
) -> Result<Json<Lever>, Problem> {
    let Json(Turn { on, who, reason }) = body?;
    Ok(Json(acting.control.turn_lever(on, &Attribution::with_reason(&who, &reason)?).await?))
}
