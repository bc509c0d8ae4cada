//! Waits for what the provider makes and removes in its own time. One that stands still
//! ends in an error that names it.

use std::time::Duration;

use jiff::Timestamp;

use super::found;
use crate::{
    aws::Kind,
    domain::{Region, Snapshot, SnapshotState, Span, with_causes},
    flow::{StepContext, StepError},
    flows::ManagedDatabase,
};

/// How long a snapshot or copy may take to be made. A first one of many terabytes, or one
/// to another continent, takes hours.
pub(super) const LIMIT: Duration = Duration::from_secs(12 * 3600);
/// For a step that waits: so that it ends by itself, and says what it waited for.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(13 * 3600);

/// The pause between two looks doubles from here.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Pauses that double.
struct Pauses(Duration);

impl Pauses {
    async fn next(&mut self, cx: &StepContext) -> Result<(), StepError> {
        let pause = self.0;
        self.0 = self.0.saturating_mul(2).min(PAUSE_MAX);
        cx.sleep(pause).await
    }
}

/// When the step of this name began first, also by another node.
pub(super) fn began_at(cx: &StepContext, step: &str) -> Timestamp {
    let began = cx.step_times().into_iter().find(|times| times.step == step).map(|times| times.began_at);
    began.unwrap_or_else(|| cx.clock().now())
}

/// Returns once it can be restored from. `since` is when the wait began.
pub(super) async fn available(
    database: &ManagedDatabase,
    (region, id): (&Region, &str),
    since: Timestamp,
    cx: &StepContext,
) -> Result<Snapshot, StepError> {
    let mut pauses = Pauses(PAUSE_MIN);
    let mut seen = "it was not seen yet".to_owned();
    loop {
        match found(database, region, id).await {
            Ok(Some(snapshot)) => match snapshot.state {
                SnapshotState::Available => return Ok(snapshot),
                SnapshotState::Failed => {
                    return Err(StepError::permanent(format!(
                        "the provider could not make snapshot `{id}` in {region}; see the events of the database there, and take another with `lifeboat backup {}`",
                        database.name
                    )));
                }
                SnapshotState::Creating => {
                    let percent = snapshot.progress_percent;
                    cx.progress(format!("{percent} % of snapshot {id} in {region} is made"), None, None);
                    seen = format!("{percent} % of it is made");
                }
            },
            // What was just begun may not be listed yet.
            Ok(None) => {}
            Err(error) if error.is_permanent() => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%region, id, error = %with_causes(&error), "whether it is made is not known");
                seen = with_causes(&error);
            }
        }
        if cx.clock().now().duration_since(since).unsigned_abs() > LIMIT {
            return Err(StepError::permanent(format!(
                "snapshot `{id}` in {region} is not available after {}: {seen}; see its events at the provider, and ask its support where it stands still",
                Span::from(LIMIT)
            )));
        }
        pauses.next(cx).await?;
    }
}

/// Removes one of ours that cannot be restored from.
pub(super) async fn removed_unless_whole(
    database: &ManagedDatabase,
    (region, id): (&Region, &str),
    cx: &StepContext,
) -> Result<(), StepError> {
    match found(database, region, id).await? {
        Some(copy) if copy.state == SnapshotState::Available => Ok(()),
        _ => removed(database, (region, id), cx).await,
    }
}

/// Removes a snapshot of ours and returns once it is gone; one that is being made has to be
/// made first. Idempotent.
pub(super) async fn removed(
    database: &ManagedDatabase,
    (region, id): (&Region, &str),
    cx: &StepContext,
) -> Result<(), StepError> {
    let mut pauses = Pauses(PAUSE_MIN);
    let begun = cx.clock().now();
    loop {
        let Some(snapshot) = found(database, region, id).await? else { return Ok(()) };
        cx.guard().await?;
        cx.progress(format!("removing snapshot {id} in {region}"), None, None);
        match database.provider.delete_snapshot(&snapshot).await {
            Ok(()) => return gone(database, (region, id), cx).await,
            Err(error) if error.kind == Kind::State => {}
            Err(error) => return Err(error.into()),
        }
        if cx.clock().now().duration_since(begun).unsigned_abs() > LIMIT {
            return Err(StepError::permanent(format!(
                "the provider has not let snapshot `{id}` in {region} be removed for {}; remove it by hand once it is made",
                Span::from(LIMIT)
            )));
        }
        pauses.next(cx).await?;
    }
}

/// Returns once it is listed no more.
pub(in crate::flows) async fn gone(
    database: &ManagedDatabase,
    (region, id): (&Region, &str),
    cx: &StepContext,
) -> Result<(), StepError> {
    let mut pauses = Pauses(PAUSE_MIN);
    while found(database, region, id).await?.is_some() {
        pauses.next(cx).await?;
    }
    Ok(())
}
