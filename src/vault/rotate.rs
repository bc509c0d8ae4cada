//! The key objects of a vault as rotation sees them, and adding one. Data is
//! never touched, and no key object is ever taken away.

use std::collections::BTreeSet;

use age::x25519::{Identity, Recipient};
use futures::{StreamExt, TryStreamExt, stream};

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
    key: ObjectKey,
    identity: Option<Identity>,
    pub facts: KeyFacts,
}

/// The key objects under one name.
pub struct KeyFolder {
    pub opens: Opens,
    /// Ends with `/`.
    prefix: String,
    pub objects: Vec<KeyObject>,
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
        let objects = stream::iter(names).map(|key| KeyObject::read(store, key, identities)).buffered(READS_AT_ONCE);
        Ok(Self { opens, prefix, objects: objects.try_collect().await? })
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
        let mut number =
            self.objects.iter().filter_map(|object| object.number(&self.prefix)).max().map_or(0, |n| n + 1);
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
        let identity = match seal::open(&store.place().vault, &key, stored, false, identities).await {
            Ok(text) => keys::identities_from(&String::from_utf8_lossy(&text))?.into_iter().next(),
            Err(VaultError::NoIdentity { .. }) => None,
            Err(error) => return Err(error),
        };
        let facts = KeyFacts { holds, is_open: identity.is_some(), recipients };
        Ok(Self { key, identity, facts })
    }

    fn number(&self, prefix: &str) -> Option<u32> {
        self.key.as_str().strip_prefix(prefix)?.strip_suffix(".age")?.parse().ok()
    }
}
