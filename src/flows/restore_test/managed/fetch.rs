//! *fetch*: the provider restores what was chosen into an instance, and it is waited for
//! until clients can log in.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Came, ProviderTest, choose::ChosenCopy, pause};
use crate::{
    domain::{Phase, with_causes},
    engine::managed::{InstanceOrder, RestoredInstance},
    fault,
    flow::{Policy, Step, StepContext, StepError},
    flows::{
        output,
        restore_test::target::{Exhausted, Failed, Outcome},
    },
};

/// An instance that clients can log in to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub(super) instance: RestoredInstance,
    pub(super) phases: Vec<Phase>,
}

/// Restores, and waits.
pub(super) struct Fetch(pub(super) Arc<ProviderTest>);

#[async_trait]
impl Step for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn policy(&self) -> Policy {
        self.0.policy()
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: ChosenCopy = cx.output("choose")?;
        let fetched = match (chosen.order, chosen.refused) {
            (_, Some(exhausted)) => Err(Failed::Exhausted(exhausted)),
            (None, None) => return output(&None::<Outcome<Fetched>>),
            (Some(order), None) => self.fetch(&order, cx).await,
        };
        let came: Came<Fetched> = Some(Outcome::of(fetched)?);
        output(&came)
    }
}

impl Fetch {
    async fn fetch(&self, order: &InstanceOrder, cx: &StepContext) -> Result<Fetched, Failed> {
        let database = &self.0.database;
        // Looked at again, as what was chosen may be of before an edit.
        database.refuse_outside_residency(&order.region)?;
        let begun = Instant::now();
        cx.progress(format!("asking for instance {} in {}", order.id, order.region), None, None);
        cx.guard().await?;
        database.provider.restore(order).await.map_err(Failed::of_provider)?;
        fault::point("restore_test.ordered");
        let instance = self.available(order, begun, cx).await?;
        let phases = vec![Phase { name: "restore".to_owned(), seconds: begun.elapsed().as_secs_f64() }];
        Ok(Fetched { instance, phases })
    }

    async fn available(
        &self,
        order: &InstanceOrder,
        begun: Instant,
        cx: &StepContext,
    ) -> Result<RestoredInstance, Failed> {
        let (InstanceOrder { id, region, .. }, limit) = (order, self.0.limit());
        let mut last = "nothing of it was seen".to_owned();
        loop {
            match self.0.database.provider.instance(region, id).await {
                Ok(Some(found)) => {
                    if let Some(word) = &found.failed {
                        return Err(failed(order, word));
                    }
                    if found.is_available && found.endpoint.is_some() {
                        return Ok(found);
                    }
                    last = format!("it was `{}`", found.status);
                    cx.progress(format!("instance {id} is {}", found.status), None, None);
                }
                // One that was just asked for need not be told of yet.
                Ok(None) => {}
                Err(error) if error.is_permanent() => return Err(Failed::of_provider(error)),
                Err(error) => last = with_causes(&error),
            }
            if begun.elapsed() >= limit {
                let what = format!(
                    "instance {id} in {region} was not there within {limit:?}: {last}; raise `restore_test.limit`, or look at the provider why it takes so long"
                );
                return Err(Failed::Exhausted(Exhausted { resource: "time".to_owned(), what }));
            }
            cx.sleep(pause(begun.elapsed())).await?;
        }
    }
}

/// The provider gave the instance up. It says nothing of why but this word, so that nothing
/// is said of the backup either.
fn failed(order: &InstanceOrder, word: &str) -> Failed {
    let remedy = match word {
        "insufficient-capacity" => "name another `instance_class` or `subnet_group`, or try again later",
        "incompatible-network" => "`subnet_group` has no room or no network any more; name another one",
        "incompatible-parameters" => "the parameter group does not fit the class; name another `parameter_group`",
        "inaccessible-encryption-credentials" | "inaccessible-encryption-credentials-recoverable" => {
            "allow the key to the role that restores, and see that it is enabled"
        }
        "storage-full" => "give the source more storage: a copy has no more than it",
        _ => "its events at the provider tell more",
    };
    let what = format!("instance {} in {} became `{word}`; {remedy}", order.id, order.region);
    Failed::Exhausted(Exhausted { resource: "instance".to_owned(), what })
}
