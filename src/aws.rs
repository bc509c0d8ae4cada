//! Amazon's services: where and as whom they are called, how often a call is repeated,
//! and what an answer means. The calls of a service stand where they are used; each gets
//! its settings from here.
//!
//! What must never happen: a call to a region that nobody named, a key in an error, a call
//! that could change something repeated where it is not known to be idempotent.

use std::{fmt, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, sts::AssumeRoleProvider, timeout::TimeoutConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use serde::{Deserialize, Serialize};

use crate::domain::Region;

mod failure;
mod keys;

pub use failure::{AwsError, Call, Kind};
pub(crate) use keys::Provider;
pub use keys::{AccessKey, KeySource};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For one call, once it is sent.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// For a call with all that is repeated of it.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// How often a call is sent that is throttled or whose answer is lost.
const ATTEMPTS: u32 = 6;

/// Where and as whom services are called.
#[derive(Debug, Clone)]
pub struct Access {
    pub region: Region,
    /// `https://HOST` of all services, for private endpoints; Amazon's own when absent.
    pub endpoint: Option<String>,
    /// Whether the endpoints are those that are validated by FIPS 140.
    pub use_fips: bool,
    /// As whom, before a role is assumed; as whoever the environment, profile, container or
    /// instance says when absent.
    pub keys: Option<Arc<dyn KeySource>>,
    pub role: Option<Role>,
}

/// A role that is assumed for one database and one duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    pub arn: String,
    /// What the other account asks for, where the role is another account's.
    pub external_id: Option<String>,
    /// Names the connection in the account's own log.
    pub session_name: String,
    /// Key and value: what policies may ask for.
    pub session_tags: Vec<(String, String)>,
}

/// Who calls are made as, as the security token service says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub account: String,
    pub arn: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

impl Access {
    /// The same in another region.
    #[must_use]
    pub fn in_region(&self, region: &Region) -> Self {
        Self { region: region.clone(), ..self.clone() }
    }

    /// The settings of every client. Throttled calls slow all that use them down. Connects
    /// nowhere; credentials are fetched when the first call needs them, and again before
    /// they expire.
    pub async fn settings(&self) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(aws_config::Region::new(self.region.to_string()))
            .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_LIMIT)
                    .operation_attempt_timeout(ATTEMPT_LIMIT)
                    .operation_timeout(CALL_LIMIT)
                    .build(),
            );
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(keys) = &self.keys {
            loader = loader.credentials_provider(Provider(Arc::clone(keys)));
        }
        if self.use_fips {
            loader = loader.use_fips(true);
        }
        let settings = Box::pin(loader.load()).await;
        let Some(role) = &self.role else { return settings };
        let mut assumed = AssumeRoleProvider::builder(&role.arn)
            .session_name(&role.session_name)
            .tags(role.session_tags.clone())
            .configure(&settings);
        if let Some(id) = &role.external_id {
            assumed = assumed.external_id(id);
        }
        let provider = Box::pin(assumed.build()).await;
        settings.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
    }
}

/// Who calls with these settings are made as.
pub async fn identity(settings: &SdkConfig) -> Result<Identity, AwsError> {
    let call = Call::of("sts", settings, "ask who calls are made as", "sts:GetCallerIdentity");
    let answer = aws_sdk_sts::Client::new(settings).get_caller_identity().send().await;
    let answer = answer.map_err(|error| call.failed(error))?;
    let absent = || call.unreadable("neither account nor ARN");
    Ok(Identity { account: answer.account.ok_or_else(absent)?, arn: answer.arn.ok_or_else(absent)? })
}
