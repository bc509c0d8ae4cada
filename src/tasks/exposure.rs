//! What would be lost now, per database and vault, and the rest of the status, as
//! metrics: looked up from the vaults and the acknowledged heartbeats, whether
//! anybody asks or not.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{app::App, telemetry};

const EVERY: Duration = Duration::from_secs(10);

/// Publishes until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        telemetry::upkeep();
        // Gathering the status publishes it.
        if let Err(error) = app.status().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the status cannot be gathered");
        }
    }
}
