//! Removes the instance of a test, and waits until it is gone.
//!
//! A restore whose answer was lost may still begin behind this: what comes of it is of a
//! run that has ended, and is swept (`tasks/sweep.rs`).

use std::time::Instant;

use super::{ProviderTest, TestInstance, pause};
use crate::{
    aws::AwsError,
    domain::with_causes,
    flow::{StepContext, StepError},
};

/// An instance that a test made, or was about to make.
pub(super) struct Made<'a> {
    test: &'a ProviderTest,
    instance: &'a TestInstance,
}

impl<'a> Made<'a> {
    pub(super) fn of(test: &'a ProviderTest, instance: &'a TestInstance) -> Self {
        Self { test, instance }
    }

    /// Nothing is known of it any more, or nothing can be done: a person has to.
    fn left(&self, error: &AwsError) -> StepError {
        let TestInstance { id, region } = self.instance;
        StepError::permanent(format!(
            "instance {id} in {region} may be left, and costs money and holds a copy of the data: {}",
            with_causes(error)
        ))
    }

    /// Why it may be asked again, where it was not taken: such as of one that is still being made.
    async fn ask(&self, cx: &StepContext) -> Result<Option<String>, StepError> {
        let TestInstance { id, region } = self.instance;
        cx.guard().await?;
        match self.test.database.provider.remove(region, id, cx.run_id().as_str()).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_permanent() => Err(self.left(&error)),
            Err(error) => Ok(Some(with_causes(&error))),
        }
    }

    /// Idempotent; one that was never made is a success.
    pub(super) async fn remove(&self, cx: &StepContext) -> Result<(), StepError> {
        let TestInstance { id, region } = self.instance;
        let (provider, limit) = (&self.test.database.provider, self.test.limit());
        let (begun, mut is_asked) = (Instant::now(), false);
        loop {
            let last = match provider.instance(region, id).await {
                Ok(None) => return Ok(()),
                Ok(Some(found)) => {
                    cx.progress(format!("instance {id} is {}", found.status), None, None);
                    let refused = if is_asked { None } else { self.ask(cx).await? };
                    is_asked = refused.is_none();
                    refused.unwrap_or_else(|| format!("`{}`", found.status))
                }
                Err(error) if error.is_permanent() => return Err(self.left(&error)),
                Err(error) => with_causes(&error),
            };
            if begun.elapsed() >= limit {
                return Err(StepError::permanent(format!(
                    "instance {id} in {region} is not gone {limit:?} after it was to be removed, but {last}; look at it at the provider, and remove it there: it costs money and holds a copy of the data"
                )));
            }
            cx.sleep(pause(begun.elapsed())).await?;
        }
    }
}
