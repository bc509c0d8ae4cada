//! Deletes what is over and old. Runs go together with their journals, in batches
//! that hold up nobody. A run that is not finished never goes, nor does evidence.
//!
//! The newest run of each series stays, whatever its age: reconcilers ask for the
//! newest due time alone, so that what went cannot be started again. What schedules
//! have dealt with is known from their marks besides.

use jiff::Timestamp;

use super::{Db, DbError, instant, on};

/// By the database's clock: now, and when the last run ended.
pub async fn newest_end(db: &Db) -> Result<(Timestamp, Option<Timestamp>), DbError> {
    let sql = format!("SELECT {}, (SELECT MAX(finished_ms) FROM runs)", db.now_ms());
    let (now, newest): (i64, Option<i64>) =
        on!(db, pool => sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await)
            .map_err(DbError::query("read when the last run ended"))?;
    Ok((instant("runs", now)?, newest.map(|at| instant("runs", at)).transpose()?))
}

const OLD_RUNS: &str = "SELECT id FROM runs WHERE finished_ms < $1 AND EXISTS (
        SELECT 1 FROM runs newer
        WHERE rtrim(newer.id, replace(newer.id, '/', '')) = rtrim(runs.id, replace(runs.id, '/', ''))
            AND newer.requester = runs.requester AND (newer.created_ms, newer.id) > (runs.created_ms, runs.id)
    ) ORDER BY finished_ms LIMIT $2";

/// Deletes at most `limit` runs that ended before; answers how many.
pub async fn runs(db: &Db, before: Timestamp, limit: i64) -> Result<u64, DbError> {
    // As a writer from the start, SQLite reads nothing stale.
    let begin = match db {
        Db::Sqlite { .. } => "BEGIN IMMEDIATE",
        Db::Postgres(_) => "BEGIN",
    };
    let deleted: Result<u64, sqlx::Error> = on!(db, pool => async {
        let mut transaction = pool.begin_with(begin).await?;
        let ids: Vec<String> = sqlx::query_scalar(OLD_RUNS)
            .bind(before.as_millisecond()).bind(limit).fetch_all(&mut *transaction).await?;
        let mut deleted = 0;
        for id in ids {
            sqlx::query("DELETE FROM journal WHERE run_id = $1").bind(&id).execute(&mut *transaction).await?;
            deleted += sqlx::query("DELETE FROM runs WHERE id = $1 AND finished_ms IS NOT NULL")
                .bind(&id).execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(deleted)
    }.await);
    deleted.map_err(DbError::query("delete old runs"))
}

/// Deletes at most `limit` findings that were closed before; answers how many.
pub async fn findings(db: &Db, before: Timestamp, limit: i64) -> Result<u64, DbError> {
    let sql = "DELETE FROM findings WHERE closed_ms < $1 AND id IN (
        SELECT id FROM findings WHERE closed_ms < $1 ORDER BY closed_ms LIMIT $2)";
    on!(db, pool => sqlx::query(sql).bind(before.as_millisecond()).bind(limit).execute(pool).await
        .map(|done| done.rows_affected()))
    .map_err(DbError::query("delete old findings"))
}

/// Deletes at most `limit` notices of what was over before; answers how many.
pub async fn notices(db: &Db, before: Timestamp, limit: i64) -> Result<u64, DbError> {
    let sql = "DELETE FROM notices WHERE over_ms < $1 AND id IN (
        SELECT id FROM notices WHERE over_ms < $1 ORDER BY over_ms LIMIT $2)";
    on!(db, pool => sqlx::query(sql).bind(before.as_millisecond()).bind(limit).execute(pool).await
        .map(|done| done.rows_affected()))
    .map_err(DbError::query("delete old notices"))
}
