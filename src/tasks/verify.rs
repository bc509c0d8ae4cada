//! Has each vault of each database verified as often as its schedule says. What
//! is due follows from the clock and the names alone, and a run's id holds its
//! due time: two nodes that ask for it get one run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    domain::{DatabaseName, RunId, VaultName, with_causes},
    flow::NewRun,
    flows::{
        Database, Vault,
        verify::{self, Asked, Params},
    },
};

/// How often is looked whether something is due.
const EVERY: Duration = Duration::from_secs(30);
/// Databases that are looked at at a time in one vault.
const AT_ONCE: usize = 8;

/// Looks into one vault for all databases that name it, until told to stop.
pub async fn run(app: Arc<App>, name: VaultName, stop: CancellationToken) {
    let watch = Arc::new(Watch { app, name, seen: Mutex::default() });
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        if stop.run_until_cancelled(watch.look()).await.is_none() {
            break;
        }
    }
}

/// One vault.
struct Watch {
    app: Arc<App>,
    name: VaultName,
    /// Per database the due time that was dealt with last.
    seen: Mutex<BTreeMap<DatabaseName, Timestamp>>,
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<DatabaseName, Timestamp>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(self: &Arc<Self>) {
        let databases: Vec<Arc<Database>> = self.app.resources.databases.values().cloned().collect();
        let looks = databases.into_iter().map(|database| {
            let watch = Arc::clone(self);
            async move { watch.look_at(&database).await }
        });
        futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    async fn look_at(&self, database: &Database) {
        let Some(vault) = database.vault(Some(&self.name)) else { return };
        let before = self.seen().get(&database.name).copied();
        match submit_due(&self.app, database, vault, before).await {
            Ok(due) => self.seen().extend(due.map(|due| (database.name.clone(), due))),
            Err(error) => {
                tracing::warn!(database = %database.name, vault = %self.name, error, "a due verification could not be stored; trying again");
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
