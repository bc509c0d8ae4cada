//! Looks at a vault and has `decide` plan what expires. Deletes nothing.
//!
//! Proofs count wherever they lie, so every vault of the database is read; one
//! that cannot be read is a doubt, and nothing expires.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

use crate::{
    config::ScheduleConfig,
    db::{heartbeats, runs},
    decide::{
        due::{Schedule, parse_zone},
        retention::{self, Facts, Held, Line, Plan, Policy, Upload, WalKey, beats},
    },
    domain::{BackupId, BackupState, BeatRange, RunId, SegmentSize, with_causes},
    evidence::Filter,
    flow::StepError,
    flows::{Database, Resources, Vault, backup, ledger, restore},
    vault::{CatalogEntry, Layout, Listing, ObjectKey, SharedStore, WalName},
};

/// What is known beside the vaults. A command without a state database knows nothing.
#[derive(Debug, Default)]
pub struct Memory {
    signs: Vec<Timestamp>,
    last_run: Option<(RunId, crate::domain::Verdict)>,
    busy: Option<RunId>,
}

impl Memory {
    /// Reads evidence, heartbeats and runs; `own` is the run that asks.
    pub async fn read(resources: &Resources, database: &Database, own: Option<&RunId>) -> Result<Self, StepError> {
        let filter = Filter { subject: Some(database.name.to_string()), ..Filter::default() };
        let records = resources.evidence.records(&filter).await?;
        let mut signs: Vec<Timestamp> = records.iter().map(|entry| entry.record.finished_at).collect();
        signs.extend(heartbeats::newest(&resources.db, &database.name).await?.map(|beat| beat.acknowledged_at));
        let last_run = records.iter().rev().find(|entry| entry.record.kind == backup::NAME);
        let last_run = last_run.map(|entry| (RunId::from(entry.record.run_id.clone()), entry.record.verdict));
        let under_way = runs::under_way(&resources.db, database.name.as_str()).await?;
        let busy = under_way.into_iter().map(RunId::from).find(|run| Some(run) != own);
        Ok(Self { signs, last_run, busy })
    }
}

/// A vault with the plan for the history that goes on in it.
#[derive(Debug)]
pub struct Look {
    pub layout: Layout,
    pub segment_size: SegmentSize,
    pub listing: Listing,
    pub plan: Plan,
    /// Heartbeats that nobody asks for any more.
    old_beats: BTreeSet<BeatRange>,
    /// The plan if no backup lacked WAL: what was kept before any was lost.
    pub if_whole: Plan,
}

impl Look {
    /// Whether a rule keeps the object of this name, doubts aside. What others bring
    /// to this vault or take from it is measured by this, so that none brings back
    /// what another has let go.
    pub fn needs(&self, key: &ObjectKey) -> bool {
        let (layout, size, plan) = (&self.layout, self.segment_size, &self.plan);
        if let Some(backup) = layout.parse_backup(key) {
            return plan.needs_backup(&backup);
        }
        if let Some((first, number)) = layout.parse_wal_key(key, size) {
            return !plan.expire.wal_keys.contains(&WalKey { first, number });
        }
        match WalName::parse(layout, key, size) {
            Some(WalName::Whole(segment) | WalName::Tail { segment, .. }) => plan.needs_wal(segment),
            Some(WalName::History(timeline)) => !plan.expire.histories.contains(&timeline),
            None => layout.parse_heartbeats(key).is_none_or(|range| !self.old_beats.contains(&range)),
        }
    }

    /// Whether it stays: needed, or in doubt.
    pub fn keeps(&self, key: &ObjectKey) -> bool {
        !self.plan.refusals.is_empty() || self.needs(key)
    }
}

/// Plans; none where the vault holds no backup. `half_deleted` are backups that an
/// earlier attempt has begun to delete.
pub async fn look(
    database: &Database,
    vault: &Vault,
    memory: &Memory,
    half_deleted: &[BackupId],
    now: Timestamp,
) -> Result<Option<Look>, StepError> {
    let histories = restore::histories(database, vault).await?;
    let all: Vec<Layout> = histories.iter().map(|held| held.listing.layout().clone()).collect();
    // Of all histories: where one cannot be read, an older one may look like the newest.
    let unclear = histories.iter().flat_map(|held| &held.catalog.problems);
    let unclear: Vec<String> =
        unclear.map(|problem| format!("{}: {}", problem.backup, with_causes(&problem.error))).collect();
    let Some(held) = restore::newest_of(histories) else { return Ok(None) };
    let (layout, listing, catalog) = (held.listing.layout().clone(), &held.listing, &held.catalog);
    let Some(segment_size) = catalog.entries.last().map(|entry| entry.manifest.segment_size) else { return Ok(None) };
    let (elsewhere, mut problems) = other_vaults(database, vault, &layout).await;
    problems.extend(unclear);
    if catalog.entries.iter().any(|entry| entry.manifest.segment_size != segment_size) {
        problems.push("backups differ in the size of WAL segments".to_owned());
    }
    let mut backups = Vec::new();
    for entry in &catalog.entries {
        backups.push(describe(entry, &elsewhere, &layout, &vault.store).await?);
    }
    let uploads = catalog.uncommitted.iter().filter(|id| !half_deleted.contains(id)).map(|id| Upload {
        id: id.clone(),
        started_at: started_at(id),
        is_copy: elsewhere.committed.contains(id),
    });
    let keys_prefix = layout.wal_keys_prefix();
    let wal_keys = listing.under(&keys_prefix).filter_map(|key| layout.parse_wal_key(key, segment_size));
    let facts = Facts {
        backups,
        uploads: uploads.collect(),
        coverage: listing.coverage(segment_size),
        histories: listing.histories(vault.store.as_ref()).await?,
        wal_keys: wal_keys.map(|(first, number)| WalKey { first, number }).collect(),
        segment_size,
        problems,
        signs: memory.signs.clone(),
        last_run: memory.last_run.clone(),
        busy: memory.busy.clone(),
    };
    let policy = policy(&database.schedule.config)?;
    let mut plan = retention::plan(&facts, &policy, now);
    let if_whole = retention::plan(&whole(facts), &policy, now);
    let older = all.iter().filter(|other| **other != layout);
    plan.left.extend(older.map(|other| {
        format!("history {}: another one goes on; it is kept whole until a person removes it", other.prefix())
    }));
    let beats: Vec<BeatRange> = listing.keys().filter_map(|key| layout.parse_heartbeats(key)).collect();
    let old_beats = beats::expired(&beats, ledger::kept(database)).into_iter().collect();
    Ok(Some(Look { layout, segment_size, listing: held.listing, plan, if_whole, old_beats }))
}

/// The same with the WAL of all backups.
fn whole(mut facts: Facts) -> Facts {
    for backup in facts.backups.iter_mut().filter(|backup| backup.state == BackupState::Uploaded) {
        backup.state = BackupState::WalComplete;
    }
    facts
}

/// What the other vaults hold of the same history.
#[derive(Debug, Default)]
struct Elsewhere {
    committed: BTreeSet<BackupId>,
    proven: BTreeSet<BackupId>,
}

async fn other_vaults(database: &Database, vault: &Vault, layout: &Layout) -> (Elsewhere, Vec<String>) {
    let (mut found, mut problems) = (Elsewhere::default(), Vec::new());
    let place = vault.store.place();
    for other in database.vaults.iter().filter(|other| other.store.place().vault != place.vault) {
        match restore::histories(database, other).await {
            Ok(histories) => {
                let same: Vec<_> = histories.iter().filter(|held| held.listing.layout() == layout).collect();
                // WAL goes to every vault: one without any is not the one it was.
                if same.is_empty() {
                    problems.push(format!(
                        "vault `{}` holds nothing of this history, so what is proven there is not known; is it mounted?",
                        other.store.place().vault
                    ));
                }
                for entry in same.into_iter().flat_map(|held| &held.catalog.entries) {
                    found.committed.insert(entry.manifest.backup.clone());
                    found.proven.extend(entry.proof.as_ref().map(|proof| proof.backup.clone()));
                }
            }
            Err(error) => problems.push(format!(
                "vault `{}` cannot be read, so what is proven there is not known: {}",
                other.store.place().vault,
                with_causes(&error)
            )),
        }
    }
    (found, problems)
}

async fn describe(
    entry: &CatalogEntry,
    elsewhere: &Elsewhere,
    layout: &Layout,
    store: &SharedStore,
) -> Result<Held, StepError> {
    let manifest = &entry.manifest;
    let locked_until = match store.locks() {
        Some(locks) => locks.locked_until(&layout.manifest(&manifest.backup)).await?,
        None => None,
    };
    Ok(Held {
        id: manifest.backup.clone(),
        kind: manifest.kind,
        standalone: manifest.standalone,
        timeline: manifest.timeline,
        start_lsn: manifest.start_lsn,
        stop_lsn: manifest.stop_lsn,
        started_at: manifest.started_at,
        finished_at: manifest.finished_at,
        size_bytes: manifest.size_bytes,
        state: entry.state,
        is_proven: entry.proof.is_some() || elsewhere.proven.contains(&manifest.backup),
        parent: manifest.parent.clone(),
        locked_until,
    })
}

/// The instant in a backup's id; other names tell none.
pub fn started_at(id: &BackupId) -> Option<Timestamp> {
    let stamp = id.as_str().get(..16)?;
    let at = civil::DateTime::strptime(backup::STAMP, stamp).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// What the schedule promises.
fn policy(config: &ScheduleConfig) -> Result<Policy, StepError> {
    let unusable = |error| StepError::from_error(error, true);
    let line = |line: &crate::config::schedule::BackupScheduleConfig| {
        let due = Schedule::parse(&line.cron, &config.timezone)?;
        Ok(Line { kind: line.kind, standalone: line.standalone, due, keep: line.keep.clone() })
    };
    let window = SignedDuration::try_from(config.wal.window.as_duration()).unwrap_or(SignedDuration::MAX);
    Ok(Policy {
        lines: config.backups.iter().map(line).collect::<Result<_, _>>().map_err(unusable)?,
        zone: parse_zone(&config.timezone).map_err(unusable)?,
        window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_upload_tells_its_age() {
        let at = |id: &str| started_at(&id.parse().unwrap()).map(|at| at.to_string());
        assert_eq!(at("20261121t043728z-full-3f9a").as_deref(), Some("2026-11-21T04:37:28Z"));
        for other in ["b1", "20261321t043728z-full-3f9a", "yesterday-evening-full"] {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
