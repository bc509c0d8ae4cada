//! What the stores of AWS share: settings of each region, and what a failed call means.

use std::{collections::BTreeMap, sync::Arc};

use aws_config::{SdkConfig, retry::RetryConfig};
use tokio::sync::Mutex;

use super::SecretError;
use crate::{
    aws::{Access, AwsError, KeySource},
    config::AwsConfig,
    domain::Region,
};

/// How often a call is sent whose answer is lost.
const ATTEMPTS: u32 = 3;

/// Settings of the regions that were asked so far; they hold the credentials of this node.
pub(super) struct Regions {
    config: AwsConfig,
    keys: Option<Arc<dyn KeySource>>,
    open: Mutex<BTreeMap<Region, SdkConfig>>,
}

impl Regions {
    /// `keys` is what `config.credentials` refers to.
    pub(super) fn new(config: AwsConfig, keys: Option<Arc<dyn KeySource>>) -> Self {
        Self { config, keys, open: Mutex::default() }
    }

    pub(super) async fn settings(&self, region: &Region) -> SdkConfig {
        let mut open = self.open.lock().await;
        if let Some(settings) = open.get(region) {
            return settings.clone();
        }
        let AwsConfig { endpoint, fips, .. } = self.config.clone();
        let keys = self.keys.clone();
        let access = Access { region: region.clone(), endpoint, use_fips: fips, keys, role: None };
        let settings = Box::pin(access.settings()).await.into_builder();
        // Somebody waits to log in, and asks again.
        let settings = settings.retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS)).build();
        open.insert(region.clone(), settings.clone());
        settings
    }
}

/// What a failed call for the secret from `origin` means.
pub(super) fn failed(origin: String, source: AwsError) -> SecretError {
    // The codes of Secrets Manager and SSM for a KMS key that is disabled, deleted or not ours to use.
    let is_of_key = ["DecryptionFailure", "InvalidKeyId", "KMSInvalidStateException"].contains(&source.code.as_str());
    let source = Box::new(source);
    if is_of_key { SecretError::Key { origin, source } } else { SecretError::Aws { origin, source } }
}
