//! A frozen view of what a vault holds of one history. Everything that is
//! decided about a restore is read from one listing, so that the answer does
//! not move while it is made.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Layout, ObjectInfo, ObjectKey, ObjectVersion, Store, VaultError, WalName, seal};
use crate::{
    decide::recovery::{Coverage, History, parse_history},
    domain::{DatabaseName, SegmentSize, Timeline, archive::Cold},
};

/// No sealed object is smaller: 22 bytes of age's first line, 98 of one recipient's
/// stanza, 48 of the MAC's line, a nonce of 16 and a chunk of at least 16. What is
/// smaller was cut off, whatever its name says.
const SEALED_SIZE_MIN: u64 = 22 + 98 + 48 + 16 + 16;

/// All objects of one layout with their sizes in bytes, at one instant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listing {
    layout: Layout,
    objects: BTreeMap<ObjectKey, u64>,
    /// Those that may not be readable at once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cold: BTreeMap<ObjectKey, Cold>,
}

impl Listing {
    pub async fn take(store: &dyn Store, layout: &Layout) -> Result<Self, VaultError> {
        let mut listing = Self::empty(layout.clone());
        for object in store.list(&layout.prefix()).await? {
            listing.add_object(object);
        }
        Ok(listing)
    }

    /// The databases that the vault holds anything of.
    pub async fn databases(store: &dyn Store) -> Result<BTreeSet<DatabaseName>, VaultError> {
        let of = |key: &ObjectKey| {
            let database: DatabaseName = key.as_str().split('/').next()?.parse().ok()?;
            Layout::of(&database, key).map(|_| database)
        };
        Ok(store.list("").await?.iter().filter_map(|object| of(&object.key)).collect())
    }

    /// One view of every history that the vault holds of a database, for those
    /// who know nothing but the vault; by system id and incarnation.
    pub async fn of_all(store: &dyn Store, database: &DatabaseName) -> Result<Vec<Self>, VaultError> {
        Self::below(store, database, &format!("{database}/")).await
    }

    /// The same of one system id: its incarnations, oldest first.
    pub async fn of_system(
        store: &dyn Store,
        database: &DatabaseName,
        system_id: &str,
    ) -> Result<Vec<Self>, VaultError> {
        let mut listings = Self::below(store, database, &format!("{database}/{system_id}/")).await?;
        listings.sort_by_key(|listing| listing.layout.incarnation());
        Ok(listings)
    }

    async fn below(store: &dyn Store, database: &DatabaseName, prefix: &str) -> Result<Vec<Self>, VaultError> {
        let mut listings: BTreeMap<Layout, Self> = BTreeMap::new();
        for object in store.list(prefix).await? {
            if let Some(layout) = Layout::of(database, &object.key) {
                listings.entry(layout.clone()).or_insert_with(|| Self::empty(layout)).add_object(object);
            }
        }
        Ok(listings.into_values().collect())
    }

    /// Of a history that the vault holds nothing of.
    pub fn empty(layout: Layout) -> Self {
        Self { layout, objects: BTreeMap::new(), cold: BTreeMap::new() }
    }

    fn add_object(&mut self, ObjectInfo { key, size_bytes, cold }: ObjectInfo) {
        self.cold.extend(cold.map(|cold| (key.clone(), cold)));
        self.objects.insert(key, size_bytes);
    }

    /// Two views of a vault that is written to meanwhile, the second begun after
    /// the first had ended. What the first shows is held to account; what it
    /// overlooked, as it was written while it looked, the second adds. Nothing
    /// newer counts, as what belongs before it may be overlooked again.
    pub(super) fn settled(first: &[ObjectVersion], second: Self) -> Self {
        let Self { layout, objects: listed, cold } = second;
        let shown = first.iter().filter(|version| !version.is_delete_marker).rev();
        let mut objects: BTreeMap<ObjectKey, u64> = shown.map(|one| (one.key.clone(), one.size_bytes)).collect();
        let wal = format!("{}wal/", layout.prefix());
        let backups = format!("{}backups/", layout.prefix());
        let belongs = |key: &ObjectKey| {
            let name = key.as_str();
            if let Some((timeline, _)) = name.strip_prefix(&wal).and_then(|rest| rest.split_once('/')) {
                // Names sort by position: one before another that was shown is older.
                let end = ObjectKey(format!("{wal}{timeline}0"));
                let last = objects.range(..end).next_back();
                return timeline == "keys" || last.is_some_and(|(last, _)| last > key);
            }
            if let Some((backup, _)) = name.strip_prefix(&backups).and_then(|rest| rest.split_once('/')) {
                return objects.contains_key(&ObjectKey(format!("{backups}{backup}/manifest.json")));
            }
            name.starts_with(&wal) || name.strip_suffix(".sig").is_some()
        };
        let overlooked: Vec<(ObjectKey, u64)> =
            listed.into_iter().filter(|(key, _)| !objects.contains_key(key) && belongs(key)).collect();
        objects.extend(overlooked);
        Self { layout, objects, cold }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn holds(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key)
    }

    pub fn size_of(&self, key: &ObjectKey) -> Option<u64> {
        self.objects.get(key).copied()
    }

    /// Where an object lies that may not be readable at once.
    pub fn cold(&self, key: &ObjectKey) -> Option<Cold> {
        self.cold.get(key).copied()
    }

    /// Whether any object may not be readable at once.
    pub fn has_cold(&self) -> bool {
        !self.cold.is_empty()
    }

    /// What is read to find out which backups there are, as far as it may not be readable at once.
    pub fn cold_documents(&self) -> impl Iterator<Item = &ObjectKey> {
        self.cold.keys().filter(|key| self.layout.is_document(key))
    }

    /// All bytes stored, for status.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.values().sum()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    /// The names that begin so, sorted.
    pub fn under(&self, prefix: &str) -> impl Iterator<Item = &ObjectKey> {
        let from = ObjectKey(prefix.to_owned());
        self.objects.range(from..).map(|(key, _)| key).take_while(move |key| key.as_str().starts_with(prefix))
    }

    /// The WAL that is held.
    pub fn coverage(&self, size: SegmentSize) -> Coverage {
        let mut coverage = Coverage::default();
        self.add_coverage(size, &mut coverage);
        coverage
    }

    /// The WAL of which there is an object by name, also where it can hold nothing:
    /// a name is written once, so who writes goes by names.
    pub fn coverage_by_name(&self, size: SegmentSize) -> Coverage {
        let mut coverage = Coverage::default();
        self.add(size, self.keys(), &mut coverage);
        coverage
    }

    /// Adds the WAL that is held to what other vaults hold.
    pub fn add_coverage(&self, size: SegmentSize, coverage: &mut Coverage) {
        let sealed = self.objects.iter().filter(|(_, stored)| **stored >= SEALED_SIZE_MIN);
        self.add(size, sealed.map(|(key, _)| key), coverage);
    }

    fn add<'a>(&self, size: SegmentSize, keys: impl Iterator<Item = &'a ObjectKey>, coverage: &mut Coverage) {
        for key in keys {
            match WalName::parse(&self.layout, key, size) {
                Some(WalName::Whole(segment)) => coverage.add_whole(segment),
                Some(WalName::Tail { segment, from, to }) => coverage.add_tail(segment, from, to),
                Some(WalName::History(_)) | None => {}
            }
        }
    }

    /// The history files, read.
    pub async fn histories(&self, store: &dyn Store) -> Result<BTreeMap<Timeline, History>, VaultError> {
        let mut histories = BTreeMap::new();
        for key in self.keys() {
            // The size does not matter for the name of a history file.
            if let Some(WalName::History(timeline)) = WalName::parse(&self.layout, key, SegmentSize::DEFAULT) {
                let text = seal::read_all(store, key).await?;
                let history = parse_history(&String::from_utf8_lossy(&text)).ok_or_else(|| VaultError::Damaged {
                    vault: store.place().vault.clone(),
                    key: key.clone(),
                    what: "it is no history file".to_owned(),
                })?;
                histories.insert(timeline, history);
            }
        }
        Ok(histories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(first: &[&str], second: &[&str]) -> Vec<String> {
        let layout = Layout::new("wallet".parse().unwrap(), "7", 1).unwrap();
        let key = |name: &&str| ObjectKey::new(format!("{}{name}", layout.prefix())).unwrap();
        let version = |name| ObjectVersion { key: key(name), version: None, size_bytes: 1, is_delete_marker: false };
        let first: Vec<ObjectVersion> = first.iter().map(version).collect();
        let objects = second.iter().map(|name| (key(name), 1)).collect();
        let listing = Listing::settled(&first, Listing { objects, ..Listing::empty(layout.clone()) });
        listing.keys().filter_map(|key| Some(key.as_str().strip_prefix(&layout.prefix())?.to_owned())).collect()
    }

    #[test]
    fn what_was_overlooked_is_added_and_what_is_newer_is_not() {
        // A later tail was seen and the one before it not; a new one has come since.
        let (one, two, three) =
            ("wal/00000001/S1.00-10.tail", "wal/00000001/S1.10-20.tail", "wal/00000001/S1.20-30.tail");
        assert_eq!(settled(&[one, three], &[one, two, three, "wal/00000001/S1.30-40.tail"]), [one, two, three]);
        assert_eq!(settled(&[one], &[one, "wal/00000002/S1.00-10.tail"]), [one], "a timeline that has begun since");
        assert_eq!(settled(&[one], &[one, "wal/00000002.history", "wal/keys/S1/0.age"]).len(), 3);
        // What is gone since stays: whoever reads it sees why.
        assert_eq!(settled(&[one, two], &[one]), [one, two]);
        let (manifest, part) = ("backups/b/manifest.json", "backups/b/data/00000.tar.zst.age");
        assert_eq!(settled(&[manifest], &[manifest, part]), [part, manifest]);
        assert_eq!(settled(&[part], &[manifest, part]), [part], "committed since");
        assert_eq!(settled(&["proofs/b/r.json"], &["proofs/b/r.json.sig", "proofs/b/s.json"]).len(), 2);
    }
}
