//! Keeps the WAL of one database streaming into its vaults, whatever ends a
//! stream: a restart or switchover of the server, a broken connection, a vault
//! that was away. What lasts is a finding.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    domain::with_causes,
    engine::{EngineError, WalEnd},
    flows::{Database, stream},
};

/// After a server that shut down or a timeline that ended: the next primary is near.
const SOON: Duration = Duration::from_millis(500);
/// How often a finding is held against the stream.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pauses between failing attempts grow up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A stream that is down for longer is a finding.
const PATIENCE: Duration = Duration::from_secs(60);

/// Streams until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let mut finding = Finding::new("wal", &app, &database.name);
    let mut pause = SOON;
    let mut down_since = Instant::now();
    while !stop.is_cancelled() {
        let begun = Instant::now();
        match watched(&database, &mut finding, stop.clone()).await {
            Ok(WalEnd::Stopped) => break,
            Ok(end @ (WalEnd::ServerShutDown(_) | WalEnd::TimelineEnded(_))) => {
                tracing::info!(database = %database.name, ?end, "WAL stream ended, looking for the primary");
                (pause, down_since) = (SOON, Instant::now());
            }
            Err(EngineError::SlotBusy { .. }) => {
                tracing::debug!(database = %database.name, "another process streams");
                down_since = Instant::now();
            }
            Err(error) => {
                if begun.elapsed() > PATIENCE {
                    // It had worked for a while: this is a new interruption.
                    (pause, down_since) = (SOON, Instant::now());
                }
                let error = with_causes(&error);
                if pause == SOON {
                    tracing::warn!(database = %database.name, error, "WAL stream failed; trying again");
                } else {
                    tracing::debug!(database = %database.name, error, "WAL stream failed again");
                }
                if down_since.elapsed() > PATIENCE {
                    finding.open(&format!("WAL is not streamed: {error}")).await;
                }
                pause = (pause * 2).min(BACKOFF_MAX);
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Streams, and closes the finding once the stream stands.
async fn watched(database: &Database, finding: &mut Finding, stop: CancellationToken) -> Result<WalEnd, EngineError> {
    let streaming = stream::once(database, stop);
    tokio::pin!(streaming);
    loop {
        tokio::select! {
            end = &mut streaming => return end,
            () = tokio::time::sleep(LOOK_EVERY), if finding.is_open() => {
                if database.streaming.is_connected() {
                    finding.close().await;
                }
            }
        }
    }
}
