//! What the vaults of a route hold now, and what the target lacks of it. Reads
//! and changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Route;
use crate::{
    clock::Clock,
    decide::copy::{self, HeldBackup, Holding, Of, Plan},
    domain::{BackupId, with_causes},
    flow::StepError,
    flows::{
        Database, Vault,
        prune::{self, Memory},
        restore::{self, Held},
    },
    vault::{CatalogEntry, Layout, ObjectKey, SharedStore},
};

/// One history of a database: what each source holds of it, and the target.
#[derive(Debug)]
pub struct History {
    pub layout: Layout,
    pub sources: Vec<(SharedStore, Holding)>,
    pub target: Holding,
    /// The backups of the sources, with what their manifests name.
    pub entries: BTreeMap<BackupId, CatalogEntry>,
    pub plan: Plan,
}

/// What a vault holds, as `decide::copy` sees it.
pub fn holding(held: &Held) -> Holding {
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

/// All histories that some source holds. A source that is away gives nothing;
/// the target must answer. The sources are listed before the target, so that
/// what is written to all of them meanwhile is not taken for missing.
pub async fn histories(route: &Route) -> Result<Vec<History>, StepError> {
    let database = &route.database;
    let mut found: BTreeMap<Layout, Vec<(&Vault, Held)>> = BTreeMap::new();
    let mut failed = None;
    for vault in &route.sources {
        match restore::histories(database, vault).await {
            Ok(histories) => {
                for held in histories {
                    let layout = held.listing.layout().clone();
                    found.entry(layout).or_default().push((vault, held));
                }
            }
            Err(error) => {
                let name = &vault.store.place().vault;
                tracing::warn!(vault = %name, error = %with_causes(&error), "nothing is copied from this vault");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if found.is_empty() => return Err(error.into()),
        _ => {}
    }
    let targets = restore::histories(database, &route.target).await?;
    let mut targets: BTreeMap<Layout, Holding> =
        targets.iter().map(|held| (held.listing.layout().clone(), holding(held))).collect();
    let mut histories = Vec::new();
    for (layout, sources) in found {
        let target = targets.remove(&layout).unwrap_or_default();
        let vaults: Vec<&Vault> = sources.iter().map(|(vault, _)| *vault).collect();
        let mut history = history(layout, sources, target);
        if !history.plan.groups.is_empty() {
            history.leave_what_expires(database, &vaults).await?;
        }
        histories.push(history);
    }
    Ok(histories)
}

impl History {
    /// What no rule keeps any more is not copied: it would bring back what the
    /// target has let go, or is about to.
    async fn leave_what_expires(&mut self, database: &Database, vaults: &[&Vault]) -> Result<(), StepError> {
        let (now, prefix) = (Clock::system().now(), self.layout.prefix());
        for ((_, holding), vault) in self.sources.iter_mut().zip(vaults) {
            let Some(look) = prune::look(database, vault, &Memory::default(), &[], now).await? else { continue };
            if look.layout != self.layout {
                continue;
            }
            holding.names.retain(|name, _| match ObjectKey::new(format!("{prefix}{name}")) {
                Ok(key) => look.needs(&key),
                Err(_) => false,
            });
            let names = &holding.names;
            holding.backups.retain(|id, _| names.contains_key(&format!("backups/{id}/manifest.json")));
        }
        let holdings: Vec<Holding> = self.sources.iter().map(|(_, holding)| holding.clone()).collect();
        self.plan = copy::plan(&holdings, &self.target);
        Ok(())
    }
}

fn history(layout: Layout, sources: Vec<(&Vault, Held)>, target: Holding) -> History {
    let entries = sources.iter().rev().flat_map(|(_, held)| &held.catalog.entries);
    let entries = entries.map(|entry| (entry.manifest.backup.clone(), entry.clone())).collect();
    let sources: Vec<(SharedStore, Holding)> =
        sources.into_iter().map(|(vault, held)| (vault.store.clone(), holding(&held))).collect();
    let holdings: Vec<Holding> = sources.iter().map(|(_, holding)| holding.clone()).collect();
    let plan = copy::plan(&holdings, &target);
    History { layout, sources, target, entries, plan }
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
