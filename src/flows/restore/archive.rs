//! What a restore needs and no vault can give at once, as it lies in an archive. All of it
//! is asked for at the beginning, and waited for once.
//!
//! What must never happen: that anything is asked for which another vault can give now, and
//! a wait without end.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{RestoreError, Say};
use crate::{
    decide::{
        archive::{self, Frozen},
        forecast,
        recovery::{self, Selection},
    },
    domain::{
        RecoveryTarget, VaultName,
        archive::{ArchiveClass, Cold, Thawing},
        with_causes,
    },
    flows::{Database, Vault},
    vault::{Bucket, Inventory, Layout, Listing, Manifest, ObjectKey, Standing, StoreError, VaultError},
};

/// The phase of a restore in which it waits.
pub(super) const WAIT: &str = forecast::WAIT;

/// Objects that are asked about, or for, at once.
const AT_ONCE: usize = 8;

/// What vaults hold, of which something may lie in an archive.
pub(super) struct Archive<'a> {
    vaults: Vec<(&'a Vault, &'a Listing)>,
    stop: &'a CancellationToken,
    say: &'a Say<'a>,
    /// Whether anything is asked for; who only looks asks for nothing.
    is_asked: bool,
    waited: Mutex<Duration>,
}

/// An object that no vault can give now.
struct Asleep {
    key: ObjectKey,
    vault: VaultName,
    bucket: Arc<dyn Bucket>,
    class: ArchiveClass,
    is_asked: bool,
    stored_bytes: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn of(found: &[(&'a Vault, &'a Inventory)], stop: &'a CancellationToken, say: &'a Say<'a>) -> Self {
        let vaults = found.iter().map(|(vault, held)| (*vault, &held.listing)).collect();
        Self { vaults, stop, say, is_asked: true, waited: Mutex::default() }
    }

    /// The same for who only looks: what lies in an archive is an error there.
    #[must_use]
    pub(super) fn untouched(self) -> Self {
        Self { is_asked: false, ..self }
    }

    /// How long was waited so far.
    pub(super) fn waited(&self) -> Duration {
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for what of these objects no vault can give now, and returns when all can be read.
    pub(super) async fn bring(&self, needed: BTreeSet<ObjectKey>) -> Result<(), RestoreError> {
        if !self.vaults.iter().any(|(_, listing)| listing.has_cold()) {
            return Ok(());
        }
        let begun = Instant::now();
        let brought = tokio::select! {
            brought = self.ask_and_wait(needed, begun) => brought,
            () = self.stop.cancelled() => Err(VaultError::Stopped.into()),
        };
        if brought? {
            *self.waited.lock().unwrap_or_else(PoisonError::into_inner) += begun.elapsed();
        }
        Ok(())
    }

    /// Whether anything was waited for.
    async fn ask_and_wait(&self, needed: BTreeSet<ObjectKey>, begun: Instant) -> Result<bool, RestoreError> {
        let found = stream::iter(needed).map(|key| self.asleep(key)).buffer_unordered(AT_ONCE);
        let found: Vec<Option<Asleep>> = found.try_collect().await.map_err(VaultError::from)?;
        let asleep: Vec<Asleep> = found.into_iter().flatten().collect();
        let Some(terms) = asleep.iter().map(|one| *one.bucket.thawing()).max_by_key(|terms| terms.limit) else {
            return Ok(false);
        };
        let mut frozen = Frozen::default();
        for one in &asleep {
            frozen.add(one.class, one.stored_bytes, one.bucket.thawing().retrieval);
        }
        if !self.is_asked {
            return Err(RestoreError::Frozen { frozen });
        }
        (self.say)(&format!("asking for {frozen}"), None, None);
        let unasked = asleep.iter().filter(|one| !one.is_asked);
        let asking: Vec<_> = unasked.map(|one| one.bucket.thaw(&one.key, one.class)).collect();
        let asked = stream::iter(asking).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await;
        asked.map_err(VaultError::from)?;
        tracing::info!(%frozen, "asked for what lies in an archive");
        self.wait(asleep, terms, begun).await?;
        Ok(true)
    }

    /// Looks at the first ones until these are there, and only then at the next: what was
    /// asked for at once comes at about the same time, and each look costs money.
    async fn wait(&self, mut left: Vec<Asleep>, terms: Thawing, begun: Instant) -> Result<(), RestoreError> {
        let total = left.len();
        loop {
            while !left.is_empty() {
                let first: Vec<Asleep> = left.drain(..left.len().min(AT_ONCE)).collect();
                let looked = futures::future::join_all(first.iter().map(Asleep::is_readable)).await;
                let late: Vec<Asleep> =
                    first.into_iter().zip(looked).filter(|(_, is_there)| !is_there).map(|(one, _)| one).collect();
                let are_all_there = late.is_empty();
                left.splice(0..0, late);
                if !are_all_there {
                    break;
                }
            }
            let done = (total - left.len()) as u64;
            (self.say)("waiting for what lies in an archive", Some(done), Some(total as u64));
            let Some(first) = left.first() else { return Ok(()) };
            let waited = begun.elapsed();
            let Some(rest) = terms.limit.as_duration().checked_sub(waited).filter(|rest| !rest.is_zero()) else {
                return Err(RestoreError::ArchiveLate {
                    vault: first.vault.clone(),
                    key: first.key.clone(),
                    left: left.len(),
                    terms,
                });
            };
            tokio::time::sleep(archive::pause(waited).min(rest)).await;
        }
    }

    /// The object as the first vault has it that holds it, where none can give it now.
    async fn asleep(&self, key: ObjectKey) -> Result<Option<Asleep>, StoreError> {
        let holders = || self.vaults.iter().filter(|(_, listing)| listing.holds(&key));
        if holders().any(|(_, listing)| listing.cold(&key).is_none()) {
            return Ok(None);
        }
        let mut first = None;
        for (vault, listing) in holders() {
            let Some(bucket) = &vault.bucket else { continue };
            let standing = match bucket.standing(&key).await {
                // Gone since it was listed: whoever reads it says so.
                Err(StoreError::NotFound { .. }) => continue,
                standing => standing?,
            };
            let (class, is_asked) = match standing {
                Standing::Readable => return Ok(None),
                Standing::Archived(class) => (class, false),
                Standing::Coming(class) => (class, true),
            };
            first.get_or_insert_with(|| Asleep {
                key: key.clone(),
                vault: vault.store.place().vault.clone(),
                bucket: Arc::clone(bucket),
                class,
                is_asked,
                stored_bytes: listing.size_of(&key).unwrap_or_default(),
            });
        }
        Ok(first)
    }
}

impl Asleep {
    /// A store that does not answer now is asked again later: hours are waited already.
    async fn is_readable(&self) -> bool {
        match self.bucket.standing(&self.key).await {
            Ok(standing) => standing == Standing::Readable,
            Err(error) => {
                tracing::warn!(key = %self.key, error = %with_causes(&error), "whether it can be read is not known now");
                false
            }
        }
    }
}

/// All that is read to find out which backups there are, as far as it may lie in an archive.
pub(super) fn cold_documents(found: &[(&Vault, &Inventory)]) -> BTreeSet<ObjectKey> {
    found.iter().flat_map(|(_, held)| held.listing.cold_documents()).cloned().collect()
}

/// Of these the history files alone.
pub(super) fn cold_histories(found: &[(&Vault, &Inventory)]) -> BTreeSet<ObjectKey> {
    let mut documents = cold_documents(found);
    documents.retain(|key| key.as_str().ends_with(".history"));
    documents
}

/// All objects that a restore of `selection` reads: of its chain, its WAL, and their keys.
pub(super) fn needed(
    found: &[(&Vault, &Inventory)],
    layout: &Layout,
    selection: &Selection,
) -> Result<BTreeSet<ObjectKey>, VaultError> {
    let manifests: Vec<&Manifest> = selection
        .chain
        .iter()
        .filter_map(|id| found.iter().find_map(|(_, held)| held.catalog.find(id)))
        .map(|entry| &entry.manifest)
        .collect();
    let mut needed = wal(layout, selection);
    for manifest in manifests {
        for record in &manifest.objects {
            needed.insert(layout.backup_object(&manifest.backup, &record.name)?);
        }
    }
    let keys = selection.chain.iter().map(|backup| format!("{}keys/", layout.backup_prefix(backup)));
    for prefix in keys.chain([layout.wal_keys_prefix()]) {
        needed.extend(found.iter().flat_map(|(_, held)| held.listing.under(&prefix)).cloned());
    }
    Ok(needed)
}

/// The objects of the WAL alone, with history files.
pub(super) fn wal(layout: &Layout, selection: &Selection) -> BTreeSet<ObjectKey> {
    let size = selection.segment_size;
    let mut keys: BTreeSet<ObjectKey> = selection.histories.iter().map(|timeline| layout.history(*timeline)).collect();
    for piece in &selection.wal {
        if piece.tails.is_empty() {
            keys.insert(layout.segment(piece.segment, size));
        }
        keys.extend(piece.tails.iter().map(|(from, to)| layout.tail(piece.segment, size, *from, *to)));
    }
    keys
}

/// What of a restore of `selection` from this vault lies in an archive, by its listing alone.
/// What only the objects themselves could tell is left out.
pub fn frozen(vault: &Vault, held: &Inventory, selection: &Selection) -> Result<Frozen, VaultError> {
    let mut frozen = Frozen::default();
    let listing = &held.listing;
    let Some(bucket) = vault.bucket.as_ref().filter(|_| listing.has_cold()) else { return Ok(frozen) };
    for key in needed(&[(vault, held)], listing.layout(), selection)? {
        if let Some(Cold::Archived(class)) = listing.cold(&key) {
            frozen.add(class, listing.size_of(&key).unwrap_or_default(), bucket.thawing().retrieval);
        }
    }
    Ok(frozen)
}

/// The same of a restore of the newest state that the vault holds; none where it holds none.
pub async fn frozen_latest(database: &Database, vault: &Vault, now: Timestamp) -> Result<Option<Frozen>, RestoreError> {
    let Some(held) = Inventory::newest_of(database.histories(vault).await?) else { return Ok(None) };
    let Some(facts) = super::facts(&[(vault, &held)], now).await? else { return Ok(None) };
    let Ok(latest) = recovery::choose(&facts, &RecoveryTarget::Latest, None) else { return Ok(None) };
    Ok(Some(frozen(vault, &held, &latest)?).filter(|frozen| !frozen.is_empty()))
}
