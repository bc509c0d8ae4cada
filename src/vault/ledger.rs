//! The acknowledged heartbeats, kept in every vault beside the WAL: what the
//! recovery point is measured against when the state database is gone.

use age::x25519::{Identity, Recipient};
use jiff::Timestamp;

use super::{Layout, Listing, Object, ObjectKey, Store, VaultError, put_once, read_sealed};
use crate::domain::Beat;

/// Stores heartbeats, ascending by `seq`. Nothing to store is a success, and so
/// is repeating it.
pub async fn append(
    store: &dyn Store,
    layout: &Layout,
    recipients: &[Recipient],
    beats: &[Beat],
) -> Result<(), VaultError> {
    let (Some(first), Some(last)) = (beats.first(), beats.last()) else { return Ok(()) };
    let key = layout.heartbeats(first.seq, last.seq);
    let mut lines = Vec::new();
    for beat in beats {
        let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: "heartbeats", source };
        serde_json::to_writer(&mut lines, beat).map_err(unreadable)?;
        lines.push(b'\n');
    }
    put_once(store, &key, &Object::seal(&lines, true, recipients)?).await
}

/// All heartbeats of a listing, ascending by `seq`, each once.
pub async fn read(listing: &Listing, store: &dyn Store, identities: &[Identity]) -> Result<Vec<Beat>, VaultError> {
    read_since(listing, store, identities, Timestamp::MIN).await
}

/// The same, no further back than to the object that holds `since`.
pub async fn read_since(
    listing: &Listing,
    store: &dyn Store,
    identities: &[Identity],
    since: Timestamp,
) -> Result<Vec<Beat>, VaultError> {
    let mut beats = std::collections::BTreeMap::new();
    let keys: Vec<&ObjectKey> = listing.under(&listing.layout().heartbeats_prefix()).collect();
    for key in keys.into_iter().rev() {
        if beats.values().next().is_some_and(|oldest: &Beat| oldest.acknowledged_at < since) {
            break;
        }
        let lines = read_sealed(store, key, true, identities).await?;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: "heartbeats", source };
            let beat: Beat = serde_json::from_slice(line).map_err(unreadable)?;
            beats.entry(beat.seq).or_insert(beat);
        }
    }
    Ok(beats.into_values().collect())
}
