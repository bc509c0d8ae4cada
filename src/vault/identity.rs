//! Which vault this is, and whose: `vault.json`, the first object that a writer
//! makes. It tells one folder from another that was mounted in its place, and
//! keeps two estates off one prefix. A reader needs none of it.
//!
//! What must never happen: a second identity, or one that a crash left unsigned
//! for ever. So it is created conditionally, and whoever is the owner adds the
//! signature that is missing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Object, ObjectKey, Store, StoreError, VaultError, put_once, seal,
    signature::{Signer, Verifier},
    signature_of, stat,
};

/// The object's name, at the vault's root.
pub(super) const NAME: &str = "vault.json";
/// The signature namespace.
const NAMESPACE: &str = "lifeboat-vault";
/// The version of `docs/format.md` that is written.
const FORMAT: u32 = 1;

/// `vault.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultIdentity {
    pub format: u32,
    /// Random; 32 hex digits.
    pub id: String,
    /// Fingerprint of the key that signs what is written here.
    pub owner: String,
    pub made_at: Timestamp,
}

fn key() -> ObjectKey {
    ObjectKey(NAME.to_owned())
}

impl VaultIdentity {
    /// What the vault says it is; none when it is new. Its signature is not
    /// looked at: `confirm` does.
    pub async fn read(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Identity {
            vault: store.place().vault.clone(),
            what: "`vault.json` cannot be read; put back the one that was written first",
            source,
        };
        let json = match seal::read_all(store, &key()).await {
            Ok(json) => json,
            Err(VaultError::Store(StoreError::NotFound { .. })) => return Ok(None),
            Err(VaultError::Store(error)) => return Err(error),
            Err(error) => return Err(unreadable(Box::new(error))),
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| unreadable(Box::new(error)))
    }

    /// Makes this vault ours when it is new; of two writers one wins.
    pub(super) async fn claim(store: &dyn Store, signer: &Signer, now: Timestamp) -> Result<Self, StoreError> {
        let made = Self {
            format: FORMAT,
            id: format!("{:032x}", rand::random::<u128>()),
            owner: signer.verifier().fingerprint(),
            made_at: now,
        };
        let json = serde_json::to_vec_pretty(&made).unwrap_or_default();
        let lost = match put_once(store, &key(), &Object::plain(json)).await {
            Ok(()) => false,
            Err(VaultError::Conflict { .. }) => true,
            Err(error) => return Err(failed(store, error)),
        };
        let found = if lost { Self::read(store).await? } else { Some(made) };
        found.ok_or_else(|| StoreError::NotFound { vault: store.place().vault.clone(), key: key() })
    }

    /// Refuses a vault of another owner; checks the signature, and adds it where
    /// a crash left it out.
    pub(super) async fn confirm(&self, store: &dyn Store, signer: &Signer) -> Result<(), StoreError> {
        let ours = signer.verifier().fingerprint();
        if self.owner != ours {
            let (vault, owner) = (store.place().vault.clone(), self.owner.clone());
            return Err(StoreError::Foreign { vault, owner, ours });
        }
        let json = seal::read_all(store, &key()).await.map_err(|error| failed(store, error))?;
        if stat(store, &signature_of(&key())).await?.is_none() {
            let signature = signer.sign(NAMESPACE, &json).map_err(|error| failed(store, error))?;
            let stored = put_once(store, &signature_of(&key()), &Object::plain(signature)).await;
            return stored.map_err(|error| failed(store, error));
        }
        self.verify(store, &json, &signer.verifier()).await
    }

    async fn verify(&self, store: &dyn Store, json: &[u8], verifier: &Verifier) -> Result<(), StoreError> {
        let signature = seal::read_all(store, &signature_of(&key())).await.map_err(|error| failed(store, error))?;
        let signature = String::from_utf8_lossy(&signature);
        verifier.verify(NAMESPACE, NAME, json, &signature).map_err(|error| failed(store, error))
    }
}

fn failed(store: &dyn Store, error: impl Into<VaultError>) -> StoreError {
    match error.into() {
        VaultError::Store(error) => error,
        error => StoreError::Identity {
            vault: store.place().vault.clone(),
            what: "`vault.json` cannot be trusted; find out who wrote it before anything else is written",
            source: Box::new(error),
        },
    }
}
