//! Tests that every flow must pass, as wrappers around any flow: each call made
//! twice, or a failure planted at one step.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat::flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError};
use serde_json::Value;

/// What is done to the flow within.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Every step, undo and conclusion is made twice in a row.
    EachTwice,
    /// This step does all it does, and then fails for good.
    FailAfter(String),
}

/// A flow with trouble planted in it.
pub(crate) struct Troubled {
    pub(crate) flow: Arc<dyn Flow>,
    pub(crate) trouble: Trouble,
}

struct TroubledStep {
    step: Box<dyn Step>,
    trouble: Trouble,
}

#[async_trait]
impl Flow for Troubled {
    fn name(&self) -> &'static str {
        self.flow.name()
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let troubled = |step| Box::new(TroubledStep { step, trouble: self.trouble.clone() }) as Box<dyn Step>;
        Ok(self.flow.steps(params)?.into_iter().map(troubled).collect())
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        if matches!(self.trouble, Trouble::EachTwice) {
            self.flow.conclude(cx, ending).await?;
        }
        self.flow.conclude(cx, ending).await
    }
}

#[async_trait]
impl Step for TroubledStep {
    fn name(&self) -> &str {
        self.step.name()
    }

    fn policy(&self) -> Policy {
        self.step.policy()
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        self.step.undo_plan(cx).await
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let output = self.step.run(cx).await?;
        match &self.trouble {
            Trouble::EachTwice => self.step.run(cx).await,
            Trouble::FailAfter(step) if step == self.name() => Err(StepError::permanent("planted")),
            Trouble::FailAfter(_) => Ok(output),
        }
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        self.step.undo(cx, plan).await?;
        self.step.undo(cx, plan).await
    }
}
