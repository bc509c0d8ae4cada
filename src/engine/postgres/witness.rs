//! A query's whole answer in one form, whoever is asked: the source, by the role of
//! the schedule, and its copy, by a superuser.
//!
//! It must never depend on how either session happens to be set, and keeps no value.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, Executor, PgConnection, Row, SqlSafeStr, Statement, ValueRef};

use crate::decide::{
    statement,
    witness::{Digester, ROWS_MAX},
};
use crate::domain::AnswerDigest;

/// What makes text of the same value alike: roles and databases may have set otherwise,
/// and a copy's may be set otherwise than its source. Rows that a policy hides from the
/// role are an error there, and not just less. One process sums up, always in one order.
pub(super) const ALIKE: &str = "SET search_path = public; SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; \
    SET intervalstyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET xmloption = 'content'; SET xmlbinary = 'base64'; SET standard_conforming_strings = on; \
    SET array_nulls = on; SET quote_all_identifiers = off; SET row_security = off; SET jit = off; \
    SET max_parallel_workers_per_gather = 0";

/// Reads the answer to its end. Why it is none that can be compared, where it is none.
pub(super) async fn digest(
    connection: &mut PgConnection,
    sql: &str,
) -> Result<Result<AnswerDigest, String>, sqlx::Error> {
    let mut digester = Digester::default();
    {
        // The operator's own check; the simple protocol answers in text.
        let mut told = connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql)));
        while let Some(told) = told.try_next().await? {
            let Either::Right(row) = told else { continue };
            let mut columns = Vec::with_capacity(row.len());
            for place in 0..row.len() {
                let value = row.try_get_raw(place)?;
                let text = if value.is_null() { None } else { Some(value.as_bytes().map_err(sqlx::Error::Decode)?) };
                columns.push(text.map(<[u8]>::to_vec));
            }
            if !digester.row(columns.iter().map(Option::as_deref)) {
                return Ok(Err(format!("it answers with more than {ROWS_MAX} rows, which are to be summed up")));
            }
        }
    }
    let answer = digester.finish();
    if answer.rows == 0 && !is_query(connection, sql).await? {
        return Ok(Err("it is no query, and answers with no rows".to_owned()));
    }
    Ok(Ok(answer))
}

/// Whether any of the statements, which have been carried out without a row, answers with
/// rows: the server tells it of each that it is shown alone. One that it takes no more,
/// as what it reads is gone again, proves nothing.
pub(super) async fn is_query(connection: &mut PgConnection, sql: &str) -> Result<bool, sqlx::Error> {
    for statement in statement::split(sql) {
        match connection.prepare(AssertSqlSafe(statement.to_owned()).into_sql_str()).await {
            Ok(prepared) if !prepared.columns().is_empty() => return Ok(true),
            Ok(_) | Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
