//! Carries out what the safety lever says, whoever turned it and on whatever
//! node: drills are asked to stop, and each turn gets its evidence record.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{app::App, domain::with_causes};

const EVERY: Duration = Duration::from_secs(1);

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        // May be dropped anywhere: all of it is done again.
        let Some(outcome) = stop.run_until_cancelled(carry_out(&app)).await else { break };
        let error = outcome.err().unwrap_or_default();
        if !error.is_empty() && error != told {
            tracing::error!(error, "what the safety lever says could not be carried out; trying again");
        }
        told = error;
    }
}

/// Evidence that cannot be written keeps no drill going.
async fn carry_out(app: &App) -> Result<(), String> {
    let heeded = app.heed_lever().await.map_err(|error| with_causes(&error));
    let recorded = app.record_turns().await.map_err(|error| with_causes(&error));
    heeded.and(recorded)
}
