//! The acknowledged heartbeats, kept in every vault beside the WAL: what the
//! recovery point is measured against when the state database is gone. Objects
//! of a few heartbeats are merged to larger ones while they are read: one that
//! was listed and is gone is in another by now.

use std::{cmp::Reverse, collections::BTreeMap};

use age::x25519::{Identity, Recipient};
use jiff::Timestamp;

use super::{Layout, Object, ObjectKey, Store, StoreError, VaultError, put_once, read_sealed};
use crate::domain::{Beat, BeatRange};

/// How often the ledger is listed anew because an object was merged meanwhile.
const LISTED_MAX: u32 = 5;

/// Stores heartbeats, ascending by `seq`. Nothing to store is a success, and so
/// is repeating it.
pub async fn append(
    store: &dyn Store,
    layout: &Layout,
    recipients: &[Recipient],
    beats: &[Beat],
) -> Result<(), VaultError> {
    let (Some(first), Some(last)) = (beats.first(), beats.last()) else { return Ok(()) };
    let key = layout.heartbeats(BeatRange { first: first.seq, last: last.seq });
    let mut lines = Vec::new();
    for beat in beats {
        let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: "heartbeats", source };
        serde_json::to_writer(&mut lines, beat).map_err(unreadable)?;
        lines.push(b'\n');
    }
    put_once(store, &key, &Object::seal_blocking(lines.into(), true, recipients.to_vec()).await?).await
}

/// What the vault holds now of one history; objects of other names are none of it.
pub async fn list(store: &dyn Store, layout: &Layout) -> Result<Vec<BeatRange>, VaultError> {
    let objects = store.list(&layout.heartbeats_prefix()).await?;
    Ok(objects.iter().filter_map(|object| layout.parse_heartbeats(&object.key)).collect())
}

/// The heartbeats acknowledged from `since` on, and those that share an object
/// with them, ascending by `seq`, each once.
pub async fn read_since(
    store: &dyn Store,
    layout: &Layout,
    identities: &[Identity],
    since: Timestamp,
) -> Result<Vec<Beat>, VaultError> {
    let is_enough = |beats: &BTreeMap<i64, Beat>| older(beats, since);
    Ok(backwards(store, layout, identities, is_enough).await?.into_values().collect())
}

/// The newest `count` heartbeats that are wanted, the newest first. Reads no
/// further back than to what was acknowledged before `since`.
pub async fn newest(
    store: &dyn Store,
    layout: &Layout,
    identities: &[Identity],
    (count, since): (usize, Timestamp),
    is_wanted: impl Fn(&Beat) -> bool + Send + Sync,
) -> Result<Vec<Beat>, VaultError> {
    let is_enough = |beats: &BTreeMap<i64, Beat>| {
        let wanted = beats.values().rev().filter(|beat| is_wanted(beat));
        let last = wanted.take(count).nth(count.saturating_sub(1));
        last.map(|beat| beat.seq).or_else(|| older(beats, since))
    };
    let beats = backwards(store, layout, identities, is_enough).await?;
    Ok(beats.into_values().rev().filter(|beat| is_wanted(beat)).take(count).collect())
}

/// The newest one that was acknowledged before `since`.
fn older(beats: &BTreeMap<i64, Beat>, since: Timestamp) -> Option<i64> {
    beats.values().rev().find(|beat| beat.acknowledged_at < since).map(|beat| beat.seq)
}

/// Reads object by object, the newest first, until `is_enough` answers a number
/// below which nothing is asked for.
async fn backwards(
    store: &dyn Store,
    layout: &Layout,
    identities: &[Identity],
    is_enough: impl Fn(&BTreeMap<i64, Beat>) -> Option<i64> + Send + Sync,
) -> Result<BTreeMap<i64, Beat>, VaultError> {
    let mut beats = BTreeMap::new();
    let mut listed = 1;
    loop {
        let mut held = list(store, layout).await?;
        held.sort_unstable_by_key(|range| (range.last, Reverse(range.first)));
        let read = async {
            for range in held.into_iter().rev() {
                if is_enough(&beats).is_some_and(|least| range.last < least) {
                    break;
                }
                if !(range.first..=range.last).all(|seq| beats.contains_key(&seq)) {
                    read(store, &layout.heartbeats(range), identities, &mut beats).await?;
                }
            }
            Ok(())
        };
        match read.await {
            Ok(()) => return Ok(beats),
            Err(VaultError::Store(StoreError::NotFound { .. })) if listed < LISTED_MAX => listed += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Adds the heartbeats of one object.
async fn read(
    store: &dyn Store,
    key: &ObjectKey,
    identities: &[Identity],
    beats: &mut BTreeMap<i64, Beat>,
) -> Result<(), VaultError> {
    let lines = read_sealed(store, key, true, identities).await?;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: "heartbeats", source };
        let beat: Beat = serde_json::from_slice(line).map_err(unreadable)?;
        beats.entry(beat.seq).or_insert(beat);
    }
    Ok(())
}
