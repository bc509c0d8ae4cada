//! Keeps the WAL of one database streaming into its vaults, whatever ends a
//! stream: a restart or switchover of the server, a broken connection, a vault
//! that was away. What lasts is a finding, of the stream or of a vault that it
//! had to leave behind; what only a person can mend is one at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    config::vault::Durability,
    domain::{VaultName, with_causes},
    engine::{EngineError, WalEnd},
    flows::{Database, stream},
    telemetry,
    vault::VaultWal,
};

/// After a server that shut down or a timeline that ended: the next primary is near.
const SOON: Duration = Duration::from_millis(500);
/// How often findings are held against the stream.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pauses between failing attempts grow up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A stream that is down for longer is a finding.
const PATIENCE: Duration = Duration::from_secs(60);

/// Streams until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let mut watch = Watch::new(&app, database);
    let mut pause = SOON;
    while !stop.is_cancelled() {
        match watch.stream(stop.clone()).await {
            Ok(WalEnd::Stopped) => break,
            Ok(end @ (WalEnd::ServerShutDown(_) | WalEnd::TimelineEnded(_))) => {
                tracing::info!(database = %watch.database.name, ?end, "WAL stream ended, looking for the primary");
                (pause, watch.down_since) = (SOON, Instant::now());
            }
            Err(EngineError::SlotBusy { .. }) => {
                tracing::debug!(database = %watch.database.name, "another process streams");
                // A finding of ours, which that one does not know of.
                watch.finding.close().await;
                watch.down_since = Instant::now();
            }
            Err(error) => {
                if watch.stood {
                    (pause, watch.down_since) = (SOON, Instant::now());
                }
                let text = with_causes(&error);
                if pause == SOON {
                    tracing::warn!(database = %watch.database.name, error = text, "WAL stream failed; trying again");
                } else {
                    tracing::debug!(database = %watch.database.name, error = text, "WAL stream failed again");
                }
                // What a vault refuses for good, it refuses until a person acts; so does a server.
                let lasts = matches!(error, EngineError::Sink { is_permanent: true, .. } | EngineError::Unfit { .. });
                if lasts || watch.down_since.elapsed() > PATIENCE {
                    watch.finding.open(&format!("WAL is not streamed: {text}")).await;
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

/// What is known of the streaming of one database.
struct Watch {
    database: Arc<Database>,
    /// Of the stream as a whole.
    finding: Finding,
    /// Of each vault by its name, with what it says; nothing where it is closed.
    vaults: BTreeMap<VaultName, (Finding, Option<String>)>,
    /// Since when nothing was confirmed.
    down_since: Instant,
    /// Whether the last stream stood: something was confirmed in it.
    stood: bool,
}

impl Watch {
    fn new(app: &Arc<App>, database: Arc<Database>) -> Self {
        let of_vault = |vault: &crate::flows::Vault| {
            let name = vault.store.place().vault.clone();
            let finding = Finding::new(&format!("wal-to-{name}"), app, &database.name);
            (name, (finding, None))
        };
        Self {
            finding: Finding::new("wal", app, &database.name),
            vaults: database.vaults.iter().map(of_vault).collect(),
            down_since: Instant::now(),
            stood: false,
            database,
        }
    }

    /// Streams, and holds the findings against the stream meanwhile.
    async fn stream(&mut self, stop: CancellationToken) -> Result<WalEnd, EngineError> {
        self.stood = false;
        let database = Arc::clone(&self.database);
        let streaming = stream::once(&database, stop);
        tokio::pin!(streaming);
        loop {
            tokio::select! {
                end = &mut streaming => {
                    self.publish();
                    return end;
                }
                () = tokio::time::sleep(LOOK_EVERY) => self.publish(),
            }
            // The stream goes on while findings are written.
            tokio::select! {
                end = &mut streaming => return end,
                () = self.look() => {}
            }
        }
    }

    /// How long WAL took to become durable, as a metric.
    fn publish(&self) {
        for (vault, delays) in self.database.streaming.take_delays() {
            let labels = [("database", self.database.name.to_string()), ("vault", vault.to_string())];
            let histogram = metrics::histogram!(telemetry::WAL_DURABLE_SECONDS, &labels);
            for delay in delays {
                histogram.record(delay.as_secs_f64());
            }
        }
    }

    async fn look(&mut self) {
        let streaming = &self.database.streaming;
        if streaming.is_confirmed() {
            self.stood = true;
            self.finding.close().await;
        } else if !self.stood && self.down_since.elapsed() > PATIENCE {
            let text = format!("WAL is not streamed: nothing could be made safe for {PATIENCE:?}");
            self.finding.open(&text).await;
        }
        let Some(snapshot) = streaming.snapshot().filter(|_| streaming.is_connected()) else { return };
        for (name, wal) in snapshot.vaults {
            let Some((finding, said)) = self.vaults.get_mut(&name) else { continue };
            let is_required =
                self.database.vault(Some(&name)).is_none_or(|vault| vault.durability == Durability::Required);
            let says = trouble(&name, is_required, &wal);
            match &says {
                Some(text) if *said != says => finding.open(text).await,
                Some(_) => {}
                None => finding.close().await,
            }
            *said = says;
        }
    }
}

/// What a person must know of a vault that lacks WAL, or takes none.
fn trouble(vault: &VaultName, is_required: bool, wal: &VaultWal) -> Option<String> {
    let VaultWal { durable, error, gap_before } = wal;
    match (error, gap_before) {
        (Some(error), _) if is_required => Some(format!(
            "WAL does not reach vault `{vault}`, which has it up to {durable}: {error}; as it is required, nothing is \
             confirmed to the primary, where WAL piles up until it is mended"
        )),
        (Some(error), _) => Some(format!(
            "WAL does not reach vault `{vault}`, which has it up to {durable}: {error}; mend it, and what it lacks is \
             copied there from another vault"
        )),
        (None, Some(before)) => {
            Some(format!("vault `{vault}` lacks WAL from {durable} to {before}; it is copied there from another vault"))
        }
        (None, None) => None,
    }
}
