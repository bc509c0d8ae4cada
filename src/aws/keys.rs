//! Access keys that are configured, and not found by the SDK's own chain. Held in memory
//! only, and asked for anew every 15 minutes, so that a rotated one is found.

use std::{error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use secrecy::{ExposeSecret, SecretString};

/// An access key.
#[derive(Debug, Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: SecretString,
    pub session_token: Option<SecretString>,
}

/// Where an access key is kept. Its errors name references and never secrets.
#[async_trait]
pub trait KeySource: fmt::Debug + Send + Sync {
    async fn key(&self) -> Result<AccessKey, Box<dyn Error + Send + Sync>>;
}

/// Gives the SDK what a source holds.
#[derive(Debug)]
pub(crate) struct Provider(pub(crate) Arc<dyn KeySource>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let key = self.0.key().await.map_err(CredentialsError::provider_error)?;
            let token = key.session_token.map(|token| token.expose_secret().to_owned());
            Ok(Credentials::new(key.id, key.secret.expose_secret(), token, None, "lifeboat"))
        })
    }
}
