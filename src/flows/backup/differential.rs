//! What becomes of a differential where the server's files are not what they seem: a
//! file whose size and time are as the full backup has them and whose content is
//! not. It has passed already when that shows, so the upload is given up, and a full
//! backup is taken in its place.

use super::super::Database;
use crate::{
    domain::{BackupId, with_causes},
    engine::EngineError,
    flow::StepError,
    vault::{self, Base, Layout, SharedStore, VaultError},
};

/// Why the server's bytes became no backup.
pub(super) enum Untaken {
    /// They are no differential upon that parent.
    Unlike(String),
    Failed(StepError),
}

impl<E: Into<StepError>> From<E> for Untaken {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Untaken {
    /// Where nothing else is to be taken instead.
    pub(super) fn into_step_error(self) -> StepError {
        match self {
            Self::Unlike(what) => VaultError::Unlike { what }.into(),
            Self::Failed(error) => error,
        }
    }

    pub(super) fn of_engine(error: EngineError) -> Self {
        if let EngineError::Sink { source, .. } = &error
            && let Some(VaultError::Unlike { what }) = source.downcast_ref()
        {
            return Self::Unlike(what.clone());
        }
        error.into()
    }
}

/// The full backup that a differential is built upon; another is taken where this one
/// tells no more which files it holds.
pub(super) async fn base(
    database: &Database,
    store: &SharedStore,
    layout: &Layout,
    parent: &BackupId,
) -> Result<Base, Untaken> {
    let (manifest, _) = vault::signed_manifest(layout, store.as_ref(), &database.keys.verifier, parent).await?;
    let read = Base::read(store, layout, &manifest).await;
    read.map_err(|error| match error {
        VaultError::Unlike { what } => Untaken::Unlike(what),
        VaultError::Damaged { .. } | VaultError::Missing { .. } => Untaken::Unlike(with_causes(&error)),
        error => error.into(),
    })
}
