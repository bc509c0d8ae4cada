//! Copies a snapshot to the regions of the schedule, waits for them, and lets other accounts
//! restore from them. A region that fails keeps no other from its copy.

use async_trait::async_trait;
use serde_json::Value;

use super::{
    At, CALL_LIMIT, CHECK, Checked, Planned,
    make::{WAIT, left},
    wait,
};
use crate::{
    domain::{Region, Snapshot},
    flow::{Policy, Step, StepContext, StepError, read},
    flows::output,
};

const COPY: &str = "copy";
pub(super) const COPIED: &str = "copied";

/// Begins a copy in each region.
pub(super) struct BeginCopies(pub(super) At);

#[async_trait]
impl Step for BeginCopies {
    fn name(&self) -> &'static str {
        COPY
    }

    fn policy(&self) -> Policy {
        Policy { limit: wait::STEP_LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let Checked { copies, .. } = cx.output(CHECK)?;
        let copies: Vec<Value> = copies.iter().map(|planned| left(&planned.to.region, &planned.to.id)).collect();
        Ok((!copies.is_empty()).then(|| Value::Array(copies)))
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Checked { copies, .. } = cx.output(CHECK)?;
        let snapshot: Snapshot = cx.output(WAIT)?;
        let (mut begun, mut failures) = (Vec::new(), Failures::default());
        for Planned { to, .. } in copies {
            cx.guard().await?;
            cx.progress(format!("copying snapshot {} to {}", snapshot.id, to.region), None, None);
            // Files were edited since the run began, or a law was.
            self.0.database.refuse_outside_residency(&to.region)?;
            match self.0.database.provider.copy_snapshot(&snapshot, &to).await {
                Ok(copy) => begun.push(copy),
                Err(error) => failures.add(error.into()),
            }
        }
        failures.or(&begun)
    }

    /// A copy that is available is one by itself, and stays, whatever became of the others.
    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        if cx.output_if_any::<Vec<Snapshot>>(COPIED)?.is_some() {
            return Ok(());
        }
        let mut failures = Failures::default();
        for left in plan.as_array().into_iter().flatten() {
            let region: Region = read("undo", &left["region"])?;
            let id: String = read("undo", &left["id"])?;
            if let Err(error) = wait::removed_unless_whole(&self.0.database, (&region, &id), cx).await {
                failures.add(error);
            }
        }
        failures.or(&[]).map(drop)
    }
}

/// Waits until all copies are available.
pub(super) struct AwaitCopies(pub(super) At);

#[async_trait]
impl Step for AwaitCopies {
    fn name(&self) -> &'static str {
        COPIED
    }

    fn policy(&self) -> Policy {
        Policy { limit: wait::STEP_LIMIT + CALL_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Checked { copies, .. } = cx.output(CHECK)?;
        let since = wait::began_at(cx, COPIED);
        let (mut copied, mut failures) = (Vec::new(), Failures::default());
        for Planned { to, .. } in &copies {
            match wait::available(&self.0.database, (&to.region, &to.id), since, cx).await {
                Ok(copy) => copied.push(copy),
                Err(error) => failures.add(error),
            }
        }
        failures.or(&copied)
    }
}

/// Lets the accounts of the schedule restore from the copies.
pub(super) struct Share(pub(super) At);

#[async_trait]
impl Step for Share {
    fn name(&self) -> &'static str {
        "share"
    }

    fn policy(&self) -> Policy {
        Policy { limit: CALL_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Checked { copies, .. } = cx.output(CHECK)?;
        let copied: Vec<Snapshot> = cx.output(COPIED)?;
        let mut shared = Vec::new();
        for Planned { to, share_with } in copies.iter().filter(|planned| !planned.share_with.is_empty()) {
            let Some(copy) = copied.iter().find(|copy| copy.region == to.region && copy.id == to.id) else { continue };
            cx.guard().await?;
            self.0.database.refuse_outside_residency(&to.region)?;
            self.0.database.provider.share_snapshot(copy, share_with).await?;
            shared.push(copy.arn.clone());
        }
        output(&shared)
    }
}

/// What failed while the others went on.
#[derive(Debug, Default)]
struct Failures(Vec<StepError>);

impl Failures {
    fn add(&mut self, error: StepError) {
        self.0.push(error);
    }

    /// All of them as one; tried again where that may help every one of them.
    fn or(self, done: &[Snapshot]) -> Result<Value, StepError> {
        let mut told = Vec::new();
        let mut is_permanent = false;
        for error in self.0 {
            match error {
                StepError::Fenced | StepError::Stopped => return Err(error),
                StepError::Permanent(_) => is_permanent = true,
                StepError::Transient(_) => {}
            }
            told.push(error.to_string());
        }
        match (told.is_empty(), is_permanent) {
            (true, _) => output(&done),
            (false, true) => Err(StepError::Permanent(told.join("; "))),
            (false, false) => Err(StepError::Transient(told.join("; "))),
        }
    }
}
