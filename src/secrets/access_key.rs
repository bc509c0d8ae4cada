//! Access keys of AWS, and of stores that speak S3, whose secret part is found where a
//! reference says.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;

use super::{Secret, Secrets};
use crate::{
    aws::{AccessKey, KeySource},
    config::CredentialsConfig,
};

#[derive(Debug)]
struct Referred {
    id: String,
    secret: Secret,
    session_token: Option<Secret>,
}

impl Secrets {
    /// Read at each use of it; `purpose` says what it is for, in the log.
    pub fn access_key(&self, key: &CredentialsConfig, purpose: &str) -> Arc<dyn KeySource> {
        let referred = |reference| self.referred(reference, purpose);
        Arc::new(Referred {
            id: key.access_key_id.clone(),
            secret: referred(&key.secret_access_key),
            session_token: key.session_token.as_ref().map(referred),
        })
    }
}

#[async_trait]
impl KeySource for Referred {
    async fn key(&self) -> Result<AccessKey, Box<dyn Error + Send + Sync>> {
        let session_token = match &self.session_token {
            Some(token) => Some(token.read().await?),
            None => None,
        };
        Ok(AccessKey { id: self.id.clone(), secret: self.secret.read().await?, session_token })
    }
}
