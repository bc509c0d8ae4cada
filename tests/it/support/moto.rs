//! An S3 server over HTTP: moto, from the folder that `deploy/install-python`
//! fills. It is an emulator, and proves nothing about what it only pretends: it
//! accepts an upload with a wrong checksum, lets a compliance lock be shortened
//! (and answers what lock there is through the script beside this file only),
//! and checks signatures only where it is told to.

use std::{path::PathBuf, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration},
};
use lifeboat::{
    aws::{AccessKey, KeySource},
    clock::Clock,
    domain::archive::Thawing,
    process::Program,
    vault::{
        S3Store,
        s3::{REQUEST_LIMIT, S3Options},
    },
};

use super::{eventually, scratch};

pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const KEY_ID: &str = "AKIALIFEBOATTEST0001";
pub(crate) const SECRET: &str = "a-secret-that-must-never-be-shown";

/// A running server with no buckets, stopped when dropped.
pub(crate) struct Moto {
    pub endpoint: String,
    server: tokio::process::Child,
    _folder: tempfile::TempDir,
}

/// What a bucket can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Versioned,
    Locking,
}

/// The Python that has what tests need that is no Debian package.
pub(super) fn program() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the set-up put it")]
    let cache = std::env::var("XDG_CACHE_HOME")
        .map_or_else(|_| PathBuf::from(std::env::var("HOME").unwrap()).join(".cache"), PathBuf::from);
    let program = cache.join("lifeboat/moto-5.2.5/bin/python");
    assert!(program.exists(), "{} is missing: run deploy/install-python", program.display());
    program
}

impl Moto {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more in its environment.
    pub(crate) async fn start_with(envs: &[(&str, &str)]) -> Self {
        Self::start_at(0, envs).await
    }

    /// The same on this port, any when 0.
    pub(crate) async fn start_at(port: u16, envs: &[(&str, &str)]) -> Self {
        let folder = scratch();
        let log = folder.path().join("log");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/moto_server.py");
        let mut server = Program::new(program()).arg(script).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        for (name, value) in envs {
            server = server.env(name, value);
        }
        let server = server.start(std::fs::File::create(&log).unwrap()).unwrap();
        let told = || std::fs::read_to_string(&log).unwrap();
        let port = || {
            let text = told();
            let rest = text.split("Running on http://127.0.0.1:").nth(1)?;
            rest.split_once('\n').map(|(port, _)| port.trim().to_owned())
        };
        // It names its port before it takes connections.
        let answers =
            || async { port().is_some_and(|port| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()) };
        eventually("moto answers", Duration::from_secs(60), answers).await;
        Self { endpoint: format!("http://127.0.0.1:{}", port().unwrap()), server, _folder: folder }
    }

    /// Ends it at once, whatever it is doing.
    pub(crate) async fn kill(mut self) {
        self.server.kill().await.unwrap();
    }

    /// A client of nobody's code but the SDK's, to prepare, look and meddle with.
    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    pub(crate) async fn bucket(&self, name: &str, kind: Kind) -> Client {
        let client = self.client();
        let place = BucketLocationConstraint::from(REGION);
        client
            .create_bucket()
            .bucket(name)
            .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build())
            .set_object_lock_enabled_for_bucket((kind == Kind::Locking).then_some(true))
            .send()
            .await
            .unwrap();
        if kind != Kind::Plain {
            let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            client.put_bucket_versioning().bucket(name).versioning_configuration(on).send().await.unwrap();
        }
        client
    }
}

/// An access key that is there at once.
#[derive(Debug, Clone)]
pub(crate) struct Known(pub &'static str);

#[async_trait::async_trait]
impl KeySource for Known {
    async fn key(&self) -> Result<AccessKey, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AccessKey { id: self.0.to_owned(), secret: SECRET.into(), session_token: None })
    }
}

/// A vault in this bucket, as nothing but the bucket's name and place say.
pub(crate) fn options(endpoint: &str, bucket: &str) -> S3Options {
    S3Options {
        bucket: bucket.to_owned(),
        region: REGION.parse().unwrap(),
        prefix: "prod/".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        signing_region: None,
        credentials: Some(std::sync::Arc::new(Known(KEY_ID))),
        delete_credentials: None,
        kms_key: None,
        storage_class: None,
        thawing: Thawing::default(),
        object_lock: None,
        request_limit: REQUEST_LIMIT,
    }
}

pub(crate) async fn open(options: S3Options) -> S3Store {
    S3Store::open("dr".parse().unwrap(), options, Clock::system()).await
}
