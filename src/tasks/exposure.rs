//! What would be lost now, per database and vault, and the rest of the status, as
//! metrics: looked up from the vaults and the acknowledged heartbeats, whether
//! anybody asks or not. What was seen of exposure is kept as history, and a forecast
//! that passes the objective is a finding.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::forecast::Forecasts;
use crate::{
    app::App,
    db::{
        DbError,
        exposure::{self, Addition},
    },
    decide::exposure::history::{self, Look},
    domain::{Exposed, Span, with_causes},
    telemetry,
};

const EVERY: Duration = Duration::from_secs(10);
/// Looks between two deletions of old history: an hour.
const FORGET_EVERY: u32 = 360;

/// Publishes until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut forecasts = Forecasts::default();
    for look in 1_u32.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        telemetry::upkeep();
        // Gathering the status publishes it.
        match app.status().await {
            Ok(status) => {
                if let Err(error) = keep(&app, status.exposed()).await {
                    tracing::warn!(error = %with_causes(&error), "what exposure is now is not kept");
                }
                forecasts.tell(&app, status.forecasts()).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the status cannot be gathered");
            }
        }
        if look % FORGET_EVERY == 0
            && let Err(error) = exposure::forget(&app.resources.db).await
        {
            tracing::warn!(error = %with_causes(&error), "old history of exposure is not deleted");
        }
    }
}

/// Adds what was seen to the history.
async fn keep(app: &App, seen: Vec<(Exposed, Duration, Span)>) -> Result<(), DbError> {
    let marks = exposure::marks(&app.resources.db).await?;
    let addition = |(of, exposure, objective): (Exposed, Duration, Span)| {
        let before = marks.through.get(&of).copied();
        let added = history::add(before, &Look { at: marks.now, exposure, objective: objective.as_duration() });
        Addition { of, before, through: added.through, buckets: added.buckets }
    };
    let additions: Vec<Addition> = seen.into_iter().map(addition).collect();
    exposure::add(&app.resources.db, &additions).await.map(drop)
}
