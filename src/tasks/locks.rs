//! Renews the locks of all that is kept, once a day, and soon again after a
//! failure, which is a finding.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    decide::retention::locks::RENEWED_EVERY,
    domain::with_causes,
    flow::StepError,
    flows::{Database, locks, prune},
};

/// After a failure.
const AGAIN: Duration = Duration::from_secs(900);

/// Renews until told to stop; ends at once where no vault locks.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    if database.vaults.iter().all(|vault| vault.store.locks().is_none()) {
        return;
    }
    let daily = Duration::try_from(RENEWED_EVERY).unwrap_or(AGAIN);
    while !stop.is_cancelled() {
        let renewed = tokio::select! {
            () = stop.cancelled() => break,
            renewed = renew(&app, &database) => renewed,
        };
        let pause = match renewed {
            Ok(()) => daily,
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

/// Renews the locks in all vaults of a database once.
pub async fn renew(app: &App, database: &Database) -> Result<(), StepError> {
    let memory = prune::Memory::read(&app.resources, database, None).await?;
    for vault in &database.vaults {
        let name = &vault.store.place().vault;
        match locks::renew(database, vault, &memory, app.clock.now()).await {
            Ok(None) => {}
            Ok(Some(renewed)) => locks::tell(&app.resources, database, name, Ok(renewed)).await?,
            Err(error) => {
                let renewed = locks::Renewed { failed: vec![error.to_string()], ..locks::Renewed::default() };
                locks::tell(&app.resources, database, name, Ok(renewed)).await?;
                return Err(error);
            }
        }
    }
    Ok(())
}
