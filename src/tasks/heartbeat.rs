//! One small acknowledged write per second and database. Every acknowledgement
//! is kept outside the database, in the state database and in every vault, and
//! is what the recovery point is measured by.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    db::heartbeats,
    domain::Beat,
    flows::{
        Database,
        ledger::{self, HEARTBEAT_EVERY},
    },
};

/// After this much silence a person must look.
const SILENCE: Duration = Duration::from_secs(30);
/// How often acknowledgements go into the vaults.
const LEDGER_EVERY: Duration = Duration::from_secs(10);
/// How long the state database keeps them; the vaults keep them for ever.
const KEPT: SignedDuration = SignedDuration::from_hours(31 * 24);
/// After this many heartbeats those that are older are trimmed.
const TRIM_EVERY: i64 = 3600;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Writes heartbeats until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(HEARTBEAT_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut pulse = Pulse {
        app: &app,
        database: &database,
        next: None,
        first_tried: None,
        is_retry: false,
        unstored: Vec::new(),
        unledgered: Vec::new(),
    };
    let mut finding = Finding::new("heartbeat", &app, &database.name);
    let (mut last_success, mut last_ledger) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        match pulse.beat().await {
            Ok(()) => {
                last_success = Instant::now();
                finding.close().await;
            }
            Err(error) => {
                tracing::debug!(database = %database.name, %error, "no heartbeat");
                if last_success.elapsed() > SILENCE {
                    finding.open(&format!("no heartbeat was acknowledged for {SILENCE:?}: {error}")).await;
                    last_success = Instant::now();
                }
            }
        }
        pulse.store().await;
        if last_ledger.elapsed() >= LEDGER_EVERY {
            pulse.ledger().await;
            last_ledger = Instant::now();
        }
    }
    pulse.ledger().await;
}

/// Writes heartbeats and keeps what was acknowledged until it is stored
/// everywhere, so that a blip of the state database or a vault loses none.
struct Pulse<'a> {
    app: &'a App,
    database: &'a Database,
    next: Option<i64>,
    /// When the next one was tried first, while its outcome is unknown.
    first_tried: Option<Timestamp>,
    is_retry: bool,
    /// Not in the state database yet.
    unstored: Vec<Beat>,
    /// Not in every vault yet.
    unledgered: Vec<Beat>,
}

impl Pulse<'_> {
    /// Writes the next heartbeat. A `seq` whose outcome is unknown is written again.
    async fn beat(&mut self) -> Result<(), Failed> {
        let seq = match self.next {
            Some(seq) => seq,
            None => self.first().await?,
        };
        self.next = Some(seq);
        // One whose outcome was unknown may have committed when it was first tried:
        // its record in the WAL is as old as that, and so is what it proves.
        let first_tried = self.first_tried.get_or_insert_with(|| self.app.clock.now());
        let retried = std::mem::replace(&mut self.is_retry, true).then_some(*first_tried);
        let mut beat = self.database.engine.beat(seq).await?;
        beat.acknowledged_at = retried.unwrap_or(beat.acknowledged_at);
        (self.next, self.first_tried, self.is_retry) = (Some(seq + 1), None, false);
        self.database.remember(beat);
        self.unstored.push(beat);
        self.unledgered.push(beat);
        Ok(())
    }

    /// The state database may have been lost or restored: a number that the
    /// table holds is never used again.
    async fn first(&self) -> Result<i64, Failed> {
        let kept = heartbeats::newest(&self.app.resources.db, &self.database.name).await?.map_or(0, |beat| beat.seq);
        let written = self.database.engine.heartbeats().await?.present.last().copied().unwrap_or(0);
        Ok(kept.max(written) + 1)
    }

    async fn store(&mut self) {
        let db = &self.app.resources.db;
        let Some(newest) = self.unstored.last().map(|beat| beat.seq) else { return };
        match heartbeats::append(db, &self.database.name, &self.unstored).await {
            Ok(()) => self.unstored.clear(),
            Err(error) => {
                tracing::warn!(%error, "heartbeats are kept in this process until the state database answers");
            }
        }
        if newest % TRIM_EVERY == 0
            && let Err(error) = heartbeats::trim(db, self.app.clock.now() - KEPT).await
        {
            tracing::warn!(%error, "old heartbeats are not trimmed");
        }
    }

    async fn ledger(&mut self) {
        match ledger::append(self.database, &self.unledgered).await {
            Ok(true) => self.unledgered.clear(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(database = %self.database.name, %error, "heartbeats are not in every vault yet");
            }
        }
    }
}
