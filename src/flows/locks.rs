//! Keeps what the rules keep locked, in vaults that are configured to lock: a
//! new backup or copy when its manifest is committed, and all that a rule keeps
//! again and again, with its ancestors, keys and WAL. What no rule keeps is not
//! locked any longer, so that it can be deleted when its lock has ended.

use std::collections::BTreeMap;

use futures::StreamExt;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Database, Resources, Vault,
    retention::{self, Memory, Survey},
};
use crate::{
    db::findings,
    decide::retention::locks::{self, Reach},
    domain::{BackupId, VaultName, with_causes},
    flow::{StepContext, StepError},
    vault::{Layout, ObjectKey, Store, StoreError, WalName},
};

/// What became of the locks of one vault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// Objects that are kept.
    pub objects: usize,
    /// Of these the ones whose lock was set anew.
    pub locked: usize,
    /// Those that could not be locked, and why.
    pub failed: Vec<String>,
}

/// Failures that are told one by one; the rest is counted.
const TOLD_MAX: usize = 5;

/// Locks asked for or set at the same time.
const AT_ONCE: usize = 8;

/// What a process that renews again and again knows of the locks of one vault.
/// Nobody can shorten a lock unseen but who may lift it; so once a day each is
/// asked for anew.
#[derive(Debug, Default)]
pub struct Known {
    since: Option<Timestamp>,
    ends: BTreeMap<ObjectKey, Timestamp>,
}

impl Known {
    fn forget_if_old(&mut self, now: Timestamp) {
        let is_old = |since: Timestamp| now.duration_since(since) >= locks::RENEWED_EVERY;
        if self.since.is_none_or(is_old) {
            *self = Self { since: Some(now), ends: BTreeMap::new() };
        }
    }
}

/// Locks all objects of a backup.
pub async fn lock_backup(
    store: &dyn Store,
    reach: Reach,
    layout: &Layout,
    backup: &BackupId,
    now: Timestamp,
) -> Result<Renewed, StoreError> {
    if store.locks().is_none() {
        return Ok(Renewed::default());
    }
    let objects = store.list(&layout.backup_prefix(backup)).await?;
    let keys = objects.into_iter().map(|object| object.key).collect();
    lock_all(store, reach, keys, &mut Known::default(), now).await
}

/// Locks a backup that a run has just committed in `store`. It is a backup, locked
/// or not: what is not locked is a finding, and renewed within the hour.
pub(super) async fn lock_committed(
    resources: &Resources,
    database: &Database,
    store: &dyn Store,
    (layout, backup): (&Layout, &BackupId),
    cx: &StepContext,
) -> Result<(), StepError> {
    let vault = &store.place().vault;
    let locked = lock_backup(store, database.lock_reach(vault), layout, backup, cx.clock().now()).await;
    tell(resources, database, vault, locked).await
}

/// Locks all that the rules keep of a database in a vault; none where it locks nothing.
pub async fn renew(
    database: &Database,
    vault: &Vault,
    memory: &Memory,
    known: &mut Known,
    now: Timestamp,
) -> Result<Option<Renewed>, StepError> {
    if vault.store.locks().is_none() {
        return Ok(None);
    }
    known.forget_if_old(now);
    let Some(survey) = retention::survey(database, vault, memory, &[], now).await? else {
        return Ok(Some(Renewed::default()));
    };
    let renewed = lock_all(vault.store.as_ref(), vault.lock_reach, kept(&survey), known, now).await?;
    Ok(Some(renewed))
}

/// The objects that a rule keeps; what only a lock or a doubt keeps is let go.
/// Tails go before anything expires, and are locked where their segment is not
/// whole; uploads are none of it.
fn kept(survey: &Survey) -> Vec<ObjectKey> {
    let (layout, listing) = (&survey.layout, &survey.listing);
    let is_superseded = |key: &ObjectKey| match WalName::parse(layout, key, survey.segment_size) {
        Some(WalName::Tail { segment, .. }) => listing.holds(&layout.segment(segment, survey.segment_size)),
        _ => false,
    };
    let wal = format!("{}wal/", layout.prefix());
    let is_lasting =
        |key: &ObjectKey| layout.parse_backup(key).is_some() || (key.as_str().starts_with(&wal) && !is_superseded(key));
    listing.keys().filter(|key| is_lasting(key) && survey.needs(key)).cloned().collect()
}

async fn lock_all(
    store: &dyn Store,
    reach: Reach,
    keys: Vec<ObjectKey>,
    known: &mut Known,
    now: Timestamp,
) -> Result<Renewed, StoreError> {
    let mut renewed = Renewed { objects: keys.len(), ..Renewed::default() };
    let Some(store_locks) = store.locks() else { return Ok(renewed) };
    let due = keys.into_iter().filter_map(|key| {
        let end = known.ends.get(&key).copied();
        (reach.is_due(end, now)).then_some((key, end))
    });
    let due: Vec<_> = due.collect();
    let looks = futures::stream::iter(due).map(|(key, end)| async move {
        let end = match end {
            Some(end) => Ok(Some(end)),
            None => store_locks.locked_until(&key).await,
        };
        let locked = match end {
            Ok(Some(end)) if !reach.is_due(Some(end), now) => Ok((end, false)),
            Ok(_) => store_locks.lock(&key, reach.until(now)).await.map(|()| (reach.until(now), true)),
            Err(error) => Err(error),
        };
        (key, locked)
    });
    let mut looks = std::pin::pin!(looks.buffer_unordered(AT_ONCE));
    while let Some((key, locked)) = looks.next().await {
        match locked {
            Ok((end, is_new)) => {
                renewed.locked += usize::from(is_new);
                known.ends.insert(key, end);
            }
            Err(error @ StoreError::Fenced { .. }) => return Err(error),
            // Swept since it was listed: nothing is left to be locked.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => renewed.failed.push(format!("`{key}`: {}", with_causes(&error))),
        }
    }
    renewed.failed.sort_unstable();
    Ok(renewed)
}

/// Opens or closes the finding of one vault. A node that lost its run is refused.
pub async fn tell(
    resources: &Resources,
    database: &Database,
    vault: &VaultName,
    renewed: Result<Renewed, StoreError>,
) -> Result<(), StepError> {
    let id = format!("locks/{}/{vault}", database.name);
    let failed = match renewed {
        Ok(renewed) => renewed.failed,
        Err(error @ StoreError::Fenced { .. }) => return Err(error.into()),
        Err(error) => vec![with_causes(&error)],
    };
    if failed.is_empty() {
        findings::close(&resources.db, &id).await?;
        return Ok(());
    }
    let told: Vec<&str> = failed.iter().take(TOLD_MAX).map(String::as_str).collect();
    let message = format!(
        "vault `{vault}`: {} objects are not locked, so that whoever can delete may delete them; mend it and run `lifeboat vault renew-locks {}`: {}",
        failed.len(),
        database.name,
        told.join("; ")
    );
    findings::open(&resources.db, &id, database.name.as_str(), &message).await?;
    Ok(())
}
