//! One small acknowledged write per second and database. Every acknowledgement
//! is kept outside the database, in the state database and in every vault, and
//! is what the recovery point is measured by.
//!
//! What must never happen: a beat that waits for any of them. Each has a backlog
//! of its own, and takes from it at its own pace; one that is away keeps nothing
//! from the others and gets what it missed, once, when it is back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::heartbeats,
    decide::retention::beats,
    domain::{Beat, DatabaseName, with_causes},
    engine::Engine,
    flows::{Database, Vault, ledger::HEARTBEAT_EVERY},
    vault::{Layout, VaultError, ledger},
};

mod backlog;
pub mod managed;
mod watch;

use backlog::Backlog;

/// How often acknowledgements go into the vaults.
const LEDGER_EVERY: Duration = Duration::from_secs(10);
/// What waits for the state database: a day of heartbeats.
const UNSTORED_MAX: usize = 86_400;
/// What waits for a vault: a day of batches.
const UNLEDGERED_MAX: usize = 8640;
/// Heartbeats stored in one transaction.
const STORED_AT_ONCE: usize = 3600;
/// Pause after the state database did not take them.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often old ones are trimmed from the state database.
const TRIM_EVERY: Duration = Duration::from_secs(3600);
/// When all ends, places that are still taking have so long.
const LAST_LIMIT: Duration = Duration::from_secs(5);

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Writes heartbeats until told to stop; then everything that waits has a little
/// time left to be stored.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let of = Of { name: &database.name, engine: database.engine.as_ref(), own: Some(&database) };
    beat(&app, of, &stop).await;
}

/// What has a heart.
#[derive(Clone, Copy)]
struct Of<'a> {
    name: &'a DatabaseName,
    engine: &'a dyn Engine,
    /// With vaults, where no provider runs it.
    own: Option<&'a Database>,
}

async fn beat(app: &Arc<App>, of: Of<'_>, stop: &CancellationToken) {
    let closed = CancellationToken::new();
    let heart = Heart::new(app, of);
    let beating = async {
        heart.beat_until(stop).await;
        closed.cancel();
    };
    let vaults = heart.vaults.iter().map(|(vault, backlog)| heart.fill(vault, backlog, &closed));
    tokio::join!(
        beating,
        heart.store(&closed),
        heart.trim(&closed),
        heart.watch(&closed),
        futures::future::join_all(vaults)
    );
}

/// Heartbeats with contiguous numbers, on their way into a vault.
#[derive(Debug, Clone)]
struct Batch {
    /// The history that was streamed when they were acknowledged.
    layout: Layout,
    beats: Arc<[Beat]>,
}

/// How the last attempts went.
#[derive(Debug)]
struct Heard {
    /// When the last one was acknowledged, or the start.
    at: Instant,
    is_first_due: bool,
    error: Option<String>,
}

struct Heart<'a> {
    app: &'a Arc<App>,
    of: Of<'a>,
    heard: Mutex<Heard>,
    /// Not in the state database yet.
    unstored: Backlog<Beat>,
    /// Not in these vaults yet.
    vaults: Vec<(&'a Vault, Backlog<Batch>)>,
}

impl<'a> Heart<'a> {
    fn new(app: &'a Arc<App>, of: Of<'a>) -> Self {
        let vaults = of.own.map_or(&[][..], |database| database.vaults.as_slice());
        Self {
            app,
            of,
            heard: Mutex::new(Heard { at: Instant::now(), is_first_due: true, error: None }),
            unstored: Backlog::new(UNSTORED_MAX),
            vaults: vaults.iter().map(|vault| (vault, Backlog::new(UNLEDGERED_MAX))).collect(),
        }
    }

    /// Waits for nobody but the database itself.
    async fn beat_until(&self, stop: &CancellationToken) {
        let mut ticker = tokio::time::interval(HEARTBEAT_EVERY);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut pulse = Pulse { app: self.app, of: self.of, next: None, first_tried: None };
        let (mut unledgered, mut last_ledger) = (Vec::new(), Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticker.tick() => {}
            }
            let beaten = pulse.beat(stop).await;
            if let Ok(beat) = &beaten {
                self.unstored.push(*beat);
                unledgered.push(*beat);
            }
            self.hear(beaten.map(drop));
            if last_ledger.elapsed() >= LEDGER_EVERY {
                self.ledger(&mut unledgered);
                last_ledger = Instant::now();
            }
        }
        self.ledger(&mut unledgered);
    }

    fn hear(&self, beaten: Result<(), Failed>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match beaten {
            Ok(()) => *heard = Heard { at: Instant::now(), is_first_due: false, error: None },
            Err(error) => {
                let error = with_causes(error.as_ref());
                tracing::debug!(database = %self.of.name, error, "no heartbeat");
                heard.error = Some(error);
            }
        }
    }

    /// Hands them to every vault in the same pieces, so that vaults name them
    /// alike. Not before WAL streaming of this process has begun, as only then the
    /// history they belong to is known; where it never begins another node's does.
    fn ledger(&self, unledgered: &mut Vec<Beat>) {
        let Some(database) = self.of.own else { return unledgered.clear() };
        let Some(layout) = database.streaming.layout() else {
            let excess = unledgered.len().saturating_sub(UNSTORED_MAX);
            unledgered.drain(..excess);
            return;
        };
        let is_one = |a: &Beat, b: &Beat| a.seq + 1 == b.seq && beats::block_of(a.seq) == beats::block_of(b.seq);
        for piece in unledgered.chunk_by(is_one) {
            let batch = Batch { layout: layout.clone(), beats: Arc::from(piece) };
            for (_, backlog) in &self.vaults {
                backlog.push(batch.clone());
            }
        }
        unledgered.clear();
    }

    /// Brings the backlog of one vault into it.
    async fn fill(&self, vault: &Vault, backlog: &Backlog<Batch>, closed: &CancellationToken) {
        let Some(Database { keys, name: database, .. }) = self.of.own else { return };
        let (store, recipients) = (&vault.store, &keys.recipients);
        let name = &store.place().vault;
        let put = |batches: Vec<Batch>| async move {
            for Batch { layout, beats } in batches {
                match ledger::append(store.as_ref(), &layout, recipients, &beats).await {
                    Ok(()) => {}
                    // Another node acknowledged the same numbers at the same time.
                    Err(error @ VaultError::Conflict { .. }) => {
                        tracing::warn!(%database, vault = %name, %error, "these heartbeats are there already");
                    }
                    Err(error) => {
                        tracing::debug!(%database, vault = %name, error = %with_causes(&error), "heartbeats are not in this vault yet");
                        return Err(with_causes(&error));
                    }
                }
            }
            Ok(())
        };
        within_the_end(closed, backlog.drain(1, LEDGER_EVERY, closed, put)).await;
        if backlog.len() > 0 {
            tracing::warn!(%database, vault = %name, batches = backlog.len(), "the last heartbeats are not in this vault; the state database has them");
        }
    }

    async fn store(&self, closed: &CancellationToken) {
        let (db, name) = (&self.app.resources.db, self.of.name);
        let put = |beats: Vec<Beat>| async move {
            heartbeats::append(db, name, &beats).await.map_err(|error| {
                let error = with_causes(&error);
                tracing::warn!(error, "heartbeats are kept in this process until the state database answers");
                error
            })
        };
        within_the_end(closed, self.unstored.drain(STORED_AT_ONCE, STORE_AGAIN, closed, put)).await;
    }

    async fn trim(&self, closed: &CancellationToken) {
        let mut ticker = tokio::time::interval(TRIM_EVERY);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = closed.cancelled() => break,
                _ = ticker.tick() => {}
            }
            let trim = heartbeats::trim(&self.app.resources.db, self.app.clock.now() - beats::KEPT);
            tokio::select! {
                () = closed.cancelled() => break,
                trimmed = trim => if let Err(error) = trimmed {
                    tracing::warn!(%error, "old heartbeats are not trimmed");
                }
            }
        }
    }
}

/// Awaits `work`, but not for longer than a little after `closed`.
async fn within_the_end(closed: &CancellationToken, work: impl Future<Output = ()>) {
    let end = async {
        closed.cancelled().await;
        tokio::time::sleep(LAST_LIMIT).await;
    };
    tokio::select! {
        () = work => {}
        () = end => {}
    }
}

/// Writes heartbeats one by one.
struct Pulse<'a> {
    app: &'a App,
    of: Of<'a>,
    next: Option<i64>,
    /// When the next one was tried first, while its outcome is unknown.
    first_tried: Option<Timestamp>,
}

impl Pulse<'_> {
    /// Writes the next heartbeat. A `seq` whose outcome is unknown is written again.
    async fn beat(&mut self, stop: &CancellationToken) -> Result<Beat, Failed> {
        if self.next.is_none() {
            self.next = tokio::select! {
                first = self.first() => Some(first?),
                () = stop.cancelled() => None,
            };
        }
        let Some(seq) = self.next else { return Err("stopped".into()) };
        // One whose outcome was unknown may have committed when it was first tried:
        // its record in the WAL is as old as that, and so is what it proves.
        let retried = self.first_tried;
        self.first_tried.get_or_insert_with(|| self.app.clock.now());
        let mut beat = self.of.engine.beat(seq).await?;
        beat.acknowledged_at = retried.unwrap_or(beat.acknowledged_at);
        (self.next, self.first_tried) = (Some(seq + 1), None);
        Ok(beat)
    }

    /// The state database may have been lost or restored: a number that the
    /// table holds is never used again.
    async fn first(&self) -> Result<i64, Failed> {
        let kept = heartbeats::newest(&self.app.resources.db, self.of.name).await?.map_or(0, |beat| beat.seq);
        let written = self.of.engine.heartbeats().await?.present.last().copied().unwrap_or(0);
        Ok(kept.max(written) + 1)
    }
}
