//! A physical backup: *check* → (*parent* →) *upload* → *commit* → *wal*. Until the signed
//! manifest is committed nobody sees it, and its undo sweeps what was uploaded.
//! What must never happen: a backup that is called complete while WAL that it
//! needs is not in the vault.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Resources, Vault, guarded::guarded, locks, output, stream};
use crate::{
    config::vault::Durability,
    db::findings,
    decide::member::Choice,
    domain::{
        Backup, BackupFrom, BackupId, BackupKind, BackupState, DatabaseName, MemberName, TakenFrom, VaultName, Verdict,
        record::kind, with_causes,
    },
    engine::{BackupFacts, BackupOrder, EngineError, Role},
    fault,
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{self, BackupWriter, Layout, Manifest, PART_SIZE, StoreError, TakenBackup, VaultError, visit},
};

mod parent;
mod read_back;
mod source;

pub use source::Manner;
use source::{Failure, Sink};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::BACKUP;

/// How long a backup may take.
const UPLOAD_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long the WAL up to its end may take to reach the vault.
const WAL_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    pub kind: BackupKind,
    /// Whether no increment may build upon it.
    #[serde(default)]
    pub standalone: bool,
    /// As the database says where nothing is said here.
    #[serde(default)]
    pub manner: Manner,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// The workflow.
#[derive(Debug)]
pub struct BackupFlow {
    resources: Arc<Resources>,
}

impl BackupFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for BackupFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let database = self.resources.database(&params.database)?;
        let mut steps: Vec<Box<dyn Step>> =
            vec![Box::new(Check { resources: Arc::clone(&self.resources), database: Arc::clone(&database) })];
        if params.kind == BackupKind::Incremental {
            steps.push(Box::new(parent::ChooseParent(Arc::clone(&database))));
        }
        let upload = Upload { database: Arc::clone(&database), standalone: params.standalone, manner: params.manner };
        steps.push(Box::new(upload));
        steps.push(Box::new(Commit { resources: Arc::clone(&self.resources), database: Arc::clone(&database) }));
        steps.push(Box::new(AwaitWal(database)));
        Ok(steps)
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        conclude(&self.resources, cx, ending).await
    }
}

/// Is the primary fit, are all vaults where the data may be, can they be written?
/// Only the first vault and those that WAL must reach can be in the way.
struct Check {
    resources: Arc<Resources>,
    database: Arc<Database>,
}

impl Check {
    /// What a vault that is in nobody's way lacks is a finding, until a backup finds
    /// it sound again.
    async fn keep_finding(&self, vault: &VaultName, error: Option<&StoreError>) -> Result<(), StepError> {
        let (db, name) = (&self.resources.db, &self.database.name);
        let id = format!("{NAME}/{name}/{vault}");
        match error {
            Some(error) => {
                let went_on = if error.is_weakness() { "all the same" } else { "without it" };
                let message = format!("{}; the last backup of `{name}` went on {went_on}", with_causes(error));
                tracing::warn!("{message}");
                findings::open(db, &id, vault.as_str(), &message).await?;
            }
            None => findings::close(db, &id).await?,
        }
        Ok(())
    }

    async fn vaults(&self, cx: &StepContext) -> Result<(), StepError> {
        let vaults = &self.database.vaults;
        for vault in vaults {
            self.database.refuse_outside_residency(&vault.store.place().region)?;
        }
        cx.guard().await?;
        let probe = async |vault: &Vault| visit(&vault.store.place().vault, vault.store.probe()).await;
        let probed = join_all(vaults.iter().map(probe)).await;
        for (nth, (vault, probed)) in vaults.iter().zip(probed).enumerate() {
            let name = &vault.store.place().vault;
            let is_needed = nth == 0 || vault.durability == Durability::Required;
            match probed {
                Ok(weaknesses) => {
                    for finding in weaknesses {
                        tracing::warn!(vault = %name, finding, "the vault has a weakness");
                    }
                    self.keep_finding(name, None).await?;
                }
                Err(error) if is_needed && !error.is_weakness() => return Err(error.into()),
                Err(error) => self.keep_finding(name, Some(&error)).await?,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Step for Check {
    fn name(&self) -> &'static str {
        "check"
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.progress("looking at the primary and the vaults", None, None);
        self.vaults(cx).await?;
        let primary = self.database.engine.preflight().await.map_err(|errors| {
            let is_permanent = errors.iter().any(EngineError::is_permanent);
            let all: Vec<String> = errors.iter().map(|error| with_causes(error)).collect();
            StepError::from_error(PreflightError(all.join("; ")), is_permanent)
        })?;
        output(&primary)
    }
}

/// Everything that stands in the way of a backup, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct PreflightError(String);

/// What the upload's undo needs to know, recorded before the first byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Uploading {
    backup: BackupId,
    system_id: String,
    /// Absent in journals written before there were increments.
    #[serde(default)]
    parent: Option<BackupId>,
    /// Runs of older versions knew none but the first.
    #[serde(default = "first_incarnation")]
    incarnation: u32,
}

fn first_incarnation() -> u32 {
    vault::FIRST_INCARNATION
}

impl Uploading {
    fn layout(&self, database: &Database) -> Result<Layout, StepError> {
        Ok(Layout::new(database.name.clone(), &self.system_id, self.incarnation)?)
    }
}

const fn kind_upon(parent: Option<&BackupId>) -> BackupKind {
    if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full }
}

/// The manifest, not committed yet, and what a person should know of how it came.
#[derive(Debug, Serialize, Deserialize)]
struct Uploaded {
    #[serde(flatten)]
    manifest: Manifest,
    /// Absent in journals written before there were any.
    #[serde(default)]
    findings: Vec<String>,
}

impl Uploaded {
    fn told_first(mut self, finding: Option<String>) -> Self {
        self.findings = finding.into_iter().chain(self.findings).collect();
        self
    }
}

/// Streams a server's bytes into the first vault. Its output is `Uploaded`.
struct Upload {
    database: Arc<Database>,
    standalone: bool,
    manner: Manner,
}

#[async_trait]
impl Step for Upload {
    fn name(&self) -> &'static str {
        "upload"
    }

    fn policy(&self) -> Policy {
        Policy { limit: UPLOAD_LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let primary: crate::engine::MemberFacts = cx.output("check")?;
        let parentage: Option<parent::Parentage> = cx.output_if_any(parent::NAME)?;
        let parent = parentage.and_then(|parentage| parentage.parent);
        let backup = BackupId::new(cx.clock().now(), kind_upon(parent.as_ref()), rand::random())
            .map_err(|error| StepError::from_error(error, true))?;
        let incarnation = stream::newest_layout(&self.database, &primary.system_id).await?.incarnation();
        output(&Uploading { backup, system_id: primary.system_id, incarnation, parent }).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let uploading: Uploading = read("upload", cx.undo_plan().unwrap_or(&Value::Null))?;
        let chosen = source::choose(&self.database, self.manner.from(&self.database), &cx.output("check")?).await?;
        let uploaded = match chosen {
            Choice::Primary { instead } => {
                let uploaded = self.attempt(cx, &uploading, None).await?;
                uploaded.told_first(instead.as_deref().map(source::stood_in))
            }
            Choice::Standby(member) => match self.attempt(cx, &uploading, Some(&member)).await {
                Err(Failure::Member(error)) if self.manner.from(&self.database) == BackupFrom::PreferStandby => {
                    let why = with_causes(&error);
                    tracing::warn!(%member, "the standby gave no backup: {why}");
                    self.attempt(cx, &uploading, None).await?.told_first(Some(source::stood_in(&why)))
                }
                taken => taken?,
            },
        };
        fault::point("backup.uploaded");
        output(&uploaded)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        let uploading: Uploading = read("upload", plan)?;
        let layout = uploading.layout(&self.database)?;
        match vault::sweep(guarded(self.database.first_vault()?, cx).as_ref(), &layout, &uploading.backup).await {
            // It is a backup by now; a later step's failure does not take it away.
            Ok(_) | Err(VaultError::Committed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Upload {
    /// One backup from the primary, or from that standby.
    async fn attempt(
        &self,
        cx: &StepContext,
        uploading: &Uploading,
        standby: Option<&MemberName>,
    ) -> Result<Uploaded, Failure> {
        let layout = uploading.layout(&self.database)?;
        let store = guarded(self.database.first_vault()?, cx);
        let upon = match &uploading.parent {
            Some(parent) => Some(parent::manifest(&self.database, &store, &layout, parent).await?),
            None => None,
        };
        // An attempt that was cut off has left parts; BASE_BACKUP cannot resume.
        vault::sweep(store.as_ref(), &layout, &uploading.backup).await?;
        let started_at = cx.clock().now();
        let recipients = self.database.keys.recipients.clone();
        let writer =
            BackupWriter::begin(store.clone(), layout.clone(), uploading.backup.clone(), recipients, PART_SIZE)?;
        let mut sink = Sink::new(writer, cx.clone(), store, layout);
        let label = format!("lifeboat {}", uploading.backup);
        let order = BackupOrder { label: &label, standby, rate_max: self.manner.rate_max(&self.database) };
        let taken = tokio::select! {
            facts = self.database.engine.backup(&order, upon, &mut sink) => facts.map_err(Failure::of),
            () = cx.stop().cancelled() => Err(Failure::Other(StepError::Stopped)),
        };
        let mut facts = match taken {
            Ok(facts) => facts,
            Err(error) => {
                // Before this step is over: what follows may sweep, or begin anew.
                sink.writer.abandon().await;
                return Err(error);
            }
        };
        if facts.from.system_id != uploading.system_id {
            let replaced = "the cluster was replaced by another one during the backup; take it again";
            return Err(StepError::permanent(replaced).into());
        }
        let kind = kind_upon(uploading.parent.as_ref());
        let findings = std::mem::take(&mut facts.findings);
        let taken = TakenBackup {
            standalone: self.standalone,
            parent: uploading.parent.clone(),
            ..describe(kind, started_at, cx.clock().now(), facts)
        };
        Ok(Uploaded { manifest: sink.writer.finish(taken).await?, findings })
    }
}

fn describe(kind: BackupKind, started_at: Timestamp, finished_at: Timestamp, facts: BackupFacts) -> TakenBackup {
    TakenBackup {
        kind,
        timeline: facts.timeline,
        segment_size: facts.from.segment_size,
        start_lsn: facts.start_lsn,
        stop_lsn: facts.stop_lsn,
        server_version: facts.from.server_version,
        from: Some(TakenFrom { member: facts.from.member, is_standby: facts.from.role == Role::Standby }),
        started_at,
        finished_at,
        damaged: facts.damaged,
        parent: None,
        standalone: false,
        required_settings: facts.required_settings.into_iter().collect(),
        config_files: facts.config_files,
    }
}

/// Signs the manifest and writes it: the backup exists from here on, and is locked.
struct Commit {
    resources: Arc<Resources>,
    database: Arc<Database>,
}

#[async_trait]
impl Step for Commit {
    fn name(&self) -> &'static str {
        "commit"
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let manifest: Manifest = cx.output("upload")?;
        cx.progress("signing the manifest", None, None);
        let layout = Layout::new(manifest.database.clone(), &manifest.system_id, manifest.incarnation)?;
        let store = guarded(self.database.first_vault()?, cx);
        if let Some(parent) = &manifest.parent {
            parent::still_there(&store, &layout, parent).await?;
        }
        let sha256 = vault::commit(store.as_ref(), &layout, &manifest, &self.database.keys.signer).await?;
        let committed = (&layout, &manifest.backup);
        locks::lock_committed(&self.resources, &self.database, store.as_ref(), committed, cx).await?;
        output(&sha256)
    }
}

/// Waits until all WAL from the backup's start to its stop is in the vault, and
/// reads it back.
struct AwaitWal(Arc<Database>);

#[async_trait]
impl Step for AwaitWal {
    fn name(&self) -> &'static str {
        "wal"
    }

    fn policy(&self) -> Policy {
        Policy { limit: WAL_LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let manifest: Manifest = cx.output("upload")?;
        cx.progress(format!("waiting for WAL up to {}", manifest.stop_lsn), None, None);
        stream::await_wal(&self.0, &manifest, cx).await?;
        cx.progress("reading the backup's WAL back", None, None);
        read_back::prove(&self.0, (&manifest, &cx.output::<String>("commit")?), cx).await?;
        Ok(json!(true))
    }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let uploaded: Option<Uploaded> = cx.output_if_any("upload")?;
    let (manifest, told) = uploaded.map(|uploaded| (uploaded.manifest, uploaded.findings)).unzip();
    let manifest_sha256: Option<String> = cx.output_if_any("commit")?;
    let is_wal_complete = cx.output_if_any::<bool>("wal")?.unwrap_or(false);
    let of_wal = if is_wal_complete { Verdict::Pass } else { Verdict::Fail };
    let is_degraded = manifest.as_ref().is_some_and(|manifest: &Manifest| manifest.damaged);
    // It is kept, and it is not what was asked for.
    let (verdict, mut findings) = super::judged(ending, if is_degraded { Verdict::Fail } else { of_wal });
    let parentage: Option<parent::Parentage> = cx.output_if_any(parent::NAME)?;
    findings.extend(parentage.and_then(|parentage| parentage.finding()));
    findings.extend(told.into_iter().flatten());
    let is_committed = manifest_sha256.is_some();
    let mut record = super::record(cx, (&params.database, database.as_deref()), NAME, params.due_at);
    if let (Some(database), Some(manifest), Some(sha256)) = (&database, &manifest, manifest_sha256) {
        record.source = database.first_vault().ok().map(|store| database.source(store, manifest, sha256));
    }
    record.measured.size_bytes = manifest.as_ref().map(|manifest| manifest.size_bytes);
    record.measured.stored_bytes = manifest.as_ref().map(|manifest| manifest.stored_bytes);
    record.safety = super::unwinding(ending);
    let of_wal = if matches!(ending, Ending::Done) { of_wal } else { verdict };
    record.verdicts = BTreeMap::from([("wal_complete".to_owned(), of_wal)]);
    if is_degraded {
        record.verdicts.insert("pages".to_owned(), Verdict::Fail);
    }
    record.verdict = verdict;
    record.findings.clone_from(&findings);
    let evidence = resources.evidence.append(&record).await?;
    let mut figures =
        json!({"run_id": cx.run_id(), "database": params.database, "verdict": verdict, "findings": findings});
    if let Some(manifest) = manifest.filter(|_| is_committed) {
        let state = match (is_degraded, is_wal_complete) {
            (true, _) => BackupState::Degraded,
            (false, true) => BackupState::WalComplete,
            (false, false) => BackupState::Uploaded,
        };
        let backup: Backup = manifest.summary(state);
        super::merge(&mut figures, output(&backup)?);
    }
    super::merge(&mut figures, json!({"phases": record.phases, "evidence": evidence}));
    Ok(Conclusion { verdict, output: figures })
}
