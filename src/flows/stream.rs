//! WAL streaming of one database: joins the engine's stream with the vaults'
//! writer. Needs no state database and no lease: the active slot on the server
//! is the mutex. `tasks::wal` keeps it going; a backup that finds nobody
//! streaming does so itself until it has what it needs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Database, refused};
use crate::{
    config::daemon::Durability,
    domain::{BackupState, Lsn, Timeline, with_causes},
    engine::{EngineError, WalEnd, WalSink, WalSource},
    flow::{StepContext, StepError},
    vault::{Catalog, Layout, Listing, Manifest, VaultError, WalSnapshot, WalStatus, WalTarget, WalWriter},
};

/// One unbroken history so far; a later one is opened where histories conflict.
pub const INCARNATION: u32 = 1;

/// Pause between looks for WAL that another process streams.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the streaming of this process has reached; read by status, exposure and drills.
#[derive(Debug, Default)]
pub struct Streaming(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    status: Option<Arc<WalStatus>>,
    layout: Option<Layout>,
    is_connected: bool,
    error: Option<String>,
}

impl Streaming {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the stream is; none where this process never streamed.
    pub fn snapshot(&self) -> Option<WalSnapshot> {
        self.state().status.as_ref().map(|status| status.snapshot())
    }

    /// Whether this process streams now.
    pub fn is_connected(&self) -> bool {
        self.state().is_connected
    }

    /// Why the last stream ended, while none has begun since.
    pub fn error(&self) -> Option<String> {
        self.state().error.clone()
    }

    /// Where this process streams to, once it did.
    pub fn layout(&self) -> Option<Layout> {
        self.state().layout.clone()
    }

    fn begun(&self, status: Arc<WalStatus>, layout: Layout) {
        *self.state() = State { status: Some(status), layout: Some(layout), is_connected: true, error: None };
    }

    fn ended(&self, error: Option<String>) {
        let mut state = self.state();
        state.is_connected = false;
        state.error = error;
    }
}

/// Streams until told to stop, the server shuts down, the timeline ends, or it
/// fails; then the caller decides when to begin anew.
pub async fn once(database: &Database, stop: CancellationToken) -> Result<WalEnd, EngineError> {
    let targets = database
        .vaults
        .iter()
        .map(|vault| WalTarget { store: Arc::clone(&vault.store), required: vault.durability == Durability::Required })
        .collect();
    let writer = WalWriter::new(database.name.clone(), database.keys.recipients.clone(), targets);
    let mut sink = Sink { writer, database };
    let flush_every = database.schedule.config.wal.flush_every.as_duration();
    let ended = database.engine.stream_wal(&mut sink, flush_every, stop).await;
    database.streaming.ended(ended.as_ref().err().map(|error| with_causes(error)));
    ended
}

struct Sink<'a> {
    writer: WalWriter,
    database: &'a Database,
}

impl Sink<'_> {
    /// From where on a vault that holds no WAL yet wants it: from now on, or
    /// from the start of a backup that still lacks its WAL; the slot kept it.
    async fn first_wanted(&self, layout: &Layout, source: &WalSource) -> Result<Lsn, VaultError> {
        let mut first = source.server_lsn;
        for vault in &self.database.vaults {
            self.database.refuse_outside_residency(&vault.store.place().region).map_err(|error| {
                VaultError::Refused { vault: vault.store.place().vault.clone(), what: error.to_string() }
            })?;
            let listing = match Listing::take(vault.store.as_ref(), layout).await {
                Ok(listing) => listing,
                // The writer leaves it behind by name.
                Err(_) if vault.durability == Durability::BestEffort => continue,
                Err(error) => return Err(error),
            };
            let catalog = Catalog::read(&listing, vault.store.as_ref(), &self.database.keys.verifier).await?;
            let lacking = catalog.entries.iter().filter(|entry| entry.state == BackupState::Uploaded);
            first = lacking.map(|entry| entry.manifest.start_lsn).fold(first, Lsn::min);
        }
        Ok(first)
    }
}

#[async_trait]
impl WalSink for Sink<'_> {
    async fn begin(&mut self, source: &WalSource) -> Result<Lsn, EngineError> {
        let layout = Layout::new(self.database.name.clone(), &source.system_id, INCARNATION).map_err(refused)?;
        let first = self.first_wanted(&layout, source).await.map_err(refused)?;
        let begun = self.writer.begin(&source.system_id, source.timeline, source.segment_size, first).await;
        let from = begun.map_err(refused)?;
        self.database.streaming.begun(self.writer.status(), layout);
        Ok(from)
    }

    async fn history(&mut self, timeline: Timeline, content: Bytes) -> Result<(), EngineError> {
        self.writer.history(timeline, content).await.map_err(refused)
    }

    async fn wal(&mut self, at: Lsn, bytes: Bytes) -> Result<(), EngineError> {
        self.writer.wal(at, bytes).await.map_err(refused)
    }

    async fn flush(&mut self) -> Result<Lsn, EngineError> {
        self.writer.flush().await.map_err(refused)
    }
}

/// Waits until the first vault holds all WAL that a backup needs. Streams
/// itself where nobody does.
pub async fn await_wal(database: &Database, manifest: &Manifest, cx: &StepContext) -> Result<(), StepError> {
    if database.streaming.is_connected() {
        return until_held(database, manifest, cx).await;
    }
    let stop = CancellationToken::new();
    let streaming = async {
        // Asked before each try: where another process streams, none ends as stopped.
        while !stop.is_cancelled() {
            match once(database, stop.clone()).await {
                Ok(WalEnd::Stopped) => break,
                // Another process streams, or the server is just coming back.
                Ok(WalEnd::ServerShutDown(_) | WalEnd::TimelineEnded(_)) | Err(EngineError::SlotBusy { .. }) => {
                    cx.sleep(LOOK_EVERY).await?;
                }
                Err(error) => return Err(StepError::from(error)),
            }
        }
        Ok(())
    };
    tokio::pin!(streaming);
    tokio::select! {
        held = until_held(database, manifest, cx) => {
            stop.cancel();
            held?;
            // Ends after the last flush is told to the server.
            streaming.await
        }
        streamed = &mut streaming => streamed.and(Err(StepError::transient("WAL streaming ended too early"))),
    }
}

async fn until_held(database: &Database, manifest: &Manifest, cx: &StepContext) -> Result<(), StepError> {
    let store = database.first_vault()?;
    let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
    loop {
        let coverage = Listing::take(store.as_ref(), &layout).await?.coverage(manifest.segment_size);
        if coverage.covers(manifest.timeline, manifest.segment_size, manifest.start_lsn, manifest.stop_lsn) {
            return Ok(());
        }
        cx.sleep(LOOK_EVERY).await?;
    }
}
