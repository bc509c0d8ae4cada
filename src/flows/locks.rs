//! Keeps what is kept locked, in vaults that are configured to lock: a new
//! backup when its manifest is committed, and all that is kept again and again,
//! with its ancestors, keys and WAL, for as long as it is kept. What expires is
//! not locked any longer, so that it can be deleted soon after.

use jiff::Timestamp;
use serde::Serialize;

use super::{Database, Resources, Vault, prune};
use crate::{
    db::findings,
    decide::retention::locks,
    domain::{BackupId, VaultName, with_causes},
    flow::StepError,
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

/// Locks all objects of a backup.
pub async fn lock_backup(
    store: &dyn Store,
    layout: &Layout,
    backup: &BackupId,
    now: Timestamp,
) -> Result<Renewed, StoreError> {
    if store.locks().is_none() {
        return Ok(Renewed::default());
    }
    let objects = store.list(&layout.backup_prefix(backup)).await?;
    lock_all(store, objects.into_iter().map(|object| object.key), now).await
}

/// Locks all that a vault keeps of a database; none where it locks nothing.
pub async fn renew(
    database: &Database,
    vault: &Vault,
    memory: &prune::Memory,
    now: Timestamp,
) -> Result<Option<Renewed>, StepError> {
    if vault.store.locks().is_none() {
        return Ok(None);
    }
    let Some(look) = prune::look(database, vault, memory, &[], now).await? else {
        return Ok(Some(Renewed::default()));
    };
    Ok(Some(lock_all(vault.store.as_ref(), kept(&look).into_iter(), now).await?))
}

/// The objects that a plan keeps. Tails go before anything expires, and are
/// locked where their segment is not whole; uploads are none of it.
fn kept(look: &prune::Look) -> Vec<ObjectKey> {
    let (layout, listing) = (&look.layout, &look.listing);
    let is_superseded = |key: &ObjectKey| match WalName::parse(layout, key, look.segment_size) {
        Some(WalName::Tail { segment, .. }) => listing.holds(&layout.segment(segment, look.segment_size)),
        _ => false,
    };
    let is_lasting = |key: &ObjectKey| match layout.parse_backup(key) {
        Some(backup) => look.plan.keep.iter().any(|kept| kept.backup == backup),
        None => key.as_str().starts_with(&format!("{}wal/", layout.prefix())) && !is_superseded(key),
    };
    listing.keys().filter(|key| look.keeps(key) && is_lasting(key)).cloned().collect()
}

async fn lock_all(
    store: &dyn Store,
    keys: impl Iterator<Item = ObjectKey> + Send,
    now: Timestamp,
) -> Result<Renewed, StoreError> {
    let mut renewed = Renewed::default();
    let Some(store_locks) = store.locks() else { return Ok(renewed) };
    for key in keys {
        renewed.objects += 1;
        let locked = match store_locks.locked_until(&key).await {
            Ok(until) if !locks::is_due(until, now) => continue,
            Ok(_) => store_locks.lock(&key, locks::until(now)).await,
            Err(error) => Err(error),
        };
        match locked {
            Ok(()) => renewed.locked += 1,
            Err(error @ StoreError::Fenced { .. }) => return Err(error),
            // Swept since it was listed: nothing is left to be locked.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => renewed.failed.push(format!("`{key}`: {}", with_causes(&error))),
        }
    }
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
