//! Renews the locks of what the rules keep: what is new within an hour, all of it
//! once a day, and soon again after a failure, which is a finding.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    decide::retention::locks::NEW_LOCKED_EVERY,
    domain::{VaultName, with_causes},
    flow::StepError,
    flows::{
        Database,
        locks::{self, Known},
        retention,
    },
};

/// After a failure.
const AGAIN: Duration = Duration::from_secs(900);

/// Renews until told to stop; ends at once where no vault locks.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    if database.vaults.iter().all(|vault| vault.store.locks().is_none()) {
        return;
    }
    let hourly = Duration::try_from(NEW_LOCKED_EVERY).unwrap_or(AGAIN);
    let mut known = BTreeMap::new();
    while !stop.is_cancelled() {
        let renewed = tokio::select! {
            () = stop.cancelled() => break,
            renewed = renew(&app, &database, &mut known) => renewed,
        };
        let pause = match renewed {
            Ok(()) => hourly,
            Err(error) => {
                tracing::warn!(database = %database.name, error = %with_causes(&error), "locks are not renewed; trying again");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Renews the locks in all vaults of a database once. `known` is kept for the next time.
pub async fn renew(app: &App, database: &Database, known: &mut BTreeMap<VaultName, Known>) -> Result<(), StepError> {
    let memory = retention::Memory::read(&app.resources, database, None).await?;
    let mut failed = Ok(());
    for vault in &database.vaults {
        let name = &vault.store.place().vault;
        let known = known.entry(name.clone()).or_default();
        match locks::renew(database, vault, &memory, known, app.clock.now()).await {
            Ok(None) => {}
            Ok(Some(renewed)) => locks::tell(&app.resources, database, name, Ok(renewed)).await?,
            Err(error) => {
                let renewed = locks::Renewed { failed: vec![error.to_string()], ..locks::Renewed::default() };
                locks::tell(&app.resources, database, name, Ok(renewed)).await?;
                // The other vaults answer for themselves.
                failed = Err(error);
            }
        }
    }
    failed
}
