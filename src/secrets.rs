//! Reads secrets where references of the configuration say they are, each time one is
//! needed, so that a rotated one is found. A new source is a variant of
//! `config::SecretRef`, a file here, and its line in `Sources::fetch`.
//!
//! What a call over the network has answered serves for a minute, and what is leased as
//! long as its lease goes on. Each such call is told in the log, with who asked and never
//! with what was answered.
//!
//! What must never happen: a secret in an error, a log line or what `Debug` shows; or one
//! of another place than the reference names.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use secrecy::SecretString;
use tokio::time::timeout;

use crate::{
    config::{AwsConfig, DaemonConfig, SecretRef},
    domain::with_causes,
    process::Tasks,
};

mod access_key;
mod aws;
mod command;
mod document;
mod env;
mod error;
mod file;
mod hashicorp;
mod kept;
mod lease;
mod secretsmanager;
mod ssm;

pub use error::SecretError;
pub use hashicorp::HashicorpError;

use document::Document;
use kept::{Age, Fetched, Kept, Slot};

/// How long a store may take, with all that is asked again of it.
const LIMIT: Duration = Duration::from_secs(20);

/// All sources, as the configuration describes them.
#[derive(Clone)]
pub struct Secrets(Arc<Sources>);

struct Sources {
    aws: Arc<aws::Regions>,
    hashicorp: Option<Arc<hashicorp::Server>>,
    /// What stores have answered, by what was asked for.
    kept: Mutex<HashMap<SecretRef, Slot>>,
    /// Calls that go on where who asked does not wait: what they are granted is not lost.
    tasks: Tasks,
}

/// A secret that can be read whenever it is needed.
#[derive(Clone)]
pub struct Secret {
    reference: SecretRef,
    /// What it is for, in the log.
    purpose: String,
    sources: Arc<Sources>,
}

/// Who may have leased something to this process, so that it can be given back at the end.
static OPEN: Mutex<Vec<Arc<hashicorp::Server>>> = Mutex::new(Vec::new());

/// Gives back whatever this process has leased. To be called once, when nothing is
/// connected with it any more.
pub async fn give_back_all() {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for server in open {
        server.give_back().await;
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.reference).finish()
    }
}

impl Secrets {
    /// As `lifeboat.yaml` describes them. Connects nowhere yet.
    pub fn open(daemon: &DaemonConfig) -> Self {
        // What lets us in to AWS comes from this machine, and what lets us in to a Vault from elsewhere.
        let here = Self(Arc::new(Sources::here()));
        let key = daemon.aws.credentials.as_ref().map(|key| here.access_key(key, "calls of AWS"));
        let aws = Arc::new(aws::Regions::new(daemon.aws.clone(), key));
        let elsewhere = Self(Arc::new(Sources::new(Arc::clone(&aws), None)));
        let vault = daemon.secret_stores.vault.clone();
        let server = vault.map(|config| Arc::new(hashicorp::Server::new(config, &elsewhere)));
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).extend(server.clone());
        Self(Arc::new(Sources::new(aws, server)))
    }

    /// A secret where this reference says; `purpose` says what it is for, in the log.
    pub fn referred(&self, reference: &SecretRef, purpose: impl Into<String>) -> Secret {
        Secret { reference: reference.clone(), purpose: purpose.into(), sources: Arc::clone(&self.0) }
    }
}

impl Secret {
    /// One that needs no store: a variable, a file or a command.
    pub fn local(reference: SecretRef) -> Self {
        Self { reference, purpose: "given by the caller".to_owned(), sources: Arc::new(Sources::here()) }
    }

    /// What it is now. A store's answer may be a minute old.
    pub fn read(&self) -> BoxFuture<'_, Result<SecretString, SecretError>> {
        Box::pin(self.sources.read(self, Age::Usual))
    }

    /// What it is now, where what was read before turned out to be of no use.
    pub fn read_anew(&self) -> BoxFuture<'_, Result<SecretString, SecretError>> {
        Box::pin(self.sources.read(self, Age::Anew))
    }

    /// Where it comes from, for messages.
    pub fn origin(&self) -> String {
        self.reference.origin()
    }
}

impl Sources {
    /// Variables, files and commands.
    fn here() -> Self {
        Self::new(Arc::new(aws::Regions::new(AwsConfig::default(), None)), None)
    }

    fn new(aws: Arc<aws::Regions>, hashicorp: Option<Arc<hashicorp::Server>>) -> Self {
        Self { aws, hashicorp, kept: Mutex::default(), tasks: Tasks::new() }
    }

    /// Asks where it is kept.
    async fn fetch(&self, reference: &SecretRef) -> Result<Fetched, SecretError> {
        match reference {
            SecretRef::Env(name) => env::read(name).map(Fetched::shared),
            SecretRef::File(file) => file::read(file).await.map(Fetched::shared),
            SecretRef::Command(argv) => command::read(argv).await.map(Fetched::shared),
            SecretRef::SecretsManager(secret) => secretsmanager::read(&self.aws, secret).await.map(Fetched::shared),
            SecretRef::Ssm(parameter) => ssm::read(&self.aws, parameter).await.map(Fetched::shared),
            SecretRef::HashicorpVault(secret) => match &self.hashicorp {
                Some(server) => Ok(server.read(&secret.vault).await?),
                None => Err(SecretError::NoStore { origin: reference.origin() }),
            },
        }
    }

    async fn read(self: &Arc<Self>, secret: &Secret, age: Age) -> Result<SecretString, SecretError> {
        let Secret { reference, purpose, .. } = secret;
        if !reference.is_remote() {
            tracing::debug!(secret = reference.origin(), purpose, "read a secret");
            return self.fetch(reference).await?.document.field(reference);
        }
        let (sources, asked) = (Arc::clone(self), secret.clone());
        let read = async move { timeout(LIMIT, sources.read_kept(&asked, age)).await };
        let read = match self.tasks.spawn(read).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => Err(SecretError::Silent { origin: reference.origin(), limit: LIMIT }),
        };
        read.inspect_err(|error| {
            // Whoever asked tells of it.
            tracing::debug!(secret = reference.origin(), purpose, error = with_causes(error), "a secret was not read");
        })
    }

    /// The same of a store, whose last answer may serve.
    async fn read_kept(&self, secret: &Secret, age: Age) -> Result<SecretString, SecretError> {
        let Secret { reference, purpose, .. } = secret;
        // Those who ask at the same time wait for one call.
        let slot = self.slot(reference.whole());
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_ref().filter(|kept| kept.serves(age)) {
            tracing::debug!(secret = reference.origin(), version = kept.version(), purpose, "used a secret again");
            return kept.document().field(reference);
        }
        if let Some(outdated) = slot.take() {
            outdated.give_up();
        }
        let kept = slot.insert(Kept::new(self.fetch(reference).await?));
        let (origin, lease) = (reference.origin(), kept.lease());
        tracing::info!(
            secret = origin,
            key = reference.key(),
            version = kept.version(),
            lease,
            purpose,
            "read a secret"
        );
        kept.document().field(reference)
    }

    fn slot(&self, whole: SecretRef) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(kept.entry(whole).or_default())
    }
}
