//! What servers are logged in to with: asked for at each login, as passwords rotate and
//! leases end while the daemon runs.

use std::{error::Error, fmt};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::Login;
use crate::engine::EngineError;

/// A role and its password.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: Option<SecretString>,
}

impl Credentials {
    fn is_same_as(&self, other: &Self) -> bool {
        let text = |of: &Self| of.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.user == other.user && text(self) == text(other)
    }
}

/// Where credentials are found. Its errors name references and never secrets.
#[async_trait]
pub trait CredentialSource: Send + Sync + fmt::Debug {
    /// What to log in with now.
    async fn read(&self) -> Result<Credentials, CredentialError>;

    /// The same after a server has refused what `read` answered: nothing that was kept counts.
    async fn read_anew(&self) -> Result<Credentials, CredentialError>;
}

/// Why there are none.
#[derive(Debug)]
pub struct CredentialError {
    /// Whether it stays so until a person acts.
    pub is_permanent: bool,
    pub source: Box<dyn Error + Send + Sync>,
}

impl Login {
    /// What to log in with now.
    pub(super) async fn credentials(&self) -> Result<Credentials, EngineError> {
        let Some(source) = &self.credentials else {
            return Ok(Credentials { user: self.user.clone(), password: None });
        };
        source.read().await.map_err(|CredentialError { is_permanent, source }| EngineError::Credentials {
            role: self.user.clone(),
            is_permanent,
            source,
        })
    }

    /// What to try once more with, where a server has refused `refused` and its source says
    /// something else by now.
    pub(super) async fn other_after(&self, error: &EngineError, refused: &Credentials) -> Option<Credentials> {
        let EngineError::Login { is_password: true, .. } = error else { return None };
        match self.credentials.as_ref()?.read_anew().await {
            Ok(other) => (!other.is_same_as(refused)).then_some(other),
            Err(CredentialError { source, .. }) => {
                let error = crate::domain::with_causes(source.as_ref());
                tracing::warn!(role = self.user, error, "a refused login could not be read anew");
                None
            }
        }
    }
}
