//! Brings back into a state database what a vault keeps: which vault it is, the
//! evidence log, and the acknowledged heartbeats. Backups and proofs are in no
//! table: they are read from the vaults each time. Runs and findings are not kept
//! in a vault; findings open again by themselves.
//!
//! Writes to that state database alone, and may be repeated.

use jiff::Timestamp;
use serde::Serialize;

use super::{Database, KeyError};
use crate::{
    clock::Clock,
    db::{Db, DbError, heartbeats, vaults},
    decide::retention::beats,
    domain::{BackupState, VaultName, with_causes},
    evidence::{EvidenceError, EvidenceLog},
    vault::{Inventory, Store, StoreError, VaultError, VaultIdentity, ledger},
};

/// What one vault gave.
#[derive(Debug, Default, Serialize)]
pub struct FromVault {
    pub vault: String,
    pub id: Option<String>,
    /// Seen in the vault; nothing is kept of them elsewhere.
    pub backups: usize,
    pub proven: usize,
    /// New in the state database.
    pub heartbeats: usize,
    /// New in the state database.
    pub evidence: u64,
}

/// Where to.
#[derive(Debug, Clone, Copy)]
pub struct Rebuild<'a> {
    pub db: &'a Db,
    /// The log in `db`, which knows the vault.
    pub evidence: &'a EvidenceLog,
    pub clock: &'a Clock,
}

impl Rebuild<'_> {
    /// What `vault` keeps of itself and of the evidence. `plain` is the same store
    /// without whoever asks that it is known already.
    pub async fn vault(&self, plain: &dyn Store, vault: &dyn Store, came: &mut FromVault) -> Result<(), Failed> {
        let name = &vault.place().vault;
        let identity = VaultIdentity::read(plain).await?;
        let ours = self.evidence.signer().verifier().fingerprint();
        match identity {
            Some(identity) if identity.owner == ours => {
                vaults::remember(self.db, name, &identity.id).await?;
                came.id = Some(identity.id);
            }
            Some(identity) => {
                return Err(Failed::vault(format!(
                    "it belongs to the signing key {}, this node signs with {ours}; use that key",
                    identity.owner
                )));
            }
            None => {
                return Err(Failed::vault("there is no `vault.json`, so it holds nothing; is it mounted?".to_owned()));
            }
        }
        // Whatever is known from before must be this one.
        vault.list("vault.json").await?;
        came.evidence = self.evidence.take_over(name).await?;
        Ok(())
    }

    /// What the vault keeps of one database.
    pub async fn database(
        &self,
        database: &Database,
        name: &VaultName,
        came: &mut FromVault,
        notes: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let Some(vault) = database.vault(Some(name)) else { return Ok(()) };
        let mut histories = database.histories(vault).await?;
        for entry in histories.iter().flat_map(|held| &held.catalog.entries) {
            came.backups += 1;
            came.proven += usize::from(entry.state == BackupState::Proven);
        }
        let identities = match database.keys.identities().await {
            Ok(identities) => identities,
            Err(KeyError::NoIdentity) => {
                let what = "heartbeats did not come back: this node holds no age identity (`keys.identity`)";
                notes.push(what.to_owned());
                return Ok(());
            }
            Err(error) => return Err(Failed::vault(with_causes(&error))),
        };
        // A number that two histories used is the newer one's.
        histories.sort_by_key(Inventory::newest_at);
        let (db, since) = (self.db, self.clock.now() - beats::KEPT);
        let kept = async || heartbeats::between(db, &database.name, Timestamp::UNIX_EPOCH, Timestamp::MAX).await;
        let before = kept().await?.len();
        for held in histories.iter().rev() {
            let beats = ledger::read_since(vault.store.as_ref(), held.listing.layout(), &identities, since).await;
            heartbeats::append(db, &database.name, &beats?).await?;
        }
        came.heartbeats += kept().await?.len() - before;
        Ok(())
    }
}

/// What ends everything, and what ends one vault.
#[derive(Debug)]
pub enum Failed {
    State(DbError),
    Vault {
        problem: String,
        /// Whether the same call can only fail again.
        is_permanent: bool,
    },
}

impl Failed {
    fn vault(problem: String) -> Self {
        Self::Vault { problem, is_permanent: true }
    }
}

impl From<DbError> for Failed {
    fn from(error: DbError) -> Self {
        Self::State(error)
    }
}

macro_rules! failed_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Self::Vault { is_permanent: error.is_permanent(), problem: with_causes(&error) }
            }
        })+
    };
}
failed_from!(StoreError, VaultError, EvidenceError);
