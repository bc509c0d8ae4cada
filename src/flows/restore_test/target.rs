//! Where a test restores to what a vault holds. A kind of target is one file here and one
//! line in `of`; the word in the schedule is its variant of `RestoreTargetConfig`. What a
//! provider keeps only the provider restores: those tests are in `managed`.
//!
//! A target that has too little of something for the copy says so as `Exhausted`: then
//! nothing was measured, and nothing is said of the backup.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Chosen;
use crate::{
    config::schedule::{RestoreTargetConfig, RestoreTestConfig},
    domain::with_causes,
    engine::{EngineError, Instance},
    flow::{StepContext, StepError},
    flows::{
        Database,
        restore::{RestoreError, Restored},
    },
};

mod local;

/// One kind of place for the copy of a test.
#[async_trait]
pub(super) trait Target: Send + Sync {
    /// As the schedule names it.
    fn kind(&self) -> &'static str;

    /// What the copy may use, and how it is kept to that, for the record.
    fn limits(&self) -> Vec<String>;

    /// Brings what was chosen, from the frozen listing alone. Nothing of it is written any
    /// more when this returns, also after `stop`. Repeated, it begins anew.
    async fn fetch(&self, chosen: &Chosen, cx: &StepContext, stop: &CancellationToken) -> Result<Restored, Failed>;

    /// Starts the copy and waits until it has reached its target.
    async fn start(
        &self,
        chosen: &Chosen,
        restored: &Restored,
        cx: &StepContext,
        stop: &CancellationToken,
    ) -> Result<Box<dyn Instance>, Failed>;

    /// Returns once the copy takes more than it may; never where nothing limits it.
    async fn passed(&self, folder: &Path) -> Exhausted;

    /// Ends what runs of the copy, and leaves its files.
    async fn stop(&self, folder: &Path) -> Result<(), StepError>;

    /// Removes the copy and everything of it. Idempotent.
    async fn tear_down(&self, folder: &Path) -> Result<(), StepError>;
}

/// The target that the schedule names.
pub(super) fn of(database: &Arc<Database>, config: &RestoreTestConfig) -> Result<Box<dyn Target>, StepError> {
    match &config.target {
        RestoreTargetConfig::Local(local) => Ok(Box::new(local::Local::new(database, local, config.limit))),
        RestoreTargetConfig::Rds(_) => Err(StepError::permanent(format!(
            "a provider restores what it keeps itself, and `{}` has vaults; use `target: {{kind: local}}`",
            database.name
        ))),
    }
}

/// What a target has too little of, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exhausted {
    /// `memory` or `disk`.
    pub(super) resource: String,
    pub(super) what: String,
}

/// Why there is no copy.
#[derive(Debug)]
pub(super) enum Failed {
    Exhausted(Exhausted),
    /// What was chosen cannot be restored.
    Restore(RestoreError),
    Step(StepError),
}

/// What a step of the test came to, as the journal keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Outcome<T> {
    Exhausted { exhausted: Exhausted },
    Reached(T),
}

impl<T> Outcome<T> {
    /// What is no failure of the step's.
    pub(super) fn of(done: Result<T, Failed>) -> Result<Self, StepError> {
        match done {
            Ok(reached) => Ok(Self::Reached(reached)),
            Err(Failed::Exhausted(exhausted)) => Ok(Self::Exhausted { exhausted }),
            Err(failed) => Err(failed.into()),
        }
    }
}

impl From<Failed> for StepError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Exhausted(exhausted) => Self::permanent(exhausted.what),
            Failed::Restore(error) => error.into(),
            Failed::Step(error) => error,
        }
    }
}

impl Exhausted {
    fn of(resource: &str, error: &(dyn std::error::Error + 'static), remedy: &str) -> Failed {
        Failed::Exhausted(Self { resource: resource.to_owned(), what: format!("{}; {remedy}", with_causes(error)) })
    }
}

impl From<StepError> for Failed {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Memory { .. } => {
                Exhausted::of("memory", &error, "raise `restore_test.target.memory`, or leave it out")
            }
            _ => Self::Step(error.into()),
        }
    }
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::OverLimit { .. } => Exhausted::of("disk", &error, "it is `restore_test.target.disk`"),
            RestoreError::NoRoom { .. } => Exhausted::of("disk", &error, "`node.scratch` says where tests take place"),
            RestoreError::Engine(error) => error.into(),
            error => Self::Restore(error),
        }
    }
}

/// Does `work` until it is done, or the copy has `passed` what it may take; then `stop`
/// asks it to end, and it is awaited.
pub(super) async fn within<T>(
    passed: impl Future<Output = Exhausted>,
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let mut work = std::pin::pin!(work);
    let exhausted = tokio::select! {
        biased;
        done = &mut work => return done,
        exhausted = passed => exhausted,
    };
    stop.cancel();
    match work.await {
        Err(Failed::Step(StepError::Fenced)) => Err(StepError::Fenced.into()),
        _ => Err(Failed::Exhausted(exhausted)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicBool, Ordering},
    };

    use serde_json::json;

    use super::*;

    fn exhausted() -> Exhausted {
        Exhausted { resource: "disk".to_owned(), what: "too much".to_owned() }
    }

    #[tokio::test]
    async fn what_takes_too_much_is_asked_to_stop_and_awaited() {
        let (stop, has_ended) = (CancellationToken::new(), AtomicBool::new(false));
        let work = |end: StepError| async {
            stop.cancelled().await;
            has_ended.store(true, Ordering::Relaxed);
            Err::<(), _>(Failed::Step(end))
        };
        let done = within(ready(exhausted()), &stop, work(StepError::Stopped)).await;
        assert!(matches!(done, Err(Failed::Exhausted(told)) if told == exhausted()));
        assert!(has_ended.load(Ordering::Relaxed), "it was awaited");
        let lost = within(ready(exhausted()), &stop, work(StepError::Fenced)).await;
        assert!(matches!(lost, Err(Failed::Step(StepError::Fenced))), "who lost the run judges nothing");
        let stop = CancellationToken::new();
        assert!(matches!(within(pending(), &stop, async { Ok(7) }).await, Ok(7)));
        assert!(!stop.is_cancelled());
    }

    #[test]
    fn the_journal_tells_what_was_reached_from_what_was_exhausted() {
        let read = |value| serde_json::from_value::<Outcome<Vec<u64>>>(value).unwrap();
        // As older versions wrote it.
        assert!(matches!(read(json!([1, 2])), Outcome::Reached(reached) if reached == [1, 2]));
        let written = serde_json::to_value(Outcome::<Vec<u64>>::Exhausted { exhausted: exhausted() }).unwrap();
        assert!(matches!(read(written), Outcome::Exhausted { exhausted: told } if told == exhausted()));
    }
}
