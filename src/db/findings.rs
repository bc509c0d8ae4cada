//! Findings: what a person must fix. A finding has a stable id, so that looking
//! again at the same trouble opens it once.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::{Db, DbError, instant, on};

/// Something a person must fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub id: String,
    /// The database, vault or run that it is about.
    pub subject: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// Since when it is open.
    pub opened_at: Timestamp,
}

/// Opens a finding. An open one keeps its time and takes the new message; a
/// closed one is opened anew.
pub async fn open(db: &Db, id: &str, subject: &str, message: &str) -> Result<(), DbError> {
    let sql = format!(
        "INSERT INTO findings (id, subject, message, opened_ms) VALUES ($1, $2, $3, {})
         ON CONFLICT (id) DO UPDATE SET subject = excluded.subject, message = excluded.message, closed_ms = NULL,
            opened_ms = CASE WHEN findings.closed_ms IS NULL THEN findings.opened_ms ELSE excluded.opened_ms END",
        db.now_ms()
    );
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(id).bind(subject).bind(message).execute(pool).await.map(drop))
        .map_err(DbError::query("open a finding"))
}

/// Closes a finding; one that is not open stays as it is.
pub async fn close(db: &Db, id: &str) -> Result<(), DbError> {
    let sql = format!("UPDATE findings SET closed_ms = {} WHERE id = $1 AND closed_ms IS NULL", db.now_ms());
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(id).execute(pool).await.map(drop))
        .map_err(DbError::query("close a finding"))
}

/// What is open, oldest first.
pub async fn open_findings(db: &Db) -> Result<Vec<Finding>, DbError> {
    let sql = "SELECT id, subject, message, opened_ms FROM findings WHERE closed_ms IS NULL ORDER BY opened_ms, id";
    let rows: Vec<(String, String, String, i64)> =
        on!(db, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(DbError::query("list the open findings"))?;
    rows.into_iter()
        .map(|(id, subject, message, opened_ms)| {
            Ok(Finding { id, subject, message, opened_at: instant("findings", opened_ms)? })
        })
        .collect()
}
