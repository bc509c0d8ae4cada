//! An S3 server on this machine: moto, an emulator, from the folder that
//! `deploy/install-python` fills.

use std::{path::PathBuf, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{BucketLocationConstraint, CreateBucketConfiguration},
};
use lifeboat::process::Program;

use super::estate::Estate;

const REGION: &str = "eu-central-1";
const KEY_ID: &str = "AKIALIFEBOATBENCH001";
pub(crate) const SECRET: &str = "a-benchmark-needs-no-secret";
pub(crate) const BUCKET: &str = "backups";

pub(crate) struct Emulator {
    endpoint: String,
    server: tokio::process::Child,
}

impl Emulator {
    /// A server with an empty bucket.
    pub(crate) async fn start(estate: &Estate) -> Self {
        let log = estate.folder("moto").join("log");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/moto_server.py");
        let server = Program::new(python()).arg(script).args(["-H", "127.0.0.1", "-p", "0"]);
        let server = server.start(std::fs::File::create(&log).unwrap()).unwrap();
        let endpoint = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let address = text.split("Running on http://").nth(1).and_then(|rest| rest.split_once('\n'));
            if let Some(address) = address.map(|(address, _)| address.trim().to_owned())
                && std::net::TcpStream::connect(&address).is_ok()
            {
                break format!("http://{address}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let emulator = Self { endpoint, server };
        let place = BucketLocationConstraint::from(REGION);
        let place = CreateBucketConfiguration::builder().location_constraint(place).build();
        emulator.client().create_bucket().bucket(BUCKET).create_bucket_configuration(place).send().await.unwrap();
        emulator
    }

    pub(crate) fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "bench"))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    /// The vault as the configuration names it.
    pub(crate) fn vault(&self) -> String {
        format!(
            "{{kind: s3, bucket: {BUCKET}, region: {REGION}, endpoint: \"{}\", \
             credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: s3.secret}}}}}}",
            self.endpoint
        )
    }

    pub(crate) async fn end(mut self) {
        self.server.kill().await.unwrap();
    }
}

fn python() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where the set-up put it")]
    let cache = std::env::var("XDG_CACHE_HOME")
        .map_or_else(|_| PathBuf::from(std::env::var("HOME").unwrap()).join(".cache"), PathBuf::from);
    let program = cache.join("lifeboat/moto-5.2.5/bin/python");
    assert!(program.exists(), "{} is missing: run deploy/install-python", program.display());
    program
}
