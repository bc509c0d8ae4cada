//! Tells the state database every few seconds that this node lives. Nothing is
//! taken from a node that fails to: its leases speak for its runs.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::{DbError, nodes},
};

/// Well below the time after which a silent node no longer counts.
const EVERY: Duration = Duration::from_secs(5);

/// Tells until told to stop, and then that this node serves no more.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => tell(&app).await,
        }
    }
    let db = &app.resources.db;
    let left = nodes::leave(db, &app.estate.daemon.node.name);
    log(db.within(EVERY, "tell that this node ends", left).await);
}

/// Tells once.
pub async fn tell(app: &App) {
    let (db, node) = (&app.resources.db, &app.estate.daemon.node);
    let told = nodes::tell(db, &node.name, &node.region, &node.roles, env!("CARGO_PKG_VERSION"));
    log(db.within(EVERY, "tell that this node lives", told).await);
}

/// The next time will do.
fn log(told: Result<(), DbError>) {
    if let Err(error) = told {
        tracing::warn!(error = &error as &dyn std::error::Error, "the other nodes do not hear of this one");
    }
}
