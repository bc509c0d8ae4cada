//! Looks how much WAL the primary keeps for us and how much more it can keep:
//! gathers what the server says, what the schedule says and what the heartbeats
//! say of its rate; `decide::headroom` judges. `tasks::headroom` looks again and
//! again and leaves its last look here, for whoever shows it.

use std::{
    sync::{Mutex, PoisonError},
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

/// What the last look of this process saw.
#[derive(Debug, Default)]
pub struct Watched(Mutex<Last>);

/// The last look.
#[derive(Debug, Clone, Default)]
pub enum Last {
    /// There was none yet.
    #[default]
    Never,
    Failed,
    Seen(Box<Look>),
}

impl Watched {
    pub fn last(&self) -> Last {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, last: Last) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
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
    let before = match database.watched.last() {
        Last::Seen(look) => Some(look),
        Last::Never | Last::Failed => None,
    };
    match look(db, database, before.as_deref(), now).await {
        Ok(look) => {
            database.watched.set(Last::Seen(Box::new(look.clone())));
            Ok(look)
        }
        Err(error) => {
            database.watched.set(Last::Failed);
            Err(error)
        }
    }
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
