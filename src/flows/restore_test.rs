//! A restore test: *choose* → *fetch* → *prove* → *`tear_down`*. The copy runs
//! apart from everything, is asked for its heartbeats and checks, and goes away
//! again, whatever happened: the undo of *choose* removes it too.
//!
//! What must never happen: a recovery point that is flattered by what reached
//! the vault after the disaster (its listing is frozen at that instant), and a
//! check that was skipped and counts as passed.

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
    restore::{self, Restored},
};
use crate::{
    config::{
        check::{CheckConfig, NamedCheck},
        schedule::RestoreTestConfig,
    },
    domain::{DatabaseName, Opener, RecoveryTarget, Timeline, Verdict, record::kind},
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::Listing,
};

mod account;
mod checks;
mod choose;
mod prove;
mod trial;
mod window;

pub(super) use account::{BEATS_WINDOW, HEARTBEAT};
use choose::Choose;
use prove::{Proof, Prove};
pub(super) use trial::{Disaster, Told, Trial, tear_down};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::RESTORE_TEST;

/// How long fetching and unpacking may take.
const FETCH_LIMIT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    pub point: Point,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// Which recovery point is tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// As the schedule's algorithm chooses.
    Scheduled,
    /// What a person asked for.
    Asked(RecoveryTarget),
    /// The same along this timeline, whatever the newest is.
    Along(RecoveryTarget, Timeline),
}

impl Point {
    /// What a person asked for, and along which timeline.
    pub fn asked(&self) -> Option<(&RecoveryTarget, Option<Timeline>)> {
        match self {
            Self::Scheduled => None,
            Self::Asked(target) => Some((target, None)),
            Self::Along(target, timeline) => Some((target, Some(*timeline))),
        }
    }
}

/// The workflow.
#[derive(Debug)]
pub struct RestoreTestFlow {
    resources: Arc<Resources>,
}

impl RestoreTestFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for RestoreTestFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let database = self.resources.database(&params.database)?;
        let Some(config) = database.schedule.config.restore_test.clone() else {
            return Err(StepError::permanent(format!(
                "the schedule of `{}` has no `restore_test` any more",
                database.name
            )));
        };
        let test = Arc::new(Test { database, config });
        Ok(vec![
            Box::new(Choose { test: Arc::clone(&test), point: params.point }),
            Box::new(Fetch(Arc::clone(&test))),
            Box::new(Prove(Arc::clone(&test))),
            Box::new(TearDown(test)),
        ])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        account::conclude(&self.resources, cx, ending).await
    }
}

/// What all steps of a test work on.
struct Test {
    database: Arc<Database>,
    config: RestoreTestConfig,
}

impl Test {
    /// Stops the instance and removes the folder with everything in it. Idempotent.
    async fn tear_down(&self, folder: &Path) -> Result<(), StepError> {
        tear_down(&self.database, folder).await
    }

    /// Makes the copy anew from the frozen listing.
    async fn fetch(&self, chosen: &Chosen, cx: &StepContext) -> Result<Restored, StepError> {
        match self.restore(chosen, cx).await? {
            Err(_) if cx.stop().is_cancelled() => Err(StepError::Stopped),
            restored => Ok(restored?),
        }
    }

    /// The same; the inner error is the restore's own.
    async fn restore(
        &self,
        chosen: &Chosen,
        cx: &StepContext,
    ) -> Result<Result<Restored, restore::RestoreError>, StepError> {
        let listing = tokio::fs::read(chosen.listing_file()).await.map_err(|error| {
            StepError::permanent(format!("the frozen listing is gone: {error}; run the test again"))
        })?;
        let listing: Listing = serde_json::from_slice(&listing).map_err(|error| StepError::from_error(error, true))?;
        for folder in [chosen.data(), chosen.wal()] {
            if folder.exists() {
                tokio::fs::remove_dir_all(&folder)
                    .await
                    .map_err(|error| StepError::transient(format!("cannot clear {}: {error}", folder.display())))?;
            }
        }
        let database = &self.database;
        database.refuse_outside_residency(&database.region)?;
        let vault = database.vault(None).ok_or_else(|| StepError::permanent("the database has no vault"))?;
        let request = restore::Request {
            target: chosen.target.clone(),
            timeline: chosen.timeline,
            backup: None,
            system_id: None,
            data: chosen.data(),
            wal_folder: chosen.wal(),
            is_isolated: true,
            opener: chosen.opener,
        };
        let say = |message: &str, done, total| cx.progress(message, done, total);
        let restored = restore::from_listing(database, vault, &listing, &request, cx.stop(), &say).await;
        match tokio::fs::remove_file(chosen.started_file()).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StepError::transient(format!("cannot clear {}: {error}", chosen.folder.display())))
            }
            Ok(()) | Err(_) => Ok(restored),
        }
    }
}

/// What was chosen, and where the test takes place.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Chosen {
    folder: PathBuf,
    /// In words, with the seed: how the point was chosen.
    scenario: String,
    target: RecoveryTarget,
    #[serde(default)]
    timeline: Option<Timeline>,
    /// The instant at which the vault's listing was frozen, where one was drawn
    /// ahead: the drawn instant and the moment that listing took.
    disaster_at: Option<Timestamp>,
    /// Whose identity opens the backup.
    #[serde(default)]
    opener: Opener,
    /// Why the identity kept elsewhere could not be had although it was its turn.
    #[serde(default)]
    escrow_problem: Option<String>,
}

impl Chosen {
    fn listing_file(&self) -> PathBuf {
        self.folder.join("listing.json")
    }

    /// There from before the copy is started: its data has moved on since it was fetched.
    fn started_file(&self) -> PathBuf {
        self.folder.join("started")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn wal(&self) -> PathBuf {
        self.folder.join("wal")
    }
}

/// Fetches, verifies and unpacks the backup and its WAL, and writes settings.
struct Fetch(Arc<Test>);

#[async_trait]
impl Step for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn policy(&self) -> Policy {
        Policy { limit: FETCH_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        output(&self.0.fetch(&cx.output("choose")?, cx).await?)
    }
}

/// Whether the configuration asks for the heartbeat check.
fn wants_heartbeat(config: &RestoreTestConfig) -> bool {
    config.checks.contains(&CheckConfig::Named(NamedCheck::Heartbeat))
}

/// Removes the copy and everything of it.
struct TearDown(Arc<Test>);

#[async_trait]
impl Step for TearDown {
    fn name(&self) -> &'static str {
        "tear_down"
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: Chosen = cx.output("choose")?;
        self.0.tear_down(&chosen.folder).await?;
        output(&!chosen.folder.exists())
    }
}

/// The judgement of a done test: the worst of its parts.
fn verdict_of(verdicts: &std::collections::BTreeMap<String, Verdict>) -> Verdict {
    Verdict::worst(verdicts.values().copied())
}
