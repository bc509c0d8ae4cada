//! What every flow must bear, as wrappers around any flow: each call made twice, or a
//! failure planted at one step, until somebody mends it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use lifeboat::flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError};
use serde_json::Value;

/// What a planted failure says.
pub(crate) const PLANTED: &str = "planted";

/// What is done to the flow within. Each undo is made twice in a row in any case.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Every step and the conclusion are made twice in a row.
    EachTwice,
    /// This step fails for good and has done nothing.
    FailBefore(String),
    /// This step does all it does, and then fails for good.
    FailAfter(String),
}

/// A flow with trouble planted in it.
pub(crate) struct Troubled {
    flow: Arc<dyn Flow>,
    trouble: Trouble,
    /// From then on nothing fails any more.
    mended: Arc<AtomicBool>,
}

impl Troubled {
    pub(crate) fn new(flow: Arc<dyn Flow>, trouble: Trouble) -> Self {
        Self { flow, trouble, mended: Arc::default() }
    }

    /// To be set once the cause of the failure is mended.
    pub(crate) fn mended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.mended)
    }
}

struct TroubledStep {
    step: Box<dyn Step>,
    trouble: Trouble,
    mended: Arc<AtomicBool>,
}

#[async_trait]
impl Flow for Troubled {
    fn name(&self) -> &'static str {
        self.flow.name()
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let troubled = |step| {
            let (trouble, mended) = (self.trouble.clone(), self.mended());
            Box::new(TroubledStep { step, trouble, mended }) as Box<dyn Step>
        };
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
        let fails = |step: &String| step == self.name() && !self.mended.load(Ordering::SeqCst);
        if matches!(&self.trouble, Trouble::FailBefore(step) if fails(step)) {
            return Err(StepError::permanent(PLANTED));
        }
        let output = self.step.run(cx).await?;
        match &self.trouble {
            Trouble::EachTwice => self.step.run(cx).await,
            Trouble::FailAfter(step) if fails(step) => Err(StepError::permanent(PLANTED)),
            Trouble::FailAfter(_) | Trouble::FailBefore(_) => Ok(output),
        }
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        self.step.undo(cx, plan).await?;
        self.step.undo(cx, plan).await
    }
}
