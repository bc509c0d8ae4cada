//! The workflows: each puts an engine, vaults, DNS and evidence together, one
//! file per flow. What is chosen is chosen in `decide`; flows carry it out.

use std::{collections::BTreeMap, sync::Arc};

use age::x25519::{Identity, Recipient};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::{
    aws::AwsError,
    config::{Loaded, ScheduleConfig, vault::Durability},
    db::{Db, DbError},
    decide::{agenda::Agenda, retention::locks::Reach},
    dns::{Dns, DnsError},
    domain::{
        Check, DatabaseName, EvidenceRecord, Opener, Phase, Placement, Region, VaultName, Verdict,
        record::{Measured, PlanFile, RECORD_SCHEMA, Source, Why},
    },
    engine::{Engine, EngineError},
    evidence::{EvidenceError, EvidenceLog},
    flow::{Ending, StepContext, StepError},
    process::ProcessError,
    secrets::{Secret, SecretError},
    vault::{
        self, Bucket, Inventory, Manifest, Receipts, Remembered, SharedStore, StoreError, VaultError,
        signature::{Signer, Verifier},
    },
};

pub mod backup;
pub mod chain;
pub mod copy;
pub mod drill;
mod guarded;
pub mod headroom;
pub mod ledger;
pub mod locks;
mod managed;
pub mod missed;
pub mod prune;
pub mod prune_snapshots;
mod read_back;
pub mod rebuild;
pub mod restore;
pub mod restore_test;
pub mod retention;
pub mod rotate_keys;
pub mod self_test;
mod snapshot;
pub mod stream;
pub mod verify;

pub use managed::ManagedDatabase;

/// What flows work with.
#[derive(Debug)]
pub struct Resources {
    pub databases: BTreeMap<DatabaseName, Arc<Database>>,
    /// Those that a provider runs; none is among the others.
    pub managed: BTreeMap<DatabaseName, Arc<ManagedDatabase>>,
    /// What of each schedule runs when, and what holds it. Not the database's own: what
    /// `lifeboat.yaml` says of maintenance is part of it, and changes no database.
    pub agendas: BTreeMap<DatabaseName, Arc<Agenda>>,
    /// Providers by name; none where this process only reads.
    pub dns: BTreeMap<String, Arc<dyn Dns>>,
    pub evidence: Arc<EvidenceLog>,
    pub db: Db,
}

impl Resources {
    /// The database of a run's parameters. It may have left the schedules since.
    pub fn database(&self, name: &DatabaseName) -> Result<Arc<Database>, StepError> {
        self.databases
            .get(name)
            .cloned()
            .ok_or_else(|| StepError::permanent(format!("no schedule names the database `{name}` any more")))
    }

    /// The same of one that a provider runs.
    pub fn managed_database(&self, name: &DatabaseName) -> Result<Arc<ManagedDatabase>, StepError> {
        let gone = || StepError::permanent(format!("no schedule names the database `{name}` of a provider any more"));
        self.managed.get(name).cloned().ok_or_else(gone)
    }

    /// The agenda of a database; one that left the schedules has none.
    pub fn agenda(&self, name: &DatabaseName) -> Arc<Agenda> {
        self.agendas.get(name).cloned().unwrap_or_default()
    }
}

/// One protected database with everything that flows need to work on it.
#[derive(Debug)]
pub struct Database {
    pub name: DatabaseName,
    pub engine: Arc<dyn Engine>,
    pub schedule: Arc<Loaded<ScheduleConfig>>,
    /// Where its backups and WAL go, the first one first.
    pub vaults: Vec<Vault>,
    pub keys: Keys,
    /// Where this node stands.
    pub region: Region,
    /// Where isolated instances are made.
    pub scratch: std::path::PathBuf,
    /// What WAL streaming of this process has reached.
    pub streaming: Arc<stream::Streaming>,
    /// What this process has stored of the WAL in the first vault.
    pub receipts: Arc<Receipts>,
    /// What its primary keeps for us, as this process saw it last.
    pub watched: headroom::Watched,
}

/// A vault of a database.
#[derive(Debug, Clone)]
pub struct Vault {
    pub store: SharedStore,
    pub durability: Durability,
    /// How far what is kept is locked, where the store locks.
    pub lock_reach: Reach,
    /// What it has beside its objects, where it is in a bucket.
    pub bucket: Option<Arc<dyn Bucket>>,
}

/// Who can open what is written, and who signs.
#[derive(Debug, Clone)]
pub struct Keys {
    pub recipients: Vec<Recipient>,
    /// Only on nodes that restore; read when it is needed and kept no longer.
    pub identity: Option<Secret>,
    /// The identity that is kept elsewhere, for the tests that prove it.
    pub escrow: Option<Secret>,
    pub signer: Signer,
    /// Whose signatures count.
    pub verifier: Verifier,
}

impl Keys {
    /// The node's own age identities.
    pub async fn identities(&self) -> Result<Vec<Identity>, KeyError> {
        self.identities_of(Opener::Node).await
    }

    /// The age identities of the node, or those that are kept elsewhere.
    pub async fn identities_of(&self, opener: Opener) -> Result<Vec<Identity>, KeyError> {
        let (name, secret) = match opener {
            Opener::Node => ("identity", self.identity.as_ref().ok_or(KeyError::NoIdentity)?),
            Opener::Escrow => ("escrow", self.escrow.as_ref().ok_or(KeyError::NoEscrow)?),
        };
        let text = secret.read().await.map_err(|source| KeyError::Secret { name, source })?;
        vault::identities_from(text.expose_secret()).map_err(|source| KeyError::Unfit {
            name,
            origin: secret.origin(),
            source: source.into(),
        })
    }
}

/// Why no identity is at hand.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "this node holds no age identity and cannot restore; add `keys: {{identity: {{file: PATH}}}}` to lifeboat.yaml"
    )]
    NoIdentity,
    #[error("there is no identity that is kept elsewhere; add `keys: {{escrow: …}}` to lifeboat.yaml")]
    NoEscrow,
    #[error("the age identity of `keys.{name}` cannot be read")]
    Secret {
        name: &'static str,
        #[source]
        source: SecretError,
    },
    #[error("`keys.{name}` ({origin}) is of no use")]
    Unfit {
        name: &'static str,
        /// Where the secret comes from.
        origin: String,
        #[source]
        source: Box<VaultError>,
    },
}

impl KeyError {
    /// Whether it stays so until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Secret { source, .. } => source.is_permanent(),
            Self::NoIdentity | Self::NoEscrow | Self::Unfit { .. } => true,
        }
    }
}

/// What a database is put together from.
#[derive(Debug)]
pub struct Parts {
    pub engine: Arc<dyn Engine>,
    pub schedule: Arc<Loaded<ScheduleConfig>>,
    pub vaults: Vec<Vault>,
    pub keys: Keys,
    pub region: Region,
    pub scratch: std::path::PathBuf,
}

impl Database {
    pub fn new(parts: Parts) -> Self {
        let Parts { engine, schedule, vaults, keys, region, scratch } = parts;
        Self {
            name: schedule.config.database.clone(),
            engine,
            schedule,
            vaults,
            keys,
            region,
            scratch,
            streaming: Arc::default(),
            receipts: Arc::default(),
            watched: headroom::Watched::default(),
        }
    }

    /// The vault of this name, or the first one.
    pub fn vault(&self, name: Option<&VaultName>) -> Option<&Vault> {
        match name {
            Some(name) => self.vaults.iter().find(|vault| vault.store.place().vault == *name),
            None => self.vaults.first(),
        }
    }

    /// All histories of it that a vault holds. A vault that is silent is an error.
    pub async fn histories(&self, vault: &Vault) -> Result<Vec<Inventory>, VaultError> {
        self.histories_again(vault, &mut Remembered::default()).await
    }

    /// The same, where what is listed as it was is not read again.
    pub async fn histories_again(
        &self,
        vault: &Vault,
        remembered: &mut Remembered,
    ) -> Result<Vec<Inventory>, VaultError> {
        let store = vault.store.as_ref();
        let read = Inventory::of_all(store, &self.name, &self.keys.verifier, remembered);
        vault::visit(&store.place().vault, Box::pin(read)).await
    }

    /// The file that defines this database's runs, for evidence.
    pub fn plan_file(&self) -> PlanFile {
        self.schedule.plan_file()
    }

    /// The store that backups go to.
    pub fn first_vault(&self) -> Result<&SharedStore, StepError> {
        let vault = self.vaults.first().ok_or_else(|| StepError::permanent(format!("`{}` has no vault", self.name)))?;
        Ok(&vault.store)
    }

    /// How far locks in the vault of this name reach. It may have left the schedule.
    pub fn lock_reach(&self, vault: &VaultName) -> Reach {
        self.vault(Some(vault)).map(|vault| vault.lock_reach).unwrap_or_default()
    }

    /// Where a run over it that works on these vaults may be driven.
    pub fn placement<'a>(&self, vaults: impl IntoIterator<Item = &'a VaultName>) -> Placement {
        self.schedule.config.placement(vaults)
    }

    /// The same for a run that works on the first vault.
    pub fn placement_at_first(&self) -> Placement {
        self.placement(self.schedule.config.vaults.first())
    }

    pub fn jurisdiction(&self) -> Option<String> {
        self.schedule.config.jurisdiction()
    }

    /// Refuses a region that the database's data may not be in. Checked when the
    /// files are read, and again before data moves.
    pub fn refuse_outside_residency(&self, region: &Region) -> Result<(), StepError> {
        self.schedule.config.refuse_outside_residency(region).map_err(StepError::permanent)
    }

    /// Where a backup lies, for evidence.
    pub fn source(&self, vault: &SharedStore, manifest: &Manifest, manifest_sha256: String) -> Source {
        let place = vault.place();
        Source {
            vault: place.vault.to_string(),
            region: place.region.clone(),
            region_verified: place.region_verified,
            backup_id: manifest.backup.to_string(),
            backup_kind: manifest.kind.as_str().to_owned(),
            manifest_sha256,
            size_bytes: manifest.size_bytes,
            recipients: manifest.recipients.len(),
            from: manifest.from.clone(),
            snapshot: None,
        }
    }
}

/// Turns an error of a boundary into a step's, by whether it is permanent.
macro_rules! step_error_from {
    ($($error:ty),+) => {
        $(impl From<$error> for StepError {
            fn from(error: $error) -> Self {
                let is_permanent = error.is_permanent();
                StepError::from_error(error, is_permanent)
            }
        })+
    };
}
step_error_from!(
    StoreError,
    VaultError,
    EngineError,
    AwsError,
    DnsError,
    DbError,
    EvidenceError,
    restore::RestoreError
);

impl From<KeyError> for StepError {
    fn from(error: KeyError) -> Self {
        let is_permanent = error.is_permanent();
        StepError::from_error(error, is_permanent)
    }
}

impl From<ProcessError> for StepError {
    fn from(error: ProcessError) -> Self {
        StepError::from_error(error, false)
    }
}

/// What an engine is told when a vault does not take its bytes.
fn refused(error: VaultError) -> EngineError {
    EngineError::Sink { is_permanent: error.is_permanent(), source: Box::new(error) }
}

/// The output of a step, for the journal.
fn output(value: &impl serde::Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value).map_err(|error| StepError::from_error(error, true))
}

/// The verdict of a run and what a person must fix, from how its steps ended:
/// `done` where they all succeeded.
fn judged(ending: &Ending, done: Verdict) -> (Verdict, Vec<String>) {
    match ending {
        Ending::Done => (done, Vec::new()),
        Ending::Unwound { step, error } => (Verdict::Error, vec![format!("step `{step}` failed: {error}")]),
        Ending::Aborted { who, reason } => (Verdict::Aborted, vec![format!("aborted by {who}: {reason}")]),
        Ending::Stuck { step, error } => {
            (Verdict::Error, vec![format!("the undo of step `{step}` failed, a person must finish it: {error}")])
        }
    }
}

/// Whether what the run did went away again, where it had to.
fn unwinding(ending: &Ending) -> Vec<Check> {
    match ending {
        Ending::Done => Vec::new(),
        Ending::Unwound { .. } | Ending::Aborted { .. } => vec![Check::judge("unwinding", "undone", "undone", true)],
        Ending::Stuck { step, error } => {
            vec![Check::judge("unwinding", "undone", format!("undo of `{step}` failed: {error}"), false)]
        }
    }
}

/// The record of a run over a database, with nothing measured or judged yet. The
/// database may have left the schedules since the run began.
fn record(
    cx: &StepContext,
    (name, database): (&DatabaseName, Option<&Database>),
    kind: &str,
    due_at: Option<Timestamp>,
) -> EvidenceRecord {
    record_of(cx, (name, database.map(|database| database.schedule.as_ref())), kind, due_at)
}

/// The same of a database by its schedule, whoever runs it.
fn record_of(
    cx: &StepContext,
    (name, schedule): (&DatabaseName, Option<&Loaded<ScheduleConfig>>),
    kind: &str,
    due_at: Option<Timestamp>,
) -> EvidenceRecord {
    EvidenceRecord {
        schema: RECORD_SCHEMA,
        run_id: cx.run_id().to_string(),
        kind: kind.to_owned(),
        subject: name.to_string(),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        plan: schedule.map(Loaded::plan_file),
        jurisdiction: schedule.and_then(|schedule| schedule.config.jurisdiction()),
        why: Why::of(due_at, cx.requester()),
        started_at: cx.created_at(),
        finished_at: cx.clock().now(),
        objectives: None,
        source: None,
        target: None,
        phases: phases(cx),
        measured: Measured::default(),
        checks: Vec::new(),
        isolation: Vec::new(),
        safety: Vec::new(),
        verdicts: BTreeMap::new(),
        verdict: Verdict::Error,
        findings: Vec::new(),
    }
}

/// The steps that succeeded, with how long each took.
fn phases(cx: &StepContext) -> Vec<Phase> {
    cx.step_times()
        .into_iter()
        .filter_map(|times| {
            let seconds = times.succeeded_at?.duration_since(times.began_at).as_secs_f64();
            Some(Phase { name: times.step, seconds })
        })
        .collect()
}

/// Adds the fields of one JSON object to another.
fn merge(figures: &mut Value, more: Value) {
    if let (Value::Object(figures), Value::Object(more)) = (figures, more) {
        figures.extend(more);
    }
}
