//! Removes the tails that whole segments have superseded. With a flush every
//! second a database makes 86,400 tails a day, so this runs often and leaves no
//! record. Deleting an object that is gone is a success, so nodes that do it at
//! the same time do not disturb one another.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::{heartbeats, runs},
    decide::retention::tails,
    domain::with_causes,
    flows::{Database, Vault, restore_test, self_test},
    vault::{Inventory, StoreError},
};

const EVERY: Duration = Duration::from_secs(600);
/// How much further back than the lag a heartbeat may lie.
const REACH: SignedDuration = SignedDuration::from_hours(24);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Sweeps until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        for vault in &database.vaults {
            let swept = tokio::select! {
                () = stop.cancelled() => break,
                swept = sweep(&app, &database, vault) => swept,
            };
            match swept {
                Ok(0) => {}
                Ok(swept) => {
                    tracing::debug!(database = %database.name, vault = %vault.store.place().vault, swept, "superseded tails are gone");
                }
                Err(error) => {
                    tracing::warn!(database = %database.name, vault = %vault.store.place().vault, error = %with_causes(error.as_ref()), "superseded tails are not removed; trying again later");
                }
            }
        }
    }
}

/// Removes what may go from one vault; answers how many.
pub async fn sweep(app: &App, database: &Database, vault: &Vault) -> Result<usize, Failed> {
    // A restore that has chosen its tails is left to fetch them.
    let under_way = runs::under_way(&app.resources.db, database.name.as_str()).await?;
    if under_way.iter().any(|run| [restore_test::NAME, self_test::NAME].iter().any(|flow| run.starts_with(flow))) {
        return Ok(0);
    }
    let lag = if vault.store.locks().is_some() { tails::LAG_LOCKED } else { tails::LAG };
    let now = app.clock.now();
    let beats = heartbeats::between(&app.resources.db, &database.name, now - lag - REACH, now - lag).await?;
    if beats.is_empty() {
        return Ok(0);
    }
    let Some(held) = Inventory::newest_of(database.histories(vault).await?) else { return Ok(0) };
    let Some(size) = held.catalog.entries.last().map(|entry| entry.manifest.segment_size) else { return Ok(0) };
    let gone = tails::superseded(&held.listing.coverage(size), size, &beats, now, lag);
    let mut swept = 0;
    for tail in gone {
        let key = held.listing.layout().tail(tail.segment, size, tail.from, tail.to);
        match vault.store.delete(&key).await {
            Ok(()) => swept += 1,
            // Its lock ends by itself; a later sweep takes it.
            Err(StoreError::Locked { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(swept)
}
