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
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Database, Resources, Vault, output,
    restore::{self, Restored},
};
use crate::{
    config::schedule::{CheckConfig, NamedCheck, RecoveryPointAlgorithm, RestoreTestConfig},
    decide::escrow,
    domain::{Check, DatabaseName, Opener, Phase, RecoveryPoint, RecoveryTarget, Verdict, record::kind, with_causes},
    durable,
    engine::{CopiedBeats, Instance, IsolatedParams},
    fault,
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{self, Inventory, Listing},
};

mod account;
mod window;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::RESTORE_TEST;

/// A disaster instant is drawn between these many milliseconds from now: long
/// enough to fall anywhere between two flushes, short enough to wait for.
const DISASTER_MS: std::ops::RangeInclusive<u64> = 1_000..=6_000;
/// How long choosing may take: the vault is listed and its manifests are read.
const CHOOSE_LIMIT: Duration = Duration::from_secs(600);
/// How long fetching and unpacking may take.
const FETCH_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How long a folder may still be written to that is to be removed.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

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
        self.database.engine.stop_isolated(folder).await?;
        let begun = std::time::Instant::now();
        loop {
            match tokio::fs::remove_dir_all(folder).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                // A fetch that was told to stop ends its last write.
                Err(error)
                    if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && begun.elapsed() < REMOVE_LIMIT =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    return Err(StepError::transient(format!("cannot remove {}: {error}", folder.display())));
                }
            }
        }
    }

    /// Makes the copy anew from the frozen listing.
    async fn fetch(&self, chosen: &Chosen, cx: &StepContext) -> Result<Restored, StepError> {
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
            backup: None,
            system_id: None,
            data: chosen.data(),
            wal_folder: chosen.wal(),
            is_isolated: true,
            opener: chosen.opener,
        };
        let say = |message: &str, done, total| cx.progress(message, done, total);
        let restored = match restore::from_listing(database, vault, &listing, &request, cx.stop(), &say).await {
            Err(_) if cx.stop().is_cancelled() => return Err(StepError::Stopped),
            other => other?,
        };
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

/// Chooses the recovery point and freezes the vault's listing.
struct Choose {
    test: Arc<Test>,
    point: Point,
}

#[async_trait]
impl Step for Choose {
    fn name(&self) -> &'static str {
        "choose"
    }

    fn policy(&self) -> Policy {
        Policy { limit: CHOOSE_LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let name = format!("lifeboat-{}", cx.run_id().as_str().replace(['/', ':'], "-"));
        output(&self.test.database.scratch.join(name)).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let folder: PathBuf = read("folder", cx.undo_plan().unwrap_or(&Value::Null))?;
        self.test.tear_down(&folder).await?;
        let scratch = &self.test.database.scratch;
        let made = durable::create_folder(scratch).and_then(|()| std::fs::create_dir(&folder));
        made.map_err(|error| {
            StepError::permanent(format!("cannot make {}: {error}; choose another `node.scratch`", folder.display()))
        })?;
        // The server's user must be able to reach its own folder inside.
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .map_err(|error| StepError::transient(format!("cannot open {}: {error}", folder.display())))?;
        let (chosen, listing) = tokio::select! {
            frozen = self.freeze(folder, cx) => frozen?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        durable::replace(
            &chosen.listing_file(),
            &serde_json::to_vec(&listing).map_err(|error| StepError::from_error(error, true))?,
        )
        .map_err(|error| StepError::transient(format!("cannot keep the frozen listing: {error}")))?;
        fault::point("restore_test.frozen");
        output(&chosen)
    }

    async fn undo(&self, _cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        self.test.tear_down(&read::<PathBuf>("folder", plan)?).await
    }
}

impl Choose {
    /// What is restored, and the listing of the vault that it is restored from.
    async fn freeze(&self, folder: PathBuf, cx: &StepContext) -> Result<(Chosen, Listing), StepError> {
        let database = &self.test.database;
        let vault = database.vault(None).ok_or_else(|| StepError::permanent("the database has no vault"))?;
        // Found before the disaster, so that freezing is one listing and no more.
        let held = restore::newest(database, vault).await?;
        let (opener, escrow_problem) = self.opener(vault, &held.listing, cx).await?;
        let chosen = Chosen { opener, escrow_problem, ..self.choose(folder, (vault, &held), cx).await? };
        let listing = Listing::take(vault.store.as_ref(), held.listing.layout()).await?;
        // What arrived while the vault was listed counts; so the disaster is when that ended.
        let disaster_at = chosen.disaster_at.map(|_| cx.clock().now());
        Ok((Chosen { disaster_at, ..chosen }, listing))
    }

    /// Whose turn it is, and why it is the node's all the same.
    async fn opener(
        &self,
        vault: &Vault,
        listing: &Listing,
        cx: &StepContext,
    ) -> Result<(Opener, Option<String>), StepError> {
        let keys = &self.test.database.keys;
        if keys.escrow.is_none() {
            return Ok((Opener::Node, None));
        }
        let last = vault::last_escrow_proof(vault.store.as_ref(), listing, &keys.verifier).await?;
        let opener = escrow::whose_turn(cx.clock().now(), last, true);
        match keys.identities_of(opener).await {
            Err(error) if opener == Opener::Escrow => Ok((Opener::Node, Some(with_causes(&error)))),
            _ => Ok((opener, None)),
        }
    }

    async fn choose(
        &self,
        folder: PathBuf,
        (vault, held): (&Vault, &Inventory),
        cx: &StepContext,
    ) -> Result<Chosen, StepError> {
        if let Point::Asked(target) = &self.point {
            let scenario = format!("asked for: {target}");
            return Ok(Chosen {
                folder,
                scenario,
                target: target.clone(),
                disaster_at: None,
                opener: Opener::Node,
                escrow_problem: None,
            });
        }
        let seed: u64 = rand::random();
        let now = cx.clock().now();
        match self.test.config.recovery_point.algorithm {
            RecoveryPointAlgorithm::LatestAtDisaster => {
                let delay = drawn(seed, *DISASTER_MS.start(), *DISASTER_MS.end());
                let disaster_at = now + SignedDuration::from_millis(i64::try_from(delay).unwrap_or_default());
                cx.progress(format!("disaster drawn for {disaster_at:.3}, seed {seed}"), None, None);
                while let Ok(left) = Duration::try_from(disaster_at.duration_since(cx.clock().now()))
                    && !left.is_zero()
                {
                    cx.sleep(left).await?;
                }
                let scenario = format!(
                    "latest state at a disaster instant drawn {delay} ms ahead (seed {seed}); the vault's listing was frozen then"
                );
                Ok(Chosen {
                    folder,
                    scenario,
                    target: RecoveryTarget::Latest,
                    disaster_at: Some(disaster_at),
                    opener: Opener::Node,
                    escrow_problem: None,
                })
            }
            RecoveryPointAlgorithm::RandomWithinWindow => {
                let window = self
                    .test
                    .config
                    .recovery_point
                    .window
                    .map(super::super::domain::amount::Span::as_duration)
                    .unwrap_or_default();
                let (oldest, newest) = window::window(&self.test.database, vault, held, now, window).await?;
                let span = u64::try_from(newest.duration_since(oldest).as_millis()).unwrap_or_default();
                let at = oldest + SignedDuration::from_millis(i64::try_from(drawn(seed, 0, span)).unwrap_or_default());
                let scenario = format!("a random instant between {oldest} and {newest} (seed {seed})");
                Ok(Chosen {
                    folder,
                    scenario,
                    target: RecoveryTarget::Time(at),
                    disaster_at: None,
                    opener: Opener::Node,
                    escrow_problem: None,
                })
            }
        }
    }
}

/// A number from `least` to `most` that the seed determines.
fn drawn(seed: u64, least: u64, most: u64) -> u64 {
    use rand::{Rng, SeedableRng};
    rand::rngs::StdRng::seed_from_u64(seed).random_range(least..=most.max(least))
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

/// What the isolated instance told before it was stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proof {
    server_version: String,
    recovery_point: RecoveryPoint,
    isolation: Vec<Check>,
    beats: CopiedBeats,
    checks: Vec<Check>,
    /// T5: all checks are done.
    checked_at: Timestamp,
    phases: Vec<Phase>,
    /// No process of the instance was left when it had stopped.
    is_stopped: bool,
    /// The copy that was proven, where it was fetched a second time after an interruption.
    refetched: Option<Restored>,
    /// Why the cluster that was restored may not be the one that goes on.
    #[serde(default)]
    doubt: Option<String>,
}

/// Recovers, probes the isolation, checks the data, stops.
struct Prove(Arc<Test>);

#[async_trait]
impl Step for Prove {
    fn name(&self) -> &'static str {
        "prove"
    }

    fn policy(&self) -> Policy {
        let limit = FETCH_LIMIT + self.0.config.limit.as_duration() + Duration::from_secs(600);
        Policy { limit, attempts: 1, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: Chosen = cx.output("choose")?;
        let engine = &self.0.database.engine;
        // An earlier life may have left an instance, and data that has moved on.
        engine.stop_isolated(&chosen.folder).await?;
        let refetched = if chosen.started_file().exists() { Some(self.0.fetch(&chosen, cx).await?) } else { None };
        durable::replace(&chosen.started_file(), b"")
            .map_err(|error| StepError::transient(format!("cannot note that the copy is started: {error}")))?;
        cx.progress("recovering in an isolated instance", None, None);
        let begun = std::time::Instant::now();
        let params =
            IsolatedParams { folder: chosen.folder.clone(), recovery_timeout: self.0.config.limit.as_duration() };
        let instance = tokio::select! {
            instance = engine.start_isolated(&params) => instance?,
            () = cx.stop().cancelled() => {
                engine.stop_isolated(&chosen.folder).await?;
                return Err(StepError::Stopped);
            }
        };
        fault::point("restore_test.started");
        let recovery = Phase { name: "recover".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        let proven = tokio::select! {
            proven = self.ask(instance.as_ref(), cx) => proven,
            () = cx.stop().cancelled() => Err(StepError::Stopped),
        };
        instance.stop().await?;
        let mut proof = proven?;
        (proof.is_stopped, proof.refetched) = (true, refetched);
        proof.doubt = self.doubt(cx).await?;
        proof.phases.insert(0, recovery);
        output(&proof)
    }
}

impl Prove {
    /// Looked for when everything is measured.
    async fn doubt(&self, cx: &StepContext) -> Result<Option<String>, StepError> {
        let restored: Restored = cx.output("fetch")?;
        Ok(match restore::doubt(&self.0.database, &restored.layout).await {
            Ok(unclear) => unclear.map(|unclear| unclear.to_string()),
            Err(error) => Some(format!("which clusters the vaults hold is not known: {}", with_causes(&error))),
        })
    }

    async fn ask(&self, instance: &dyn Instance, cx: &StepContext) -> Result<Proof, StepError> {
        cx.progress("checking the data", None, None);
        let begun = std::time::Instant::now();
        // The recovery point is read before anything writes to the copy.
        let recovery_point = instance.recovery_point().await?;
        let beats = instance.heartbeats().await?;
        let mut checks = Vec::new();
        for config in &self.0.config.checks {
            if let CheckConfig::Sql(check) = config {
                checks.push(match instance.query(&check.dbname, &check.sql).await {
                    Ok(answer) => {
                        let holds = answer.as_deref() == Some(check.expect.as_str());
                        Check::judge(check.sql.clone(), check.expect.clone(), digest_unless(holds, answer), holds)
                    }
                    Err(error) => {
                        // The server's message may quote rows: it goes to the log, not into evidence.
                        tracing::warn!(query = check.sql, %error, "a check failed");
                        Check::judge(check.sql.clone(), check.expect.clone(), "the query failed; see the log", false)
                    }
                });
            }
        }
        let checked_at = cx.clock().now();
        let checked = Phase { name: "check".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        cx.progress("probing the isolation", None, None);
        let begun = std::time::Instant::now();
        let isolation = instance.isolation().await?;
        let probed = Phase { name: "probe_isolation".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        Ok(Proof {
            server_version: instance.server_version(),
            recovery_point,
            isolation,
            beats,
            checks,
            checked_at,
            phases: vec![checked, probed],
            is_stopped: false,
            refetched: None,
            doubt: None,
        })
    }
}

/// What was expected is public, the operator wrote it; anything else may be
/// personal data and stands in evidence as a digest.
fn digest_unless(holds: bool, answer: Option<String>) -> String {
    use sha2::Digest;
    match answer {
        Some(answer) if holds => answer,
        Some(answer) => format!("sha256:{}", hex::encode(sha2::Sha256::digest(answer.as_bytes()))),
        None => "no row, or null".to_owned(),
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
