//! Reads all rows of a copy over the network, as a dump does, and keeps nothing. What is
//! read for the first time at a provider's comes from its store: that time is the copy's.

use futures::TryStreamExt;
use sqlx::{Connection, PgConnection};

use crate::{
    decide::reading::{Outcome, ReadThrough},
    engine::{
        EngineError,
        postgres::asked::{Session, catalogs, failed},
    },
};

/// Tables with rows of their own, named as SQL does; those of other connections' temporary
/// ones aside. Rows that a policy hides are an error, and not just less.
const TABLES: &str = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = relnamespace \
    where relkind = 'r' and relpersistence <> 't' and nspname not in ('pg_catalog', 'information_schema') order by c.oid";
const WHOLE: &str = "set statement_timeout = 0; set row_security = off";
const LARGE_OBJECTS: &str = "select coalesce(sum(length(lo_get(oid))), 0)::bigint from pg_largeobject_metadata";
/// SQLSTATE `insufficient_privilege`.
const DENIED: &str = "42501";

pub(super) async fn read_all(session: &Session) -> Result<Vec<ReadThrough>, EngineError> {
    let mut read = Vec::new();
    for dbname in catalogs::databases(session).await? {
        let outcome = match session.connect(&dbname).await {
            Ok(mut connection) => {
                let outcome = read_tables(&mut connection).await.map_err(|error| failed(&error))?;
                connection.close().await.map_err(|error| failed(&error))?;
                outcome
            }
            // Such as a database of the provider's own.
            Err(sqlx::Error::Database(answer)) => {
                Outcome::Unread(format!("the login is not let in: {}", answer.message()))
            }
            Err(error) => return Err(failed(&error)),
        };
        read.push(ReadThrough { dbname, outcome });
    }
    let closed = catalogs::closed(session).await?;
    read.extend(closed.into_iter().map(|dbname| ReadThrough { dbname, outcome: Outcome::Closed }));
    Ok(read)
}

async fn read_tables(connection: &mut PgConnection) -> Result<Outcome, sqlx::Error> {
    sqlx::raw_sql(WHOLE).execute(&mut *connection).await?;
    let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut *connection).await?;
    let mut unread = Vec::new();
    for table in tables {
        match read_table(connection, &table).await {
            Ok(()) => {}
            Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some(DENIED) => unread.push(table),
            Err(sqlx::Error::Database(answer)) => {
                // The server's words may quote what it cannot read: they go to the log, not into evidence.
                tracing::warn!(table, said = answer.message(), "the copy could not be read");
                let code = answer.code().unwrap_or_default().into_owned();
                return Ok(Outcome::Failed(format!("reading table {table} failed (SQLSTATE {code})")));
            }
            Err(error) => return Err(error),
        }
    }
    match sqlx::query_scalar::<_, i64>(LARGE_OBJECTS).fetch_one(&mut *connection).await {
        Ok(_) => {}
        Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some(DENIED) => {
            unread.push("large objects".to_owned());
        }
        Err(sqlx::Error::Database(answer)) => {
            let code = answer.code().unwrap_or_default().into_owned();
            return Ok(Outcome::Failed(format!("reading large objects failed (SQLSTATE {code})")));
        }
        Err(error) => return Err(error),
    }
    Ok(match unread.split_first() {
        None => Outcome::Read,
        Some((first, rest)) => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            Outcome::Unread(format!("the login may not read {first}{more}; grant it `pg_read_all_data`"))
        }
    })
}

/// To its end, so that an error that comes late is not missed.
async fn read_table(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    let mut rows = connection.copy_out_raw(&format!("copy {table} to stdout")).await?;
    while rows.try_next().await?.is_some() {}
    Ok(())
}
