//! The step that reads the WAL of a backup back, once all of it is listed, and signs
//! what came of it: only then is the backup complete, whatever is listed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    super::{Database, read_back},
    upload,
};
use crate::{
    domain::VaultName,
    flow::{Policy, Step, StepContext, StepError},
    vault::{Layout, Manifest, ObjectKey, Unreadable},
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
        let backup = (&layout, &manifest, sha256.as_str());
        let mut sound = self.sound.lock().await;
        let unreadable = read_back::read_and_sign(&self.database, &store, backup, &mut sound, cx).await?;
        if unreadable.is_empty() {
            return Ok(json!(true));
        }
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
