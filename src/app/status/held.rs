//! What the vaults hold of a database: its backups, up to where each vault can restore,
//! what a restore would have to do, and what one vault lacks of the others.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::Timestamp;
use metrics::gauge;

use super::StatusError;
use crate::{
    app::App,
    decide::{
        chain::Break,
        copy::{self, Holding, Lag},
        exposure::{self, Tip},
        forecast::Work,
        recovery,
    },
    domain::{Backup, Beat, DatabaseName, RecoveryTarget, Span, VaultName, with_causes},
    flows::{
        self, Database, chain,
        copy::look::{self, Wanted},
        restore,
    },
    report::status::VaultCopies,
    telemetry,
    vault::{CatalogEntry, Inventory, Layout, visit},
};

impl App {
    /// Up to where the latest state can be restored, behind no gap, and what that would
    /// have to do; none when nothing can.
    async fn restorable_tip(&self, vault: &flows::Vault, held: &Inventory) -> Result<Option<(Tip, Work)>, StatusError> {
        let Some(facts) = restore::facts(&[(vault, held)], self.clock.now()).await? else { return Ok(None) };
        let Ok(latest) = recovery::choose(&facts, &RecoveryTarget::Latest, None) else { return Ok(None) };
        let backup = facts.backups.iter().find(|backup| backup.id == latest.backup);
        let chain: Vec<&CatalogEntry> = latest.chain.iter().filter_map(|id| held.catalog.find(id)).collect();
        let archive_seconds = restore::frozen(vault, held, &latest).map_err(restore::RestoreError::from)?.seconds_max();
        Ok(backup.map(|backup| {
            let tip = Tip { timeline: latest.timeline, lsn: latest.end, backup_ended_at: backup.finished_at };
            let wal_bytes = latest.end.0.saturating_sub(backup.start_lsn.0);
            let chain_bytes = restore::size_min(&chain);
            (tip, Work { chain_bytes, chain_length: chain.len(), wal_bytes, archive_seconds })
        }))
    }

    /// All histories that a vault holds, and up to where the newest can be restored.
    async fn look_into(
        &self,
        database: &Database,
        vault: &flows::Vault,
    ) -> Result<(Vec<Inventory>, Option<(Tip, Work)>), StatusError> {
        let histories = database.histories(vault).await.map_err(restore::RestoreError::from)?;
        let newest = histories.iter().max_by_key(|held| held.newest_at());
        let tip = match newest.filter(|held| held.newest_at().is_some()) {
            Some(newest) => self.restorable_tip(vault, newest).await?,
            None => None,
        };
        Ok((histories, tip))
    }

    /// From the oldest backup to the newest heartbeat that the newest history of the first
    /// vault holds, from which restore tests restore: every instant in it can be asked for,
    /// where no WAL is missing. None where there is none.
    pub async fn restorable_window(&self, database: &Database) -> Result<Option<(Timestamp, Timestamp)>, StatusError> {
        let (held, now) = (self.held(database).await?, self.clock.now());
        let beats =
            self.beats(&database.name, now - super::window(database.schedule.config.objectives().rpo), now).await?;
        Ok(held.window(&beats))
    }

    /// What the vaults hold of a database, read from their listings.
    pub(crate) async fn held<'a>(&self, database: &'a Database) -> Result<Held, StatusError> {
        let (mut held, mut found) = (Held::default(), Vec::new());
        let look = |vault: &'a flows::Vault| visit(&vault.store.place().vault, self.look_into(database, vault));
        let looked = join_all(database.vaults.iter().map(look)).await;
        for (vault, looked) in database.vaults.iter().zip(looked) {
            // Of a vault that is away nothing is known; the others still tell.
            let (histories, tip) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    let vault = &vault.store.place().vault;
                    tracing::warn!(%vault, error = %with_causes(&error), "a vault cannot be looked at");
                    held.tips.push((vault.clone(), None));
                    held.away.insert(vault.clone());
                    continue;
                }
            };
            if held.tips.is_empty() {
                let newest = histories.iter().max_by_key(|held| held.newest_at());
                let ended = newest.into_iter().flat_map(|held| &held.catalog.entries);
                held.oldest = ended.map(|entry| entry.manifest.finished_at).min();
            }
            held.vaults.push((
                vault.store.place().vault.clone(),
                histories.iter().map(|held| (held.listing.layout().clone(), look::holding(held))).collect(),
            ));
            for history in &histories {
                held.backups.extend(history.catalog.entries.iter().map(CatalogEntry::summary));
            }
            held.work = held.work.or(tip.map(|(_, work)| work));
            held.tips.push((vault.store.place().vault.clone(), tip.map(|(tip, _)| tip)));
            found.push((vault, histories));
        }
        let found: Vec<_> = found.iter().map(|(vault, histories)| (*vault, histories.as_slice())).collect();
        held.breaks = chain::breaks(&self.resources.db, database, &found, self.clock.now()).await?;
        if held.breaks.iter().any(|broken| broken.is_open() && broken.begins_history()) {
            // What the history before it holds says nothing of what is written now.
            held.tips.iter_mut().for_each(|(_, tip)| *tip = None);
            held.work = None;
        }
        if found.len() > 1
            && let Some(wanted) = Wanted::of(database, &found, self.clock.now()).await?
        {
            let holdings = held.vaults.iter_mut().flat_map(|(_, histories)| histories);
            holdings.for_each(|(layout, holding)| wanted.leave_the_rest(layout, holding));
        }
        Ok(held)
    }
}

/// What the vaults hold of one database.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) backups: Vec<Backup>,
    /// When the first backup of the first vault's newest history ended.
    oldest: Option<Timestamp>,
    /// Per vault up to where the latest state can be restored, as they are configured.
    tips: Vec<(VaultName, Option<Tip>)>,
    /// The vaults that could not be looked at.
    pub(super) away: BTreeSet<VaultName>,
    /// What a restore of the latest state would have to do, from the first vault that can.
    work: Option<Work>,
    /// What each vault that can be looked at holds of each history, as far as a rule
    /// keeps it: what waits there for its expiry is not lacking elsewhere.
    vaults: Vec<(VaultName, BTreeMap<Layout, Holding>)>,
    pub(super) breaks: Vec<Break>,
}

impl Held {
    pub(super) fn publish(&self, database: &DatabaseName) {
        for (vault, tip) in &self.tips {
            if let Some(Tip { lsn, .. }) = tip {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a monitor compares it with seconds ago, not with a byte"
                )]
                gauge!(telemetry::WAL_DURABLE_LSN, "database" => database.to_string(), "vault" => vault.to_string())
                    .set(lsn.0 as f64);
            }
        }
    }

    pub(super) fn exposure(&self, beats: &[Beat], now: Timestamp) -> Vec<(VaultName, Option<f64>)> {
        let seconds = |tip| exposure::exposure(now, beats, tip).map(|exposure| exposure.as_secs_f64());
        self.tips.iter().map(|(vault, tip)| (vault.clone(), seconds(tip.as_ref()))).collect()
    }

    /// What each vault lacks that another one has.
    pub(super) fn copies(&self, lag_max: Span, now: Timestamp) -> Vec<VaultCopies> {
        if self.vaults.len() < 2 {
            return Vec::new();
        }
        let copies = self.vaults.iter().map(|(vault, target)| {
            let lag = self.lag(vault, target);
            let lag_seconds = lag.oldest_backup.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
            VaultCopies {
                vault: vault.clone(),
                lag_seconds,
                missing_backups: lag.backups,
                missing_wal: lag.segments,
                fell_behind: lag_seconds > lag_max.as_secs_f64(),
            }
        });
        copies.collect()
    }

    fn lag(&self, vault: &VaultName, target: &BTreeMap<Layout, Holding>) -> Lag {
        let others = || self.vaults.iter().filter(|(other, _)| other != vault);
        let layouts: BTreeSet<&Layout> = others().flat_map(|(_, histories)| histories.keys()).collect();
        layouts.into_iter().fold(Lag::default(), |sum, layout| {
            let sources: Vec<Holding> = others().filter_map(|(_, histories)| histories.get(layout)).cloned().collect();
            let lag = copy::lag(&sources, target.get(layout).unwrap_or(&Holding::default()));
            Lag {
                oldest_backup: sum.oldest_backup.into_iter().chain(lag.oldest_backup).min(),
                backups: sum.backups + lag.backups,
                segments: sum.segments + lag.segments,
            }
        })
    }

    pub(super) fn work(&self) -> Option<&Work> {
        self.work.as_ref()
    }

    /// The newest state that can be restored; none when nothing can.
    pub(super) fn recoverable_to(&self, beats: &[Beat]) -> Option<Timestamp> {
        let newest = self.backups.iter().map(|backup| backup.finished_at).max()?;
        Some(self.until(beats).unwrap_or(newest))
    }

    fn window(&self, beats: &[Beat]) -> Option<(Timestamp, Timestamp)> {
        let (_, first) = self.tips.first()?;
        self.oldest.zip(exposure::held_until(beats, first.as_ref()))
    }

    /// The newest instant up to which some vault is known to hold everything.
    fn until(&self, beats: &[Beat]) -> Option<Timestamp> {
        self.tips.iter().filter_map(|(_, tip)| exposure::held_until(beats, tip.as_ref())).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Lsn, Timeline};

    #[test]
    fn a_common_instant_is_one_of_the_first_vault() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let beats: Vec<Beat> = (1..=9)
            .map(|nth| Beat {
                seq: nth,
                acknowledged_at: at(nth),
                commit_lsn: Lsn(nth.unsigned_abs()),
                timeline: Timeline(1),
            })
            .collect();
        let tip = |lsn| Some(Tip { timeline: Timeline(1), lsn: Lsn(lsn), backup_ended_at: at(1) });
        for (oldest, first, other, window) in [
            (Some(2), tip(5), tip(8), Some((2, 5))),
            (Some(2), tip(8), tip(5), Some((2, 8))),
            (Some(2), None, tip(8), None),
            (None, tip(5), tip(8), None),
        ] {
            let tips = vec![("primary".parse().unwrap(), first), ("dr".parse().unwrap(), other)];
            let held = Held { oldest: oldest.map(at), tips, ..Held::default() };
            assert_eq!(held.window(&beats), window.map(|(from, to)| (at(from), at(to))), "{first:?} {other:?}");
        }
    }
}
