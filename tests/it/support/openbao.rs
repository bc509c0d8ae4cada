//! A server of secrets: `OpenBao`, from the folder that `deploy/install-python` fills. It
//! is what `HashiCorp` Vault 1.14 became under a free licence and speaks as that does; what
//! later versions of Vault changed, it does not prove.

use std::{path::PathBuf, time::Duration};

use lifeboat::process::Program;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};

use super::{Lab, authority::certificate, eventually, free_port, moto, scratch};

/// A running server behind TLS, unsealed, with nothing mounted; stopped when dropped.
pub(crate) struct OpenBao {
    /// `https://127.0.0.1:PORT`
    pub address: String,
    /// The authority that made its certificate.
    pub ca_file: PathBuf,
    /// The token that may do everything.
    pub root: String,
    unseal_key: String,
    client: Client,
    _folder: tempfile::TempDir,
    _server: tokio::process::Child,
}

/// How a role is let in.
pub(crate) struct AppRole {
    pub role_id: String,
    pub secret_id: String,
}

impl OpenBao {
    pub(crate) async fn start() -> Self {
        let folder = scratch();
        certificate(folder.path(), "bao", "IP:127.0.0.1").await;
        let path = |name: &str| folder.path().join(name);
        let (port, api) = (free_port(), |port: u16| format!("https://127.0.0.1:{port}"));
        let config = json!({
            "storage": {"inmem": {}},
            "listener": {"tcp": {
                "address": format!("127.0.0.1:{port}"),
                "tls_cert_file": path("bao.crt"),
                "tls_key_file": path("bao.key"),
            }},
            "api_addr": api(port),
            "cluster_addr": "https://127.0.0.1:0",
        });
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        let program = moto::program().with_file_name("bao");
        assert!(program.exists(), "{} is missing: run deploy/install-python", program.display());
        let server = Program::new(program).args(["server", "-config"]).arg(path("config.json"));
        let server = server.start(std::fs::File::create(path("log")).unwrap()).unwrap();
        let authority = Certificate::from_pem(&std::fs::read(path("bao-ca.crt")).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
        let health = format!("{}/v1/sys/health", api(port));
        let answers = async || client.get(&health).send().await.is_ok();
        eventually("OpenBao answers", Duration::from_secs(60), answers).await;
        let ca_file = path("bao-ca.crt");
        let mut bao = Self {
            address: api(port),
            ca_file,
            root: String::new(),
            unseal_key: String::new(),
            client,
            _folder: folder,
            _server: server,
        };
        let made = bao.api("POST", "sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await;
        bao.root = made["root_token"].as_str().unwrap().to_owned();
        bao.unseal_key = made["keys_base64"][0].as_str().unwrap().to_owned();
        bao.unseal().await;
        bao
    }

    pub(crate) async fn unseal(&self) {
        self.api("POST", "sys/unseal", json!({"key": self.unseal_key})).await;
        let health = format!("{}/v1/sys/health", self.address);
        let is_active = async || self.client.get(&health).send().await.is_ok_and(|answer| answer.status() == 200);
        eventually("OpenBao is active", Duration::from_secs(60), is_active).await;
    }

    /// A call that succeeds, as who may do everything.
    pub(crate) async fn api(&self, method: &str, path: &str, body: Value) -> Value {
        let request =
            self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}/v1/{path}", self.address));
        let request = request.header("X-Vault-Token", &self.root).body(body.to_string());
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Stores of both versions: `kv/` is the newer one, `old/` the other.
    pub(crate) async fn mount_stores(&self) {
        self.api("POST", "sys/mounts/kv", json!({"type": "kv", "options": {"version": "2"}})).await;
        self.api("POST", "sys/mounts/old", json!({"type": "kv", "options": {"version": "1"}})).await;
        // It is made ready in the background.
        let path = format!("{}/v1/kv/config", self.address);
        let is_ready = async || {
            let asked = self.client.get(&path).header("X-Vault-Token", &self.root).send().await;
            asked.is_ok_and(|answer| answer.status() == 200)
        };
        eventually("the store is ready", Duration::from_secs(30), is_ready).await;
    }

    /// A role with a policy of its own.
    pub(crate) async fn approle(&self, policy: &str, token_ttl: &str) -> AppRole {
        self.api("POST", "sys/auth/approle", json!({"type": "approle"})).await;
        self.api("PUT", "sys/policies/acl/lifeboat", json!({"policy": policy})).await;
        let role = json!({"token_policies": ["lifeboat"], "token_ttl": token_ttl});
        self.api("POST", "auth/approle/role/lifeboat", role).await;
        let id = self.api("GET", "auth/approle/role/lifeboat/role-id", Value::Null).await;
        let secret = self.api("POST", "auth/approle/role/lifeboat/secret-id", json!({})).await;
        AppRole {
            role_id: id["data"]["role_id"].as_str().unwrap().to_owned(),
            secret_id: secret["data"]["secret_id"].as_str().unwrap().to_owned(),
        }
    }

    /// A token with a policy of its own.
    pub(crate) async fn token(&self, policy: &str) -> String {
        self.api("PUT", "sys/policies/acl/token", json!({"policy": policy})).await;
        let made = self.api("POST", "auth/token/create", json!({"policies": ["token"], "no_parent": true})).await;
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// `database/creds/lifeboat` makes members of the role `lifeboat` on a cluster, which
    /// `admin` may log in to with `password`.
    pub(crate) async fn lease_logins(&self, lab: &Lab, (admin, password): (&str, &str), (ttl, ttl_max): (&str, &str)) {
        self.api("POST", "sys/mounts/database", json!({"type": "database"})).await;
        let url =
            format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable", lab.port);
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ["lifeboat"],
            "connection_url": url,
            "username": admin,
            "password": password,
        });
        self.api("POST", "database/config/wallet", connection).await;
        let statement = "CREATE ROLE \"{{name}}\" LOGIN REPLICATION PASSWORD '{{password}}' \
                         VALID UNTIL '{{expiration}}' IN ROLE lifeboat";
        let role = json!({
            "db_name": "wallet",
            "creation_statements": [statement],
            "default_ttl": ttl,
            "max_ttl": ttl_max,
        });
        self.api("POST", "database/roles/lifeboat", role).await;
    }

    /// How many leases of `database/creds/lifeboat` are alive.
    pub(crate) async fn leases(&self) -> usize {
        let path = format!("{}/v1/sys/leases/lookup/database/creds/lifeboat/", self.address);
        let list = Method::from_bytes(b"LIST").unwrap();
        let answer = self.client.request(list, path).header("X-Vault-Token", &self.root).send().await.unwrap();
        // An empty list is a 404.
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        body["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}
