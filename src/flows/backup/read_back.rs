//! Holds the WAL of a backup against what was stored, once all of it is listed.
//! WAL that cannot be read back is named in a signed verification, so that no
//! listing makes the backup complete later on.

use super::super::Database;
use crate::{
    flow::{StepContext, StepError},
    vault::{self, Layout, Listing, Manifest, StoreError, Unreadable, VaultError},
};

/// Fails where an object of the backup's WAL is not what was stored.
pub(super) async fn prove(
    database: &Database,
    (manifest, sha256): (&Manifest, &str),
    cx: &StepContext,
) -> Result<(), StepError> {
    let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
    let store = super::guarded(database.first_vault()?, cx);
    let read = async || {
        let listing = Listing::take(store.as_ref(), &layout).await?;
        let unreadable = vault::read_back(store.as_ref(), &listing, manifest, &database.receipts).await?;
        Ok::<_, VaultError>((listing, unreadable))
    };
    let (listing, unreadable) = match read().await {
        // Tails go when their segment is whole: it is listed now.
        Err(VaultError::Store(StoreError::NotFound { .. })) => read().await?,
        read => read?,
    };
    if unreadable.is_empty() {
        return Ok(());
    }
    let run = (cx.run_id().clone(), cx.clock().now(), database.schedule.config.verify.period.as_duration().as_secs());
    let keys = (&database.keys.signer, &database.keys.verifier);
    vault::put_unreadable(store.as_ref(), &listing, (manifest, sha256), &unreadable, run, keys).await?;
    Err(StepError::permanent(told(&store.place().vault, &unreadable)))
}

fn told(vault: &crate::domain::VaultName, unreadable: &[Unreadable]) -> String {
    let named: Vec<String> = unreadable.iter().take(3).map(|one| format!("`{}` {}", one.key, one.what)).collect();
    let more = unreadable.len().saturating_sub(named.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(
        "WAL that the backup needs cannot be read back from vault `{vault}`: {}{more}; find out who changed it, and take another full backup",
        named.join("; ")
    )
}
