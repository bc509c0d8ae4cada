//! Who logs in to a database, from what its schedule says: read at each login, as
//! passwords rotate and leases end while the daemon runs.

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;

use super::SetUpError;
use crate::{
    config::{
        ScheduleConfig, SecretRef,
        schedule::{LoginConfig, LoginUser, SslMode},
    },
    engine::postgres::{ClientCertificate, CredentialError, CredentialSource, Credentials, Login, Tls},
    secrets::{Secret, SecretError, Secrets},
};

/// What a schedule's `login` names.
#[derive(Debug)]
struct Written {
    user: User,
    password: Option<Secret>,
}

#[derive(Debug)]
enum User {
    Named(String),
    Referred(Secret),
}

/// Whether an answer that is kept may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Usual,
    Anew,
}

/// How to log in to a schedule's servers. Reads nothing yet.
pub(super) fn of(schedule: &ScheduleConfig, secrets: &Secrets) -> Login {
    let login = &schedule.login;
    let tls = match login.sslmode {
        SslMode::Disable => Tls::Disable,
        SslMode::Require => Tls::Require,
        SslMode::VerifyFull => Tls::VerifyFull { root_certificate: login.sslrootcert.clone() },
    };
    let certificate = match (&login.sslcert, &login.sslkey) {
        (Some(chain), Some(key)) => Some(ClientCertificate { chain: chain.clone(), key: key.clone() }),
        // The rules of the configuration have refused one without the other.
        _ => None,
    };
    Login {
        user: login.role().to_owned(),
        credentials: credentials(schedule, secrets),
        tls,
        certificate,
        dbname: login.dbname.clone(),
    }
}

/// What a schedule logs in with; none where it is a role without a password.
fn credentials(schedule: &ScheduleConfig, secrets: &Secrets) -> Option<Arc<dyn CredentialSource>> {
    let LoginConfig { user, password, .. } = &schedule.login;
    let purpose = format!("the login to `{}`", schedule.database);
    if let (LoginUser::Written(_), None) = (user, password) {
        return None;
    }
    let user = match user {
        LoginUser::Written(name) => User::Named(name.clone()),
        LoginUser::Referred(reference) => User::Referred(secrets.referred(reference, purpose.clone())),
    };
    Some(Arc::new(Written { user, password: password.as_ref().map(|password| secrets.referred(password, purpose)) }))
}

/// Whether a schedule's `login` can be read.
pub(super) async fn look(schedule: &ScheduleConfig, secrets: &Secrets) -> Result<(), SetUpError> {
    let Some(source) = credentials(schedule, secrets) else { return Ok(()) };
    let failed = |CredentialError { source, .. }| SetUpError::Password { database: schedule.database.clone(), source };
    source.read().await.map(drop).map_err(failed)
}

/// The same of what lies on this node. A store is asked when somebody logs in: it may be
/// away, and commands that ask no server need nothing of it.
pub(super) async fn look_here(schedule: &ScheduleConfig, secrets: &Secrets) -> Result<(), SetUpError> {
    let LoginConfig { user, password, .. } = &schedule.login;
    let user = match user {
        LoginUser::Written(_) => None,
        LoginUser::Referred(reference) => Some(reference),
    };
    if user.into_iter().chain(password).any(SecretRef::is_remote) {
        return Ok(());
    }
    look(schedule, secrets).await
}

impl Written {
    async fn ask(&self, age: Age) -> Result<Credentials, SecretError> {
        let read = async |secret: &Secret| match age {
            Age::Usual => secret.read().await,
            Age::Anew => secret.read_anew().await,
        };
        let user = match &self.user {
            User::Named(name) => name.clone(),
            User::Referred(secret) => read(secret).await?.expose_secret().to_owned(),
        };
        let password = match &self.password {
            Some(secret) => Some(read(secret).await?),
            None => None,
        };
        Ok(Credentials { user, password })
    }
}

#[async_trait]
impl CredentialSource for Written {
    async fn read(&self) -> Result<Credentials, CredentialError> {
        self.ask(Age::Usual).await.map_err(unread)
    }

    async fn read_anew(&self) -> Result<Credentials, CredentialError> {
        self.ask(Age::Anew).await.map_err(unread)
    }
}

fn unread(error: SecretError) -> CredentialError {
    CredentialError { is_permanent: error.is_permanent(), source: Box::new(error) }
}
