//! Restore tests of a database that a provider runs: *turn* → *choose* → *fetch* → *prove*
//! → *`tear_down`*, as of all databases. There is no vault: what is restored is a snapshot
//! or a point in time that the provider keeps, and the provider restores it, into an
//! instance of its own that stands apart from the source and is removed again.
//!
//! What must never happen: a call that could touch the source; an instance that is left,
//! where not even a person is told of it; isolation that nobody has seen.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Point,
    checks::Questions,
    target::{Exhausted, Failed, Outcome},
    turn::TakeTurn,
};
use crate::{
    aws::{AwsError, Kind},
    config::{
        managed::RdsTargetConfig,
        schedule::{RestoreTargetConfig, RestoreTestConfig},
    },
    domain::{Region, with_causes},
    flow::{Policy, Step, StepContext, StepError},
    flows::{ManagedDatabase, Resources, output},
};

mod account;
mod choose;
mod fetch;
mod pick;
mod prove;
mod removal;

pub(super) use account::{conclude, is_of_provider};
use choose::Choose;
use fetch::Fetch;
use prove::Prove;
use removal::Made;

/// As the schedule names the kind of target.
const KIND: &str = "rds";

/// What a step may take beside the time that it waits for the provider.
const MARGIN: Duration = Duration::from_secs(600);

/// How often the provider is asked how far it is: within a tenth of the time that it takes
/// already, and not more often than it likes to be asked.
const POLL_MIN: Duration = Duration::from_millis(200);
const POLL_MAX: Duration = Duration::from_secs(30);

fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(POLL_MIN, POLL_MAX)
}

/// The steps of a test. Does nothing yet.
pub(super) fn steps(
    resources: &Arc<Resources>,
    database: &Arc<ManagedDatabase>,
    point: Point,
) -> Result<Vec<Box<dyn Step>>, StepError> {
    let test = Arc::new(ProviderTest::of(resources, database)?);
    let turn = TakeTurn {
        resources: Arc::clone(resources),
        database: database.name.clone(),
        config: test.config.clone(),
        point: point.clone(),
        vaults: None,
    };
    Ok(vec![
        Box::new(turn),
        Box::new(Choose { test: Arc::clone(&test), point }),
        Box::new(Fetch(Arc::clone(&test))),
        Box::new(Prove(Arc::clone(&test))),
        Box::new(TearDown(test)),
    ])
}

/// What all steps of a test work on.
struct ProviderTest {
    resources: Arc<Resources>,
    database: Arc<ManagedDatabase>,
    config: RestoreTestConfig,
    target: RdsTargetConfig,
}

impl ProviderTest {
    fn of(resources: &Arc<Resources>, database: &Arc<ManagedDatabase>) -> Result<Self, StepError> {
        let name = &database.name;
        let gone = || StepError::permanent(format!("the schedule of `{name}` has no `restore_test` any more"));
        let config = database.schedule.config.restore_test.clone().ok_or_else(gone)?;
        let target = match &config.target {
            RestoreTargetConfig::Rds(target) => target.as_ref().clone(),
            RestoreTargetConfig::Local(_) => {
                return Err(StepError::permanent(format!(
                    "what a provider keeps of `{name}` only the provider restores; use `target: {{kind: rds}}`"
                )));
            }
        };
        Ok(Self { resources: Arc::clone(resources), database: Arc::clone(database), config, target })
    }

    /// Where the copy is made.
    fn region(&self) -> Result<Region, StepError> {
        Ok(self.target.region.as_ref().unwrap_or(self.database.source()?.region).clone())
    }

    fn questions(&self) -> Questions<'_> {
        Questions { config: &self.config, database: &self.database.name, db: &self.resources.db }
    }

    /// How long the provider may take to make an instance, and to remove it.
    fn limit(&self) -> Duration {
        self.config.limit.as_duration()
    }

    /// Of a step that waits for the provider.
    fn policy(&self) -> Policy {
        Policy { limit: self.limit() + MARGIN, ..Policy::default() }
    }
}

impl Failed {
    /// What the provider has too little of says nothing of the backup.
    fn of_provider(error: AwsError) -> Self {
        match error.kind {
            Kind::Capacity | Kind::Quota => {
                Self::Exhausted(Exhausted { resource: "instance".to_owned(), what: with_causes(&error) })
            }
            _ => Self::Step(error.into()),
        }
    }
}

/// The instance that a test makes, for its undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TestInstance {
    id: String,
    region: Region,
}

/// Removes the instance.
struct TearDown(Arc<ProviderTest>);

#[async_trait]
impl Step for TearDown {
    fn name(&self) -> &'static str {
        "tear_down"
    }

    fn policy(&self) -> Policy {
        self.0.policy()
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: choose::ChosenCopy = cx.output("choose")?;
        Made::of(&self.0, &chosen.instance()).remove(cx).await?;
        output(&true)
    }
}

/// What a step came to; none where there is nothing to restore.
type Came<T> = Option<Outcome<T>>;
