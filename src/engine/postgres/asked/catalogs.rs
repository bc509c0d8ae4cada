//! What the catalogs of a copy say of how its text is sorted, and what `amcheck`
//! says of its indexes. Each database is asked over a connection of its own;
//! none that takes connections is left out.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::session::{Session, failed};
use crate::{
    decide::{collation::Collation, indexes::LookedAt},
    engine::{EngineError, postgres::catalogs as shared},
};

/// Databases that take none, but for the template that is always such.
const CLOSED: &str = "select datname::text from pg_database \
     where not datallowconn and datname <> 'template0' and datconnlimit <> -2 order by datname";

/// Stronger than what the source may have set per role or database; the step that
/// waits for the answer has a limit of its own.
const FREE: &str = "set statement_timeout = 0; set default_transaction_read_only = off; set search_path = pg_catalog";
/// Triggers on what is made here do nothing. Only a superuser may say so, and a provider gives none away.
const NO_TRIGGERS: &str = "set session_replication_role = replica";
/// SQLSTATE `insufficient_privilege`.
const DENIED: &str = "42501";

/// The extension as new as it is installed, in a schema of its own where it is not there yet.
const MAKE_AMCHECK: &str = "create schema if not exists lifeboat_amcheck; \
     create extension if not exists amcheck with schema lifeboat_amcheck; alter extension amcheck update";

const INDEXES: &str = "select format('`%s` of `%s`', c.oid::regclass, current_database()), \
     format('select %I.bt_index_check(index => %s::oid::regclass, heapallindexed => true)', e.nspname, c.oid) \
     from pg_index join pg_class c on c.oid = indexrelid join pg_am a on a.oid = relam, \
     (select nspname from pg_extension join pg_namespace n on n.oid = extnamespace where extname = 'amcheck') e \
     where amname = 'btree' and relkind = 'i' and indisvalid and indisready and relpersistence <> 't' order by c.oid";

pub(in super::super) async fn collations(session: &Session) -> Result<Vec<Collation>, EngineError> {
    let mut connection = session.connect(session.dbname()).await.map_err(|error| failed(&error))?;
    let mut found = shared::collations_of_databases(&mut connection).await.map_err(|error| failed(&error))?;
    for dbname in databases(session).await? {
        let mut connection = session.connect(&dbname).await.map_err(|error| failed(&error))?;
        found.extend(shared::collations_in(&mut connection).await.map_err(|error| failed(&error))?);
    }
    Ok(found)
}

/// Those that somebody can look into.
pub(in super::super) async fn databases(session: &Session) -> Result<Vec<String>, EngineError> {
    let mut connection = session.connect(session.dbname()).await.map_err(|error| failed(&error))?;
    let mut found = shared::databases(&mut connection).await.map_err(|error| failed(&error))?;
    found.retain(|dbname| !session.is_providers(dbname));
    Ok(found)
}

/// Databases that nobody can look into.
pub(in super::super) async fn closed(session: &Session) -> Result<Vec<String>, EngineError> {
    let mut connection = session.connect(session.dbname()).await.map_err(|error| failed(&error))?;
    sqlx::query_scalar(CLOSED).fetch_all(&mut connection).await.map_err(|error| failed(&error))
}

/// The rows of a table; none where there is no such table.
pub(in super::super) async fn count(session: &Session, dbname: &str, table: &str) -> Result<Option<u64>, EngineError> {
    let counted = async {
        let mut connection = session.connect(dbname).await?;
        sqlx::raw_sql("set statement_timeout = 0").execute(&mut connection).await?;
        // As the catalogs write it, so that it is a name and nothing else.
        let named: Option<String> =
            sqlx::query_scalar("select to_regclass($1)::text").bind(table).fetch_one(&mut connection).await?;
        let Some(named) = named else { return Ok(None) };
        let count = AssertSqlSafe(format!("select count(*) from {named}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(Some(rows.unsigned_abs()))
    };
    counted.await.map_err(|error: sqlx::Error| failed(&error))
}

/// Every B-tree index of every database.
pub(in super::super) async fn indexes(session: &Session) -> Result<Vec<LookedAt>, EngineError> {
    let mut looked = Vec::new();
    for dbname in databases(session).await? {
        let mut connection = session.connect(&dbname).await.map_err(|error| failed(&error))?;
        let found = indexes_of(&mut connection, &dbname).await.map_err(|error| failed(&error))?;
        connection.close().await.map_err(|error| failed(&error))?;
        looked.push(found);
    }
    Ok(looked)
}

async fn indexes_of(connection: &mut PgConnection, dbname: &str) -> Result<LookedAt, sqlx::Error> {
    let mut looked = LookedAt::default();
    sqlx::raw_sql(FREE).execute(&mut *connection).await?;
    match sqlx::raw_sql(NO_TRIGGERS).execute(&mut *connection).await {
        Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some(DENIED) => {}
        done => {
            done?;
        }
    }
    let installed = "select exists (select from pg_available_extensions where name = 'amcheck')";
    if !sqlx::query_scalar::<_, bool>(installed).fetch_one(&mut *connection).await? {
        let remedy = "install the server's contrib package on the machine that tests restores";
        looked.unchecked.push(format!("`{dbname}` was not looked at: amcheck is not installed; {remedy}"));
        return Ok(looked);
    }
    match sqlx::raw_sql(MAKE_AMCHECK).execute(&mut *connection).await {
        Ok(_) => {}
        Err(sqlx::Error::Database(answer)) => {
            looked
                .unchecked
                .push(format!("`{dbname}` was not looked at: amcheck cannot be made: {}", answer.message()));
            return Ok(looked);
        }
        Err(error) => return Err(error),
    }
    for row in sqlx::query(INDEXES).fetch_all(&mut *connection).await? {
        let (name, check): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match sqlx::raw_sql(AssertSqlSafe(check)).execute(&mut *connection).await {
            Ok(_) => looked.sound += 1,
            Err(sqlx::Error::Database(answer)) => {
                let code = answer.code().unwrap_or_default().into_owned();
                // The server's own findings (XX: corruption, 58: files) quote no rows;
                // a function of an index may, so that of another error the code alone is told.
                if code.starts_with("XX") || code.starts_with("58") {
                    looked.damaged.push(format!("{name} is damaged: {}", answer.message()));
                } else {
                    looked.unchecked.push(format!("{name} was not looked at: SQLSTATE {code}"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(looked)
}
