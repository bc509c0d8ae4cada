//! WAL streaming of one database: joins the engine's stream with the vaults'
//! writer. Needs no state database and no lease: the active slot on the server
//! is the mutex. `tasks::wal` keeps it going; a backup that finds nobody
//! streaming does so itself until it has what it needs.
//!
//! A server that was set back to an earlier state, or wrote with `wal_level` minimal,
//! writes another history under the names of the one that the vaults hold: the next
//! incarnation keeps it apart.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Database, refused};
use crate::{
    clock::Clock,
    config::vault::Durability,
    decide::{chain, recovery::Coverage, slot::Durable, stretch::Source},
    domain::{Lsn, SegmentSize, Timeline, VaultName, with_causes},
    engine::{EngineError, MemberFacts, Role, WalEnd, WalSink, WalSource},
    flow::{StepContext, StepError},
    vault::{
        Catalog, FIRST_INCARNATION, LOOK_LIMIT, Layout, Listing, Looked, Manifest, VaultError, WalSnapshot, WalStatus,
        WalTarget, WalWriter, open_next, remembering,
    },
};

/// Pause between looks for WAL that another process streams.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the streaming of this process has reached; read by status, exposure and drills.
#[derive(Debug, Default)]
pub struct Streaming(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    status: Option<Arc<WalStatus>>,
    layout: Option<Layout>,
    /// How many streams have begun.
    begun: u64,
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

    /// How long WAL of this process's stream took from the server to being durable, by
    /// vault; each is answered once.
    pub fn take_delays(&self) -> Vec<(VaultName, Vec<Duration>)> {
        self.state().status.as_ref().map(|status| status.take_delays()).unwrap_or_default()
    }

    /// Up to where this process's stream is durable where it must be, while it streams.
    pub fn durable(&self) -> Option<Durable> {
        let snapshot = self.snapshot().filter(|_| self.is_connected())?;
        Some(Durable { timeline: snapshot.timeline?, lsn: snapshot.confirmed? })
    }

    /// Whether this process streams now: the server has accepted it.
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
        let mut state = self.state();
        let begun = state.begun + 1;
        *state = State { status: Some(status), layout: Some(layout), begun, is_connected: true, error: None };
    }

    /// Whether this process streams now, and what it streams is safe: the server
    /// is told that it need not keep it.
    pub fn is_confirmed(&self) -> bool {
        self.is_connected() && self.snapshot().is_some_and(|snapshot| snapshot.confirmed.is_some())
    }

    /// The number of the stream of this process, once something of it is safe; none
    /// while there is none.
    pub fn confirmed_stretch(&self) -> Option<u64> {
        self.is_confirmed().then(|| self.state().begun)
    }

    fn ended(&self, error: Option<&EngineError>) {
        let mut state = self.state();
        state.is_connected = false;
        state.error = error.map(|error| with_causes(error));
        if error.is_some_and(is_another_history) {
            // Positions of another history say nothing of what this server writes.
            state.status = None;
        }
    }
}

/// Streams until told to stop, the server shuts down, the timeline ends, or it
/// fails; then the caller decides when to begin anew.
pub async fn once(database: &Database, stop: CancellationToken) -> Result<WalEnd, EngineError> {
    let targets = database
        .vaults
        .iter()
        .enumerate()
        .map(|(nth, vault)| WalTarget {
            // Backups lie in the first one, and their WAL is read back from it.
            store: if nth == 0 { remembering(&vault.store, &database.receipts) } else { Arc::clone(&vault.store) },
            required: vault.durability == Durability::Required,
        })
        .collect();
    let (writer, uploads) = WalWriter::new(database.keys.recipients.clone(), targets);
    let streaming = async move {
        let mut sink = Sink { writer, database, layout: None, is_accepted: false };
        let flush_every = database.schedule.config.wal.flush_every.as_duration();
        database.engine.stream_wal(&mut sink, flush_every, stop).await
    };
    let (ended, ()) = tokio::join!(streaming, uploads.run());
    database.streaming.ended(ended.as_ref().err());
    ended
}

/// Whether the server writes another history than the one that was streamed: it was set
/// back to an earlier state, or wrote with `wal_level` minimal.
fn is_another_history(error: &EngineError) -> bool {
    let EngineError::Sink { source, .. } = error else { return false };
    matches!(
        source.downcast_ref(),
        Some(VaultError::Forked { .. } | VaultError::Unlogged { .. } | VaultError::NextIncarnation { .. })
    )
}

/// The history of a system id that goes on: its newest incarnation, by what the
/// vaults hold. The first vault and the required ones must answer.
pub async fn newest_layout(database: &Database, system_id: &str) -> Result<Layout, VaultError> {
    let mut newest = Layout::new(database.name.clone(), system_id, FIRST_INCARNATION)?;
    for (nth, vault) in database.vaults.iter().enumerate() {
        let look = Listing::of_system(vault.store.as_ref(), &database.name, system_id);
        let listings = if nth == 0 || vault.durability == Durability::Required {
            look.await?
        } else {
            match timeout(LOOK_LIMIT, look).await {
                Ok(Ok(listings)) => listings,
                Ok(Err(_)) | Err(_) => continue,
            }
        };
        let found = listings.last().map(|listing| listing.layout().clone());
        newest = found.into_iter().chain([newest.clone()]).max_by_key(Layout::incarnation).unwrap_or(newest);
    }
    Ok(newest)
}

struct Sink<'a> {
    writer: WalWriter,
    database: &'a Database,
    /// Of the stretch.
    layout: Option<Layout>,
    /// Whether the server has accepted it.
    is_accepted: bool,
}

impl Sink<'_> {
    /// From where on a vault that holds no WAL yet wants it: from now on, or
    /// from the start of a backup that still lacks its WAL; the slot kept it.
    async fn first_wanted(&self, looked: &Looked, source: &WalSource) -> Result<Lsn, VaultError> {
        let mut first = source.server_lsn;
        for (vault, listing) in self.database.vaults.iter().zip(looked.listings()) {
            let Some(listing) = listing else { continue };
            let read = Catalog::read(listing, vault.store.as_ref(), &self.database.keys.verifier);
            let catalog = match vault.durability {
                Durability::Required => read.await?,
                // Nothing waits for it; what it lacks is copied from another vault.
                Durability::BestEffort => match timeout(LOOK_LIMIT, read).await {
                    Ok(Ok(catalog)) => catalog,
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            let held = listing.coverage_by_name(source.segment_size);
            // Also a DEGRADED one, whose state does not tell.
            let manifests = catalog.entries.iter().map(|entry| &entry.manifest);
            let lacking =
                manifests.filter(|one| !held.covers(one.timeline, one.segment_size, one.start_lsn, one.stop_lsn));
            first = lacking.map(|one| one.start_lsn).fold(first, Lsn::min);
        }
        Ok(first)
    }

    /// Begins in the vaults. Another process may have streamed on since the server
    /// told its position: only one that it has not reached even now is a fork.
    async fn begin_after(&mut self, looked: &Looked, source: &WalSource, wanted: Lsn) -> Result<Lsn, VaultError> {
        let WalSource { timeline, segment_size, server_timeline, server_lsn, .. } = *source;
        let written = (timeline == server_timeline).then_some(server_lsn);
        let what = Source { timeline, segment_size, wanted, written, fork: None, oldest: source.oldest };
        let begun = self.writer.begin(looked, &what);
        if !matches!(begun, Err(VaultError::Forked { .. })) {
            return begun;
        }
        let of_this = |facts: &MemberFacts| {
            facts.role == Role::Primary && facts.system_id == source.system_id && facts.timeline == timeline
        };
        let members = self.database.engine.inspect().await;
        match members.into_iter().find_map(|(_, facts)| facts.ok().filter(of_this)) {
            Some(facts) => self.writer.begin(looked, &Source { written: Some(facts.lsn), ..what }),
            None => begun,
        }
    }

    /// The server streams: from now on this process does.
    fn accepted(&mut self) {
        if let Some(layout) = self.layout.as_ref().filter(|_| !self.is_accepted) {
            self.is_accepted = true;
            self.database.streaming.begun(self.writer.status(), layout.clone());
        }
    }

    /// Begins in the newest incarnation that the vaults hold.
    async fn begin_in_newest(&mut self, source: &WalSource) -> Result<Lsn, VaultError> {
        let first = Layout::new(self.database.name.clone(), &source.system_id, FIRST_INCARNATION)?;
        let looked = self.writer.look(first).await?;
        self.layout = Some(looked.layout().clone());
        let wanted = self.first_wanted(&looked, source).await?;
        self.begin_after(&looked, source, wanted).await
    }

    /// Opens the next incarnation in the vaults for a server that was set back, or did
    /// not log everything; any other error stays what it is. A vault that nobody waits for may lack it.
    async fn apart(&self, error: VaultError) -> VaultError {
        let (VaultError::Forked { .. } | VaultError::Unlogged { .. }, Some(layout)) = (&error, &self.layout) else {
            return error;
        };
        let (now, signer) = (Clock::system().now(), &self.database.keys.signer);
        let any_required = self.database.vaults.iter().any(|vault| vault.durability == Durability::Required);
        let mut failed = None;
        let mut opened = 0;
        for vault in &self.database.vaults {
            let open = open_next(vault.store.as_ref(), layout, &error, now, signer);
            let result = match vault.durability {
                Durability::Required => match open.await {
                    Err(error) => return error,
                    done => done,
                },
                Durability::BestEffort => timeout(LOOK_LIMIT, open).await.unwrap_or(Err(VaultError::Stopped)),
            };
            match result {
                Ok(()) => opened += 1,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(failed) if !any_required && opened == 0 => failed,
            _ => {
                let incarnation = layout.next().incarnation();
                tracing::warn!(database = %self.database.name, incarnation, %error, "a new incarnation is opened");
                VaultError::NextIncarnation { incarnation, forked: Box::new(error) }
            }
        }
    }
}

#[async_trait]
impl WalSink for Sink<'_> {
    async fn begin(&mut self, source: &WalSource) -> Result<Lsn, EngineError> {
        for vault in &self.database.vaults {
            let place = vault.store.place();
            self.database.refuse_outside_residency(&place.region).map_err(|error| {
                refused(VaultError::Refused { vault: place.vault.clone(), what: error.to_string() })
            })?;
        }
        let begun = match self.begin_in_newest(source).await {
            Err(error) => match self.apart(error).await {
                VaultError::NextIncarnation { .. } => self.begin_in_newest(source).await,
                error => Err(error),
            },
            begun => begun,
        };
        begun.map_err(refused)
    }

    async fn history(&mut self, timeline: Timeline, content: Bytes) -> Result<(), EngineError> {
        self.writer.history(timeline, content);
        Ok(())
    }

    async fn wal(&mut self, at: Lsn, bytes: Bytes, sent: Instant) -> Result<(), EngineError> {
        self.accepted();
        self.writer.sent(at.forward(bytes.len() as u64), sent);
        match self.writer.wal(at, bytes).await {
            Ok(()) => Ok(()),
            Err(error) => Err(refused(self.apart(error).await)),
        }
    }

    async fn flush(&mut self) -> Result<Lsn, EngineError> {
        self.accepted();
        match self.writer.flush().await {
            Ok(durable) => Ok(durable),
            Err(error) => Err(refused(self.apart(error).await)),
        }
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
    let Manifest { timeline, segment_size: size, start_lsn: start, stop_lsn: stop, .. } = *manifest;
    // A listing takes a while: once may have been a moment between two objects.
    let mut passed_over = 0;
    loop {
        let coverage = Listing::take(store.as_ref(), &layout).await?.coverage_by_name(size);
        let goes_on = database.streaming.layout();
        let is_left = goes_on.is_some_and(|other| other.system_id() == layout.system_id() && other != layout);
        if is_left || coverage.covers(timeline, size, start, stop) {
            return not_left_behind(database, &layout, &coverage, manifest).await;
        }
        let is_lost = chain::is_passed_over(&coverage, timeline, size, start, stop)
            && in_all_vaults(database, &layout, size)
                .await
                .is_some_and(|all| chain::is_passed_over(&all, timeline, size, start, stop));
        passed_over = if is_lost { passed_over + 1 } else { 0 };
        if passed_over > 1 {
            return Err(StepError::permanent(format!(
                "the server lost WAL from {start} to {stop} before it was in a vault, so that this backup cannot be \
                 restored; give `max_slot_wal_keep_size` more room, another full backup is needed"
            )));
        }
        cx.sleep(LOOK_EVERY).await?;
    }
}

/// Refuses a backup whose WAL another history has under the same names: the server was
/// set back, or wrote with `wal_level` minimal, before or during it.
async fn not_left_behind(
    database: &Database,
    layout: &Layout,
    coverage: &Coverage,
    manifest: &Manifest,
) -> Result<(), StepError> {
    let held = coverage.tip(manifest.timeline, manifest.segment_size);
    let is_same = |facts: &MemberFacts| facts.system_id == manifest.system_id && facts.timeline == manifest.timeline;
    let members = database.engine.inspect().await.into_iter();
    let primary =
        members.filter_map(|(_, facts)| facts.ok()).find(|facts| facts.role == Role::Primary && is_same(facts));
    let is_behind = primary.is_some_and(|facts| held.is_some_and(|held| facts.lsn < held));
    if is_behind || newest_layout(database, &manifest.system_id).await? != *layout {
        return Err(StepError::permanent(
            "the server writes another history than the one in which this backup lies, as it was set back to an earlier \
             state or wrote with `wal_level` minimal; it cannot be restored: take it again",
        ));
    }
    Ok(())
}

/// What the vaults hold together; none where one of them is away.
async fn in_all_vaults(database: &Database, layout: &Layout, size: SegmentSize) -> Option<Coverage> {
    let mut all = Coverage::default();
    for vault in &database.vaults {
        Listing::take(vault.store.as_ref(), layout).await.ok()?.add_coverage(size, &mut all);
    }
    Some(all)
}
