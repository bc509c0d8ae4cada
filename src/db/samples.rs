//! What sources answered at known points of their history, by database and question.
//! Instants keep microseconds.

use jiff::Timestamp;

use super::{Db, DbError, on};
use crate::domain::{DatabaseName, Moment, Sample, Timeline};

/// `taken_us`, `as_of_us`, system id, timeline, both LSNs.
type Head = (i64, i64, String, i64, String, String);

/// Stores a sample. One that another node has taken at the same instant stays.
pub async fn append(db: &Db, database: &DatabaseName, question: &str, sample: &Sample) -> Result<(), DbError> {
    let sql =
        "INSERT INTO samples (database, question, taken_us, as_of_us, system_id, timeline, from_lsn, to_lsn, told)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (database, question, taken_us) DO NOTHING";
    let (moment, told) = (&sample.moment, serde_json::to_string(&sample.told).map_err(corrupt)?);
    on!(db, pool => sqlx::query(sql)
        .bind(database.as_str())
        .bind(question)
        .bind(sample.taken_at.as_microsecond())
        .bind(moment.as_of.as_microsecond())
        .bind(&moment.system_id)
        .bind(i64::from(moment.timeline.0))
        .bind(moment.from.to_string())
        .bind(moment.to.to_string())
        .bind(told)
        .execute(pool).await.map(drop))
    .map_err(DbError::query("store a sample"))
}

/// When the newest sample was taken.
pub async fn newest(db: &Db, database: &DatabaseName, question: &str) -> Result<Option<Timestamp>, DbError> {
    let sql = "SELECT MAX(taken_us) FROM samples WHERE database = $1 AND question = $2";
    let taken: Option<i64> =
        on!(db, pool => sqlx::query_scalar(sql).bind(database.as_str()).bind(question).fetch_one(pool).await)
            .map_err(DbError::query("read when a source was asked last"))?;
    taken.map(instant).transpose()
}

/// Of which moments samples are kept, and when each was taken; the oldest first.
pub async fn moments(db: &Db, database: &DatabaseName, question: &str) -> Result<Vec<(Timestamp, Moment)>, DbError> {
    let sql = "SELECT taken_us, as_of_us, system_id, timeline, from_lsn, to_lsn FROM samples
         WHERE database = $1 AND question = $2 ORDER BY taken_us";
    let rows: Vec<Head> =
        on!(db, pool => sqlx::query_as(sql).bind(database.as_str()).bind(question).fetch_all(pool).await)
            .map_err(DbError::query("read what samples are kept"))?;
    rows.into_iter().map(head).collect()
}

/// The sample that was taken then.
pub async fn taken_at(
    db: &Db,
    database: &DatabaseName,
    question: &str,
    at: Timestamp,
) -> Result<Option<Sample>, DbError> {
    let sql = "SELECT as_of_us, system_id, timeline, from_lsn, to_lsn, told FROM samples
         WHERE database = $1 AND question = $2 AND taken_us = $3";
    let row: Option<(i64, String, i64, String, String, String)> = on!(db, pool => sqlx::query_as(sql)
        .bind(database.as_str()).bind(question).bind(at.as_microsecond()).fetch_optional(pool).await)
    .map_err(DbError::query("read a sample"))?;
    row.map(|(as_of_us, system_id, timeline, from, to, told)| {
        let (taken_at, moment) = head((at.as_microsecond(), as_of_us, system_id, timeline, from, to))?;
        Ok(Sample { taken_at, moment, told: serde_json::from_str(&told).map_err(corrupt)? })
    })
    .transpose()
}

/// Removes what was taken of a database before.
pub async fn trim(db: &Db, database: &DatabaseName, older_than: Timestamp) -> Result<u64, DbError> {
    let sql = "DELETE FROM samples WHERE database = $1 AND taken_us < $2";
    on!(db, pool => sqlx::query(sql).bind(database.as_str()).bind(older_than.as_microsecond()).execute(pool).await
        .map(|done| done.rows_affected()))
    .map_err(DbError::query("trim samples"))
}

fn head((taken_us, as_of_us, system_id, timeline, from, to): Head) -> Result<(Timestamp, Moment), DbError> {
    let moment = Moment {
        as_of: instant(as_of_us)?,
        system_id,
        timeline: Timeline(u32::try_from(timeline).map_err(corrupt)?),
        from: from.parse().map_err(corrupt)?,
        to: to.parse().map_err(corrupt)?,
    };
    Ok((instant(taken_us)?, moment))
}

fn instant(us: i64) -> Result<Timestamp, DbError> {
    Timestamp::from_microsecond(us).map_err(corrupt)
}

fn corrupt(error: impl std::fmt::Display) -> DbError {
    DbError::Corrupt { place: "samples", reason: error.to_string() }
}
