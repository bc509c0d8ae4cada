//! The acknowledged heartbeats go into every vault beside the WAL, so that a
//! recovery point can be measured when the state database is gone.

use std::time::Duration;

use super::Database;
use crate::{
    domain::Beat,
    vault::{self, VaultError},
};

/// How often a heartbeat is written; the uncertainty of every recovery point
/// that is measured by it.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// Appends heartbeats to the ledger of every vault, and answers whether it did:
/// not before WAL streaming of this process has begun, as only then the history
/// they belong to is known. After a failure the same heartbeats are given again.
pub async fn append(database: &Database, beats: &[Beat]) -> Result<bool, VaultError> {
    let Some(layout) = database.streaming.layout() else { return Ok(false) };
    for vault in &database.vaults {
        vault::ledger::append(vault.store.as_ref(), &layout, &database.keys.recipients, beats).await?;
    }
    Ok(true)
}
