//! Connections to a restored copy. Each question has a connection of its own: nothing of
//! one check is left for the next.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Executor, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow, PgSslMode},
};

use crate::{
    decide::answer::Answer,
    domain::AnswerDigest,
    engine::{
        EngineError,
        postgres::{
            APPLICATION, Login, Member,
            restored::unfit,
            settings::{self, ISOLATED_PORT},
            sql, witness,
        },
    },
};

/// How long one question may take.
const QUERY_LIMIT: Duration = Duration::from_secs(300);

/// The database that Amazon keeps in each instance.
const PROVIDERS: &str = "rdsadmin";

/// How to talk to a copy.
#[derive(Debug, Clone)]
pub(in super::super) struct Session {
    way: Way,
    user: String,
    dbname: String,
}

/// Where a copy listens.
#[derive(Clone)]
enum Way {
    /// In a folder that nobody else can enter.
    Socket(PathBuf),
    /// As the login of the schedule says, with TLS where that does.
    Network(Box<PgConnectOptions>),
}

/// The options hold the password.
impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(folder) => f.debug_tuple("Socket").field(folder).finish(),
            Self::Network(_) => f.write_str("Network"),
        }
    }
}

pub(in super::super) fn failed(error: &sqlx::Error) -> EngineError {
    match error {
        sqlx::Error::Database(answer) => EngineError::Copy {
            message: answer.message().to_owned(),
            code: answer.code().unwrap_or_default().into_owned(),
        },
        other => unfit("answer a query", other.to_string()),
    }
}

impl Session {
    /// Over a private socket, where whoever enters is let in as any role.
    pub(in super::super) fn at_socket(socket: &Path, user: &str, dbname: &str) -> Self {
        Self { way: Way::Socket(socket.to_owned()), user: user.to_owned(), dbname: dbname.to_owned() }
    }

    /// Over the network. Reads certificates and credentials once; connects nowhere yet.
    pub(in super::super) async fn at_host(member: &Member, login: &Login) -> Result<Self, EngineError> {
        let credentials = login.credentials().await?;
        let options = sql::options(member, login, &credentials, &login.dbname)?;
        let way = Way::Network(Box::new(options));
        Ok(Self { way, user: credentials.user, dbname: login.dbname.clone() })
    }

    /// The same as another user.
    pub(in super::super) fn with_user(self, user: String) -> Self {
        Self { user, ..self }
    }

    /// The database that was found.
    pub(in super::super) fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Whether a database is what whoever runs the copy keeps for itself; it lets nobody in.
    pub(in super::super) fn is_providers(&self, dbname: &str) -> bool {
        matches!(self.way, Way::Network(_)) && dbname == PROVIDERS
    }

    pub(in super::super) fn user(&self) -> &str {
        &self.user
    }

    pub(in super::super) async fn connect(&self, dbname: &str) -> Result<PgConnection, sqlx::Error> {
        let limit = [("statement_timeout", QUERY_LIMIT.as_millis())];
        match &self.way {
            Way::Socket(socket) => {
                // The address of a Unix socket is at most 107 bytes long, a path is not.
                let folder = File::open(socket)?;
                let options = PgConnectOptions::new_without_pgpass()
                    .socket(format!("/proc/self/fd/{}", folder.as_raw_fd()))
                    .port(ISOLATED_PORT)
                    .username(&self.user)
                    .database(dbname)
                    .ssl_mode(PgSslMode::Disable)
                    .application_name(APPLICATION)
                    // Stronger than what the source may have set per role or database.
                    .options(settings::FOR_CHECKS)
                    .options(limit)
                    .disable_statement_logging();
                options.connect().await
            }
            // No role that a provider gives away may set what a superuser sets for checks.
            Way::Network(options) => {
                let options = options.as_ref().clone().database(dbname).options(limit).disable_statement_logging();
                let connected = tokio::time::timeout(sql::CONNECT_LIMIT, options.connect()).await;
                connected.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    /// One row of a statement of our own, in the database that was found.
    pub(in super::super) async fn row(&self, sql: &'static str) -> Result<PgRow, EngineError> {
        let mut connection = self.connect(&self.dbname).await.map_err(|error| failed(&error))?;
        sqlx::query(sql).fetch_one(&mut connection).await.map_err(|error| failed(&error))
    }

    /// All heartbeats in the copy; none where there is no such table.
    pub(in super::super) async fn heartbeats(&self, dbname: &str) -> Result<Vec<i64>, EngineError> {
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

    /// Read to the end, so that an error that comes late is not missed.
    pub(in super::super) async fn query(&self, dbname: &str, sql: &str) -> Result<Answer, EngineError> {
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
    pub(in super::super) async fn witness(&self, dbname: &str, sql: &str) -> Result<AnswerDigest, EngineError> {
        let asked = async {
            let mut connection = self.connect(dbname).await?;
            sqlx::raw_sql(witness::ALIKE).execute(&mut connection).await?;
            let answer = witness::digest(&mut connection, sql).await?;
            connection.close().await?;
            Ok(answer)
        };
        within_limit(asked).await?.map_err(|why| unfit("answer a query", why))
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
