//! Connections to an isolated instance over its private socket. Each question
//! has a connection of its own: nothing of one check is left for the next.

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use jiff::Timestamp;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow, PgSslMode},
};

use super::EndedRecovery;
use crate::{
    decide::answer::Answer,
    domain::{AnswerDigest, Lsn, Timeline},
    engine::{
        EngineError,
        postgres::{
            Postgres,
            restored::{file_error, unfit},
            settings::{self, ISOLATED_PORT},
            witness,
        },
    },
};

/// How long one question may take.
const QUERY_LIMIT: Duration = Duration::from_secs(300);
/// "Cannot connect now": starting up, in recovery, shutting down.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// How to talk to the copy: as a superuser of its own.
#[derive(Debug, Clone)]
pub(super) struct Session {
    socket: PathBuf,
    superuser: String,
    dbname: String,
}

#[derive(Debug)]
pub(super) enum Readiness {
    Ready(Session),
    NotYet,
}

pub(super) fn failed(error: &sqlx::Error) -> EngineError {
    match error {
        sqlx::Error::Database(answer) => EngineError::Copy {
            message: answer.message().to_owned(),
            code: answer.code().unwrap_or_default().into_owned(),
        },
        other => unfit("answer a query", other.to_string()),
    }
}

impl Session {
    /// Looks for a database and a superuser that can log in. Neither needs to
    /// be called `postgres`; the login of the schedule exists in every copy.
    pub(super) async fn open(socket: &Path, postgres: &Postgres) -> Result<Readiness, EngineError> {
        if !socket.join(format!(".s.PGSQL.{ISOLATED_PORT}")).exists() {
            return Ok(Readiness::NotYet);
        }
        let mut refusals = Vec::new();
        for dbname in ["postgres", &postgres.login.dbname, "template1"] {
            for user in ["postgres", &postgres.login.user] {
                let session = Self { socket: socket.to_owned(), superuser: user.to_owned(), dbname: dbname.to_owned() };
                match session.connect(dbname).await {
                    Ok(connection) => return session.with_superuser(connection).await.map(Readiness::Ready),
                    Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some(CANNOT_CONNECT_NOW) => {
                        return Ok(Readiness::NotYet);
                    }
                    Err(sqlx::Error::Database(answer)) => refusals.push(answer.message().to_owned()),
                    Err(_) => return Ok(Readiness::NotYet),
                }
            }
        }
        Err(unfit("accept a login", refusals.join(" | ")))
    }

    async fn with_superuser(mut self, mut connection: PgConnection) -> Result<Self, EngineError> {
        let found = "select rolname::text from pg_roles where rolsuper and rolcanlogin order by oid limit 1";
        let superuser: Option<String> =
            sqlx::query_scalar(found).fetch_optional(&mut connection).await.map_err(|error| failed(&error))?;
        self.superuser = superuser.ok_or_else(|| unfit("accept a login", "it has no superuser that can log in"))?;
        Ok(self)
    }

    /// The database that was found.
    pub(super) fn dbname(&self) -> &str {
        &self.dbname
    }

    pub(super) async fn connect(&self, dbname: &str) -> Result<PgConnection, sqlx::Error> {
        // The address of a Unix socket is at most 107 bytes long, a path is not.
        let folder = File::open(&self.socket)?;
        PgConnectOptions::new_without_pgpass()
            .socket(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            .port(ISOLATED_PORT)
            .username(&self.superuser)
            .database(dbname)
            .ssl_mode(PgSslMode::Disable)
            .application_name("lifeboat")
            // Stronger than what the source may have set per role or database.
            .options(settings::FOR_CHECKS)
            .options([("statement_timeout", QUERY_LIMIT.as_millis())])
            .disable_statement_logging()
            .connect()
            .await
    }

    /// One row of a statement of our own, in the database that was found.
    pub(super) async fn row(&self, sql: &'static str) -> Result<PgRow, EngineError> {
        let mut connection = self.connect(&self.dbname).await.map_err(|error| failed(&error))?;
        sqlx::query(sql).fetch_one(&mut connection).await.map_err(|error| failed(&error))
    }

    pub(super) async fn recovered(&self) -> Result<EndedRecovery, EngineError> {
        let row = self
            .row(
                "select left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_last_wal_replay_lsn()::text, \
                 (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
                 current_setting('server_version'), (select system_identifier::text from pg_control_system())",
            )
            .await?;
        let text = |column| row.try_get::<Option<String>, _>(column).map_err(|error| failed(&error));
        let micros: Option<i64> = row.try_get(2).map_err(|error| failed(&error))?;
        let timeline = text(0)?.and_then(|digits| u32::from_str_radix(&digits, 16).ok());
        Ok(EndedRecovery {
            timeline: Timeline(timeline.ok_or_else(|| unfit("answer a query", "its timeline is unreadable"))?),
            replayed: text(1)?.and_then(|lsn| lsn.parse::<Lsn>().ok()),
            last_commit_at: micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            server_version: text(3)?.unwrap_or_default(),
            system_id: text(4)?.unwrap_or_default(),
        })
    }

    /// All heartbeats in the copy; none where there is no such table.
    pub(super) async fn heartbeats(&self, dbname: &str) -> Result<Vec<i64>, EngineError> {
        let mut connection = self.connect(dbname).await.map_err(|error| failed(&error))?;
        let exists: bool = sqlx::query_scalar("select to_regclass('lifeboat.heartbeat') is not null")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| failed(&error))?;
        if !exists {
            return Ok(Vec::new());
        }
        sqlx::query_scalar("select seq::bigint from lifeboat.heartbeat order by seq")
            .fetch_all(&mut connection)
            .await
            .map_err(|error| failed(&error))
    }

    /// The user whom nothing in the copy is kept from.
    pub(super) fn superuser(&self) -> &str {
        &self.superuser
    }

    /// Read to the end, so that an error that comes late is not missed.
    pub(super) async fn query(&self, dbname: &str, sql: &str) -> Result<Answer, EngineError> {
        let asked = async {
            let mut connection = self.connect(dbname).await?;
            let mut answer = Answer::default();
            {
                // The operator's own check, on a throw-away copy; the simple protocol answers in text.
                let mut told = connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql)));
                while let Some(told) = told.try_next().await? {
                    match told {
                        Either::Left(_) => answer.statements += 1,
                        Either::Right(row) => {
                            if answer.rows == 0 {
                                answer.first = first_column(&row)?;
                            }
                            answer.rows += 1;
                        }
                    }
                }
            }
            answer.is_query = answer.rows > 0 || witness::is_query(&mut connection, sql).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(answer)
        };
        within_limit(asked).await
    }

    /// The same as a digest, as the source gives it.
    pub(super) async fn witness(&self, dbname: &str, sql: &str) -> Result<AnswerDigest, EngineError> {
        let asked = async {
            let mut connection = self.connect(dbname).await?;
            sqlx::raw_sql(witness::ALIKE).execute(&mut connection).await?;
            let answer = witness::digest(&mut connection, sql).await?;
            connection.close().await?;
            Ok(answer)
        };
        within_limit(asked).await?.map_err(|why| unfit("answer a query", why))
    }

    /// The socket folder must stay ours alone.
    pub(super) fn mode(&self) -> Result<u32, EngineError> {
        let found = std::fs::metadata(&self.socket).map_err(file_error("look at", &self.socket))?;
        Ok(std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777)
    }
}

async fn within_limit<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, EngineError> {
    match tokio::time::timeout(QUERY_LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| failed(&error)),
        Err(_) => Err(unfit("answer a query", format!("no answer within {QUERY_LIMIT:?}"))),
    }
}

fn first_column(row: &PgRow) -> Result<Option<String>, sqlx::Error> {
    if row.is_empty() {
        return Ok(None);
    }
    let value = row.try_get_raw(0)?;
    if sqlx::ValueRef::is_null(&value) {
        return Ok(None);
    }
    value.as_str().map(|text| Some(text.to_owned())).map_err(sqlx::Error::Decode)
}
