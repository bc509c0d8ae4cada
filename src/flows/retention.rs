//! Surveys a vault and has `decide` plan what is kept and what expires. Deletes
//! nothing.
//!
//! Proofs count wherever they lie, so every vault of the database is read; one
//! that cannot be read is a doubt, and nothing expires.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::{
    config::ScheduleConfig,
    db::{heartbeats, runs},
    decide::{
        due::{Schedule, parse_zone},
        retention::{self, Facts, Held, Line, Needs, Plan, Policy, Upload, WalKey},
    },
    domain::{BackupId, BackupState, RunId, SegmentSize, record::kind, with_causes},
    evidence::Filter,
    flow::StepError,
    flows::{Database, Resources, Vault, ledger},
    vault::{CatalogEntry, Inventory, Layout, Listing, ObjectKey, SharedStore, WalName},
};

/// What is known beside the vaults. A command without a state database knows nothing.
#[derive(Debug, Default)]
pub struct Memory {
    signs: Vec<Timestamp>,
    last_run: Option<(RunId, crate::domain::Verdict)>,
    busy: Option<RunId>,
    /// Who else may write to the vaults.
    rivals: Vec<String>,
}

impl Memory {
    /// Reads evidence, heartbeats and runs; `own` is the run that asks.
    pub async fn read(resources: &Resources, database: &Database, own: Option<&RunId>) -> Result<Self, StepError> {
        let filter = Filter { subject: Some(database.name.to_string()), ..Filter::default() };
        let records = resources.evidence.records(&filter).await?;
        let mut signs: Vec<Timestamp> = records.iter().map(|entry| entry.record.finished_at).collect();
        signs.extend(heartbeats::newest(&resources.db, &database.name).await?.map(|beat| beat.acknowledged_at));
        let last_run = records.iter().rev().find(|entry| entry.record.kind == kind::BACKUP);
        let last_run = last_run.map(|entry| (RunId::from(entry.record.run_id.clone()), entry.record.verdict));
        let under_way = runs::under_way(&resources.db, database.name.as_str()).await?;
        let busy = under_way.into_iter().map(RunId::from).find(|run| Some(run) != own);
        let rivals = resources.evidence.rivals().await?;
        Ok(Self { signs, last_run, busy, rivals })
    }
}

/// A vault with the plan for the history that goes on in it.
#[derive(Debug)]
pub struct Survey {
    pub layout: Layout,
    pub segment_size: SegmentSize,
    pub listing: Listing,
    pub plan: Plan,
    pub needs: Needs,
    /// What would be needed if no backup lacked WAL: what was kept before any was lost.
    pub if_whole: Needs,
}

impl Survey {
    /// Whether a rule keeps the object of this name, doubts and locks aside.
    pub fn needs(&self, key: &ObjectKey) -> bool {
        is_needed(&self.needs, &self.layout, self.segment_size, key)
    }
}

/// Whether a rule keeps the object of this name.
pub fn is_needed(needs: &Needs, layout: &Layout, size: SegmentSize, key: &ObjectKey) -> bool {
    if let Some(backup) = layout.parse_backup(key).or_else(|| layout.parse_verification(key)) {
        return needs.backup(&backup);
    }
    if let Some((first, number)) = layout.parse_wal_key(key, size) {
        return needs.wal_key(WalKey { first, number });
    }
    match WalName::parse(layout, key, size) {
        Some(WalName::Whole(segment) | WalName::Tail { segment, .. }) => needs.wal(segment),
        Some(WalName::History(timeline)) => needs.history(timeline),
        None => layout.parse_heartbeats(key).is_none_or(|range| needs.heartbeats(range)),
    }
}

/// Plans; none where the vault holds no backup. `half_deleted` are backups that an
/// earlier attempt has begun to delete.
pub async fn survey(
    database: &Database,
    vault: &Vault,
    memory: &Memory,
    half_deleted: &[BackupId],
    now: Timestamp,
) -> Result<Option<Survey>, StepError> {
    let histories = database.histories(vault).await?;
    let all: Vec<Layout> = histories.iter().map(|held| held.listing.layout().clone()).collect();
    // Of all histories: where one cannot be read, an older one may look like the newest.
    let unclear = histories.iter().flat_map(|held| &held.catalog.problems);
    let unclear: Vec<String> =
        unclear.map(|problem| format!("{}: {}", problem.backup, with_causes(&problem.error))).collect();
    let Some(held) = Inventory::newest_of(histories) else { return Ok(None) };
    let Some(mut facts) = facts(&held, &vault.store).await? else { return Ok(None) };
    let (layout, segment_size) = (held.listing.layout().clone(), facts.segment_size);
    let (elsewhere, problems) = other_vaults(database, vault, &layout).await;
    facts.problems.extend(problems.into_iter().chain(unclear));
    for backup in &mut facts.backups {
        backup.is_proven |= elsewhere.proven.contains(&backup.id);
        if let Some(locks) = vault.store.locks() {
            backup.locked_until = locks.locked_until(&layout.manifest(&backup.id)).await?;
        }
    }
    let uploads = held.catalog.uncommitted.iter().filter(|id| !half_deleted.contains(id)).map(|id| Upload {
        id: id.clone(),
        started_at: id.started_at(),
        is_copy: elsewhere.committed.contains(id),
    });
    facts.uploads = uploads.collect();
    facts.signs.clone_from(&memory.signs);
    facts.last_run.clone_from(&memory.last_run);
    facts.busy.clone_from(&memory.busy);
    facts.problems.extend(memory.rivals.iter().cloned());
    let policy = policy(&database.schedule.config)?;
    let (mut plan, needs) = (retention::plan(&facts, &policy, now), retention::needs(&facts, &policy, now));
    let if_whole = retention::needs(&whole(facts), &policy, now);
    let older = all.iter().filter(|other| **other != layout);
    plan.left.extend(older.map(|other| {
        format!("history {}: another one goes on; it is kept whole until a person removes it", other.prefix())
    }));
    Ok(Some(Survey { layout, segment_size, listing: held.listing, plan, needs, if_whole }))
}

/// The same with the WAL of all backups.
pub fn whole(mut facts: Facts) -> Facts {
    for backup in facts.backups.iter_mut().filter(|backup| backup.state == BackupState::Uploaded) {
        backup.state = BackupState::WalComplete;
    }
    facts
}

/// What one vault alone holds of one history; none where it has no backup. Locks
/// are not looked at.
pub async fn facts(held: &Inventory, store: &SharedStore) -> Result<Option<Facts>, StepError> {
    let (listing, entries) = (&held.listing, &held.catalog.entries);
    let layout = listing.layout();
    let Some(segment_size) = entries.last().map(|entry| entry.manifest.segment_size) else { return Ok(None) };
    let mut problems = Vec::new();
    if entries.iter().any(|entry| entry.manifest.segment_size != segment_size) {
        problems.push("backups differ in the size of WAL segments".to_owned());
    }
    let keys_prefix = layout.wal_keys_prefix();
    let wal_keys = listing.under(&keys_prefix).filter_map(|key| layout.parse_wal_key(key, segment_size));
    Ok(Some(Facts {
        backups: entries.iter().map(describe).collect(),
        uploads: Vec::new(),
        coverage: listing.coverage(segment_size),
        histories: listing.histories(store.as_ref()).await?,
        wal_keys: wal_keys.map(|(first, number)| WalKey { first, number }).collect(),
        heartbeats: listing.keys().filter_map(|key| layout.parse_heartbeats(key)).collect(),
        segment_size,
        problems,
        signs: Vec::new(),
        last_run: None,
        busy: None,
    }))
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
        match database.histories(other).await {
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

fn describe(entry: &CatalogEntry) -> Held {
    let manifest = &entry.manifest;
    Held {
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
        is_damaged: entry.is_damaged(),
        is_proven: entry.proof.is_some(),
        parent: manifest.parent.clone(),
        locked_until: None,
    }
}

/// What the schedule promises.
pub fn policy(config: &ScheduleConfig) -> Result<Policy, StepError> {
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
        heartbeats: ledger::kept(config),
    })
}
