//! The full backup that a differential is built upon. Where it tells no more which
//! files it holds, no differential is built upon it.

use super::{super::Database, failure::Failure};
use crate::{
    domain::{BackupId, with_causes},
    vault::{self, Base, Layout, SharedStore, VaultError},
};

pub(super) async fn base(
    database: &Database,
    store: &SharedStore,
    layout: &Layout,
    parent: &BackupId,
) -> Result<Base, Failure> {
    let (manifest, _) = vault::signed_manifest(layout, store.as_ref(), &database.keys.verifier, parent).await?;
    let read = Base::read(store, layout, &manifest).await;
    read.map_err(|error| match error {
        VaultError::Unlike { what } => Failure::Unlike(what),
        VaultError::Damaged { .. } | VaultError::Missing { .. } => Failure::Unlike(with_causes(&error)),
        error => error.into(),
    })
}
