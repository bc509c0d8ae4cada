//! The first connection to an isolated instance: as a superuser of its own, whatever
//! that one is called.

use std::path::Path;

use sqlx::PgConnection;

use crate::engine::{
    EngineError,
    postgres::{
        Postgres,
        asked::{Session, failed},
        restored::unfit,
        settings::ISOLATED_PORT,
    },
};

/// "Cannot connect now": starting up, in recovery, shutting down.
const CANNOT_CONNECT_NOW: &str = "57P03";

#[derive(Debug)]
pub(super) enum Readiness {
    Ready(Session),
    NotYet,
}

/// Looks for a database and a superuser that can log in. Neither needs to
/// be called `postgres`; the login of the schedule exists in every copy.
pub(super) async fn open(socket: &Path, postgres: &Postgres) -> Result<Readiness, EngineError> {
    if !socket.join(format!(".s.PGSQL.{ISOLATED_PORT}")).exists() {
        return Ok(Readiness::NotYet);
    }
    let mut refusals = Vec::new();
    for dbname in ["postgres", &postgres.login.dbname, "template1"] {
        for user in ["postgres", &postgres.login.user] {
            let session = Session::at_socket(socket, user, dbname);
            match session.connect(dbname).await {
                Ok(connection) => return with_superuser(session, connection).await.map(Readiness::Ready),
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

/// The user whom nothing in the copy is kept from.
async fn with_superuser(session: Session, mut connection: PgConnection) -> Result<Session, EngineError> {
    let found = "select rolname::text from pg_roles where rolsuper and rolcanlogin order by oid limit 1";
    let superuser: Option<String> =
        sqlx::query_scalar(found).fetch_optional(&mut connection).await.map_err(|error| failed(&error))?;
    let superuser = superuser.ok_or_else(|| unfit("accept a login", "it has no superuser that can log in"))?;
    Ok(session.with_user(superuser))
}
