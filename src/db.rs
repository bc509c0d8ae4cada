//! The state database: SQLite on one machine, PostgreSQL when many nodes share
//! it. All SQL of ours on our own state stands here, one file per table group;
//! SQL spoken to protected servers stands in their engine.
//!
//! Statements are written once for both: numbered placeholders, TEXT and BIGINT
//! columns only, instants as milliseconds since 1970 by the *database's* clock
//! (`Db::now_ms`). On SQLite the evidence is in a file of its own: what spoils the
//! journal of the runs does not take it along, and no transaction needs both.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use jiff::Timestamp;
use sqlx::{
    Connection, PgPool, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::durable;

pub mod agenda;
mod apart;
pub mod changes;
pub mod evidence;
pub mod exposure;
pub mod findings;
pub mod forget;
pub mod heartbeats;
pub mod lever;
pub mod nodes;
pub mod notices;
pub mod runs;
pub mod samples;
pub mod vaults;

/// What can go wrong with the state database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("state url `{url}` is not understood; write `sqlite:PATH` or `postgres://USER@HOST/DBNAME`")]
    Url { url: String },
    #[error("cannot open the state database `{url}`; check the path or address and this user's rights")]
    Open {
        url: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot bring the state database up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("cannot {action}")]
    Query {
        action: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot {action}: the state database did not answer within {limit:?}")]
    Silent { action: &'static str, limit: Duration },
    #[error("the state database holds something unreadable in {place}: {reason}")]
    Corrupt { place: &'static str, reason: String },
}

/// How often a SQLite file is opened: another process may be making the same one,
/// and nothing locks a new file for that. What it has made is found the next time.
const OPENED_MAX: u32 = 20;
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// How long PostgreSQL waits for the rest of a transaction: with the longest lease that
/// is usual its runs are taken over within half a minute.
const IDLE_IN_TRANSACTION: &str = "5s";
/// SQLite's code for a file that another one holds, in the lowest byte of what it tells.
const BUSY: u32 = 5;

/// Both files, brought up to date.
async fn open_sqlite(url: &str, options: &SqliteConnectOptions) -> Result<Db, DbError> {
    let opened = |source| DbError::Open { url: redacted(url), source };
    let beside = evidence_file(options.get_filename());
    // Heartbeats and evidence are nobody else's; SQLite gives its other files the same mode.
    for file in [options.get_filename(), &beside] {
        match durable::create_private(file, &[]) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(opened(sqlx::Error::Io(error))),
            Ok(()) | Err(_) => {}
        }
    }
    let pool = |max, options| SqlitePoolOptions::new().max_connections(max).connect_with(options);
    let state = pool(4, options.clone()).await.map_err(opened)?;
    sqlx::migrate!("migrations/sqlite").set_ignore_missing(true).run(&state).await.map_err(DbError::Migrate)?;
    let evidence = pool(2, options.clone().filename(&beside)).await.map_err(opened)?;
    sqlx::migrate!("migrations/sqlite-evidence")
        .set_ignore_missing(true)
        .run(&evidence)
        .await
        .map_err(DbError::Migrate)?;
    apart::move_out(&state, &evidence).await?;
    Ok(Db::Sqlite { state, evidence })
}

/// Where the evidence of a SQLite state is: beside the rest, as `NAME-evidence.db`.
pub fn evidence_file(state: &Path) -> PathBuf {
    let mut name = state.file_stem().unwrap_or_default().to_owned();
    name.push("-evidence");
    let mut file = state.with_file_name(name);
    if let Some(extension) = state.extension() {
        let mut name = file.into_os_string();
        name.push(".");
        name.push(extension);
        file = name.into();
    }
    file
}

/// Whether another process may have been in the way.
fn is_contended(error: &DbError) -> bool {
    match error {
        DbError::Migrate(_) => true,
        DbError::Open { source, .. } => {
            let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
            code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == BUSY)
        }
        _ => false,
    }
}

impl DbError {
    /// For `map_err`: names what was being done.
    pub(crate) fn query(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Query { action, source }
    }

    /// Whether the same call can only fail again: everything but a blip.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Query { source, .. } | Self::Open { source, .. } => match source {
                sqlx::Error::Io(_)
                // What a connection that breaks in the middle of an answer looks like.
                | sqlx::Error::Protocol(_)
                | sqlx::Error::BeginFailed
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => false,
                // Busy and locked for SQLite; connection, resource and intervention classes for PostgreSQL,
                // 25006: still connected to what is a standby now; 25P03: so long silent that it was hung up on.
                sqlx::Error::Database(error) => !error.code().is_some_and(|code| {
                    ["08", "40", "53", "57", "25006", "25P03"].iter().any(|class| code.len() == 5 && code.starts_with(class))
                        || code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10))
                }),
                _ => true,
            },
            Self::Silent { .. } => false,
            Self::Url { .. } | Self::Migrate(_) | Self::Corrupt { .. } => true,
        }
    }
}

/// An open state database. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Db {
    /// Two files; `evidence` holds the table of that name and nothing else.
    Sqlite {
        state: SqlitePool,
        evidence: SqlitePool,
    },
    Postgres(PgPool),
}

/// Runs the same query on whichever database is open: `on!(db, pool => …)`.
macro_rules! on {
    ($db:expr, $pool:ident => $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite { state: $pool, .. } => $body,
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}
pub(crate) use on;

/// The same on where the evidence is.
macro_rules! on_evidence {
    ($db:expr, $pool:ident => $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite { evidence: $pool, .. } => $body,
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}
pub(crate) use on_evidence;

impl Db {
    /// Opens the database, makes it if it is a SQLite file that does not exist,
    /// and brings it up to date. One that a newer version has changed is used as it
    /// is: while versions mix, migrations only add what has a default.
    pub async fn open(url: &str) -> Result<Self, DbError> {
        let opened = |source| DbError::Open { url: redacted(url), source };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let options = SqliteConnectOptions::from_str(&format!("sqlite:{path}"))
                .map_err(opened)?
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(10));
            for _ in 1..OPENED_MAX {
                match open_sqlite(url, &options).await {
                    Err(error) if is_contended(&error) => tokio::time::sleep(OPEN_PAUSE).await,
                    opened => return opened,
                }
            }
            open_sqlite(url, &options).await
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // A node that is cut off or stopped in the middle of a transaction must not keep its locks.
            let options = PgConnectOptions::from_str(url)
                .map_err(opened)?
                .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)]);
            let pool = PgPoolOptions::new()
                .max_connections(8)
                .acquire_timeout(Duration::from_secs(5))
                // A connection whose server fell silent must not hold its place in the pool for ever.
                .after_release(|connection, _| {
                    Box::pin(async move {
                        match tokio::time::timeout(Duration::from_secs(2), connection.ping()).await {
                            Ok(alive) => alive.map(|()| true),
                            Err(_) => Err(sqlx::Error::PoolTimedOut),
                        }
                    })
                })
                .connect_with(options)
                .await
                .map_err(opened)?;
            sqlx::migrate!("migrations/postgres")
                .set_ignore_missing(true)
                .run(&pool)
                .await
                .map_err(DbError::Migrate)?;
            Ok(Self::Postgres(pool))
        } else {
            Err(DbError::Url { url: redacted(url) })
        }
    }

    /// The SQL expression for now, in milliseconds since 1970, by the database's clock.
    pub(crate) const fn now_ms(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres(_) => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// Gives up on a call to a PostgreSQL that does not answer within `limit`, as
    /// behind a partition that swallows packets. SQLite answers by itself.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        action: &'static str,
        call: impl Future<Output = Result<T, DbError>>,
    ) -> Result<T, DbError> {
        match self {
            Self::Sqlite { .. } => call.await,
            Self::Postgres(_) => {
                tokio::time::timeout(limit, call).await.unwrap_or(Err(DbError::Silent { action, limit }))
            }
        }
    }

    /// Closes all connections; later calls fail.
    pub async fn close(&self) {
        on!(self, pool => pool.close().await);
        on_evidence!(self, pool => pool.close().await);
    }
}

/// A stored instant.
pub(crate) fn instant(place: &'static str, ms: i64) -> Result<Timestamp, DbError> {
    Timestamp::from_millisecond(ms).map_err(|error| DbError::Corrupt { place, reason: error.to_string() })
}

/// The URL without its password.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => match url[scheme + 3..at].split_once(':') {
            Some((user, _)) => format!("{}{user}:***{}", &url[..scheme + 3], &url[at..]),
            None => url.to_owned(),
        },
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_password_never_stands_in_an_error() {
        assert_eq!(super::redacted("postgres://u:p@ss@h/db"), "postgres://u:***@h/db");
        assert_eq!(super::redacted("postgres://u@h/db"), "postgres://u@h/db");
    }

    #[test]
    fn evidence_is_beside_the_state() {
        for (state, evidence) in [
            ("/var/lib/lifeboat/lifeboat.db", "/var/lib/lifeboat/lifeboat-evidence.db"),
            ("state", "state-evidence"),
            ("a.b/state.v2.sqlite", "a.b/state.v2-evidence.sqlite"),
        ] {
            assert_eq!(super::evidence_file(state.as_ref()), std::path::Path::new(evidence), "{state}");
        }
    }
}
