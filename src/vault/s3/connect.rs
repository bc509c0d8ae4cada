//! Clients of an S3 store, from what was configured. Requests have time limits
//! and are sent once: repeating them is `Retrying`'s, which everything shares.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::{
    Client,
    config::{
        ConfigBag, Intercept, Region as SigningRegion, RuntimeComponents, StalledStreamProtectionConfig,
        interceptors::AfterDeserializationInterceptorContextRef,
    },
    error::BoxError,
};

use crate::{
    aws::{KeySource, Provider},
    domain::{Region, archive::Thawing},
    vault::visit::heard,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For one request with what it sends: a part of 8 MiB beside three others over 3 Mbit/s.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(120);
/// For one that sends next to nothing: a listing's page, an object's description,
/// an object until it begins to come.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// A body of which nothing arrives for so long has stalled.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// What a vault in an S3 store was configured as.
#[derive(Debug, Clone)]
pub struct S3Options {
    pub bucket: String,
    pub region: Region,
    /// Empty, or ends in `/`.
    pub prefix: String,
    /// None for Amazon's own.
    pub endpoint: Option<String>,
    /// Bucket in the path, and not in the host name.
    pub path_style: bool,
    /// What requests are signed for where the store names its regions otherwise.
    pub signing_region: Option<String>,
    /// None for the default chain: environment, profile, container, instance.
    pub credentials: Option<Arc<dyn KeySource>>,
    /// For deletes alone.
    pub delete_credentials: Option<Arc<dyn KeySource>>,
    /// None for the bucket's default encryption.
    pub kms_key: Option<String>,
    /// As S3 spells it; none for the bucket's default.
    pub storage_class: Option<String>,
    /// How copies are asked for of what lies in an archive.
    pub thawing: Thawing,
    /// Whether and how objects are locked.
    pub object_lock: Option<LockMode>,
    /// How long one request may take, with what it sends.
    pub request_limit: Duration,
}

/// How firmly objects are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Who has a right of its own may still delete.
    Governance,
    /// Nobody can delete before the time, not even the account's owner.
    Compliance,
}

/// Tells whoever visits the vault that it answers.
#[derive(Debug)]
struct Answers;

impl Intercept for Answers {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn read_after_deserialization(
        &self,
        _answer: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        heard();
        Ok(())
    }
}

/// What a bucket is asked with.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// For what sends content.
    pub(super) sender: Client,
    /// For what is answered at once.
    pub(super) asker: Client,
    /// For deletes: with credentials of its own where some are configured.
    pub(super) deleter: Client,
}

fn limits(request_limit: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(request_limit)
        .operation_attempt_timeout(request_limit)
        .operation_timeout(request_limit)
        .build()
}

/// Connects nowhere yet.
pub(super) async fn clients(options: &S3Options) -> Clients {
    let signing = options.signing_region.clone().unwrap_or_else(|| options.region.to_string());
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(SigningRegion::new(signing))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_LIMIT).build());
    if let Some(source) = &options.credentials {
        loader = loader.credentials_provider(Provider(Arc::clone(source)));
    }
    let shared = Box::pin(loader.load()).await;
    let ask_limit = options.request_limit.min(ASK_LIMIT);
    let client = |limit, source| client(options, &shared, limit, source);
    let asker = client(ask_limit, None);
    let deleter = match &options.delete_credentials {
        Some(source) => client(ask_limit, Some(source)),
        None => asker.clone(),
    };
    Clients { sender: client(options.request_limit, None), asker, deleter }
}

fn client(options: &S3Options, shared: &SdkConfig, limit: Duration, source: Option<&Arc<dyn KeySource>>) -> Client {
    let mut config = aws_sdk_s3::config::Builder::from(shared)
        .force_path_style(options.path_style)
        .timeout_config(limits(limit))
        .interceptor(Answers);
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if let Some(source) = source {
        config = config.credentials_provider(Provider(Arc::clone(source)));
    }
    Client::from_conf(config.build())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use async_trait::async_trait;
    use aws_sdk_s3::presigning::PresigningConfig;

    use super::*;
    use crate::aws::AccessKey;

    #[derive(Debug)]
    struct Known;

    #[async_trait]
    impl KeySource for Known {
        async fn key(&self) -> Result<AccessKey, Box<dyn Error + Send + Sync>> {
            Ok(AccessKey { id: "AKIA1".to_owned(), secret: "secret".into(), session_token: None })
        }
    }

    #[tokio::test]
    async fn requests_go_where_the_configuration_says() {
        for (endpoint, path_style, signing, wanted, scope) in [
            (None, false, None, "https://bkt.s3.eu-south-1.amazonaws.com/x?", "eu-south-1"),
            (None, true, None, "https://s3.eu-south-1.amazonaws.com/bkt/x?", "eu-south-1"),
            (Some("https://s3.example.com"), false, None, "https://bkt.s3.example.com/x?", "eu-south-1"),
            (Some("https://s3.example.com:9000/"), true, Some("auto"), "https://s3.example.com:9000/bkt/x?", "auto"),
        ] {
            let options = S3Options {
                bucket: "bkt".to_owned(),
                region: "eu-south-1".parse().unwrap(),
                prefix: String::new(),
                endpoint: endpoint.map(str::to_owned),
                path_style,
                signing_region: signing.map(str::to_owned),
                credentials: Some(Arc::new(Known)),
                delete_credentials: None,
                kms_key: None,
                storage_class: None,
                thawing: Thawing::default(),
                object_lock: None,
                request_limit: REQUEST_LIMIT,
            };
            let client = clients(&options).await.asker;
            let until = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
            let request = client.get_object().bucket("bkt").key("x").presigned(until).await.unwrap();
            assert!(request.uri().starts_with(wanted), "{}", request.uri());
            assert!(request.uri().contains(&format!("%2F{scope}%2Fs3")), "{}", request.uri());
        }
    }
}
