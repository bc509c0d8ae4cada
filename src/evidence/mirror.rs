//! Copies the log to one vault. Objects are written once, the JSON after its
//! signature, so that what can be seen is complete. An object that is there
//! already must have the same bytes; another one is an alarm, never overwritten.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::io::AsyncReadExt;

use super::{EvidenceError, checkpoint};
use crate::{
    db::{self, Db, evidence::Row},
    domain::VaultName,
    vault::{self, Object, ObjectKey, SharedStore, Store, StoreError, VaultError, signature::Signer},
};

/// The names under a prefix.
pub(super) fn folder(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => "evidence".to_owned(),
        prefix => format!("{prefix}/evidence"),
    }
}

/// The whole object; text, as everything in the log is.
pub(super) async fn read(store: &dyn Store, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.read(key).await?.read_to_end(&mut bytes).await.map_err(|source| StoreError::Io {
        vault: store.place().vault.clone(),
        subject: key.to_string(),
        action: "read",
        source,
    })?;
    Ok(bytes)
}

/// One vault's copy of the log.
#[derive(Debug)]
pub(super) struct Mirror {
    store: SharedStore,
    prefix: String,
    /// Entries below this one are known to be in the vault; 0 until looked at.
    copied: AtomicU64,
}

impl Mirror {
    pub(super) fn new(store: SharedStore, prefix: &str) -> Self {
        Self { store, prefix: prefix.to_owned(), copied: AtomicU64::new(0) }
    }

    pub(super) fn vault(&self) -> &VaultName {
        &self.store.place().vault
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Writes what the vault lacks. The listing is read before the log, so that
    /// what another node appends meanwhile cannot look like a longer vault.
    pub(super) async fn catch_up(&self, db: &Db, signer: &Signer) -> Result<(), EvidenceError> {
        let from = self.copied.load(Ordering::Acquire);
        let present = if from == 0 { self.names().await? } else { BTreeSet::new() };
        let rows = db::evidence::rows_from(db, from).await?;
        let size = rows.last().map_or(from, |row| row.index + 1);
        let vault_size = self.size_of(&present);
        if vault_size > size {
            return Err(EvidenceError::Behind { vault: self.vault().clone(), vault_size, size });
        }
        for row in rows {
            // Entries are chained: where the newest one in common has the same
            // bytes, all before it have.
            let compare = row.index + 1 >= vault_size;
            for (name, text) in self.objects(&row, signer)? {
                if compare || !present.contains(&name) {
                    self.put_once(name, text).await?;
                }
            }
            self.copied.fetch_max(row.index + 1, Ordering::AcqRel);
        }
        Ok(())
    }

    async fn names(&self) -> Result<BTreeSet<String>, EvidenceError> {
        let objects = self.store.list(&format!("{}/", folder(&self.prefix))).await?;
        Ok(objects.into_iter().map(|object| object.key.to_string()).collect())
    }

    /// How many entries the vault knows of, by entries and by checkpoints.
    fn size_of(&self, names: &BTreeSet<String>) -> u64 {
        let folder = folder(&self.prefix);
        let number = |name: &String| {
            let rest = name.strip_prefix(&folder)?.strip_prefix('/')?.strip_suffix(".json")?;
            match rest.strip_prefix("checkpoints/") {
                Some(size) => size.parse().ok(),
                None => rest.parse::<u64>().ok()?.checked_add(1),
            }
        };
        names.iter().filter_map(number).max().unwrap_or(0)
    }

    /// Names and contents in the order in which they are written.
    fn objects(&self, row: &Row, signer: &Signer) -> Result<[(String, String); 4], EvidenceError> {
        let (folder, index, size) = (folder(&self.prefix), row.index, row.index + 1);
        let (checkpoint, checkpoint_signature) = checkpoint::after(row, signer)?;
        Ok([
            (format!("{folder}/{index:08}.json.sig"), row.signature.clone()),
            (format!("{folder}/{index:08}.json"), row.entry.clone()),
            (format!("{folder}/checkpoints/{size:08}.json.sig"), checkpoint_signature),
            (format!("{folder}/checkpoints/{size:08}.json"), checkpoint),
        ])
    }

    async fn put_once(&self, name: String, text: String) -> Result<(), EvidenceError> {
        let key = ObjectKey::new(name)?;
        match vault::put_once(&*self.store, &key, &Object::plain(text)).await {
            Err(VaultError::Conflict { vault, key }) => Err(EvidenceError::Diverged { vault, key: key.to_string() }),
            Err(VaultError::Store(error)) => Err(error.into()),
            other => Ok(other?),
        }
    }
}
