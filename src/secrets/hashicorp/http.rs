//! One call of the API, and its answer as JSON.

use std::time::Duration;

use reqwest::{Certificate, Client, Method, header::CONTENT_TYPE, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::HashicorpError;
use crate::config::secret_stores::HashicorpVaultConfig;

const CALL_LIMIT: Duration = Duration::from_secs(8);
/// Texts of a Vault are cut after so many characters.
const SHOWN_MAX: usize = 300;

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Map<String, Value>,
}

impl Answer {
    /// What it says of an error.
    pub(super) fn said(&self) -> String {
        let errors = self.body.get("errors").and_then(Value::as_array).into_iter().flatten();
        let said: Vec<&str> = errors.filter_map(Value::as_str).map(str::trim).collect();
        let said = if said.is_empty() { format!("HTTP status {}", self.status) } else { said.join("; ") };
        said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_MAX).collect()
    }

    /// Its body where it is a success, or the error of whatever refused it.
    pub(super) fn succeeded(self, address: &str) -> Result<Map<String, Value>, HashicorpError> {
        let address = address.to_owned();
        match self.status {
            200..=299 => Ok(self.body),
            503 if self.said().contains("sealed") => Err(HashicorpError::Sealed { address }),
            status => Err(HashicorpError::Refused { address, status, said: self.said() }),
        }
    }
}

/// Whom to trust, and where to go: nowhere else than to the address.
pub(super) async fn client(config: &HashicorpVaultConfig) -> Result<Client, HashicorpError> {
    let builder = Client::builder()
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .timeout(CALL_LIMIT);
    let builder = if config.address.starts_with("https://") { builder } else { builder.no_proxy() };
    let builder = match &config.ca_file {
        Some(file) => {
            let unfit = |why: String| HashicorpError::Authorities { file: file.clone(), why };
            let pem = tokio::fs::read(file).await.map_err(|error| unfit(error.to_string()))?;
            let found = Certificate::from_pem_bundle(&pem).map_err(|error| unfit(error.to_string()))?;
            if found.is_empty() {
                return Err(unfit("it holds no certificate".to_owned()));
            }
            builder.tls_certs_only(found)
        }
        None => builder,
    };
    builder.build().map_err(|error| unreachable(config, error))
}

pub(super) async fn call(
    client: &Client,
    config: &HashicorpVaultConfig,
    (method, path): (Method, &str),
    body: Option<&Value>,
    token: Option<&SecretString>,
) -> Result<Answer, HashicorpError> {
    let url = format!("{}/v1/{path}", config.address.trim_end_matches('/'));
    let mut request = client.request(method, url).header("X-Vault-Request", "true");
    if let Some(namespace) = &config.namespace {
        request = request.header("X-Vault-Namespace", namespace);
    }
    if let Some(token) = token {
        let mut token = reqwest::header::HeaderValue::from_str(token.expose_secret())
            .map_err(|_| HashicorpError::Token { address: config.address.clone() })?;
        token.set_sensitive(true);
        request = request.header("X-Vault-Token", token);
    }
    if let Some(body) = body {
        request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
    }
    let answer = request.send().await.map_err(|error| unreachable(config, error))?;
    let status = answer.status().as_u16();
    let bytes = answer.bytes().await.map_err(|error| unreachable(config, error))?;
    // Of a proxy in between the status alone is told.
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(Answer { status, body })
}

fn unreachable(config: &HashicorpVaultConfig, error: reqwest::Error) -> HashicorpError {
    HashicorpError::Unreachable { address: config.address.clone(), source: error.without_url() }
}
