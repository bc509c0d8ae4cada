//! A physical backup: *check* → (*parent* →) *upload* → *commit* → *wal* → *`read_back`*.
//! Until the signed manifest is committed nobody sees it, and its undo sweeps what was
//! uploaded.
//! What must never happen: a run that passes while WAL that its backup needs is not
//! in the vault.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Resources, Vault, guarded::guarded, locks, output, snapshot, stream};
use crate::{
    config::vault::Durability,
    db::findings,
    decide::parent::CHILDREN,
    domain::{Backup, BackupKind, BackupState, DatabaseName, VaultName, Verdict, record::kind, with_causes},
    engine::EngineError,
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{self, Layout, Manifest, StoreError, visit},
};

mod differential;
mod failure;
mod parent;
mod read_back;
mod source;
mod upload;

use read_back::ReadBack;
pub use source::{Manner, increment_hindrance, seen};
use upload::{Upload, Uploaded};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = kind::BACKUP;

/// With pauses that double up to a minute: about five minutes.
const CHECK_ATTEMPTS: u32 = 10;
/// How long the WAL up to its end may take to reach the vault.
const WAL_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    pub kind: BackupKind,
    /// Whether no other may build upon it.
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
        // Its provider takes the backup.
        if params.kind == BackupKind::Snapshot {
            let database = self.resources.managed_database(&params.database)?;
            return Ok(snapshot::steps(&database, params.due_at.is_none()));
        }
        let database = self.resources.database(&params.database)?;
        let check = Check {
            resources: Arc::clone(&self.resources),
            database: Arc::clone(&database),
            is_asked_for: params.due_at.is_none(),
        };
        let mut steps: Vec<Box<dyn Step>> = vec![Box::new(check)];
        let (kind, standalone, manner) = (params.kind, params.standalone, params.manner);
        if CHILDREN.contains(&kind) {
            steps.push(Box::new(parent::ChooseParent { database: Arc::clone(&database), kind, manner }));
        }
        steps.push(Box::new(Upload { database: Arc::clone(&database), kind, standalone, manner }));
        steps.push(Box::new(Commit { resources: Arc::clone(&self.resources), database: Arc::clone(&database) }));
        steps.push(Box::new(AwaitWal(Arc::clone(&database))));
        steps.push(Box::new(ReadBack::new(database)));
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
    /// By a person, and not by a schedule.
    is_asked_for: bool,
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

    /// A primary that restarts, or a standby that is being promoted, is there again
    /// within minutes; the next date may be a day away. A person is answered at once.
    fn policy(&self) -> Policy {
        if self.is_asked_for {
            return Policy::default();
        }
        Policy { attempts: CHECK_ATTEMPTS, backoff: Duration::from_secs(1), ..Policy::default() }
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
        let manifest: Manifest = cx.output(upload::NAME)?;
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
        let manifest: Manifest = cx.output(upload::NAME)?;
        cx.progress(format!("waiting for WAL up to {}", manifest.stop_lsn), None, None);
        stream::await_wal(&self.0, &manifest, cx).await?;
        Ok(json!(true))
    }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    if params.kind == BackupKind::Snapshot {
        return snapshot::conclude(resources, cx, ending, (&params.database, params.due_at)).await;
    }
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let uploaded: Option<Uploaded> = cx.output_if_any(upload::NAME)?;
    let (manifest, told) = uploaded.map(|uploaded| (uploaded.manifest, uploaded.findings)).unzip();
    let manifest_sha256: Option<String> = cx.output_if_any("commit")?;
    // A run that an older version brought to its end has read back within *wal*.
    let is_read_back = cx.output_if_any::<bool>(read_back::NAME)?.unwrap_or(false);
    let is_wal_complete = is_read_back || matches!(ending, Ending::Done);
    let of_wal = if is_wal_complete { Verdict::Pass } else { Verdict::Fail };
    let is_degraded = manifest.as_ref().is_some_and(|manifest: &Manifest| manifest.damaged);
    // It is kept, and it is not what was asked for.
    let (verdict, mut findings) = super::judged(ending, if is_degraded { Verdict::Fail } else { of_wal });
    let parentage: Option<parent::Parentage> = cx.output_if_any(parent::NAME)?;
    findings.extend(parentage.and_then(|parentage| parentage.finding(params.kind)));
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
