//! The step that holds the WAL of a backup against what was stored, once all of it is
//! listed. WAL that cannot be read back is named in a signed verification, so that no
//! listing makes the backup complete later on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{super::Database, upload};
use crate::{
    domain::VaultName,
    flow::{Policy, Step, StepContext, StepError},
    vault::{self, Layout, Listing, Manifest, ObjectKey, SharedStore, StoreError, Unreadable, VaultError},
};

/// Its name. Runs that an older version began have read back within *wal*, and do it again.
pub(super) const NAME: &str = "read_back";

/// Fails where an object of the backup's WAL is not what was stored.
pub(super) struct ReadBack {
    database: Arc<Database>,
    /// What an attempt before this one found sound.
    sound: Mutex<BTreeSet<ObjectKey>>,
}

impl ReadBack {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, sound: Mutex::default() }
    }

    async fn read(
        &self,
        store: &SharedStore,
        layout: &Layout,
        manifest: &Manifest,
        cx: &StepContext,
    ) -> Result<(Listing, Vec<Unreadable>), VaultError> {
        let say = |done, total| cx.progress("reading the backup's WAL back", Some(done), Some(total));
        let mut sound = self.sound.lock().await;
        let listing = Listing::take(store.as_ref(), layout).await?;
        let receipts = &self.database.receipts;
        let unreadable = vault::read_back(store.as_ref(), &listing, manifest, receipts, &mut sound, &say).await?;
        Ok((listing, unreadable))
    }
}

#[async_trait]
impl Step for ReadBack {
    fn name(&self) -> &'static str {
        NAME
    }

    /// It may be as much as the backup itself, or more.
    fn policy(&self) -> Policy {
        Policy { limit: upload::LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let manifest: Manifest = cx.output(upload::NAME)?;
        let sha256: String = cx.output("commit")?;
        let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
        let store = super::guarded(self.database.first_vault()?, cx);
        let read = async {
            match self.read(&store, &layout, &manifest, cx).await {
                // Tails go when their segment is whole: it is listed now.
                Err(VaultError::Store(StoreError::NotFound { .. })) => self.read(&store, &layout, &manifest, cx).await,
                read => read,
            }
        };
        let (listing, unreadable) = tokio::select! {
            read = read => read?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        if unreadable.is_empty() {
            return Ok(json!(true));
        }
        let Database { keys, schedule, .. } = self.database.as_ref();
        let run = (cx.run_id().clone(), cx.clock().now(), schedule.config.verify.period.as_duration().as_secs());
        let keys = (&keys.signer, &keys.verifier);
        vault::put_unreadable(store.as_ref(), &listing, (&manifest, &sha256), &unreadable, run, keys).await?;
        Err(StepError::permanent(told(&store.place().vault, &unreadable)))
    }
}

fn told(vault: &VaultName, unreadable: &[Unreadable]) -> String {
    let named: Vec<String> = unreadable.iter().take(3).map(|one| format!("`{}` {}", one.key, one.what)).collect();
    let more = unreadable.len().saturating_sub(named.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(
        "WAL that the backup needs cannot be read back from vault `{vault}`: {}{more}; find out who changed it, and take another full backup",
        named.join("; ")
    )
}
