//! The one composition root: turns what the operator wrote into engines,
//! vaults, DNS providers, keys and flows. Nothing else constructs them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::join_all;

use crate::{
    clock::Clock,
    config::{
        self,
        daemon::DnsConfig,
        schedule::{LoginUser, MemberConfig},
    },
    db::{Db, DbError},
    decide::placement::Limits,
    dns::{Dns, DnsError, embedded::EmbeddedDns},
    domain::{DatabaseName, MemberName, NotifierName, RunbookName, VaultName, with_causes},
    engine::{
        EngineError,
        postgres::{
            Member, Postgres,
            protect::{BeatSession, Patience},
        },
    },
    evidence::EvidenceLog,
    flow::{Runner, Station},
    flows::{
        Database, Keys, ManagedDatabase, Parts, Resources, Vault, backup::BackupFlow, copy::CopyFlow, drill::DrillFlow,
        missed::MissedFlow, prune::PruneFlow, prune_snapshots::PruneSnapshotsFlow, restore_test::RestoreTestFlow,
        rotate_keys::RotateKeysFlow, self_test::SelfTestFlow, verify::VerifyFlow,
    },
    process::{Account, ProcessError},
    secrets::Secrets,
    vault::{
        self, Known, Owned, SharedStore, StoreError, VaultError, VaultIdentity,
        signature::{SignatureError, Signer, Verifier},
        visit,
    },
};

pub mod control;
mod known;
pub mod live;
mod login;
pub mod looks;
mod managed;
pub mod notifiers;
pub mod rebuild;
mod reopen;
pub mod secrets;
pub mod status;
mod stores;

use known::{KnownVaults, NothingKnown};
use looks::Looks;
use notifiers::{Notifier, open_notifiers};
use reopen::Origin;
use stores::{Buckets, Opened, open_stores, owned, shared};

/// Why nothing was started. All of it is the caller's to mend: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error(transparent)]
    State(#[from] DbError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the password of `{database}` cannot be read")]
    Password {
        database: DatabaseName,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{what} cannot change while the daemon runs; write it as it was, or restart the daemon")]
    Fixed { what: String },
    #[error("no schedule names the database `{name}`; {known}")]
    NoDatabase { name: String, known: String },
    #[error(
        "`{name}` is run by its provider, which keeps its backups as snapshots: this works on what a vault of ours holds; use `backup`, `backups`, `restore-test` or `status`"
    )]
    Managed { name: String },
    #[error("no provider runs `{name}`; give a command for databases with vaults")]
    NotManaged { name: String },
    #[error("no runbook is named `{name}`; {known}")]
    NoRunbook { name: String, known: String },
    #[error(
        "the signing key {path} is not here, so nobody knows whose backups to trust; name its fingerprint: `--signed-by SHA256:…` (the daemon printed it when the key was made)"
    )]
    NoSigningKey { path: PathBuf },
    #[error(
        "the signing key {path} is not here, and vault `{vault}` belongs to the key {owner}: put that key back; to restore without it say `--signed-by {owner}`; a new key needs vaults or prefixes of its own"
    )]
    LostSigningKey { path: PathBuf, vault: VaultName, owner: String },
}

/// Whether this process answers for DNS zones and drills, or only for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens DNS providers too; an embedded server binds its port.
    Everything,
    WithoutDns,
}

/// Everything a command or the daemon works with.
pub struct App {
    /// What the operator wrote.
    pub estate: config::Estate,
    pub clock: Clock,
    pub signer: Signer,
    /// All vaults, also those that no schedule names.
    pub vaults: BTreeMap<VaultName, Arc<Owned>>,
    pub notifiers: BTreeMap<NotifierName, Notifier>,
    pub resources: Arc<Resources>,
    pub runner: Arc<Runner>,
    /// What providers told last.
    pub looks: Looks,
    /// Where secrets are read; outlives edits of the files.
    pub secrets: Secrets,
    /// What each database was opened from.
    origins: BTreeMap<DatabaseName, Origin>,
}

impl App {
    /// Opens all that the files name. Connects to no database server.
    pub async fn open(estate: config::Estate, clock: Clock, role: Role) -> Result<Arc<Self>, SetUpError> {
        let secrets = Secrets::open(&estate.daemon);
        let Opened { stores: opened, buckets } = open_stores(&estate, &secrets, &clock).await;
        refuse_lost_key(&estate.daemon.keys.signing.file, &opened).await?;
        let (signer, is_new) = Signer::load_or_create(&estate.daemon.keys.signing.file)?;
        if is_new {
            tracing::info!(
                fingerprint = signer.verifier().fingerprint(),
                "made the signing key; keep this fingerprint outside the vaults"
            );
        }
        let db = Db::open(&estate.daemon.state.url).await?;
        let known: Arc<dyn Known> = Arc::new(KnownVaults(db.clone()));
        let vaults = owned(opened, Some(&signer), &known);
        let stores = shared(&vaults);
        let (mut databases, mut managed) = (BTreeMap::new(), BTreeMap::new());
        let mut origins = BTreeMap::new();
        for schedule in &estate.schedules {
            let (name, origin) = (schedule.config.database.clone(), Origin::of(&estate, schedule));
            login::look_here(&schedule.config, &secrets).await?;
            if schedule.config.managed().is_some() {
                managed.insert(name.clone(), Arc::new(managed::open(&estate, schedule, &secrets)?));
            } else {
                let around = Around { stores: &stores, buckets: &buckets, secrets: &secrets };
                let database = open_database(&estate, schedule, around, &signer)?;
                databases.insert(name.clone(), Arc::new(database));
            }
            origins.insert(name, origin);
        }
        let mirrors = stores.values().map(|store| (Arc::clone(store), String::new())).collect();
        let evidence = Arc::new(EvidenceLog::new(db.clone(), signer.clone(), mirrors, clock.clone()));
        let dns = match role {
            Role::Everything => open_dns(&estate, &clock).await?,
            Role::WithoutDns => BTreeMap::new(),
        };
        let runner = Runner::new(
            db.clone(),
            Station {
                node: estate.daemon.node.name.clone(),
                region: Some(estate.daemon.node.region.clone()),
                limits: Limits::default(),
            },
            clock.clone(),
            estate.daemon.node.lease.as_duration(),
        );
        let resources = Arc::new(Resources { databases, managed, agendas: estate.agendas(), dns, evidence, db });
        let notifiers = open_notifiers(&estate, &secrets, &clock);
        let looks = Looks::default();
        let app = Self { estate, clock, signer, vaults, notifiers, resources, runner, looks, secrets, origins };
        app.take_charge();
        Ok(Arc::new(app))
    }

    /// Has runs that begin from now on work with what is open here.
    pub fn take_charge(&self) {
        let resources = &self.resources;
        self.runner.register(Arc::new(BackupFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(PruneFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(PruneSnapshotsFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(CopyFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(MissedFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(RestoreTestFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(RotateKeysFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(SelfTestFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(VerifyFlow::new(Arc::clone(resources))));
        self.runner.register(Arc::new(DrillFlow::new(Arc::clone(resources) as Arc<_>)));
        self.runner.limit(limits(&self.estate));
    }

    pub fn database(&self, name: &DatabaseName) -> Result<&Arc<Database>, SetUpError> {
        self.resources.databases.get(name).ok_or_else(|| self.no_database(name))
    }

    /// One that a provider runs; none where nobody does.
    pub fn managed(&self, name: &DatabaseName) -> Option<&Arc<ManagedDatabase>> {
        self.resources.managed.get(name)
    }

    fn no_database(&self, name: &DatabaseName) -> SetUpError {
        if self.resources.managed.contains_key(name) {
            return SetUpError::Managed { name: name.to_string() };
        }
        let names = self.resources.databases.keys().chain(self.resources.managed.keys());
        SetUpError::NoDatabase { name: name.to_string(), known: listed(names, "schedules") }
    }

    /// The named database, or all of them.
    pub fn chosen(&self, name: Option<&DatabaseName>) -> Result<Vec<Arc<Database>>, SetUpError> {
        match name {
            Some(name) => Ok(vec![Arc::clone(self.database(name)?)]),
            None => Ok(self.resources.databases.values().cloned().collect()),
        }
    }

    pub fn runbook(&self, name: &RunbookName) -> Result<&config::Loaded<config::RunbookConfig>, SetUpError> {
        self.estate.runbooks.iter().find(|runbook| runbook.config.runbook == *name).ok_or_else(|| {
            SetUpError::NoRunbook {
                name: name.to_string(),
                known: listed(self.estate.runbooks.iter().map(|runbook| &runbook.config.runbook), "runbooks"),
            }
        })
    }

    /// Makes new vaults ours and brings the evidence log and its copies together,
    /// before a run is driven. Refuses to work on a vault that is another
    /// estate's; one that is away for the moment is told by whoever needs it.
    pub async fn settle(&self) -> Result<(), SetUpError> {
        let claims = self.vaults.iter().map(|(name, vault)| visit(name, vault.claim()));
        for claimed in join_all(claims).await {
            match claimed {
                Err(error @ StoreError::Foreign { .. }) => return Err(error.into()),
                Err(error) => tracing::warn!(error = %with_causes(&error), "a vault cannot be used"),
                Ok(()) => {}
            }
        }
        for (vault, error) in Box::pin(self.resources.evidence.settle()).await {
            tracing::warn!(%vault, %error, "evidence and this vault do not agree");
        }
        Ok(())
    }

    /// Where the law of a database's data is made.
    pub fn jurisdiction(&self, name: &DatabaseName) -> Option<String> {
        let own = self.resources.databases.get(name).map(|database| database.jurisdiction());
        own.or_else(|| self.managed(name).map(|database| database.jurisdiction()))?
    }

    /// The last part of the id of a run that a person asks for now.
    pub fn stamp(&self) -> String {
        format!("{}-{:04x}", self.clock.now().strftime("%Y%m%dt%H%M%Sz"), rand::random::<u16>())
    }
}

/// What the files say of how many runs may work on the same thing.
fn limits(estate: &config::Estate) -> Limits {
    let vaults = estate.daemon.vaults.iter().filter_map(|(name, vault)| Some((name.clone(), vault.runs_max()?)));
    let schedules = estate.schedules.iter().map(|schedule| &schedule.config);
    let databases = schedules.filter_map(|schedule| Some((schedule.database.clone(), schedule.runs_max?)));
    Limits { vaults: vaults.collect(), databases: databases.collect() }
}

/// A new key is made for new vaults alone: with it nothing that an older one signed
/// would count. A vault that is away refuses it when it is back.
async fn refuse_lost_key(path: &Path, stores: &BTreeMap<VaultName, SharedStore>) -> Result<(), SetUpError> {
    if path.exists() {
        return Ok(());
    }
    let read = stores.iter().map(|(name, store)| visit(name, VaultIdentity::read(store.as_ref())));
    for (name, found) in stores.keys().zip(join_all(read).await) {
        match found {
            Ok(Some(VaultIdentity { owner, .. })) => {
                return Err(SetUpError::LostSigningKey { path: path.to_owned(), vault: name.clone(), owner });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(vault = %name, error = %with_causes(&error), "whose this vault is is not known");
            }
        }
    }
    Ok(())
}

/// What there is instead of a name that nothing has.
fn listed<T: ToString>(names: impl Iterator<Item = T>, folder: &str) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() {
        return format!("there is none; write one as `{folder}/NAME.yaml`");
    }
    format!("there are: {}", names.join(", "))
}

async fn open_dns(estate: &config::Estate, clock: &Clock) -> Result<BTreeMap<String, Arc<dyn Dns>>, SetUpError> {
    let mut providers: BTreeMap<String, Arc<dyn Dns>> = BTreeMap::new();
    for (name, provider) in &estate.daemon.dns {
        let provider = match provider {
            DnsConfig::Embedded(embedded) => {
                EmbeddedDns::start(
                    embedded.listen,
                    &embedded.zone,
                    &embedded.records,
                    embedded.ttl_seconds,
                    embedded.file.clone(),
                    clock.clone(),
                )
                .await?
            }
        };
        providers.insert(name.clone(), Arc::new(provider));
    }
    Ok(providers)
}

/// The database that a command restores: without state database, DNS, server or
/// the server's password. `trusted` is who signed the backups: our own key where
/// it is here, when nobody else is named.
pub async fn open_for_restore(
    estate: &config::Estate,
    name: &DatabaseName,
    trusted: Option<Verifier>,
) -> Result<Database, SetUpError> {
    let schedule = without_login(scheduled(estate, name)?);
    let path = &estate.daemon.keys.signing.file;
    let verifier = match trusted {
        Some(verifier) => verifier,
        None if path.exists() => Signer::load_or_create(path)?.0.verifier(),
        None => return Err(SetUpError::NoSigningKey { path: path.clone() }),
    };
    let secrets = Secrets::open(&estate.daemon);
    let Opened { stores, buckets } = open_stores(estate, &secrets, &Clock::system()).await;
    let around = Around { stores: &stores, buckets: &buckets, secrets: &secrets };
    let mut database = open_database(estate, &schedule, around, &Signer::ephemeral())?;
    database.keys.verifier = verifier;
    Ok(database)
}

/// A database that its provider runs, to look at it there. Its login is not read.
pub fn open_managed(
    estate: &config::Estate,
    secrets: &Secrets,
    name: &DatabaseName,
) -> Result<ManagedDatabase, SetUpError> {
    let named = |schedule: &&Arc<config::Loaded<config::ScheduleConfig>>| schedule.config.database == *name;
    let Some(schedule) = estate.schedules.iter().find(named) else {
        let known = listed(estate.schedules.iter().map(|schedule| &schedule.config.database), "schedules");
        return Err(SetUpError::NoDatabase { name: name.to_string(), known });
    };
    managed::open(estate, &without_login(schedule), secrets)
}

/// The same for who never asks a server: nothing of the login is read.
fn without_login(
    schedule: &Arc<config::Loaded<config::ScheduleConfig>>,
) -> Arc<config::Loaded<config::ScheduleConfig>> {
    let mut schedule = Arc::clone(schedule);
    let login = &mut Arc::make_mut(&mut schedule).config.login;
    login.user = LoginUser::Written(login.role().to_owned());
    login.password = None;
    schedule
}

/// A database to look at.
#[derive(Debug)]
pub struct ToLook {
    pub database: Database,
    /// Why its servers cannot be asked: there is no password to log in with.
    pub unread: Option<SetUpError>,
}

/// The same to look at its servers and vaults. Neither a signing key nor a state
/// database is made for it; a vault is made ours where there is a key.
pub async fn open_to_look(
    estate: &config::Estate,
    secrets: &Secrets,
    name: &DatabaseName,
) -> Result<ToLook, SetUpError> {
    let path = &estate.daemon.keys.signing.file;
    let signer = if path.exists() { Some(Signer::load_or_create(path)?.0) } else { None };
    let url = &estate.daemon.state.url;
    let is_there = url.strip_prefix("sqlite:").is_none_or(|path| Path::new(path).exists());
    let known: Arc<dyn Known> =
        if is_there { Arc::new(KnownVaults(Db::open(url).await?)) } else { Arc::new(NothingKnown) };
    let Opened { stores, buckets } = open_stores(estate, secrets, &Clock::system()).await;
    let stores = shared(&owned(stores, signer.as_ref(), &known));
    let signer = signer.unwrap_or_else(Signer::ephemeral);
    let schedule = scheduled(estate, name)?;
    let unread = login::look(&schedule.config, secrets).await.err();
    let schedule = if unread.is_some() { without_login(schedule) } else { Arc::clone(schedule) };
    let around = Around { stores: &stores, buckets: &buckets, secrets };
    Ok(ToLook { database: open_database(estate, &schedule, around, &signer)?, unread })
}

fn scheduled<'a>(
    estate: &'a config::Estate,
    name: &DatabaseName,
) -> Result<&'a Arc<config::Loaded<config::ScheduleConfig>>, SetUpError> {
    let scheduled = estate.schedules.iter().find(|schedule| schedule.config.database == *name).ok_or_else(|| {
        SetUpError::NoDatabase {
            name: name.to_string(),
            known: listed(estate.schedules.iter().map(|schedule| &schedule.config.database), "schedules"),
        }
    })?;
    if scheduled.config.managed().is_some() {
        return Err(SetUpError::Managed { name: name.to_string() });
    }
    Ok(scheduled)
}

/// What all databases are opened with.
#[derive(Clone, Copy)]
struct Around<'a> {
    stores: &'a BTreeMap<VaultName, SharedStore>,
    buckets: &'a Buckets,
    secrets: &'a Secrets,
}

fn open_database(
    estate: &config::Estate,
    schedule: &Arc<config::Loaded<config::ScheduleConfig>>,
    Around { stores, buckets, secrets }: Around<'_>,
    signer: &Signer,
) -> Result<Database, SetUpError> {
    let daemon = &estate.daemon;
    let mut vaults = Vec::new();
    for name in &schedule.config.vaults {
        // `config::load` has made sure that they exist.
        let (Some(store), Some(config)) = (stores.get(name), daemon.vaults.get(name)) else { continue };
        vaults.push(Vault {
            store: Arc::clone(store),
            durability: config.durable(),
            lock_reach: config.lock_reach(),
            bucket: buckets.get(name).cloned(),
        });
    }
    let keys = Keys {
        recipients: vault::recipients_from(&daemon.keys.recipients)?,
        identity: daemon.keys.identity.as_ref().map(|identity| secrets.referred(identity, "`keys.identity`")),
        escrow: daemon.keys.escrow.as_ref().map(|escrow| secrets.referred(escrow, "`keys.escrow`")),
        signer: signer.clone(),
        verifier: signer.verifier(),
    };
    Ok(Database::new(Parts {
        engine: Arc::new(open_postgres(&schedule.config, secrets)?),
        schedule: Arc::clone(schedule),
        vaults,
        keys,
        region: daemon.node.region.clone(),
        scratch: daemon.node.scratch.clone().unwrap_or_else(std::env::temp_dir),
    }))
}

/// The PostgreSQL of a schedule; `check --connect` looks at it through this too.
fn open_postgres(schedule: &config::ScheduleConfig, secrets: &Secrets) -> Result<Postgres, SetUpError> {
    Ok(Postgres {
        database: schedule.database.clone(),
        members: schedule.all_members().into_iter().map(member).collect(),
        login: login::of(schedule, secrets),
        account: Account::for_postgres()?,
        beats: BeatSession::default(),
        patience: Patience::default(),
    })
}

fn member((name, config): (MemberName, MemberConfig)) -> Member {
    Member { name, host: config.host, port: config.port, site: config.site }
}
