//! Takes the snapshot, and waits until it can be restored from.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{At, CALL_LIMIT, CHECK, Checked, tags, wait};
use crate::{
    domain::{Region, Snapshot},
    flow::{Policy, Step, StepContext, StepError, read},
    flows::output,
};

pub(super) const TAKE: &str = "snapshot";
pub(super) const WAIT: &str = "wait";

/// Begins the snapshot. Its id follows from the run's, so that doing it again finds it.
pub(super) struct Take(pub(super) At);

/// What is removed where the run ends before it is whole.
pub(super) fn left(region: &Region, id: &str) -> Value {
    json!({"region": region, "id": id})
}

#[async_trait]
impl Step for Take {
    fn name(&self) -> &'static str {
        TAKE
    }

    /// The undo waits for what is being made, as the provider removes nothing before.
    fn policy(&self) -> Policy {
        Policy { limit: wait::STEP_LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let Checked { home, id, .. } = cx.output(CHECK)?;
        Ok(Some(left(&home, &id)))
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Checked { home, id, .. } = cx.output(CHECK)?;
        let database = &self.0.database;
        cx.progress(format!("taking snapshot {id}"), None, None);
        cx.guard().await?;
        database.refuse_outside_residency(&home)?;
        output(&database.provider.take_snapshot(&id, &tags(database, cx.run_id())).await?)
    }

    /// What is available is a backup by itself, and stays.
    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        if cx.output_if_any::<Snapshot>(WAIT)?.is_some() {
            return Ok(());
        }
        let region: Region = read("undo", &plan["region"])?;
        let id: String = read("undo", &plan["id"])?;
        wait::removed(&self.0.database, (&region, &id), cx).await
    }
}

/// Waits until it is available.
pub(super) struct Wait(pub(super) At);

#[async_trait]
impl Step for Wait {
    fn name(&self) -> &'static str {
        WAIT
    }

    fn policy(&self) -> Policy {
        Policy { limit: wait::STEP_LIMIT + CALL_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Checked { home, id, .. } = cx.output(CHECK)?;
        let since = wait::began_at(cx, WAIT);
        output(&wait::available(&self.0.database, (&home, &id), since, cx).await?)
    }
}
