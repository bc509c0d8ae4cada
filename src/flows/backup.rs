//! A physical backup: *check* → (*parent* →) *upload* → *commit* → *wal*. Until the signed
//! manifest is committed nobody sees it, and its undo sweeps what was uploaded.
//! What must never happen: a backup that is called complete while WAL that it
//! needs is not in the vault.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Resources, Vault, guarded::guarded, locks, output, refused, stream};
use crate::{
    config::vault::Durability,
    db::findings,
    decide::parent::CHILDREN,
    domain::{Backup, BackupId, BackupKind, BackupState, DatabaseName, VaultName, Verdict, record::kind, with_causes},
    engine::{BackupFacts, BackupSink, EngineError},
    fault,
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{self, BackupWriter, Layout, Manifest, PART_SIZE, StoreError, TakenBackup, VaultError, visit},
};

mod differential;
mod parent;

use differential::Untaken;

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
    /// Whether no other may build upon it.
    #[serde(default)]
    pub standalone: bool,
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
        if CHILDREN.contains(&params.kind) {
            steps.push(Box::new(parent::ChooseParent { database: Arc::clone(&database), kind: params.kind }));
        }
        let (kind, standalone) = (params.kind, params.standalone);
        steps.push(Box::new(Upload { database: Arc::clone(&database), kind, standalone }));
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
    /// The full backup that is taken where what the server sends fits to no parent.
    #[serde(default)]
    full: Option<BackupId>,
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

/// Streams the server's bytes into the first vault. Its output is the manifest,
/// not committed yet, and why it is a full one where another kind was wanted.
struct Upload {
    database: Arc<Database>,
    kind: BackupKind,
    standalone: bool,
}

impl Upload {
    /// Of a backup with or without a parent.
    fn kind(&self, parent: Option<&BackupId>) -> BackupKind {
        if parent.is_some() { self.kind } else { BackupKind::Full }
    }

    async fn sweep(&self, cx: &StepContext, uploading: &Uploading, backup: &BackupId) -> Result<(), StepError> {
        let layout = uploading.layout(&self.database)?;
        match vault::sweep(guarded(self.database.first_vault()?, cx).as_ref(), &layout, backup).await {
            // It is a backup by now; a later step's failure does not take it away.
            Ok(_) | Err(VaultError::Committed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one backup, not committed yet.
    async fn take(&self, cx: &StepContext, uploading: Uploading) -> Result<Manifest, Untaken> {
        let layout = uploading.layout(&self.database)?;
        let store = guarded(self.database.first_vault()?, cx);
        let kind = self.kind(uploading.parent.as_ref());
        let (mut upon, mut base) = (None, None);
        match &uploading.parent {
            Some(parent) if kind == BackupKind::Differential => {
                base = Some(differential::base(&self.database, &store, &layout, parent).await?);
            }
            Some(parent) => upon = Some(parent::manifest(&self.database, &store, &layout, parent).await?),
            None => {}
        }
        // An attempt that was cut off has left parts; BASE_BACKUP cannot resume.
        vault::sweep(store.as_ref(), &layout, &uploading.backup).await?;
        let started_at = cx.clock().now();
        let recipients = self.database.keys.recipients.clone();
        let mut writer = BackupWriter::begin(store, layout, uploading.backup.clone(), recipients, PART_SIZE)?;
        if let Some(base) = base {
            writer = writer.upon(base);
        }
        let mut sink = Sink { writer, cx: cx.clone(), received: 0 };
        let label = format!("lifeboat {}", uploading.backup);
        let taking = self.database.engine.backup(&label, upon, &mut sink);
        let taken = tokio::select! {
            facts = taking => facts.map_err(Untaken::of_engine),
            () = cx.stop().cancelled() => Err(Untaken::Failed(StepError::Stopped)),
        };
        let facts = match taken {
            Ok(facts) => facts,
            Err(error) => {
                // Before this step is over: what follows may sweep, or begin anew.
                sink.writer.abandon().await;
                return Err(error);
            }
        };
        if facts.from.system_id != uploading.system_id {
            let what = "the cluster was replaced by another one during the backup; take it again";
            return Err(Untaken::Failed(StepError::permanent(what)));
        }
        let taken = TakenBackup {
            standalone: self.standalone,
            parent: uploading.parent,
            ..describe(kind, started_at, cx.clock().now(), facts)
        };
        let manifest = sink.writer.finish(taken).await?;
        fault::point("backup.uploaded");
        Ok(manifest)
    }
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
        let now = cx.clock().now();
        let id = |kind| BackupId::new(now, kind, rand::random()).map_err(|error| StepError::from_error(error, true));
        let kind = self.kind(parent.as_ref());
        let backup = id(kind)?;
        let full = if kind == BackupKind::Differential { Some(id(BackupKind::Full)?) } else { None };
        let incarnation = stream::newest_layout(&self.database, &primary.system_id).await?.incarnation();
        output(&Uploading { backup, full, system_id: primary.system_id, incarnation, parent }).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let uploading: Uploading = read("upload", cx.undo_plan().unwrap_or(&Value::Null))?;
        if let Some(full) = &uploading.full {
            // Of an attempt that was cut off.
            self.sweep(cx, &uploading, full).await?;
        }
        let (why, full) = match (self.take(cx, uploading.clone()).await, uploading.full.clone()) {
            (Ok(manifest), _) => return output(&manifest),
            (Err(Untaken::Unlike(why)), Some(full)) => (why, full),
            (Err(untaken), _) => return Err(untaken.into_step_error()),
        };
        tracing::warn!(backup = %uploading.backup, why, "a full backup is taken instead of a differential");
        self.sweep(cx, &uploading, &uploading.backup).await?;
        let taken = self.take(cx, Uploading { backup: full, parent: None, ..uploading }).await;
        let mut manifest = output(&taken.map_err(Untaken::into_step_error)?)?;
        super::merge(&mut manifest, json!({"instead": why}));
        Ok(manifest)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        let uploading: Uploading = read("upload", plan)?;
        for backup in std::iter::once(&uploading.backup).chain(&uploading.full) {
            self.sweep(cx, &uploading, backup).await?;
        }
        Ok(())
    }
}

/// What the upload's output says beside the manifest.
#[derive(Debug, Deserialize)]
struct Instead {
    /// Why a full backup was taken after all.
    #[serde(default)]
    instead: Option<String>,
}

fn describe(kind: BackupKind, started_at: Timestamp, finished_at: Timestamp, facts: BackupFacts) -> TakenBackup {
    TakenBackup {
        kind,
        timeline: facts.timeline,
        segment_size: facts.from.segment_size,
        start_lsn: facts.start_lsn,
        stop_lsn: facts.stop_lsn,
        server_version: facts.from.server_version,
        started_at,
        finished_at,
        damaged: facts.damaged,
        parent: None,
        standalone: false,
        required_settings: facts.required_settings.into_iter().collect(),
        config_files: facts.config_files,
    }
}

/// Hands the engine's bytes to the vault's writer.
struct Sink {
    writer: BackupWriter,
    cx: StepContext,
    received: u64,
}

#[async_trait]
impl BackupSink for Sink {
    async fn archive(&mut self, tablespace: Option<u32>) -> Result<(), EngineError> {
        self.writer.archive(tablespace).await.map_err(refused)
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let before = self.received / PROGRESS_EVERY;
        self.received += bytes.len() as u64;
        if self.received / PROGRESS_EVERY > before {
            self.cx.progress("received", Some(self.received), None);
        }
        self.writer.data(bytes).await.map_err(refused)
    }

    async fn manifest(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.writer.manifest(bytes).await.map_err(refused)
    }
}

const PROGRESS_EVERY: u64 = 8 << 20;

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

/// Waits until all WAL from the backup's start to its stop is in the vault.
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
        Ok(json!(true))
    }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let manifest: Option<Manifest> = cx.output_if_any("upload")?;
    let manifest_sha256: Option<String> = cx.output_if_any("commit")?;
    let is_wal_complete = cx.output_if_any::<bool>("wal")?.unwrap_or(false);
    let (verdict, mut findings) = super::judged(ending, if is_wal_complete { Verdict::Pass } else { Verdict::Fail });
    let parentage: Option<parent::Parentage> = cx.output_if_any(parent::NAME)?;
    findings.extend(parentage.and_then(|parentage| parentage.finding(params.kind)));
    let instead = cx.output_if_any::<Instead>("upload")?.and_then(|uploaded| uploaded.instead);
    findings.extend(instead.map(|why| parent::instead_of(params.kind, &why)));
    let is_committed = manifest_sha256.is_some();
    let mut record = super::record(cx, (&params.database, database.as_deref()), NAME, params.due_at);
    if let (Some(database), Some(manifest), Some(sha256)) = (&database, &manifest, manifest_sha256) {
        record.source = database.first_vault().ok().map(|store| database.source(store, manifest, sha256));
    }
    record.measured.size_bytes = manifest.as_ref().map(|manifest| manifest.size_bytes);
    record.measured.stored_bytes = manifest.as_ref().map(|manifest| manifest.stored_bytes);
    record.safety = super::unwinding(ending);
    record.verdicts = BTreeMap::from([("wal_complete".to_owned(), verdict)]);
    record.verdict = verdict;
    record.findings.clone_from(&findings);
    let evidence = resources.evidence.append(&record).await?;
    let mut figures =
        json!({"run_id": cx.run_id(), "database": params.database, "verdict": verdict, "findings": findings});
    if let Some(manifest) = manifest.filter(|_| is_committed) {
        let state = if is_wal_complete { BackupState::WalComplete } else { BackupState::Uploaded };
        let backup: Backup = manifest.summary(state);
        super::merge(&mut figures, output(&backup)?);
    }
    super::merge(&mut figures, json!({"phases": record.phases, "evidence": evidence}));
    Ok(Conclusion { verdict, output: figures })
}
