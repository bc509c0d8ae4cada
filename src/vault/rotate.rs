//! The key objects of a vault as rotation sees them, and adding one. Data is
//! never touched, and no key object is ever taken away.

use std::collections::BTreeSet;

use age::x25519::{Identity, Recipient};
use futures::{StreamExt, stream};

use super::{Catalog, Listing, ObjectKey, Store, VaultError, keys, put_once, seal};
use crate::{decide::rotation::KeyFacts, domain::BackupId};

/// Key objects read at once.
const READS_AT_ONCE: usize = 8;

/// What a folder of key objects opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opens {
    Backup(BackupId),
    /// Stretches of WAL that begin in this segment.
    Wal(String),
}

/// A key object, opened where an identity does.
pub struct KeyObject {
    identity: Option<Identity>,
    pub facts: KeyFacts,
}

/// The key objects under one name.
pub struct KeyFolder {
    pub opens: Opens,
    /// Ends with `/`.
    prefix: String,
    pub objects: Vec<KeyObject>,
    /// Why key objects cannot be read: nobody knows what is in them.
    pub damaged: Vec<VaultError>,
    /// The first number after those that are taken.
    next: u32,
}

impl KeyFolder {
    /// All of a listing: those of committed backups, and those of WAL.
    pub async fn all(
        store: &dyn Store,
        listing: &Listing,
        catalog: &Catalog,
        identities: &[Identity],
    ) -> Result<Vec<Self>, VaultError> {
        let layout = listing.layout();
        let mut folders = Vec::new();
        for entry in &catalog.entries {
            let manifest = &entry.manifest;
            let prefix = format!("{}keys/", layout.backup_prefix(&manifest.backup));
            let opens = Opens::Backup(manifest.backup.clone());
            let mut folder = Self::read(store, listing, prefix, opens, identities).await?;
            // Backups of before key objects told for whom they are.
            if let Some(first) = folder.objects.first_mut()
                && first.facts.recipients.is_none()
            {
                first.facts.recipients = Some(manifest.recipients.iter().cloned().collect());
            }
            folders.push(folder);
        }
        let wal_keys = layout.wal_keys_prefix();
        let stretches: BTreeSet<&str> = listing
            .under(&wal_keys)
            .filter_map(|key| Some(key.as_str().strip_prefix(&wal_keys)?.split_once('/')?.0))
            .collect();
        for first in stretches {
            let prefix = format!("{wal_keys}{first}/");
            folders.push(Self::read(store, listing, prefix, Opens::Wal(first.to_owned()), identities).await?);
        }
        Ok(folders)
    }

    async fn read(
        store: &dyn Store,
        listing: &Listing,
        prefix: String,
        opens: Opens,
        identities: &[Identity],
    ) -> Result<Self, VaultError> {
        let names: Vec<ObjectKey> = listing.under(&prefix).cloned().collect();
        let number = |key: &ObjectKey| key.as_str().strip_prefix(&prefix)?.strip_suffix(".age")?.parse::<u32>().ok();
        let next = names.iter().filter_map(number).max().map_or(0, |number| number.saturating_add(1));
        let mut folder = Self { opens, prefix, objects: Vec::new(), damaged: Vec::new(), next };
        let reads = stream::iter(names).map(|key| KeyObject::read(store, key, identities)).buffered(READS_AT_ONCE);
        for read in reads.collect::<Vec<_>>().await {
            match read {
                Ok(object) => folder.objects.push(object),
                Err(error @ (VaultError::Damaged { .. } | VaultError::Unencrypted { .. })) => {
                    folder.damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(folder)
    }

    pub fn facts(&self) -> Vec<KeyFacts> {
        self.objects.iter().map(|object| object.facts.clone()).collect()
    }

    /// Adds a key object that holds the same identity as those that hold `held`,
    /// for `recipients`, under the next free number.
    pub async fn wrap(&self, store: &dyn Store, held: &str, recipients: &[Recipient]) -> Result<(), VaultError> {
        let mut holders = self.objects.iter().filter(|object| object.facts.holds == held);
        let Some(identity) = holders.find_map(|object| object.identity.as_ref()) else {
            let key = ObjectKey::new(format!("{}0.age", self.prefix))?;
            return Err(VaultError::NoIdentity { key });
        };
        let object = keys::wrap(identity, recipients)?;
        let mut number = self.next;
        loop {
            let key = ObjectKey::new(format!("{}{number}.age", self.prefix))?;
            match put_once(store, &key, &object).await {
                // Another identity took this number since the listing.
                Err(VaultError::Conflict { .. }) => number += 1,
                other => return other,
            }
        }
    }
}

impl KeyObject {
    async fn read(store: &dyn Store, key: ObjectKey, identities: &[Identity]) -> Result<Self, VaultError> {
        let stored = seal::read_all(store, &key).await?;
        let recipients = seal::key_recipients(&stored).map(|recipients| recipients.into_iter().collect());
        let holds = seal::header_digest(&stored).unwrap_or_else(|| key.to_string());
        let vault = &store.place().vault;
        let identity = match seal::open(vault, &key, stored, false, identities).await {
            Ok(text) => keys::identities_from(&String::from_utf8_lossy(&text))
                .map_err(|error| VaultError::Damaged { vault: vault.clone(), key, what: error.to_string() })?
                .into_iter()
                .next(),
            Err(VaultError::NoIdentity { .. }) => None,
            Err(error) => return Err(error),
        };
        let facts = KeyFacts { holds, is_open: identity.is_some(), recipients };
        Ok(Self { identity, facts })
    }
}
