//! Has each vault of each database verified as often as its schedule says. What
//! is due follows from the clock and the names alone, and a run's id holds its
//! due time: two nodes that ask for it get one run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    domain::{RunId, VaultName, with_causes},
    flow::NewRun,
    flows::{
        Database, Vault,
        verify::{self, Asked, Params},
    },
};

/// How often is looked whether something is due.
const EVERY: Duration = Duration::from_secs(30);

/// Looks until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    // Per vault the due time that was dealt with last.
    let mut seen: BTreeMap<VaultName, Timestamp> = BTreeMap::new();
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        for vault in &database.vaults {
            let name = &vault.store.place().vault;
            match submit_due(&app, &database, vault, seen.get(name).copied()).await {
                Ok(due) => seen.extend(due.map(|due| (name.clone(), due))),
                Err(error) => {
                    tracing::warn!(database = %database.name, vault = %name, error, "a due verification could not be stored; trying again");
                }
            }
        }
    }
}

/// Stores the run that is due, if it was not dealt with yet; answers its time. A
/// vault that held no backup then has nothing to verify.
async fn submit_due(
    app: &App,
    database: &Database,
    vault: &Vault,
    seen: Option<Timestamp>,
) -> Result<Option<Timestamp>, String> {
    let now = app.clock.now();
    let name = &vault.store.place().vault;
    let rotation = verify::rotation(&database.schedule.config.verify);
    let rotation_name = verify::rotation_name(&database.name, name);
    let Some(due_at) = rotation.due(&rotation_name, Some(Timestamp::MIN), now) else { return Ok(None) };
    if seen.is_some_and(|seen| seen >= due_at) {
        return Ok(None);
    }
    let histories = database.histories(vault).await.map_err(|error| with_causes(&error))?;
    let oldest = histories.iter().flat_map(|held| &held.catalog.entries).map(|entry| entry.manifest.finished_at).min();
    if rotation.due(&rotation_name, oldest, now).is_some() {
        let id = RunId::new(verify::NAME, database.name.as_str(), name.as_str(), &due_at.to_string());
        let placement = database.placement([name]);
        let (database, vault) = (database.name.clone(), name.clone());
        let params = Params { database: database.clone(), vault, depth: Asked::Sample(rotation), due_at: Some(due_at) };
        let run = NewRun::new(id, &database, &params, "schedule").map_err(|error| with_causes(&error))?;
        app.runner.submit(run.placed(placement)).await.map_err(|error| with_causes(&error))?;
    }
    Ok(Some(due_at))
}
