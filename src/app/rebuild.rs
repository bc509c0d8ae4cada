//! Brings back into a new state database what the vaults keep: which vault each
//! of them is, the evidence log, and the acknowledged heartbeats. Backups and
//! proofs are in no table: they are read from the vaults each time. Runs and
//! findings are not kept in a vault; findings open again by themselves.
//!
//! Writes to the state database alone, and may be repeated.

use jiff::Timestamp;
use serde::Serialize;

use super::App;
use crate::{
    db::{DbError, heartbeats, vaults},
    decide::retention::beats,
    domain::{BackupState, VaultName, with_causes},
    flows::{Database, KeyError},
    vault::{Inventory, Owned, Store as _, VaultIdentity, ledger},
};

/// What came back, and what did not.
#[derive(Debug, Default, Serialize)]
pub struct Rebuilt {
    pub vaults: Vec<FromVault>,
    /// Why something did not come back; a person must look.
    pub problems: Vec<String>,
    /// What is missing by design.
    pub notes: Vec<String>,
}

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

impl App {
    /// From one vault, or from all of them.
    pub async fn rebuild(&self, from: Option<&VaultName>) -> Result<Rebuilt, DbError> {
        let mut rebuilt = Rebuilt::default();
        for (name, vault) in self.vaults.iter().filter(|(name, _)| from.is_none_or(|from| from == *name)) {
            let mut came = FromVault { vault: name.to_string(), ..FromVault::default() };
            match self.take_from(name, vault, &mut came, &mut rebuilt.notes).await {
                Ok(()) => {}
                Err(Failed::State(error)) => return Err(error),
                Err(Failed::Vault(problem)) => rebuilt.problems.push(format!("{name}: {problem}")),
            }
            rebuilt.vaults.push(came);
        }
        rebuilt.notes.push("runs are kept in no vault: what was under way is forgotten".to_owned());
        rebuilt.notes.dedup();
        Ok(rebuilt)
    }

    async fn take_from(
        &self,
        name: &VaultName,
        vault: &Owned,
        came: &mut FromVault,
        notes: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let identity = VaultIdentity::read(vault.unguarded().as_ref()).await.map_err(failed)?;
        let ours = self.signer.verifier().fingerprint();
        match identity {
            Some(identity) if identity.owner == ours => {
                vaults::remember(&self.resources.db, name, &identity.id).await?;
                came.id = Some(identity.id);
            }
            Some(identity) => {
                return Err(Failed::Vault(format!(
                    "it belongs to the signing key {}, this node signs with {ours}; use that key",
                    identity.owner
                )));
            }
            None => {
                return Err(Failed::Vault("there is no `vault.json`, so it holds nothing; is it mounted?".to_owned()));
            }
        }
        // Whatever is known from before must be this one.
        vault.list("vault.json").await.map_err(failed)?;
        came.evidence = self.resources.evidence.take_over(name).await.map_err(failed)?;
        for database in self.resources.databases.values() {
            self.take_database(database, name, came, notes).await?;
        }
        Ok(())
    }

    async fn take_database(
        &self,
        database: &Database,
        name: &VaultName,
        came: &mut FromVault,
        notes: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let Some(vault) = database.vault(Some(name)) else { return Ok(()) };
        let mut histories = database.histories(vault).await.map_err(failed)?;
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
            Err(error) => return Err(failed(error)),
        };
        // A number that two histories used is the newer one's.
        histories.sort_by_key(Inventory::newest_at);
        let (db, since) = (&self.resources.db, self.clock.now() - beats::KEPT);
        let kept = async || heartbeats::between(db, &database.name, Timestamp::UNIX_EPOCH, Timestamp::MAX).await;
        let before = kept().await?.len();
        for held in histories.iter().rev() {
            let beats = ledger::read_since(vault.store.as_ref(), held.listing.layout(), &identities, since).await;
            heartbeats::append(db, &database.name, &beats.map_err(failed)?).await?;
        }
        came.heartbeats += kept().await?.len() - before;
        Ok(())
    }
}

/// What ends everything, and what ends one vault.
enum Failed {
    State(DbError),
    Vault(String),
}

impl From<DbError> for Failed {
    fn from(error: DbError) -> Self {
        Self::State(error)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Failed {
    Failed::Vault(with_causes(&error))
}
