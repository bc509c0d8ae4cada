//! Reads the WAL of backups back from a vault, and signs there what came of it. A
//! backup is complete in a vault once that is signed: by the run that takes it, by the
//! one that copies it, and for what both have left by the next verification.
//!
//! What must never happen: a mark for WAL that was listed, and that nobody has read
//! from this very vault.

use std::collections::BTreeSet;

use super::Database;
use crate::{
    flow::{StepContext, StepError},
    vault::{
        self, Catalog, CatalogEntry, Layout, Listing, Manifest, ObjectKey, SharedStore, StoreError, Unreadable,
        VaultError, verify::Report,
    },
};

/// Reads, and signs what came of it, once: where the mark stands already nothing is
/// read. What is `sound` already is not read anew. WAL that is not all listed is an error
/// that may pass.
pub(super) async fn read_and_sign(
    database: &Database,
    store: &SharedStore,
    (layout, manifest, sha256): (&Layout, &Manifest, &str),
    sound: &mut BTreeSet<ObjectKey>,
    cx: &StepContext,
) -> Result<Vec<Unreadable>, StepError> {
    let listing = Listing::take(store.as_ref(), layout).await?;
    if vault::is_read_back(store.as_ref(), &listing, (manifest, sha256), &database.keys.verifier).await? {
        return Ok(Vec::new());
    }
    let (listing, unreadable) =
        read(database, store, (layout, manifest), sound, cx).await?.map_err(VaultError::from)?;
    let period = database.schedule.config.verify.period.as_duration().as_secs();
    let run = (cx.run_id().clone(), cx.clock().now(), period);
    let keys = (&database.keys.signer, &database.keys.verifier);
    vault::put_read_back(store.as_ref(), &listing, (manifest, sha256), &unreadable, run, keys).await?;
    Ok(unreadable)
}

/// Reads the WAL of one backup; an error, where not all of it is listed. The inner error
/// is that of what lies in an archive.
async fn read(
    database: &Database,
    store: &SharedStore,
    (layout, manifest): (&Layout, &Manifest),
    sound: &mut BTreeSet<ObjectKey>,
    cx: &StepContext,
) -> Result<Result<(Listing, Vec<Unreadable>), StoreError>, StepError> {
    let say = |done, total| cx.progress("reading the backup's WAL back", Some(done), Some(total));
    let once = async |sound: &mut BTreeSet<ObjectKey>| {
        let listing = Listing::take(store.as_ref(), layout).await?;
        let found = vault::read_back(store.as_ref(), &listing, manifest, &database.receipts, sound, &say).await?;
        Ok::<_, VaultError>((listing, found))
    };
    let read = async {
        match once(sound).await {
            // Tails go when their segment is whole: it is listed now.
            Err(VaultError::Store(StoreError::NotFound { .. })) => once(sound).await,
            read => read,
        }
    };
    let (listing, unreadable) = tokio::select! {
        read = read => match read {
            Err(VaultError::Store(error @ StoreError::Archived { .. })) => return Ok(Err(error)),
            read => read?,
        },
        () = cx.stop().cancelled() => return Err(StepError::Stopped),
    };
    let Manifest { timeline, segment_size, start_lsn, stop_lsn, backup, .. } = manifest;
    // What cannot be read is told also where it is too small to count as listed.
    if unreadable.is_empty() && !listing.coverage(*segment_size).covers(*timeline, *segment_size, *start_lsn, *stop_lsn)
    {
        let vault = &store.place().vault;
        return Err(StepError::transient(format!("WAL of backup `{backup}` is not all in vault `{vault}`")));
    }
    Ok(Ok((listing, unreadable)))
}

/// Reads back what a verification has not opened all of, for each backup whose WAL is
/// listed and has no mark; the report tells of it then.
pub(super) async fn complete(
    database: &Database,
    store: &SharedStore,
    report: &mut Report,
    cx: &StepContext,
) -> Result<(), StepError> {
    let layout = Layout::new(database.name.clone(), &report.system_id, report.incarnation)?;
    let listing = Listing::take(store.as_ref(), &layout).await?;
    let catalog = Catalog::read(&listing, store.as_ref(), &database.keys.verifier).await?;
    let open: Vec<&CatalogEntry> = report.without_wal().filter_map(|backup| catalog.find(backup)).collect();
    let mut sound = BTreeSet::new();
    for entry in open.into_iter().filter(|entry| entry.awaits_read_back()) {
        // What lies in an archive is not asked for here: its backup stays as it is known.
        if let Ok((_, unreadable)) = read(database, store, (&layout, &entry.manifest), &mut sound, cx).await? {
            report.was_read_back(&entry.manifest.backup, &unreadable);
        }
    }
    Ok(())
}
