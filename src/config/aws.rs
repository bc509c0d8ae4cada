//! How Amazon's services are reached by this node, whichever of them and in whichever
//! region. As whom is the SDK's to find (environment, profile, container, instance) where
//! no access key is named.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::vault::CredentialsConfig;

/// How Amazon's services are reached.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// `https://HOST` of all services, for private endpoints; Amazon's own when absent.
    #[schemars(extend("format" = "aws-endpoint"))]
    pub endpoint: Option<String>,
    /// Whether the endpoints are those that are validated by FIPS 140.
    #[serde(default)]
    pub fips: bool,
    /// An access key to call them with, or to assume roles with; what the SDK finds when absent.
    pub credentials: Option<CredentialsConfig>,
}

impl AwsConfig {
    /// Makes the paths in it absolute; they start from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        if let Some(key) = &mut self.credentials {
            key.anchor(folder);
        }
    }
}
