//! What the vaults of a route hold now, and what the target lacks of it. Reads
//! and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Route;
use crate::{
    decide::{
        copy::{self, HeldBackup, Holding, Of, Plan},
        retention::{Facts, Needs, needs},
    },
    domain::{BackupId, SegmentSize, VaultName, with_causes},
    flow::StepError,
    flows::{Database, Vault, retention},
    vault::{CatalogEntry, Inventory, Layout, ObjectKey, Remembered, SharedStore},
};

/// One history of a database: what each source holds of it, and the target.
#[derive(Debug)]
pub struct History {
    pub layout: Layout,
    pub sources: Vec<(SharedStore, Holding)>,
    pub target: Holding,
    /// The backups of the sources, with what their manifests name.
    pub entries: BTreeMap<BackupId, CatalogEntry>,
    /// Those in the target whose WAL is there, and nobody has read it back from there.
    pub unread: Vec<CatalogEntry>,
    pub plan: Plan,
}

/// What a vault holds, as `decide::copy` sees it.
pub fn holding(held: &Inventory) -> Holding {
    let prefix = held.listing.layout().prefix();
    let relative = |name: &str| name.strip_prefix(&prefix).map(str::to_owned);
    Holding {
        names: held
            .listing
            .keys()
            .filter_map(|key| Some((relative(key.as_str())?, held.listing.size_of(key)?)))
            .collect(),
        backups: held.catalog.entries.iter().map(|entry| (entry.manifest.backup.clone(), backup(entry))).collect(),
    }
}

fn backup(entry: &CatalogEntry) -> HeldBackup {
    let manifest = &entry.manifest;
    HeldBackup {
        manifest_sha256: entry.manifest_sha256.clone(),
        parent: manifest.parent.clone(),
        finished_at: manifest.finished_at,
        timeline: manifest.timeline,
        start_lsn: manifest.start_lsn,
        segment_size: manifest.segment_size,
        objects: manifest.objects.iter().map(|object| object.name.clone()).collect(),
    }
}

/// What the rules keep of the history that goes on, by what all vaults hold of it
/// together: a backup that one of them has damaged may stand there for nothing,
/// and needs no older one elsewhere.
#[derive(Debug)]
pub struct Wanted {
    layout: Layout,
    segment_size: SegmentSize,
    needs: Needs,
}

impl Wanted {
    /// From what each vault holds of each history; none where no vault holds a backup.
    pub async fn of(
        database: &Database,
        vaults: &[(&Vault, &[Inventory])],
        now: Timestamp,
    ) -> Result<Option<Self>, StepError> {
        let newest = vaults.iter().flat_map(|(_, histories)| *histories).max_by_key(|held| held.newest_at());
        let Some(layout) = newest.map(|held| held.listing.layout()) else { return Ok(None) };
        let mut together: Option<Facts> = None;
        for (vault, histories) in vaults {
            let Some(held) = histories.iter().find(|held| held.listing.layout() == layout) else { continue };
            let Some(facts) = retention::facts(held, &vault.store).await? else { continue };
            together = Some(match together {
                Some(together) => together.with(facts),
                None => facts,
            });
        }
        let Some(facts) = together else { return Ok(None) };
        let needs = needs(&facts, &retention::policy(&database.schedule.config)?, now);
        Ok(Some(Self { layout: layout.clone(), segment_size: facts.segment_size, needs }))
    }

    /// Leaves what no rule keeps any more: whoever brought it back would bring what
    /// the other vault has let go, or is about to. An older history stays whole.
    pub fn leave_the_rest(&self, layout: &Layout, holding: &mut Holding) {
        if *layout != self.layout {
            return;
        }
        let prefix = layout.prefix();
        holding.names.retain(|name, _| {
            ObjectKey::new(format!("{prefix}{name}"))
                .is_ok_and(|key| retention::is_needed(&self.needs, layout, self.segment_size, &key))
        });
        let names = &holding.names;
        holding.backups.retain(|id, _| names.contains_key(&format!("backups/{id}/manifest.json")));
    }
}

/// What a process that looks again and again has read of each vault.
pub type Seen = BTreeMap<VaultName, Remembered>;

fn of_vault<'a>(seen: &'a mut Seen, vault: &Vault) -> &'a mut Remembered {
    seen.entry(vault.store.place().vault.clone()).or_default()
}

/// All histories that some source holds. A source that is away gives nothing;
/// the target must answer. The sources are listed before the target, so that
/// what is written to all of them meanwhile is not taken for missing.
pub async fn histories(route: &Route, seen: &mut Seen, now: Timestamp) -> Result<Vec<History>, StepError> {
    let database = &route.database;
    let mut sources: Vec<(&Vault, Vec<Inventory>)> = Vec::new();
    let mut failed = None;
    for vault in &route.sources {
        match database.histories_again(vault, of_vault(seen, vault)).await {
            Ok(histories) => sources.push((vault, histories)),
            Err(error) => {
                let name = &vault.store.place().vault;
                tracing::warn!(vault = %name, error = %with_causes(&error), "nothing is copied from this vault");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if sources.is_empty() => return Err(error.into()),
        _ => {}
    }
    let target = database.histories_again(&route.target, of_vault(seen, &route.target)).await?;
    let layouts: BTreeSet<&Layout> =
        sources.iter().flat_map(|(_, histories)| histories).map(|held| held.listing.layout()).collect();
    let mut histories: Vec<History> = layouts.into_iter().map(|layout| history(layout, &sources, &target)).collect();
    // The first vault is that of the runs that take backups: they read it back.
    let name = |vault: &Vault| vault.store.place().vault.clone();
    if database.vaults.first().is_some_and(|first| name(first) == name(&route.target)) {
        for history in &mut histories {
            history.unread.clear();
        }
    }
    if histories.iter().any(|history| !history.plan.groups.is_empty()) {
        let beside = route.beside().await;
        let all: Vec<(&Vault, &[Inventory])> = sources
            .iter()
            .chain(&beside)
            .map(|(vault, held)| (*vault, held.as_slice()))
            .chain([(&route.target, target.as_slice())])
            .collect();
        if let Some(wanted) = Wanted::of(database, &all, now).await? {
            for history in &mut histories {
                history.leave_what_expires(&wanted);
            }
        }
    }
    Ok(histories)
}

impl Route {
    /// What the vaults hold that nothing is copied from: what is proven there counts
    /// here too. One that is away tells nothing.
    async fn beside(&self) -> Vec<(&Vault, Vec<Inventory>)> {
        let name = |vault: &Vault| vault.store.place().vault.clone();
        let mut beside = Vec::new();
        for vault in &self.database.vaults {
            if name(vault) == name(&self.target) || self.sources.iter().any(|source| name(source) == name(vault)) {
                continue;
            }
            if let Ok(histories) = self.database.histories(vault).await {
                beside.push((vault, histories));
            }
        }
        beside
    }
}

impl History {
    fn leave_what_expires(&mut self, wanted: &Wanted) {
        for (_, holding) in &mut self.sources {
            wanted.leave_the_rest(&self.layout, holding);
        }
        let holdings: Vec<Holding> = self.sources.iter().map(|(_, holding)| holding.clone()).collect();
        self.plan = copy::plan(&holdings, &self.target);
    }
}

fn history(layout: &Layout, sources: &[(&Vault, Vec<Inventory>)], target: &[Inventory]) -> History {
    let of = |histories: &[Inventory]| histories.iter().position(|held| held.listing.layout() == layout);
    let found: Vec<(&Vault, &Inventory)> =
        sources.iter().filter_map(|(vault, histories)| Some((*vault, histories.get(of(histories)?)?))).collect();
    let entries = found.iter().rev().flat_map(|(_, held)| &held.catalog.entries);
    let entries = entries.map(|entry| (entry.manifest.backup.clone(), entry.clone())).collect();
    let target = of(target).and_then(|at| target.get(at));
    let unread = target.into_iter().flat_map(|held| &held.catalog.entries);
    let unread = unread.filter(|entry| entry.awaits_read_back()).cloned().collect();
    let target = target.map(holding).unwrap_or_default();
    let holdings: Vec<Holding> = found.iter().map(|(_, held)| holding(held)).collect();
    let plan = copy::plan(&holdings, &target);
    let stores = found.iter().map(|(vault, _)| vault.store.clone());
    History { layout: layout.clone(), sources: stores.zip(holdings).collect(), target, entries, unread, plan }
}

/// What a vault lacks, for the journal and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub backups: Vec<LackingBackup>,
    pub objects: usize,
    pub bytes: u64,
    /// Segments and pieces.
    pub wal: usize,
}

/// A backup that lacks something: all of it, or what was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackingBackup {
    pub id: BackupId,
    pub objects: usize,
    pub bytes: u64,
}

/// The plans of all histories, added up.
pub fn lack(histories: &[History]) -> Lack {
    let mut lack = Lack::default();
    for group in histories.iter().flat_map(|history| &history.plan.groups) {
        let (objects, bytes) = (group.items.len(), group.items.iter().map(|item| item.size).sum::<u64>());
        lack.objects += objects;
        lack.bytes += bytes;
        match &group.of {
            Of::Wal => lack.wal += objects,
            Of::Backup(id) | Of::Commit(id) => match lack.backups.iter_mut().find(|backup| backup.id == *id) {
                Some(backup) => {
                    backup.objects += objects;
                    backup.bytes += bytes;
                }
                None => lack.backups.push(LackingBackup { id: id.clone(), objects, bytes }),
            },
            Of::WalKeys | Of::Beside | Of::Accounts => {}
        }
    }
    lack
}
