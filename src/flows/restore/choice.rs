//! Which cluster of a database is restored, chosen over all vaults that answer.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::future::join_all;

use super::{Request, RestoreError, Say};
use crate::{
    decide::cluster::{self, Cluster, Unclear},
    domain::with_causes,
    flows::{Database, Vault},
    vault::{CatalogEntry, Inventory, Layout, Remembered, StoreError, VaultError, VaultIdentity, visit_while_needed},
};

/// All histories in all vaults, which are asked at once. One that does not answer
/// gives nothing, as long as another holds a backup `of_use`; until then it is
/// waited for, and `say` tells so.
pub(super) async fn look<'a>(
    database: &Database,
    vaults: &'a [Vault],
    of_use: impl Fn(&CatalogEntry, &Layout) -> bool,
    say: &Say<'_>,
) -> Result<Vec<(&'a Vault, Inventory)>, RestoreError> {
    let is_found = AtomicBool::new(false);
    let look = async |vault: &'a Vault| {
        let name = &vault.store.place().vault;
        let slow = || {
            let others = vaults.iter().map(|other| &other.store.place().vault).filter(|other| *other != name);
            let without: String = others.map(|other| format!("; `--from {other}` goes without it")).take(1).collect();
            tracing::warn!("waiting for vault `{name}`, which does not answer{without}");
            say(&format!("waiting for vault `{name}`{without}"), None, None);
        };
        let is_needed = || !is_found.load(Ordering::Relaxed);
        let (store, verifier) = (vault.store.as_ref(), &database.keys.verifier);
        let mut remembered = Remembered::default();
        let read = Inventory::of_all(store, &database.name, verifier, &mut remembered);
        let read = async {
            let histories = read.await?;
            // What is not mounted looks like a vault that holds nothing.
            if histories.is_empty() && VaultIdentity::read(store).await?.is_none() {
                return Err(VaultError::from(StoreError::NoVault { vault: name.clone() }));
            }
            Ok(histories)
        };
        let histories = visit_while_needed(name, slow, is_needed, Box::pin(read)).await?;
        let holds = |held: &Inventory| held.catalog.entries.iter().any(|entry| of_use(entry, held.listing.layout()));
        if histories.iter().any(holds) {
            is_found.store(true, Ordering::Relaxed);
        }
        Ok::<_, VaultError>(histories)
    };
    let looked = join_all(vaults.iter().map(look)).await;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for (vault, histories) in vaults.iter().zip(looked) {
        match histories {
            Ok(histories) => found.extend(histories.into_iter().map(|held| (vault, held))),
            Err(error) => failed.push((vault, error)),
        }
    }
    let is_enough = found.iter().any(|(_, held)| !held.catalog.entries.is_empty() || held.catalog.has_archived());
    // The first failure is the answer where there is no other, and told once.
    let answer = if is_enough || failed.is_empty() { None } else { Some(failed.remove(0).1) };
    for (vault, error) in failed {
        tracing::warn!(vault = %vault.store.place().vault, error = %with_causes(&error), "nothing is taken from this vault");
    }
    match answer {
        Some(error) => Err(error.into()),
        None if is_enough => Ok(found),
        None => {
            let vault = vaults.iter().map(|vault| vault.store.place().vault.as_str()).collect::<Vec<_>>().join("`, `");
            let database = database.name.to_string();
            let is_refused = found.iter().any(|(_, held)| !held.catalog.problems.is_empty());
            Err(if is_refused {
                RestoreError::NothingSound { vault, database }
            } else {
                RestoreError::Nothing { vault, database }
            })
        }
    }
}

/// The history to restore: what was asked for by name, else the latest, unless
/// another one may be newer.
pub(super) fn choose(
    database: &Database,
    found: &[(&Vault, Inventory)],
    request: &Request,
) -> Result<Layout, RestoreError> {
    let is_asked = |layout: &Layout| request.system_id.as_ref().is_none_or(|asked| asked == layout.system_id());
    let mut asked = found.iter().filter(|(_, held)| is_asked(held.listing.layout()));
    if let Some(backup) = &request.backup
        && let Some((_, held)) = asked.find(|(_, held)| held.catalog.find(backup).is_some())
    {
        return Ok(held.listing.layout().clone());
    }
    let known = clusters(found);
    let all: Vec<Cluster> =
        known.iter().filter(|(layout, _)| is_asked(layout)).map(|(_, cluster)| cluster.clone()).collect();
    let Some(latest) = cluster::latest(&all) else {
        return Err(RestoreError::UnknownCluster {
            database: database.name.to_string(),
            system_id: request.system_id.clone().unwrap_or_default(),
            known: known.values().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        });
    };
    let is_named = request.system_id.is_some() || request.backup.is_some();
    if let Some(unclear) = cluster::doubt(&all, latest).filter(|_| !is_named) {
        return Err(RestoreError::Unclear(Box::new(unclear)));
    }
    Ok(Layout::new(database.name.clone(), &latest.system_id, latest.incarnation)?)
}

/// Why the cluster of this history may not be the one that goes on, by what all
/// vaults hold that answer.
pub async fn doubt(database: &Database, layout: &Layout) -> Result<Option<Unclear>, RestoreError> {
    let mut known = clusters(&look(database, &database.vaults, |_, _| true, &|_, _, _| {}).await?);
    let Some(chosen) = known.remove(layout) else { return Ok(None) };
    let others: Vec<Cluster> = known.into_values().collect();
    Ok(cluster::doubt(&others, &chosen))
}

/// What the vaults hold together, by history.
fn clusters(found: &[(&Vault, Inventory)]) -> BTreeMap<Layout, Cluster> {
    let mut clusters: BTreeMap<Layout, Cluster> = BTreeMap::new();
    for (vault, held) in found {
        let layout = held.listing.layout();
        let cluster = clusters.entry(layout.clone()).or_insert_with(|| Cluster {
            system_id: layout.system_id().to_owned(),
            incarnation: layout.incarnation(),
            newest: None,
            last_beat: None,
            invalid: Vec::new(),
            vaults: [].into(),
        });
        cluster.vaults.insert(vault.store.place().vault.clone());
        let beats = held.listing.keys().filter_map(|key| layout.parse_heartbeats(key));
        cluster.last_beat = beats.map(|range| range.last).chain(cluster.last_beat).max();
        let newest =
            held.catalog.entries.iter().map(|entry| (entry.manifest.backup.clone(), entry.manifest.finished_at));
        cluster.newest = newest.chain(cluster.newest.take()).max_by_key(|(_, at)| *at);
        cluster
            .invalid
            .extend(held.catalog.problems.iter().map(|problem| (problem.backup.clone(), problem.backup.started_at())));
    }
    // One vault's sound copy is enough.
    for (layout, cluster) in &mut clusters {
        let same = || found.iter().filter(|(_, held)| held.listing.layout() == layout);
        cluster.invalid.retain(|(backup, _)| same().all(|(_, held)| held.catalog.find(backup).is_none()));
        cluster.invalid.sort();
        cluster.invalid.dedup();
    }
    clusters
}
