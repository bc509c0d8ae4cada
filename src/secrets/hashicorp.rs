//! A `HashiCorp` Vault, or an `OpenBao`, which speaks as one: key-value stores of both
//! versions, and whatever else is read by one call, such as database credentials that are
//! made for us. <https://developer.hashicorp.com/vault/api-docs>.
//!
//! What must never happen: a token or a secret sent anywhere but to the address that was
//! written, so no redirect is followed; a lease that outlives a graceful end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::{
    Secret, Secrets,
    document::Document,
    kept::Fetched,
    lease::{self, Lease},
};
use crate::{config::secret_stores::HashicorpVaultConfig, domain::with_causes, process::Tasks};

mod answer;
mod error;
mod http;

pub use error::HashicorpError;

use answer::Mount;
use http::Answer;

/// A Vault, and what it has granted this process.
pub(super) struct Server {
    config: HashicorpVaultConfig,
    /// The token, or the secret ID of the role to log in as.
    key: Option<Secret>,
    client: tokio::sync::OnceCell<reqwest::Client>,
    /// The tokens of our role that are not over, the newest one last.
    entered: tokio::sync::Mutex<Vec<Arc<Token>>>,
    /// What is mounted where, by the path that was asked for.
    mounts: Mutex<HashMap<String, Mount>>,
    /// What is leased with a token that somebody else keeps.
    leases: Mutex<Vec<Arc<Lease>>>,
    /// Those that keep leases alive.
    tasks: Tasks,
}

/// What calls are made with.
struct Token {
    text: SecretString,
    /// None where somebody else keeps it alive.
    lease: Option<Arc<Lease>>,
}

impl Server {
    /// `elsewhere` reads what lets us in. Connects nowhere yet.
    pub(super) fn new(config: HashicorpVaultConfig, elsewhere: &Secrets) -> Self {
        let secret_id = config.approle.as_ref().map(|role| &role.secret_id);
        let key = config.token.as_ref().or(secret_id);
        let key = key.map(|reference| elsewhere.referred(reference, "the login to HashiCorp Vault"));
        Self {
            config,
            key,
            client: tokio::sync::OnceCell::new(),
            entered: tokio::sync::Mutex::default(),
            mounts: Mutex::default(),
            leases: Mutex::default(),
            tasks: Tasks::new(),
        }
    }

    /// All fields of what is at a path, as `vault kv get` and `vault read` take it.
    pub(super) async fn read(self: &Arc<Self>, path: &str) -> Result<Fetched, HashicorpError> {
        let path = path.trim_matches('/');
        let token = self.token().await?;
        match self.read_with(&token, path).await {
            // Tokens can be revoked before their time.
            Err(HashicorpError::Token { .. }) if token.lease.is_some() => {
                if let Some(lease) = &token.lease {
                    lease.end();
                }
                let token = self.token().await?;
                self.read_with(&token, path).await
            }
            done => done,
        }
    }

    async fn read_with(self: &Arc<Self>, token: &Token, path: &str) -> Result<Fetched, HashicorpError> {
        let mount = self.mount(token, path).await?;
        let api_path = mount.api_path(path);
        let answer = self.call(Method::GET, &api_path, None, Some(&token.text)).await?;
        let answer = self.understood(token, answer, &api_path, &mount).await?;
        let (fields, version) = mount.fields(&answer, &self.config.address)?;
        let document = Document::fields(fields).of_version(version);
        let Some((id, granted, is_renewable)) = answer::lease(&answer) else { return Ok(Fetched::shared(document)) };
        let lease = Lease::new(id, granted, is_renewable, token.lease.clone());
        if token.lease.is_none() {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.retain(|lease| !lease.is_over());
            leases.push(Arc::clone(&lease));
        }
        self.keep(&lease);
        Ok(Fetched::leased(document, lease))
    }

    fn keep(self: &Arc<Self>, lease: &Arc<Lease>) {
        let stop = self.tasks.stop().clone();
        self.tasks.spawn(lease::keep(Arc::clone(self), Arc::clone(lease), stop));
    }

    /// What calls are made with: the token that is found, or that of our role.
    async fn token(self: &Arc<Self>) -> Result<Arc<Token>, HashicorpError> {
        let address = || self.config.address.clone();
        let key = self.key.as_ref().ok_or_else(|| HashicorpError::NoLogin { address: address() })?;
        let Some(role) = &self.config.approle else {
            let text = self.key_text(key).await?;
            return Ok(Arc::new(Token { text, lease: None }));
        };
        let mut entered = self.entered.lock().await;
        entered.retain(|token| token.lease.as_ref().is_some_and(|lease| !lease.is_over()));
        if let Some(token) = entered.last().filter(|token| token.lease.as_ref().is_some_and(|lease| lease.goes_on())) {
            return Ok(Arc::clone(token));
        }
        let secret_id = self.key_text(key).await?;
        let mount = role.mount.trim_matches('/');
        let body = json!({"role_id": role.role_id, "secret_id": secret_id.expose_secret()});
        let answer = self.call(Method::POST, &format!("auth/{mount}/login"), Some(&body), None).await?;
        if [400, 403, 404].contains(&answer.status) {
            return Err(HashicorpError::Login { address: address(), mount: mount.to_owned(), said: answer.said() });
        }
        let answer = answer.succeeded(&self.config.address)?;
        let Some((text, granted, is_renewable)) = answer::token(&answer) else {
            return Err(HashicorpError::Strange { address: address(), absent: "a token" });
        };
        let lease = Lease::new(format!("the token of the role at auth/{mount}"), granted, is_renewable, None);
        let token = Arc::new(Token { text, lease: Some(Arc::clone(&lease)) });
        entered.push(Arc::clone(&token));
        self.keep(&lease);
        Ok(token)
    }

    async fn key_text(&self, key: &Secret) -> Result<SecretString, HashicorpError> {
        key.read()
            .await
            .map_err(|source| HashicorpError::Key { address: self.config.address.clone(), source: Box::new(source) })
    }

    /// What is mounted where this path leads.
    async fn mount(&self, token: &Token, path: &str) -> Result<Mount, HashicorpError> {
        let known = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(mount) = known {
            return Ok(mount);
        }
        let answer = self.call(Method::GET, &format!("sys/internal/ui/mounts/{path}"), None, Some(&token.text)).await?;
        let answer = self.understood(token, answer, path, &Mount::default()).await?;
        let mount = Mount::of(&answer).ok_or_else(|| HashicorpError::Strange {
            address: self.config.address.clone(),
            absent: "what is mounted there",
        })?;
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), mount.clone());
        Ok(mount)
    }

    /// The answer where it is one; a refusal of a token is told from one of a right.
    async fn understood(
        &self,
        token: &Token,
        answer: Answer,
        path: &str,
        mount: &Mount,
    ) -> Result<Map<String, Value>, HashicorpError> {
        let address = self.config.address.clone();
        match answer.status {
            403 => {
                let looked = self.call(Method::GET, "auth/token/lookup-self", None, Some(&token.text)).await?;
                Err(match looked.status {
                    403 => HashicorpError::Token { address },
                    _ => HashicorpError::Denied { address, path: path.to_owned(), policy: mount.policy(path) },
                })
            }
            404 => Err(HashicorpError::NotFound { address, path: path.to_owned(), remedy: mount.remedy(path) }),
            _ => answer.succeeded(&self.config.address),
        }
    }

    /// Renews a lease, or our own token; answers how long it goes on.
    pub(super) async fn renew(&self, lease: &Lease) -> Result<Duration, HashicorpError> {
        let increment = lease.granted().as_secs();
        let entered = self.entered.lock().await.clone();
        let own =
            entered.iter().find(|token| token.lease.as_ref().is_some_and(|own| std::ptr::eq(own.as_ref(), lease)));
        let (path, body) = if own.is_some() {
            ("auth/token/renew-self", json!({"increment": increment}))
        } else {
            ("sys/leases/renew", json!({"lease_id": lease.id(), "increment": increment}))
        };
        let token = match own.or_else(|| entered.last()) {
            Some(token) => Arc::clone(token),
            None => Arc::new(Token { text: self.file_token().await?, lease: None }),
        };
        let answer = self.call(Method::POST, path, Some(&body), Some(&token.text)).await?;
        if answer.status == 403 {
            let (path, policy) = (path.to_owned(), format!("path \"{path}\" {{ capabilities = [\"update\"] }}"));
            return Err(HashicorpError::Denied { address: self.config.address.clone(), path, policy });
        }
        let answer = answer.succeeded(&self.config.address)?;
        let seconds = answer::renewed(&answer, own.is_some());
        seconds.ok_or_else(|| HashicorpError::Strange { address: self.config.address.clone(), absent: "a duration" })
    }

    async fn file_token(&self) -> Result<SecretString, HashicorpError> {
        let address = || self.config.address.clone();
        self.key_text(self.key.as_ref().ok_or_else(|| HashicorpError::NoLogin { address: address() })?).await
    }

    /// Gives back what was granted: our tokens, with which all that they leased ends, and
    /// each lease of a token that is not ours.
    pub(super) async fn give_back(&self) {
        self.tasks.shut_down().await;
        let told = |what: &str, revoked: Result<(), HashicorpError>| match revoked {
            Ok(()) => tracing::info!(lease = what, "gave back a lease"),
            Err(error) => {
                tracing::warn!(
                    lease = what,
                    error = with_causes(&error),
                    "a lease is not given back, and ends in time"
                );
            }
        };
        for token in std::mem::take(&mut *self.entered.lock().await) {
            let revoked = self.revoke("auth/token/revoke-self", &json!({}), &token.text).await;
            told(token.lease.as_ref().map_or("", |lease| lease.id()), revoked);
        }
        let leases = std::mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        for lease in leases.iter().filter(|lease| !lease.is_over()) {
            let revoked = match self.file_token().await {
                Ok(token) => self.revoke("sys/leases/revoke", &json!({"lease_id": lease.id()}), &token).await,
                Err(error) => Err(error),
            };
            told(lease.id(), revoked);
        }
    }

    async fn revoke(&self, path: &str, body: &Value, token: &SecretString) -> Result<(), HashicorpError> {
        let answer = self.call(Method::POST, path, Some(body), Some(token)).await?;
        if answer.status == 403 {
            let (path, policy) = (path.to_owned(), format!("path \"{path}\" {{ capabilities = [\"update\"] }}"));
            return Err(HashicorpError::Denied { address: self.config.address.clone(), path, policy });
        }
        answer.succeeded(&self.config.address).map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&SecretString>,
    ) -> Result<Answer, HashicorpError> {
        let client = self.client.get_or_try_init(|| http::client(&self.config)).await?;
        http::call(client, &self.config, (method, path), body, token).await
    }
}
