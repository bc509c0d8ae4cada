//! Looks how much WAL the primary keeps for us and how much more it can keep:
//! gathers what the server says, what the schedule says and what the heartbeats
//! say of its rate; `decide::headroom` judges. `tasks::headroom` looks again and
//! again and leaves its last look here, for whoever shows it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::Database;
use crate::{
    db::{Db, heartbeats},
    decide::headroom::{self, Facts, Headroom},
    domain::{ByteSize, WalKept},
    flow::StepError,
};

/// What the looks of this process saw.
#[derive(Debug, Default)]
pub struct Watched(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the last look that saw anything.
    seen: Option<Box<Look>>,
    /// Whether none has since.
    has_failed: bool,
}

/// How it is now, as far as this process has looked.
#[derive(Debug, Clone)]
pub enum Last {
    /// There was no look yet.
    Never,
    /// The last look failed, or was too long ago.
    Failed,
    Seen(Box<Look>),
}

impl Watched {
    pub fn last(&self, now: Timestamp) -> Last {
        let state = self.state();
        match &state.seen {
            Some(look) if !state.has_failed && headroom::is_current(look.at, now) => Last::Seen(look.clone()),
            None if !state.has_failed => Last::Never,
            Some(_) | None => Last::Failed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at the primary.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub at: Timestamp,
    pub kept: WalKept,
    pub room_bytes: Option<u64>,
    pub bytes_per_second: Option<f64>,
    /// Since when nothing was confirmed, though there was something to confirm.
    pub still_since: Option<Timestamp>,
    pub confirmed_every: Duration,
}

impl Look {
    pub fn still_for(&self) -> Duration {
        let since = self.still_since.unwrap_or(self.at);
        self.at.duration_since(since).try_into().unwrap_or_default()
    }

    fn facts(&self) -> Facts<'_> {
        let Self { kept, room_bytes, bytes_per_second, confirmed_every, .. } = self;
        Facts {
            kept,
            room_bytes: *room_bytes,
            bytes_per_second: *bytes_per_second,
            still_for: self.still_for(),
            confirmed_every: *confirmed_every,
        }
    }

    /// How much more can be kept, and what ends it.
    pub fn headroom(&self) -> Option<Headroom> {
        headroom::headroom(&self.facts())
    }

    /// What a person must fix.
    pub fn finding(&self) -> Option<String> {
        headroom::finding(&self.facts())
    }
}

/// Looks, and remembers it.
pub async fn watch(db: &Db, database: &Database, now: Timestamp) -> Result<Look, StepError> {
    // Looks that failed in between do not make what stands still look new.
    let before = database.watched.state().seen.clone();
    let looked = look(db, database, before.as_deref(), now).await;
    let mut state = database.watched.state();
    state.has_failed = looked.is_err();
    if let Ok(look) = &looked {
        state.seen = Some(Box::new(look.clone()));
    }
    looked
}

/// Looks once. `before` tells since when nothing is confirmed.
pub async fn look(db: &Db, database: &Database, before: Option<&Look>, now: Timestamp) -> Result<Look, StepError> {
    let kept = database.engine.wal_kept().await?;
    let over = SignedDuration::try_from(headroom::RATE_OVER).unwrap_or(SignedDuration::MAX);
    let first = heartbeats::first_since(db, &database.name, now - over).await?;
    let beat = match first.as_ref().filter(|beat| headroom::rate(beat, &kept, now).is_some()) {
        Some(beat) => Some(*beat),
        // Nobody wrote one for long: what was written since is measured all the same.
        None => heartbeats::newest(db, &database.name).await?,
    };
    let before = before.and_then(|before| Some((before.kept.from?, before.still_since)));
    let wal = &database.schedule.config.wal;
    Ok(Look {
        at: now,
        room_bytes: wal.room_on_primary.map(ByteSize::as_bytes),
        confirmed_every: wal.flush_every.as_duration(),
        bytes_per_second: beat.and_then(|beat| headroom::rate(&beat, &kept, now)),
        still_since: headroom::still_since(before, &kept, now),
        kept,
    })
}
