//! The acknowledged heartbeats go into every vault beside the WAL, so that a
//! recovery point can be measured when the state database is gone. There they
//! are kept few: those of an hour in one object, and none that is older than
//! anybody asks for (`decide::retention::beats`).

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{Database, Vault};
use crate::{
    config::ScheduleConfig,
    db::{Db, heartbeats},
    decide::retention::beats::{self, Merge},
    domain::BeatRange,
    flow::StepError,
    vault::{Layout, StoreError, VaultError, ledger},
};

/// How often a heartbeat is written; the uncertainty of every recovery point
/// that is measured by it.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How many of the newest heartbeats each vault of a database keeps.
pub fn kept(config: &ScheduleConfig) -> u64 {
    let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    beats::kept(signed(config.wal.window.as_duration()), signed(HEARTBEAT_EVERY))
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that hold what several held before.
    pub merged: usize,
    pub deleted: usize,
}

/// Until when the vault refuses to delete an object.
pub type Locked = BTreeMap<BeatRange, Timestamp>;

/// Merges and removes what may be, in one history of one vault. What is merged is
/// taken from the state database: a node that only writes could not read it
/// back. Where that does not know every number, nothing is merged.
pub async fn sweep(
    db: &Db,
    database: &Database,
    (vault, layout): (&Vault, &Layout),
    locked: &mut Locked,
    now: Timestamp,
) -> Result<Swept, StepError> {
    locked.retain(|_, until| *until > now);
    let held = ledger::list(vault.store.as_ref(), layout).await?;
    // One block more than `copy` brings, so that vaults do not fill one another again.
    let expired = beats::expired(&held, kept(&database.schedule.config).saturating_add(beats::BLOCK.unsigned_abs()));
    let mut sweeping = Sweeping { vault, layout, locked, swept: Swept::default() };
    for range in &expired {
        sweeping.delete(range).await?;
    }
    for Merge { whole, parts } in beats::merges(&held) {
        let is_due = |part: &&BeatRange| !sweeping.locked.contains_key(part) && !expired.contains(part);
        let parts: Vec<BeatRange> = parts.iter().filter(is_due).copied().collect();
        if parts.is_empty() {
            continue;
        }
        let beats = heartbeats::numbered(db, &database.name, whole).await?;
        if beats.len() as u64 != whole.count() {
            continue;
        }
        match ledger::append(vault.store.as_ref(), layout, &database.keys.recipients, &beats).await {
            Ok(()) => sweeping.swept.merged += 1,
            Err(error @ VaultError::Conflict { .. }) => {
                tracing::warn!(%error, "heartbeats of this name differ from those that are known here; left as they are");
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        for part in &parts {
            sweeping.delete(part).await?;
        }
    }
    Ok(sweeping.swept)
}

struct Sweeping<'a> {
    vault: &'a Vault,
    layout: &'a Layout,
    locked: &'a mut Locked,
    swept: Swept,
}

impl Sweeping<'_> {
    async fn delete(&mut self, range: &BeatRange) -> Result<(), StoreError> {
        if self.locked.contains_key(range) {
            return Ok(());
        }
        match self.vault.store.delete(&self.layout.heartbeats(*range)).await {
            Ok(()) => self.swept.deleted += 1,
            // Its lock ends by itself; a later sweep takes it.
            Err(StoreError::Locked { until, .. }) => drop(self.locked.insert(*range, until)),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
