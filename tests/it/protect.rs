//! Protecting a real PostgreSQL 15: logins, preflight, backups, WAL, heartbeats.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod abandoned;
mod backup;
mod beat;
mod certificates;
mod configuration;
mod login;
mod preflight;
mod sample;
mod standby;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat::engine::postgres::{
    CredentialError, CredentialSource, Credentials, Login, Member, Postgres, Tls,
    protect::{BeatSession, Patience},
};

use crate::support::Lab;

/// What is logged in with and never changes.
#[derive(Debug)]
struct Known(Credentials);

#[async_trait]
impl CredentialSource for Known {
    async fn read(&self) -> Result<Credentials, CredentialError> {
        Ok(self.0.clone())
    }

    async fn read_anew(&self) -> Result<Credentials, CredentialError> {
        Ok(self.0.clone())
    }
}

/// The user of `postgres` with this password.
fn known(postgres: &Postgres, password: &str) -> Arc<dyn CredentialSource> {
    let user = postgres.login.user.clone();
    Arc::new(Known(Credentials { user, password: Some(password.to_owned().into()) }))
}

/// A server of the lab over TCP, as `user`, without TLS.
fn over_tcp(lab: &Lab, user: &str) -> Postgres {
    Postgres {
        database: "wallet".parse().unwrap(),
        members: vec![member("a", "127.0.0.1", lab.port)],
        login: Login {
            user: user.to_owned(),
            credentials: None,
            tls: Tls::Disable,
            certificate: None,
            dbname: "postgres".to_owned(),
        },
        account: lab.cluster.account.clone(),
        beats: BeatSession::default(),
        patience: Patience::default(),
    }
}

/// The same as the role that the README describes, with the rights it gives and no more.
async fn documented(lab: &Lab) -> Postgres {
    lab.psql(&crate::readme::role_sql("never asked for")).await;
    over_tcp(lab, "lifeboat")
}

fn member(name: &str, host: &str, port: u16) -> Member {
    Member { name: name.parse().unwrap(), host: host.to_owned(), port, site: "mt-a".parse().unwrap() }
}

/// Replaces the lab's `pg_hba.conf`; the lab itself stays let in over its socket.
async fn set_hba(lab: &Lab, lines: &str) {
    let path = lab.cluster.data().join("pg_hba.conf");
    std::fs::write(&path, format!("local all postgres trust\n{lines}\n")).unwrap();
    lab.psql("SELECT pg_reload_conf()").await;
    // The server reads the file a moment after it was asked to.
    let loaded = "SELECT pg_conf_load_time() > (pg_stat_file('pg_hba.conf')).modification";
    crate::support::eventually("pg_hba.conf is loaded", std::time::Duration::from_secs(60), || async {
        lab.psql(loaded).await == "t"
    })
    .await;
}
