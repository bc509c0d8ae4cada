//! The backups that exist: those whose manifest bears a valid signature of the
//! trusted key. Everything else is reported as a problem and cannot be restored.

use std::collections::BTreeMap;

use super::{
    Layout, Listing, Manifest, ObjectKey, Proof, Store, StoreError, VaultError, Verification, proof, seal,
    signature::Verifier, signature_of, stat, verification,
};
use crate::{
    decide::{
        lineage,
        recovery::{Candidate, Coverage},
    },
    domain::{Backup, BackupId, BackupState, SegmentSize},
};

/// A backup that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    pub manifest: Manifest,
    /// Of the signed bytes, lower-case hex.
    pub manifest_sha256: String,
    pub state: BackupState,
    /// Whether objects with the names of all its WAL are here, and none of them is known
    /// to be damaged. It can be restored then; whether the WAL comes back is another matter.
    pub lists_wal: bool,
    pub proof: Option<Proof>,
    pub verification: Option<Verification>,
}

impl CatalogEntry {
    /// For the choice of what to restore.
    pub fn candidate(&self) -> Candidate {
        Candidate {
            id: self.manifest.backup.clone(),
            timeline: self.manifest.timeline,
            start_lsn: self.manifest.start_lsn,
            stop_lsn: self.manifest.stop_lsn,
            finished_at: self.manifest.finished_at,
            parent: self.manifest.parent.clone(),
        }
    }

    /// Whether a verification of this vault found something of it damaged, and not
    /// sound since.
    pub fn is_damaged(&self) -> bool {
        self.verification.as_ref().is_some_and(|verification| !verification.damaged.is_empty())
    }

    /// Whether all its WAL is here and came back from here, or was replayed.
    pub fn has_wal(&self) -> bool {
        self.lists_wal && (self.proof.is_some() || self.is_wal_read_back())
    }

    /// Whether its WAL is here, and nobody has read it back from this vault.
    pub fn awaits_read_back(&self) -> bool {
        self.lists_wal && !self.is_wal_read_back()
    }

    fn is_wal_read_back(&self) -> bool {
        self.verification.as_ref().is_some_and(|verification| verification.has_wal(&self.manifest))
    }

    /// For status, API and pages.
    pub fn summary(&self) -> Backup {
        self.manifest.summary(self.state)
    }
}

/// Something under `backups/` that is no valid backup.
#[derive(Debug)]
pub struct Problem {
    pub backup: BackupId,
    pub error: VaultError,
}

#[derive(Debug, Default)]
pub struct Catalog {
    /// Oldest first, by where they stand in the history.
    pub entries: Vec<CatalogEntry>,
    pub problems: Vec<Problem>,
    /// Uploads without a manifest: in progress, or left by a crash.
    pub uncommitted: Vec<BackupId>,
}

/// What was read of the backups of one vault. For who looks again and again and
/// destroys nothing: nothing in a vault is ever overwritten, so a backup whose
/// objects, proofs and verifications are listed as they were is what it was.
#[derive(Debug, Default)]
pub struct Remembered(BTreeMap<ObjectKey, (Vec<(ObjectKey, u64)>, CatalogEntry)>);

impl Remembered {
    /// Forgets what the listing's history no longer holds.
    fn forget_gone(&mut self, listing: &Listing) {
        let prefix = listing.layout().prefix();
        self.0.retain(|manifest, _| !manifest.as_str().starts_with(&prefix) || listing.holds(manifest));
    }
}

impl Catalog {
    /// Errors are those of a store that does not answer; a backup that is not valid,
    /// or that alone cannot be read, is a problem in the answer.
    pub async fn read(listing: &Listing, store: &dyn Store, verifier: &Verifier) -> Result<Self, VaultError> {
        Self::read_again(listing, store, verifier, &mut Remembered::default()).await
    }

    /// The same, where what is listed as it was is not read again.
    pub async fn read_again(
        listing: &Listing,
        store: &dyn Store,
        verifier: &Verifier,
        remembered: &mut Remembered,
    ) -> Result<Self, VaultError> {
        remembered.forget_gone(listing);
        let mut catalog = Self::default();
        let layout = listing.layout();
        let prefix = format!("{}backups/", layout.prefix());
        let mut backups: Vec<BackupId> = listing
            .under(&prefix)
            .filter_map(|key| key.as_str().strip_prefix(&prefix)?.split('/').next()?.parse().ok())
            .collect();
        backups.dedup();
        let mut coverages: BTreeMap<u64, Coverage> = BTreeMap::new();
        for backup in backups {
            if !listing.holds(&layout.manifest(&backup)) {
                catalog.uncommitted.push(backup);
                continue;
            }
            let (manifest, listed) = (layout.manifest(&backup), listed_of(listing, &backup));
            let known = remembered.0.get(&manifest).filter(|(before, _)| *before == listed);
            let read = match known {
                Some((_, entry)) => Ok(entry.clone()),
                None => read_entry(listing, store, verifier, &backup).await,
            };
            match read {
                Ok(mut entry) => {
                    remembered.0.insert(manifest, (listed, entry.clone()));
                    let size = entry.manifest.segment_size;
                    let coverage = coverages.entry(size.bytes()).or_insert_with(|| listing.coverage(size));
                    entry.lists_wal = lists_wal(&entry, coverage, size);
                    entry.state = state_of(&entry);
                    catalog.entries.push(entry);
                }
                Err(VaultError::Store(error)) => {
                    // Expired since it was listed; its manifest goes first.
                    if stat(store, &manifest).await?.is_some() {
                        catalog.problems.push(Problem { backup, error: error.into() });
                    }
                }
                Err(error) => catalog.problems.push(Problem { backup, error }),
            }
        }
        catalog.entries.sort_by(|one, other| one.manifest.place().cmp(&other.manifest.place()));
        let capped: Vec<BackupState> = catalog.entries.iter().map(|entry| catalog.capped(entry)).collect();
        for (entry, state) in catalog.entries.iter_mut().zip(capped) {
            entry.state = state;
        }
        Ok(catalog)
    }

    /// The backup with all that it builds upon, the full one first; else the one
    /// that is no backup here.
    pub fn chain<'a>(&'a self, entry: &'a CatalogEntry) -> Result<Vec<&'a CatalogEntry>, BackupId> {
        lineage::chain(entry, &self.entries, |one| &one.manifest.backup, |one| one.manifest.parent.as_ref())
    }

    /// Whether another backup may be built upon it: all of its chain is here, nothing of
    /// that known to be damaged, and its WAL is listed. Whoever is built upon it is
    /// replayed from its own start, so that this WAL need not have come back.
    pub fn may_carry(&self, entry: &CatalogEntry) -> bool {
        entry.lists_wal
            && entry.state != BackupState::Degraded
            && self.chain(entry).is_ok_and(|chain| chain.iter().all(|one| !one.is_damaged()))
    }

    /// A backup is worth no more than what it builds upon.
    fn capped(&self, entry: &CatalogEntry) -> BackupState {
        let Ok(chain) = self.chain(entry) else { return entry.state.min(BackupState::Uploaded) };
        let most = chain.iter().map(|one| match one {
            one if one.manifest.damaged => BackupState::Degraded,
            one if one.is_damaged() => BackupState::WalComplete,
            _ => BackupState::Proven,
        });
        most.min().map_or(entry.state, |most| entry.state.min(most))
    }

    /// Whether a backup could not be read as what tells of it lies in an archive.
    pub fn has_archived(&self) -> bool {
        let is_archived = |problem: &Problem| matches!(problem.error, VaultError::Store(StoreError::Archived { .. }));
        self.problems.iter().any(is_archived)
    }

    pub fn find(&self, backup: &BackupId) -> Option<&CatalogEntry> {
        self.entries.iter().find(|entry| entry.manifest.backup == *backup)
    }
}

/// All that `read_entry` goes by, with the sizes.
fn listed_of(listing: &Listing, backup: &BackupId) -> Vec<(ObjectKey, u64)> {
    let layout = listing.layout();
    let prefixes = [layout.backup_prefix(backup), layout.proofs_prefix(backup), layout.verifications_prefix(backup)];
    let keys = prefixes.iter().flat_map(|prefix| listing.under(prefix));
    keys.filter_map(|key| Some((key.clone(), listing.size_of(key)?))).collect()
}

async fn read_entry(
    listing: &Listing,
    store: &dyn Store,
    verifier: &Verifier,
    backup: &BackupId,
) -> Result<CatalogEntry, VaultError> {
    let layout = listing.layout();
    let missing = |key: &ObjectKey| VaultError::Missing { vault: store.place().vault.clone(), key: key.clone() };
    let signature_key = signature_of(&layout.manifest(backup));
    if !listing.holds(&signature_key) {
        return Err(missing(&signature_key));
    }
    let (manifest, manifest_sha256) = signed_manifest(layout, store, verifier, backup).await?;
    for object in &manifest.objects {
        let key = layout.backup_object(backup, &object.name)?;
        match listing.size_of(&key) {
            None => return Err(missing(&key)),
            Some(size) if size != object.stored_size => {
                let what = format!("{size} bytes instead of {}", object.stored_size);
                return Err(VaultError::Damaged { vault: store.place().vault.clone(), key, what });
            }
            Some(_) => {}
        }
    }
    let proof = proof::newest_proof(store, listing, backup, &manifest_sha256, verifier).await?;
    let verification = verification::newest_verification(store, listing, backup, &manifest_sha256, verifier).await?;
    Ok(CatalogEntry { manifest, manifest_sha256, state: BackupState::Uploaded, lists_wal: false, proof, verification })
}

/// The validly signed manifest of a backup, and the SHA-256 of its bytes.
pub async fn signed_manifest(
    layout: &Layout,
    store: &dyn Store,
    verifier: &Verifier,
    backup: &BackupId,
) -> Result<(Manifest, String), VaultError> {
    let key = layout.manifest(backup);
    let json = seal::read_all(store, &key).await?;
    let signature = seal::read_all(store, &signature_of(&key)).await?;
    let manifest = Manifest::from_signed(&key, &json, &String::from_utf8_lossy(&signature), verifier)?;
    // A signed manifest copied under another name is another backup's.
    if manifest.backup != *backup
        || manifest.database != *layout.database()
        || manifest.system_id != layout.system_id()
        || manifest.incarnation != layout.incarnation()
    {
        let what = format!(
            "its manifest is that of backup `{}` of `{}` with system id {}",
            manifest.backup, manifest.database, manifest.system_id
        );
        return Err(VaultError::Damaged { vault: store.place().vault.clone(), key, what });
    }
    Ok((manifest, seal::sha256_hex(&json)))
}

fn lists_wal(entry: &CatalogEntry, coverage: &Coverage, size: SegmentSize) -> bool {
    let manifest = &entry.manifest;
    coverage.covers(manifest.timeline, size, manifest.start_lsn, manifest.stop_lsn)
        && !entry.verification.as_ref().is_some_and(|verification| verification.lacks_wal(manifest))
}

fn state_of(entry: &CatalogEntry) -> BackupState {
    let manifest = &entry.manifest;
    if manifest.damaged {
        BackupState::Degraded
    } else if !entry.has_wal() {
        BackupState::Uploaded
    } else if entry.proof.is_some() && !entry.is_damaged() {
        BackupState::Proven
    } else if entry.verification.as_ref().is_some_and(|verification| verification.is_whole(manifest)) {
        BackupState::Verified
    } else {
        BackupState::WalComplete
    }
}
