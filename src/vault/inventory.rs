//! What a vault holds of a database: for each history the frozen listing, and
//! the backups that it shows. Everything that looks into a vault begins here.

use jiff::Timestamp;

use super::{Catalog, Listing, Remembered, Store, VaultError, signature::Verifier};
use crate::domain::DatabaseName;

/// What a vault holds of one history of a database.
#[derive(Debug)]
pub struct Inventory {
    pub listing: Listing,
    pub catalog: Catalog,
}

impl Inventory {
    /// All histories of the database that the vault holds, by system id and
    /// incarnation. Errors are those of the store.
    pub async fn of_all(
        store: &dyn Store,
        database: &DatabaseName,
        verifier: &Verifier,
        remembered: &mut Remembered,
    ) -> Result<Vec<Self>, VaultError> {
        let mut histories = Vec::new();
        for listing in Listing::of_all(store, database).await? {
            histories.push(Self::read(listing, store, verifier, remembered).await?);
        }
        Ok(histories)
    }

    /// The backups that a listing shows; what is none is named in the log. What is
    /// listed as it was when it was remembered is not read again.
    pub async fn read(
        listing: Listing,
        store: &dyn Store,
        verifier: &Verifier,
        remembered: &mut Remembered,
    ) -> Result<Self, VaultError> {
        let catalog = Catalog::read_again(&listing, store, verifier, remembered).await?;
        for problem in &catalog.problems {
            tracing::warn!(vault = %store.place().vault, backup = %problem.backup, error = %problem.error, "not a backup");
        }
        Ok(Self { listing, catalog })
    }

    /// When its newest backup was finished; none when it has none.
    pub fn newest_at(&self) -> Option<Timestamp> {
        self.catalog.entries.iter().map(|entry| entry.manifest.finished_at).max()
    }

    /// The one with the newest backup; none when none has one.
    pub fn newest_of(histories: Vec<Self>) -> Option<Self> {
        histories.into_iter().filter(|history| history.newest_at().is_some()).max_by_key(Self::newest_at)
    }
}
