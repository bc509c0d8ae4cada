//! Heartbeats of a database that its provider runs, over the endpoint that the provider
//! names. There is no vault: the acknowledged ones go to the state database alone.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Of, beat};
use crate::{
    app::App,
    engine::postgres::{
        Member, Postgres,
        protect::{BeatSession, Patience},
    },
    flows::ManagedDatabase,
};

/// How soon is asked again where it is, when nobody told.
const AGAIN: Duration = Duration::from_secs(60);
/// Member and site, for messages.
const PROVIDER: &str = "provider";

/// Writes heartbeats until told to stop.
pub async fn run(app: Arc<App>, database: Arc<ManagedDatabase>, stop: CancellationToken) {
    let Some(Some(postgres)) = stop.run_until_cancelled(found(&app, &database)).await else { return };
    beat(&app, Of { name: &database.name, engine: &postgres, own: None }, &stop).await;
}

/// The server, once the provider has told where it is; its name outlives a failover.
async fn found(app: &App, database: &Arc<ManagedDatabase>) -> Option<Postgres> {
    let (name, site) = (PROVIDER.parse().ok()?, PROVIDER.parse().ok()?);
    let (host, port) = loop {
        let look = app.looks.at(database, &app.clock).await;
        if let Some(endpoint) = look.source.as_ref().ok().and_then(|source| source.endpoint.clone()) {
            break endpoint;
        }
        tokio::time::sleep(AGAIN).await;
    };
    Some(Postgres {
        database: database.name.clone(),
        members: vec![Member { name, host, port, site }],
        login: database.login.clone(),
        account: None,
        beats: BeatSession::default(),
        patience: Patience::default(),
    })
}
