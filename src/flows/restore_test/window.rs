//! From when to when the instant of a restore test can be drawn.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    domain::Beat,
    flows::{Database, Vault, restore::RestoreError},
    vault::{Inventory, ledger},
};

/// From the first backup within `window` to a heartbeat after which another
/// commit is held, as recovery to a time needs a commit behind it to stop at.
/// Reads the newest heartbeats and no more of them.
pub(super) async fn window(
    database: &Database,
    vault: &Vault,
    Inventory { listing, catalog }: &Inventory,
    now: Timestamp,
    window: Duration,
) -> Result<(Timestamp, Timestamp), RestoreError> {
    let no_window =
        || RestoreError::NoWindow { vault: vault.store.place().vault.to_string(), database: database.name.to_string() };
    let since =
        SignedDuration::try_from(window).ok().and_then(|window| now.checked_sub(window).ok()).unwrap_or(Timestamp::MIN);
    let first = catalog.entries.iter().map(|entry| entry.manifest.finished_at).min().ok_or_else(no_window)?;
    let size = catalog.entries.last().ok_or_else(no_window)?.manifest.segment_size;
    let oldest = first.max(since);
    let identities = database.keys.identities().await?;
    let coverage = listing.coverage(size);
    let is_held = |beat: &Beat| coverage.tip(beat.timeline, size).is_some_and(|tip| beat.commit_lsn <= tip);
    let (store, layout) = (vault.store.as_ref(), listing.layout());
    let beats = ledger::newest(store, layout, &identities, (2, oldest), is_held).await?;
    let newest = beats.get(1).map(|beat| beat.acknowledged_at).ok_or_else(no_window)?;
    if newest > oldest { Ok((oldest, newest)) } else { Err(no_window()) }
}
