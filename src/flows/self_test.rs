//! The verifier verifies itself: *`missing_segment`* → *`wrong_key`* → *copy*. Each plants
//! faults into a restore test, which fetches, recovers, checks and judges by the code of
//! every other one, and each fault has to turn red. One that comes out green is the gravest
//! finding there is: restore tests that passed prove nothing.
//!
//! What must never happen: a fault in anything but what is thrown away (the copy, a private
//! view of the vault, an identity that opens nothing), and a fault that counts as seen
//! because something else went wrong.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Database, Resources, output,
    restore::{RestoreError, Restored},
    restore_test::{Trial, config_of, tear_down},
};
use crate::{
    config::schedule::RestoreTestConfig,
    decide::{
        recovery::Refusal,
        self_test::{Fault, Outcome, Sight},
    },
    domain::{DatabaseName, RecoveryTarget, record::kind, with_causes},
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::VaultError,
};

mod account;
mod copy;
mod plant;

use copy::Copied;
use plant::Planted;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::SELF_TEST;

/// How long fetching and recovering a copy may take.
const LIMIT: Duration = Duration::from_secs(48 * 3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// The workflow.
#[derive(Debug)]
pub struct SelfTestFlow {
    resources: Arc<Resources>,
}

impl SelfTestFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for SelfTestFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let database = self.resources.database(&params.database)?;
        let config = config_of(&database)?;
        let refused = |fault| {
            let (resources, database) = (Arc::clone(&self.resources), Arc::clone(&database));
            Refused { resources, database, config: config.clone(), fault }
        };
        Ok(vec![
            Box::new(refused(Fault::MissingSegment)),
            Box::new(refused(Fault::WrongKey)),
            Box::new(Copied { resources: Arc::clone(&self.resources), database: Arc::clone(&database), config }),
        ])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        account::conclude(&self.resources, cx, ending).await
    }
}

/// The folder of a step, in which all that it makes lies.
fn folder_of(database: &Database, step: &str, cx: &StepContext) -> PathBuf {
    let run = cx.run_id().as_str().replace(['/', ':'], "-");
    database.scratch.join(format!("lifeboat-{run}-{step}"))
}

/// The folder as the step's undo knows it.
fn planned(cx: &StepContext) -> Result<PathBuf, StepError> {
    read("folder", cx.undo_plan().unwrap_or(&Value::Null))
}

/// What became of the faults of a step, and whether its folder is gone again.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    outcomes: Vec<Outcome>,
    folder: PathBuf,
    is_gone: bool,
}

/// A fault for which nothing may be restored at all.
struct Refused {
    database: Arc<Database>,
    config: RestoreTestConfig,
    resources: Arc<Resources>,
    fault: Fault,
}

#[async_trait]
impl Step for Refused {
    fn name(&self) -> &str {
        self.fault.as_str()
    }

    fn policy(&self) -> Policy {
        Policy { limit: LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        output(&folder_of(&self.database, self.fault.as_str(), cx)).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let folder = planned(cx)?;
        let sight = self.sight(&folder, cx).await?;
        tear_down(&self.database, &self.config, &folder).await?;
        let is_gone = !folder.exists();
        output(&Tried { outcomes: vec![Outcome { fault: self.fault, sight }], folder, is_gone })
    }

    async fn undo(&self, _cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        tear_down(&self.database, &self.config, &read::<PathBuf>("folder", plan)?).await
    }
}

impl Refused {
    async fn sight(&self, folder: &Path, cx: &StepContext) -> Result<Sight, StepError> {
        cx.progress(format!("planting `{}`", self.fault.as_str()), None, None);
        let config = plant::checked(&self.config, Vec::new());
        let planted = match self.fault {
            Fault::WrongKey => plant::wrong_key(&self.database, &config, folder)?,
            _ => match plant::missing_segment(&self.database, &config, cx.clock().now()).await? {
                Some(planted) => planted,
                None => return Ok(Sight::Unknown("the vault holds no restorable backup".to_owned())),
            },
        };
        // The end of the backup itself: whatever the vault holds behind it, it needs its own WAL and its key.
        let place = (folder.to_owned(), RecoveryTarget::Immediate, planted.backup.clone());
        let trial =
            Trial::begin((Arc::clone(&planted.database), Arc::clone(&self.resources)), config, place, cx).await?;
        planted.make_identity()?;
        match trial.fetch(cx).await? {
            Err(error) if planted.explains(&error) => Ok(Sight::Red(with_causes(&error))),
            Err(error) => Err(error.into()),
            Ok(restored) => not_refused(&trial, restored, cx).await,
        }
    }
}

/// Fetching has let the fault pass, and so have recovery and the judgement where they come
/// to an end. Where they do not, nobody knows whether it was for the fault.
async fn not_refused(trial: &Trial, restored: Restored, cx: &StepContext) -> Result<Sight, StepError> {
    let told = trial.prove(restored, cx).await?;
    let verdict = trial.judge(&told, |_| true, None, cx).verdict;
    Ok(Sight::Green(format!("nothing was refused, and the test's verdict is {verdict}")))
}

impl Planted {
    /// Whether a restore was refused for what was planted, and for nothing else.
    fn explains(&self, error: &RestoreError) -> bool {
        match error {
            RestoreError::Refused(Refusal::Gap { timeline, from, .. }) => self
                .segment
                .is_some_and(|(segment, size)| segment.timeline == *timeline && segment.start(size) == *from),
            RestoreError::Vault(VaultError::NoIdentity { .. }) => self.identity.is_some(),
            _ => false,
        }
    }
}
