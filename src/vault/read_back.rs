//! Reads the WAL that a backup needs back from the vault, as one who can open
//! nothing: every byte of every object, held against what this process stored
//! where it did, else against what the object's own header tells.
//!
//! What must never happen: a backup that is called complete while WAL that it
//! needs is there by name alone. What only its content could tell (`verify` opens
//! it) is not claimed here.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{
    Listing, Manifest, ObjectKey, Store, VaultError, WalName, layout,
    receipts::{Receipt, Receipts},
    seal::{self, AGE_MAGIC, HEADER_MAX},
    signature::{Signer, Verifier},
    verification::{self, Found, Verification},
};
use crate::domain::{RunId, Segment};

/// Objects that are read at once.
const AT_ONCE: usize = 4;
const READ_BYTES: usize = 64 << 10;
/// The last line of an age header: `--- ` and a MAC.
const MAC_LINE: usize = 48;
/// Of the payload: the nonce, a chunk's plain bytes, and what encryption adds to each.
const NONCE: u64 = 16;
const CHUNK: u64 = 64 << 10;
const TAG: u64 = 16;

/// WAL that is listed and cannot be read back as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub key: ObjectKey,
    /// As a verification names its segment.
    pub name: String,
    /// Completes "`KEY` …".
    pub what: String,
}

impl Unreadable {
    /// A sentence about it.
    pub fn told(&self) -> String {
        format!("it cannot be read back as it was stored: it {}", self.what)
    }
}

/// The objects of the WAL from the start to the stop of a backup that cannot be
/// read back. One that is gone since it was listed is an error: list again. What is
/// `sound` already is not read anew, and what is found so is added to it; `say` is
/// told the bytes that are done, and of how many.
pub async fn read_back(
    store: &dyn Store,
    listing: &Listing,
    manifest: &Manifest,
    receipts: &Receipts,
    sound: &mut BTreeSet<ObjectKey>,
    say: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Vec<Unreadable>, VaultError> {
    let needed = needed(listing, manifest);
    let bytes = |key: &ObjectKey| listing.size_of(key).unwrap_or_default();
    let total = needed.iter().map(|(_, key)| bytes(key)).sum();
    let (before, left): (Vec<_>, Vec<_>) = needed.into_iter().partition(|(_, key)| sound.contains(key));
    let mut done = before.iter().map(|(_, key)| bytes(key)).sum();
    say(done, total);
    let read = left.into_iter().map(|(segment, key)| async move {
        let what = unreadable(store, &key, receipts.of(&key)).await?;
        Ok::<_, VaultError>((segment, key, what))
    });
    let mut read = stream::iter(read).buffer_unordered(AT_ONCE);
    let mut found = Vec::new();
    while let Some((segment, key, what)) = read.try_next().await? {
        let name = verification::wal_name(segment, manifest);
        done += bytes(&key);
        say(done, total);
        match what {
            Some(what) => found.push(Unreadable { key, name, what }),
            None => drop(sound.insert(key)),
        }
    }
    found.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(found)
}

/// Each segment's object, else its tails up to what is needed.
fn needed(listing: &Listing, manifest: &Manifest) -> Vec<(Segment, ObjectKey)> {
    let (names, size) = (listing.layout(), manifest.segment_size);
    let (first, end) = (size.number_of(manifest.start_lsn), manifest.stop_lsn.0.div_ceil(size.bytes()));
    let mut needed = Vec::new();
    for number in first..end {
        let segment = Segment { timeline: manifest.timeline, number };
        let whole = names.segment(segment, size);
        if listing.holds(&whole) {
            needed.push((segment, whole));
            continue;
        }
        let last = manifest.stop_lsn.0.saturating_sub(segment.start(size).0);
        let prefix = layout::tails_prefix(&whole);
        let tails = listing.under(&prefix);
        let is_needed = |key: &&ObjectKey| matches!(WalName::parse(names, key, size), Some(WalName::Tail { from, .. }) if from < last);
        needed.extend(tails.filter(is_needed).map(|key| (segment, key.clone())));
    }
    needed
}

async fn unreadable(
    store: &dyn Store,
    key: &ObjectKey,
    receipt: Option<Receipt>,
) -> Result<Option<String>, VaultError> {
    let mut reader = store.read(key).await?;
    let (mut head, mut size, mut sha256) = (Vec::new(), 0, Sha256::new());
    let mut buffer = bytes::BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.clear();
        let count = reader.read_buf(&mut buffer).await.map_err(|error| seal::read_failed(store, key, error))?;
        if count == 0 {
            break;
        }
        size += count as u64;
        sha256.update(&buffer);
        let room = usize::try_from(HEADER_MAX).unwrap_or(usize::MAX).saturating_sub(head.len());
        head.extend_from_slice(buffer.get(..room.min(count)).unwrap_or_default());
    }
    Ok(judge(&head, &Receipt { size, sha256: sha256.finalize().into() }, receipt.as_ref()))
}

/// What is wrong with an object of which these are the first bytes, its size and digest.
fn judge(head: &[u8], found: &Receipt, stored: Option<&Receipt>) -> Option<String> {
    let size = found.size;
    if size == 0 {
        return Some("is empty".to_owned());
    }
    match stored {
        Some(stored) if stored == found => return None,
        Some(stored) if stored.size != size => {
            return Some(format!("has {size} bytes, and {} were stored", stored.size));
        }
        Some(_) => return Some("holds other bytes than were stored".to_owned()),
        None => {}
    }
    if !head.starts_with(AGE_MAGIC) {
        return Some("is no age file".to_owned());
    }
    let Some(payload) = payload(head, size) else {
        return Some(format!("has {size} bytes, and its header is not whole"));
    };
    let expected = seal::header_size(head).map(|plain| NONCE + plain + TAG * plain.div_ceil(CHUNK).max(1));
    match expected {
        Some(expected) if expected != payload => {
            Some(format!("has {payload} bytes behind its header, which tells of {expected}"))
        }
        None if payload < NONCE + TAG => Some("is cut off behind its header".to_owned()),
        Some(_) | None => None,
    }
}

/// The bytes behind the header; none where that is not whole.
fn payload(head: &[u8], size: u64) -> Option<u64> {
    let mac = head.windows(5).position(|line| line == b"\n--- ")? + 1;
    let end = head.get(mac..)?.iter().position(|byte| *byte == b'\n').filter(|length| length + 1 == MAC_LINE)?;
    size.checked_sub((mac + end + 1) as u64)
}

/// Whether it is signed that all WAL of the backup came back from this vault.
pub async fn is_read_back(
    store: &dyn Store,
    listing: &Listing,
    (manifest, manifest_sha256): (&Manifest, &str),
    verifier: &Verifier,
) -> Result<bool, VaultError> {
    let newest = verification::newest_verification(store, listing, &manifest.backup, manifest_sha256, verifier).await?;
    Ok(newest.is_some_and(|newest| newest.has_wal(manifest)))
}

/// Signs what came of the reading: that all this WAL came back, which makes the backup
/// complete, or what of it did not, so that nothing makes it complete.
pub async fn put_read_back(
    store: &dyn Store,
    listing: &Listing,
    (manifest, manifest_sha256): (&Manifest, &str),
    unreadable: &[Unreadable],
    (run, at, period_seconds): (RunId, Timestamp, u64),
    (signer, verifier): (&Signer, &Verifier),
) -> Result<(), VaultError> {
    let backup = &manifest.backup;
    let earlier = verification::newest_verification(store, listing, backup, manifest_sha256, verifier).await?;
    let found = Found {
        backup: backup.clone(),
        manifest_sha256: manifest_sha256.to_owned(),
        sound: BTreeSet::new(),
        needed_wal: verification::needed_wal(manifest).collect(),
        is_wal_read_back: unreadable.is_empty(),
        damaged: unreadable.iter().map(|one| one.name.clone()).collect(),
        histories: std::collections::BTreeMap::new(),
    };
    let here = (store.place().vault.clone(), run);
    let verification = Verification::after(earlier.as_ref(), found, here, at, period_seconds);
    verification::put_verification(store, listing.layout(), &verification, signer).await
}

#[cfg(test)]
mod tests {
    use age::x25519::Identity;

    use super::*;
    use crate::vault::Object;

    fn receipt(bytes: &[u8]) -> Receipt {
        Receipt { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() }
    }

    fn told(bytes: &[u8], stored: Option<&Receipt>) -> String {
        judge(bytes, &receipt(bytes), stored).unwrap_or_default()
    }

    #[test]
    fn what_is_not_as_it_was_stored_is_told() {
        let recipient = [Identity::generate().to_public()];
        // As large as a chunk, less, more, and of several.
        for size in [0, 1, 1000, 1 << 16, (1 << 16) + 1, 3 << 16, 200_000] {
            let plain: Vec<u8> = (0..=250_u8).cycle().take(size).collect();
            let stored = Object::seal(&plain, false, &recipient).unwrap().stored;
            let other = Object::seal(&plain, false, &recipient).unwrap().stored;
            let receipt = receipt(&stored);
            for known in [None, Some(&receipt)] {
                assert_eq!(told(&stored, known), "", "{size}");
                assert_eq!(told(&[], known), "is empty");
                for cut in [1, 20, stored.len() / 2, stored.len() - 1] {
                    assert_ne!(told(&stored[..cut], known), "", "{size}: {cut}");
                }
                let longer = [&stored[..], b"x"].concat();
                assert_ne!(told(&longer, known), "", "{size}");
            }
            // Only who stored it knows that it is another one.
            assert_ne!(told(&other, Some(&receipt)), "");
            assert_eq!(told(&other, None), "");
            assert_eq!(told(&vec![b'x'; stored.len()], None), "is no age file");
        }
    }
}
