//! Brings back into a new state database what the vaults keep, of all databases;
//! `flows/rebuild.rs` has what comes back of one vault. May be repeated.

use serde::Serialize;

use super::App;
use crate::{
    db::DbError,
    domain::VaultName,
    flows::rebuild::{Failed, FromVault, Rebuild},
    vault::Owned,
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

impl App {
    /// From one vault, or from all of them.
    pub async fn rebuild(&self, from: Option<&VaultName>) -> Result<Rebuilt, DbError> {
        let mut rebuilt = Rebuilt::default();
        for (name, vault) in self.vaults.iter().filter(|(name, _)| from.is_none_or(|from| from == *name)) {
            let mut came = FromVault { vault: name.to_string(), ..FromVault::default() };
            match self.take_from(name, vault, &mut came, &mut rebuilt.notes).await {
                Ok(()) => {}
                Err(Failed::State(error)) => return Err(error),
                Err(Failed::Vault { problem, .. }) => rebuilt.problems.push(format!("{name}: {problem}")),
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
        let rebuild = Rebuild { db: &self.resources.db, evidence: &self.resources.evidence, clock: &self.clock };
        rebuild.vault(vault.unguarded().as_ref(), vault, came).await?;
        for database in self.resources.databases.values() {
            rebuild.database(database, name, came, notes).await?;
        }
        Ok(())
    }
}
