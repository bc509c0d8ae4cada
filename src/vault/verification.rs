//! Verifications: what of exactly one backup was read in one vault and found
//! sound. Signed, and kept beside the backups, so that a lost state database
//! loses none. What was not read, or too long ago, is never counted.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, Layout, Listing, Manifest, Store, VaultError,
    signature::{Signer, Verifier},
    signature_of,
    signed::Document,
};
use crate::domain::{BackupId, RunId, Segment, Timeline, VaultName};

pub(super) const VERIFICATION: Document = Document { namespace: "lifeboat-verification", what: "a verification" };

/// One verified backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub format: u32,
    /// Where it was read.
    pub vault: VaultName,
    pub backup: BackupId,
    /// Of the very manifest that it was compared with.
    pub manifest_sha256: String,
    pub run: RunId,
    pub verified_at: Timestamp,
    /// What was read longer before `verified_at` counts no more.
    pub period_seconds: u64,
    /// Oldest first; an object stands where it was read last.
    pub read: Vec<Reading>,
    /// Found damaged, and not sound since.
    pub damaged: BTreeSet<String>,
    /// The SHA-256 of each history file that was believed.
    #[serde(default)]
    pub histories: BTreeMap<Timeline, String>,
    /// Since when all WAL that the backup needs is known to come back from this vault.
    /// It grows not old, and ends where some of that is found damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_read_back_at: Option<Timestamp>,
}

/// Objects that were read and found sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub at: Timestamp,
    pub objects: BTreeSet<String>,
}

/// What one run found of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub backup: BackupId,
    pub manifest_sha256: String,
    pub sound: BTreeSet<String>,
    pub damaged: BTreeSet<String>,
    /// The SHA-256 of each history file that is believed.
    pub histories: BTreeMap<Timeline, String>,
    /// The WAL that the backup needs, by name.
    #[serde(default)]
    pub needed_wal: BTreeSet<String>,
    /// Whether every byte of that came back, whoever opened it.
    #[serde(default)]
    pub is_wal_read_back: bool,
}

impl Verification {
    /// What is known after a run, given what was known before it.
    pub fn after(
        earlier: Option<&Self>,
        found: Found,
        (vault, run): (VaultName, RunId),
        verified_at: Timestamp,
        period_seconds: u64,
    ) -> Self {
        let Found { backup, manifest_sha256, sound, mut damaged, histories: now, needed_wal, is_wal_read_back } = found;
        let mut histories = earlier.map(|earlier| earlier.histories.clone()).unwrap_or_default();
        histories.extend(now);
        let mut read: BTreeMap<Timestamp, BTreeSet<String>> = BTreeMap::new();
        for reading in earlier.map(|earlier| earlier.read.as_slice()).unwrap_or_default() {
            let still = reading.objects.iter().filter(|name| !sound.contains(*name) && !damaged.contains(*name));
            let still: BTreeSet<String> = still.cloned().collect();
            if !still.is_empty() && is_young(reading.at, verified_at, period_seconds) {
                read.insert(reading.at, still);
            }
        }
        let known = earlier.map(|earlier| earlier.damaged.clone()).unwrap_or_default();
        damaged.extend(known.into_iter().filter(|name| !sound.contains(name)));
        if !sound.is_empty() {
            read.insert(verified_at, sound);
        }
        let was_read = |name: &String| read.values().any(|objects| objects.contains(name));
        let is_wal_back = is_wal_read_back || (!needed_wal.is_empty() && needed_wal.iter().all(was_read));
        let before = earlier.and_then(|earlier| earlier.wal_read_back_at);
        let wal_read_back_at = before
            .or_else(|| is_wal_back.then_some(verified_at))
            .filter(|_| needed_wal.iter().all(|name| !damaged.contains(name)));
        let read = read.into_iter().map(|(at, objects)| Reading { at, objects }).collect();
        Self {
            format: FORMAT,
            vault,
            backup,
            manifest_sha256,
            run,
            verified_at,
            period_seconds,
            read,
            damaged,
            histories,
            wal_read_back_at,
        }
    }

    /// Whether a later one of the same run, which was repeated, tells nothing new.
    pub fn is_repeated_by(&self, later: &Self) -> bool {
        let told = |one: &Self| {
            let read: BTreeSet<String> = one.read.iter().flat_map(|reading| reading.objects.clone()).collect();
            (one.run.clone(), read, one.damaged.clone(), one.histories.clone(), one.wal_read_back_at)
        };
        told(self) == told(later)
    }

    /// Whether all WAL that the backup needs came back from this vault, and none of it
    /// is damaged. What an older version has read and signed counts.
    pub fn has_wal(&self, manifest: &Manifest) -> bool {
        let was_read = |name: String| self.read.iter().any(|reading| reading.objects.contains(&name));
        !self.lacks_wal(manifest) && (self.wal_read_back_at.is_some() || needed_wal(manifest).all(was_read))
    }

    /// Whether WAL that the backup needs was found damaged.
    pub fn lacks_wal(&self, manifest: &Manifest) -> bool {
        needed_wal(manifest).any(|name| self.damaged.contains(&name))
    }

    /// Whether everything that the backup needs was read and found sound.
    pub fn is_whole(&self, manifest: &Manifest) -> bool {
        let is_young = |reading: &&Reading| is_young(reading.at, self.verified_at, self.period_seconds);
        let read: BTreeSet<&str> =
            self.read.iter().filter(is_young).flat_map(|reading| &reading.objects).map(String::as_str).collect();
        self.damaged.is_empty()
            && manifest.objects.iter().all(|object| read.contains(object.name.as_str()))
            && needed_wal(manifest).all(|name| read.contains(name.as_str()))
    }
}

fn is_young(read_at: Timestamp, verified_at: Timestamp, period_seconds: u64) -> bool {
    u64::try_from(verified_at.as_second() - read_at.as_second()).is_ok_and(|age| age <= period_seconds)
}

/// How a verification names a segment.
pub(super) fn wal_name(segment: Segment, manifest: &Manifest) -> String {
    format!("wal/{}", segment.file_name(manifest.segment_size))
}

/// The segments without which the backup cannot become consistent. None of a
/// manifest whose positions make no sense.
pub(super) fn needed_wal(manifest: &Manifest) -> impl Iterator<Item = String> {
    let size = manifest.segment_size;
    let (first, end) = (size.number_of(manifest.start_lsn), manifest.stop_lsn.0.div_ceil(size.bytes()));
    (first..end).map(|number| wal_name(Segment { timeline: manifest.timeline, number }, manifest))
}

/// Stores a signed verification. Repeating it is a success.
pub async fn put_verification(
    store: &dyn Store,
    layout: &Layout,
    verification: &Verification,
    signer: &Signer,
) -> Result<(), VaultError> {
    let key = layout.verification(&verification.backup, &verification.run, verification.verified_at)?;
    VERIFICATION.put(store, &key, verification, signer).await
}

/// The newest valid verification of a backup in this vault.
pub(super) async fn newest_verification(
    store: &dyn Store,
    listing: &Listing,
    backup: &BackupId,
    manifest_sha256: &str,
    verifier: &Verifier,
) -> Result<Option<Verification>, VaultError> {
    let prefix = listing.layout().verifications_prefix(backup);
    let keys: Vec<_> = listing.under(&prefix).filter(|key| listing.holds(&signature_of(key))).collect();
    for key in keys.into_iter().rev() {
        match VERIFICATION.read::<Verification>(store, key, verifier).await {
            Ok(found)
                if found.backup == *backup
                    && found.vault == store.place().vault
                    && found.manifest_sha256 == manifest_sha256 =>
            {
                return Ok(Some(found));
            }
            Ok(_) => {}
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => tracing::warn!(%error, "a verification is not counted"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sound: &[&str], damaged: &[&str]) -> Found {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Found {
            backup: "b".parse().unwrap(),
            manifest_sha256: "00".to_owned(),
            sound: names(sound),
            damaged: names(damaged),
            histories: BTreeMap::new(),
            needed_wal: names(&["w1", "w2"]),
            is_wal_read_back: false,
        }
    }

    fn after(earlier: Option<&Verification>, day: i64, found: Found) -> Verification {
        let at = Timestamp::from_second(day * 86_400).unwrap();
        let here = ("primary".parse().unwrap(), RunId::from(format!("verify/{day}")));
        Verification::after(earlier, found, here, at, 30 * 86_400)
    }

    fn names(verification: &Verification) -> Vec<&str> {
        verification.read.iter().flat_map(|reading| &reading.objects).map(String::as_str).collect()
    }

    #[test]
    fn samples_add_up_until_they_are_too_old() {
        let first = after(None, 1, found(&["a"], &[]));
        let second = after(Some(&first), 20, found(&["b"], &[]));
        assert_eq!(names(&second), ["a", "b"]);
        let third = after(Some(&second), 32, found(&["c"], &[]));
        assert_eq!(names(&third), ["b", "c"]);
    }

    #[test]
    fn wal_that_came_back_stays_so_until_it_is_found_damaged() {
        let marked = |verification: &Verification| verification.wal_read_back_at.map(|at| at.as_second() / 86_400);
        let back = |found: Found| Found { is_wal_read_back: true, ..found };
        let first = after(None, 1, back(found(&[], &[])));
        assert_eq!(marked(&first), Some(1));
        // It grows not old, and whoever has not looked at it carries it on.
        let second = after(Some(&first), 90, found(&["a"], &["b"]));
        assert_eq!(marked(&second), Some(1));
        let spoilt = after(Some(&second), 91, found(&[], &["w2"]));
        assert_eq!(marked(&spoilt), None);
        // Bytes that come back mend nothing that was opened and found damaged.
        let again = after(Some(&spoilt), 92, back(found(&[], &[])));
        assert_eq!(marked(&again), None);
        let mended = after(Some(&again), 93, back(found(&["w2"], &[])));
        assert_eq!(marked(&mended), Some(93));
        // Samples add up, while they are young enough.
        let one = after(None, 1, found(&["w1"], &[]));
        assert_eq!(marked(&one), None);
        assert_eq!(marked(&after(Some(&one), 30, found(&["w2"], &[]))), Some(30));
        assert_eq!(marked(&after(Some(&one), 40, found(&["w2"], &[]))), None);
    }

    #[test]
    fn a_run_that_is_repeated_tells_nothing_new_unless_it_found_something() {
        let first = after(None, 1, found(&["a"], &["b"]));
        let again = |sound: &[&str], damaged: &[&str]| {
            let here = (first.vault.clone(), first.run.clone());
            let later = first.verified_at + jiff::SignedDuration::from_mins(1);
            Verification::after(Some(&first), found(sound, damaged), here, later, 30 * 86_400)
        };
        assert!(first.is_repeated_by(&again(&["a"], &["b"])));
        assert!(!first.is_repeated_by(&again(&["a", "c"], &["b"])));
        assert!(!first.is_repeated_by(&again(&["a"], &["b", "c"])));
        assert!(!first.is_repeated_by(&again(&["b"], &[])));
        assert!(!first.is_repeated_by(&after(Some(&first), 2, found(&["a"], &["b"]))), "another run's");
    }

    #[test]
    fn what_is_damaged_stays_so_until_it_is_read_and_sound() {
        let first = after(None, 1, found(&["a", "b"], &[]));
        let second = after(Some(&first), 2, found(&[], &["a"]));
        assert_eq!(names(&second), ["b"]);
        let third = after(Some(&second), 3, found(&["b"], &[]));
        assert!(third.damaged.contains("a"));
        let mended = after(Some(&third), 4, found(&["a"], &[]));
        assert!(mended.damaged.is_empty());
        assert_eq!(names(&mended), ["b", "a"]);
    }
}
