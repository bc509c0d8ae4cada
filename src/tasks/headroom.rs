//! Watches what the primary keeps of its WAL for us: a slot near its limit, a
//! disk that fills up, WAL of which nothing is confirmed any more. Each is a
//! finding that says how long it lasts, until what is kept is confirmed again.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    decide::headroom::LOOK_EVERY,
    domain::with_causes,
    flows::{Database, headroom},
};

/// Looks until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let mut finding = Finding::new("headroom", &app, &database.name);
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        let looked = tokio::select! {
            () = stop.cancelled() => break,
            looked = headroom::watch(&app.resources.db, &database, app.clock.now()) => looked,
        };
        match looked {
            Ok(look) => match look.finding() {
                Some(message) => finding.open(&message).await,
                None => finding.close().await,
            },
            // A primary that is away is told by the stream; what piles up there is not known.
            Err(error) => {
                tracing::debug!(database = %database.name, error = %with_causes(&error), "what the primary keeps cannot be seen");
            }
        }
    }
}
