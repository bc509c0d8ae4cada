//! Looks how much WAL each member keeps for us and how much more it can keep:
//! gathers what the servers say, what the schedule says and what the heartbeats
//! say of the rate; `decide::headroom` judges. `tasks::headroom` looks again and
//! again and leaves its last look here, for whoever shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::Database;
use crate::{
    db::{Db, heartbeats},
    decide::{
        headroom::{self, Facts, Headroom},
        slot,
    },
    domain::{ByteSize, MemberName, WalKept},
    flow::StepError,
};

/// What the looks of this process saw.
#[derive(Debug, Default)]
pub struct Watched(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    looked_at: Option<Timestamp>,
    /// By the last look at each member that saw anything.
    seen: BTreeMap<MemberName, Look>,
    /// Those of which the last look failed.
    away: BTreeSet<MemberName>,
}

/// How it is now, as far as this process has looked.
#[derive(Debug, Clone)]
pub enum Last {
    /// There was no look of late: nobody looks again and again here.
    Unknown,
    /// Of each member whose last look succeeded, and was not too long ago.
    Seen(Vec<Look>),
}

impl Watched {
    pub fn last(&self, now: Timestamp) -> Last {
        let state = self.state();
        if !state.looked_at.is_some_and(|at| headroom::is_current(at, now)) {
            return Last::Unknown;
        }
        let current = state
            .seen
            .iter()
            .filter(|(member, look)| !state.away.contains(*member) && headroom::is_current(look.at, now));
        Last::Seen(current.map(|(_, look)| look.clone()).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at a member.
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

/// The look at the primary, where one is.
pub fn primary(looks: &[Look]) -> Option<&Look> {
    let primary = headroom::primary(looks.iter().map(|look| &look.kept))?;
    looks.iter().find(|look| look.kept.member == primary.member)
}

/// What was seen of each member.
pub type Looks = Vec<(MemberName, Result<Look, StepError>)>;

/// Looks at all members, and remembers it.
pub async fn watch(db: &Db, database: &Database, now: Timestamp) -> Looks {
    // Looks that failed in between do not make what stands still look new.
    let before = database.watched.state().seen.clone();
    let looks = look(db, database, &before, now).await;
    let mut state = database.watched.state();
    state.looked_at = Some(now);
    for (member, look) in &looks {
        match look {
            Ok(look) => {
                state.away.remove(member);
                state.seen.insert(member.clone(), look.clone());
            }
            Err(_) => {
                state.away.insert(member.clone());
            }
        }
    }
    looks
}

/// Looks once. `before` tells since when nothing is confirmed.
async fn look(db: &Db, database: &Database, before: &BTreeMap<MemberName, Look>, now: Timestamp) -> Looks {
    let mut looks = Vec::new();
    for (member, kept) in database.engine.wal_kept().await {
        let look = match kept {
            Ok(kept) => judged(db, database, before.get(&member), kept, now).await,
            Err(error) => Err(error.into()),
        };
        looks.push((member, look));
    }
    looks
}

async fn judged(
    db: &Db,
    database: &Database,
    before: Option<&Look>,
    kept: WalKept,
    now: Timestamp,
) -> Result<Look, StepError> {
    let mut beats = Vec::new();
    for from in headroom::rate::instants(now) {
        beats.extend(heartbeats::first_since(db, &database.name, from).await?);
    }
    if beats.is_empty() {
        beats.extend(heartbeats::newest(db, &database.name).await?);
    }
    let before = before.and_then(|before| Some((before.kept.from?, before.still_since)));
    let wal = &database.schedule.config.wal;
    let flush_every = wal.flush_every.as_duration();
    Ok(Look {
        at: now,
        room_bytes: wal.room_on_primary.map(ByteSize::as_bytes).filter(|_| kept.is_primary),
        // The slot of a standby is told now and then what is in the vaults.
        confirmed_every: if kept.is_primary { flush_every } else { flush_every + slot::LOOK_EVERY },
        bytes_per_second: headroom::rate::rate(&beats, &kept, now),
        still_since: headroom::still_since(before, &kept, now),
        kept,
    })
}
