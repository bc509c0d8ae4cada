//! Watches that a vault is there, ours, and the one that it was. What is not is
//! a finding until it is.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{app::App, domain::with_causes, vault::Owned};

const EVERY: Duration = Duration::from_secs(15);

/// Looks until told to stop.
pub async fn run(app: Arc<App>, vault: Arc<Owned>, stop: CancellationToken) {
    use crate::vault::Store as _;
    let mut finding = Finding::new("vault", &app, &vault.place().vault);
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        match vault.claim().await {
            Ok(()) => finding.close().await,
            Err(error) => finding.open(&with_causes(&error)).await,
        }
    }
}
