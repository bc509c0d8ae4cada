//! The ids of vaults, as the state database keeps them.

use async_trait::async_trait;

use crate::{
    db::{Db, DbError, vaults},
    domain::VaultName,
    vault::{Known, StoreError},
};

/// Keeps what vaults said they are.
#[derive(Debug)]
pub(super) struct KnownVaults(pub(super) Db);

fn failed(vault: &VaultName) -> impl FnOnce(DbError) -> StoreError {
    let vault = vault.clone();
    move |error| StoreError::Io {
        vault,
        subject: "its id in the state database".to_owned(),
        action: "look up",
        source: std::io::Error::other(error),
    }
}

#[async_trait]
impl Known for KnownVaults {
    async fn recall(&self, vault: &VaultName) -> Result<Option<String>, StoreError> {
        vaults::id_of(&self.0, vault).await.map_err(failed(vault))
    }

    async fn remember(&self, vault: &VaultName, id: &str) -> Result<(), StoreError> {
        vaults::remember(&self.0, vault, id).await.map(drop).map_err(failed(vault))
    }
}

/// Where there is no state database yet.
#[derive(Debug)]
pub(super) struct NothingKnown;

#[async_trait]
impl Known for NothingKnown {
    async fn recall(&self, _vault: &VaultName) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn remember(&self, _vault: &VaultName, _id: &str) -> Result<(), StoreError> {
        Ok(())
    }
}
