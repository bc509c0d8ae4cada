//! PostgreSQL: physical backups over the replication protocol, WAL streaming,
//! restore into isolated instances, promotion.

use std::{path::PathBuf, sync::Arc};

use crate::{
    domain::{DatabaseName, MemberName, SiteName},
    process::Account,
};

mod asked;
mod catalogs;
pub mod cluster;
mod credentials;
mod failure;
mod hba;
pub mod isolated;
pub mod promote;
pub mod protect;
pub mod recover;
pub mod remote;
mod restored;
pub mod settings;
pub mod sql;
pub mod wire;
mod witness;

pub use credentials::{CredentialError, CredentialSource, Credentials};

/// As what servers know us, of all our connections; `synchronous_standby_names` may
/// name it.
const APPLICATION: &str = "lifeboat";

/// One protected PostgreSQL cluster and how to reach it.
#[derive(Debug, Clone)]
pub struct Postgres {
    pub database: DatabaseName,
    pub members: Vec<Member>,
    pub login: Login,
    /// Who restored servers run as; ourselves when none.
    pub account: Option<Account>,
    /// The session that heartbeats are written in; starts as the default.
    pub beats: protect::BeatSession,
    /// How long a silent server, or process that streams, is waited for.
    pub patience: protect::Patience,
}

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: MemberName,
    /// A host name, an address, or the folder of a Unix socket (starts with `/`).
    pub host: String,
    pub port: u16,
    pub site: SiteName,
}

/// How to log in to every member.
#[derive(Debug, Clone)]
pub struct Login {
    /// The role whose rights we have: the one that logs in, or the one that they are members of.
    pub user: String,
    /// What is logged in with, asked for at each login; `user` without a password when none.
    pub credentials: Option<Arc<dyn CredentialSource>>,
    pub tls: Tls,
    /// Shown to a server that asks for it in TLS.
    pub certificate: Option<ClientCertificate>,
    /// The database that holds `lifeboat.heartbeat`.
    pub dbname: String,
}

/// What proves who we are, as PEM files; read at each login, so that renewed ones count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Ours first, then those between it and an authority that the server trusts.
    pub chain: PathBuf,
    /// Nobody else may be able to read it.
    pub key: PathBuf,
}

/// How connections over TCP are protected. Unix sockets are not encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    Disable,
    /// Encrypts; does not check who answers.
    Require,
    /// Encrypts and checks certificate and name, against this PEM file or the system's authorities.
    VerifyFull {
        root_certificate: Option<PathBuf>,
    },
}

impl Member {
    /// Where it listens, for messages.
    pub fn address(&self) -> String {
        self.socket().map_or_else(|| format!("{}:{}", self.host, self.port), |path| path.display().to_string())
    }

    /// The file of its Unix socket, where `host` names a folder.
    pub fn socket(&self) -> Option<PathBuf> {
        self.host.starts_with('/').then(|| PathBuf::from(&self.host).join(format!(".s.PGSQL.{}", self.port)))
    }
}

impl Postgres {
    /// The name of our replication slot on every member.
    pub fn slot(&self) -> String {
        let name: String =
            self.database.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        format!("lifeboat_{name}")
    }
}
