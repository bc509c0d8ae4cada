//! A restore test: *turn* → *choose* → *fetch* → *prove* → *`tear_down`*. The copy runs
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

use super::{Database, Resources, Vault, output, restore::Restored};
use crate::{
    config::{
        check::{CheckConfig, NamedCheck},
        schedule::RestoreTestConfig,
    },
    domain::{
        BackupId, Check, DatabaseName, Opener, Placement, RecoveryAlgorithm, RecoveryTarget, Selection, Timeline,
        VaultName, Verdict, record::kind,
    },
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
};

mod account;
mod catalog;
mod checks;
mod choose;
mod findings;
mod managed;
mod pick;
mod prove;
mod reached;
mod target;
mod trial;
mod turn;
mod window;
mod witness;

use checks::Questions;
use choose::Choose;
use pick::Picked;
use prove::{Proof, Prove};
pub(super) use reached::{BEATS_WINDOW, HEARTBEAT};
use target::{Exhausted, Failed, Outcome, Target};
pub(super) use trial::{Disaster, Told, Trial, tear_down};
use turn::TakeTurn;
pub use turn::standing;

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
    /// As the schedule's algorithm chooses, or the one of its rotation whose turn it is.
    Scheduled,
    /// As this algorithm chooses.
    By(RecoveryAlgorithm),
    /// What a person asked for.
    Asked(RecoveryTarget),
    /// The same along this timeline, whatever the newest is.
    Along(RecoveryTarget, Timeline),
}

impl Point {
    /// What a person asked for, and along which timeline.
    pub fn asked(&self) -> Option<(&RecoveryTarget, Option<Timeline>)> {
        match self {
            Self::Scheduled | Self::By(_) => None,
            Self::Asked(target) => Some((target, None)),
            Self::Along(target, timeline) => Some((target, Some(*timeline))),
        }
    }
}

/// Where a test may be driven, and which vaults it may work on: all of those that one
/// of its algorithms may choose.
pub fn placement(database: &Database, point: &Point) -> Placement {
    let algorithms = match point {
        Point::Asked(_) | Point::Along(..) => Vec::new(),
        Point::By(algorithm) => vec![*algorithm],
        Point::Scheduled => {
            database.schedule.config.restore_test.iter().flat_map(|test| test.recovery_point.algorithms()).collect()
        }
    };
    let vaults = &database.schedule.config.vaults;
    let reach = if algorithms.contains(&RecoveryAlgorithm::OtherVault) { vaults.len() } else { 1 };
    let is_other_alone = algorithms == [RecoveryAlgorithm::OtherVault];
    database.placement(vaults.iter().take(reach).skip(usize::from(is_other_alone)))
}

/// Why a test cannot restore from a further vault.
pub fn no_further_vault(database: &DatabaseName) -> String {
    format!("`{database}` has one vault, and `other_vault` restores from a further one; name it under `vaults`")
}

/// Refuses what can be asked of what lies in vaults alone, and not of a provider.
pub fn refuse_of_vaults(point: &Point) -> Result<(), String> {
    use RecoveryAlgorithm::{LatestAtDisaster, Oldest, RandomWithinWindow};
    use RecoveryTarget::{Immediate, Latest, Time};
    match point {
        Point::Scheduled
        | Point::By(LatestAtDisaster | RandomWithinWindow | Oldest)
        | Point::Asked(Latest | Time(_) | Immediate) => Ok(()),
        Point::By(other) => Err(format!(
            "`{}` is of databases with vaults; a provider restores `latest_at_disaster`, `random_within_window` and `oldest`",
            other.as_str()
        )),
        Point::Asked(other) => Err(format!(
            "a provider does not restore to {other}, but to a time, to the latest state, or a snapshot as it is"
        )),
        Point::Along(..) => Err("a provider knows no timelines; leave `--timeline` out".to_owned()),
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
        if let Some(database) = self.resources.managed.get(&params.database) {
            return managed::steps(&self.resources, database, params.point);
        }
        let database = self.resources.database(&params.database)?;
        let config = config_of(&database)?;
        let target = target::of(&database, &config)?;
        let turn = TakeTurn {
            resources: Arc::clone(&self.resources),
            database: params.database,
            config: config.clone(),
            point: params.point.clone(),
            vaults: Some(database.vaults.iter().map(|vault| vault.store.place().vault.clone()).collect()),
        };
        let test = Arc::new(Test { resources: Arc::clone(&self.resources), database, config, target });
        Ok(vec![
            Box::new(turn),
            Box::new(Choose { test: Arc::clone(&test), point: params.point }),
            Box::new(Fetch(Arc::clone(&test))),
            Box::new(Prove(Arc::clone(&test))),
            Box::new(TearDown(test)),
        ])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        if managed::is_of_provider(&self.resources, cx)? {
            return managed::conclude(&self.resources, cx, ending).await;
        }
        account::conclude(&self.resources, cx, ending).await
    }
}

/// What all steps of a test work on.
struct Test {
    resources: Arc<Resources>,
    database: Arc<Database>,
    config: RestoreTestConfig,
    target: Box<dyn Target>,
}

/// What the schedule says of restore tests; it may say nothing any more.
pub(super) fn config_of(database: &Database) -> Result<RestoreTestConfig, StepError> {
    let gone = || StepError::permanent(format!("the schedule of `{}` has no `restore_test` any more", database.name));
    database.schedule.config.restore_test.clone().ok_or_else(gone)
}

/// The vault of this name, or the first one, for bytes that come to this node.
fn vault_of<'a>(database: &'a Database, name: Option<&VaultName>) -> Result<&'a Vault, StepError> {
    database.refuse_outside_residency(&database.region)?;
    database.vault(name).ok_or_else(|| match name {
        Some(name) => StepError::permanent(format!("`{}` has no vault `{name}` any more", database.name)),
        None => StepError::permanent("the database has no vault"),
    })
}

impl Test {
    fn questions(&self) -> Questions<'_> {
        Questions { config: &self.config, database: &self.database.name, db: &self.resources.db }
    }

    /// How long fetching may take, with the wait for what lies in an archive.
    fn fetch_limit(&self) -> Duration {
        let limits = self.database.vaults.iter().filter_map(|vault| vault.bucket.as_ref());
        FETCH_LIMIT + limits.map(|bucket| bucket.thawing().limit.as_duration()).max().unwrap_or_default()
    }

    /// Removes the copy and everything of it. Idempotent.
    async fn tear_down(&self, folder: &Path) -> Result<(), StepError> {
        self.target.tear_down(folder).await
    }

    /// Makes the copy anew from the frozen listing.
    async fn fetch(&self, chosen: &Chosen, cx: &StepContext) -> Result<Restored, Failed> {
        let stop = cx.stop().child_token();
        let work = self.target.fetch(chosen, cx, &stop);
        target::within(self.target.passed(&chosen.folder), &stop, work).await
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
    /// This backup and no other.
    #[serde(default)]
    backup: Option<BackupId>,
    /// None where a person named the point.
    #[serde(default)]
    selection: Option<Selection>,
    /// What choosing has shown already.
    #[serde(default)]
    checks: Vec<Check>,
    /// There is nothing of what was looked for: the checks say so.
    #[serde(default)]
    is_nothing: bool,
}

impl Chosen {
    /// Opened with the node's own identity, and no disaster; `turn` gets the choice.
    fn of(folder: PathBuf, turn: Option<Selection>, picked: Picked) -> Self {
        let Picked { scenario, target, timeline, backup, candidates, seed, choice, checks, .. } = picked;
        let is_nothing = choice.is_none();
        let seed = seed.map(|seed| seed.to_string());
        let selection = turn.map(|turn| Selection { seed, choice, ..turn.among(candidates) });
        Self {
            folder,
            scenario,
            target,
            timeline,
            disaster_at: None,
            opener: Opener::Node,
            escrow_problem: None,
            backup,
            selection,
            checks,
            is_nothing,
        }
    }

    /// Which vault it is restored from; the first one where none is named.
    fn vault(&self) -> Option<&VaultName> {
        self.selection.as_ref().and_then(|selection| selection.vault.as_ref())
    }

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
        Policy { limit: self.0.fetch_limit(), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: Chosen = cx.output("choose")?;
        if chosen.is_nothing {
            return output(&None::<Outcome<Restored>>);
        }
        output(&Outcome::of(self.0.fetch(&chosen, cx).await)?)
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
