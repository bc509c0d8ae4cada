//! Ordinary SQL on one member, through sqlx: sessions and the mapping of their errors.
//!
//! With `sslmode: verify-full` the driver also trusts the public web's
//! authorities beside those we name; the host's name is checked in any case.
//! The replication client (`wire`) trusts only those we name.

use std::{io, time::Duration};

use futures::TryStreamExt;
use secrecy::ExposeSecret;
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, Row, ValueRef,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;

use super::{
    APPLICATION, Credentials, Login, Member, Postgres, Tls, failure,
    wire::{self, tls},
};
use crate::{domain::MemberName, engine::EngineError};

/// How long reaching a member and logging in may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Logs in to `dbname` on `member`, within 10 s once there is something to log in with; and
/// once more where that is refused and its source says something else by now.
pub async fn connect(postgres: &Postgres, member: &Member, dbname: &str) -> Result<PgConnection, EngineError> {
    let credentials = postgres.login.credentials().await?;
    match connect_as(postgres, member, dbname, &credentials).await {
        Err(error) => match postgres.login.other_after(&error, &credentials).await {
            Some(other) => connect_as(postgres, member, dbname, &other).await,
            None => Err(error),
        },
        connected => connected,
    }
}

async fn connect_as(
    postgres: &Postgres,
    member: &Member,
    dbname: &str,
    credentials: &Credentials,
) -> Result<PgConnection, EngineError> {
    let options = options(member, &postgres.login, credentials, dbname)?;
    match timeout(CONNECT_LIMIT, options.connect()).await {
        Ok(Ok(connected)) => Ok(connected),
        // The driver does not tell a server without TLS from one with a bad certificate.
        Ok(Err(error @ sqlx::Error::Tls(_))) => {
            let offered = wire::offers_tls(member).await;
            Err(offered.err().unwrap_or_else(|| failure::of_connect(postgres, member, &credentials.user, error)))
        }
        Ok(Err(error)) => Err(failure::of_connect(postgres, member, &credentials.user, error)),
        Err(_) => Err(failure::unreachable(member, io::Error::from(io::ErrorKind::TimedOut))),
    }
}

/// How to log in to `dbname` on `member` with these. Reads the certificates; connects nowhere.
pub(super) fn options(
    member: &Member,
    login: &Login,
    credentials: &Credentials,
    dbname: &str,
) -> Result<PgConnectOptions, EngineError> {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(member.port)
        .username(&credentials.user)
        .database(dbname)
        .application_name(APPLICATION)
        .statement_cache_capacity(16);
    if let Some(password) = &credentials.password {
        options = options.password(password.expose_secret());
    }
    options = match (member.host.starts_with('/'), &login.tls) {
        (true, _) => options.socket(&member.host).ssl_mode(PgSslMode::Disable),
        (false, Tls::Disable) => options.host(&member.host).ssl_mode(PgSslMode::Disable),
        (false, Tls::Require) => options.host(&member.host).ssl_mode(PgSslMode::Require),
        (false, Tls::VerifyFull { root_certificate }) => {
            let trusted = tls::authorities(member, root_certificate.as_deref())?;
            options.host(&member.host).ssl_mode(PgSslMode::VerifyFull).ssl_root_cert_from_pem(trusted)
        }
    };
    if let Some(own) = tls::own(member, login)? {
        options = options.ssl_client_cert_from_pem(own.chain).ssl_client_key_from_pem(own.key);
    }
    Ok(options)
}

/// The first column of the first row as text. Runs to the end of the results,
/// so that an error behind the first row is not missed.
pub async fn text(connection: &mut PgConnection, sql: &str) -> Result<Option<String>, sqlx::Error> {
    let mut rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch(connection);
    let mut first = None;
    while let Some(row) = rows.try_next().await? {
        if first.is_none() {
            let value = row.try_get_raw(0)?;
            first = Some(if value.is_null() { None } else { Some(row.try_get_unchecked::<String, _>(0)?) });
        }
    }
    Ok(first.flatten())
}

/// The error of `action` on `member`: `connection` and server errors alike.
pub fn failed(member: &MemberName, action: &'static str, error: sqlx::Error) -> EngineError {
    failure::of_sql(member, action, error)
}
