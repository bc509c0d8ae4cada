//! Keeps the ledger of heartbeats in one vault small: merges the objects of an
//! hour that has passed, and removes what is older than anybody asks for. Like
//! the sweep of tails it runs often and leaves no record, and nodes that do it
//! at the same time do not disturb one another.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    domain::with_causes,
    flows::{
        Database, Vault,
        ledger::{self, Locked, Swept},
    },
};

const EVERY: Duration = Duration::from_secs(600);

/// Sweeps until told to stop, once this process streams: only then the history
/// is known that goes on, and whose heartbeats the state database holds.
pub async fn run(app: Arc<App>, database: Arc<Database>, vault: Vault, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut locked = Locked::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        let Some(layout) = database.streaming.layout() else { continue };
        let sweep = ledger::sweep(&app.resources.db, &database, (&vault, &layout), &mut locked, app.clock.now());
        let swept = tokio::select! {
            () = stop.cancelled() => break,
            swept = sweep => swept,
        };
        let name = &vault.store.place().vault;
        match swept {
            Ok(swept) if swept == Swept::default() => {}
            Ok(swept) => tracing::debug!(database = %database.name, vault = %name, ?swept, "heartbeats are merged"),
            Err(error) => {
                tracing::warn!(database = %database.name, vault = %name, error = %with_causes(&error), "heartbeats are not merged; trying again later");
            }
        }
    }
}
