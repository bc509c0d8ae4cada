//! The outbox: what is to be told, and whether it was. A notice is stored once by its
//! id, whoever stores it; a node claims it, by the database's clock, before it tells
//! it, and notes it afterwards. One that was claimed and not noted is told again when
//! the claim ends, by the same id.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::{Db, DbError, instant, on};
use crate::domain::{Notice, NotifierName};

/// A notice to be stored.
#[derive(Debug, Clone)]
pub struct NewNotice {
    pub notifier: NotifierName,
    pub notice: Notice,
    /// Not told any more from then on.
    pub until: Timestamp,
    /// When what it is about is over, and who was told of it matters no more.
    pub over_at: Timestamp,
}

/// A notice that this node alone may tell until its claim ends.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub notice: Notice,
    /// How often it was claimed, this time too; what is noted of an earlier claim counts no more.
    pub attempts: i64,
}

/// A stored notice.
#[derive(Debug, Clone)]
pub struct Stored {
    pub notifier: NotifierName,
    pub notice: Notice,
    pub stored_at: Timestamp,
    /// Not told any more from then on.
    pub until: Timestamp,
    /// How often a node began to tell it.
    pub attempts: i64,
    pub sent_at: Option<Timestamp>,
}

/// Stores what is not stored yet, all of it or nothing. Those of `withdrawn` that were
/// not told are told no more; what nobody has begun to tell is as if it had never been.
/// One that was withdrawn and not told is stored anew, as what it says now.
pub async fn store(db: &Db, new: &[NewNotice], withdrawn: &[String]) -> Result<(), DbError> {
    let insert = format!(
        "INSERT INTO notices (id, notifier, content, stored_ms, until_ms, over_ms, next_ms)
         VALUES ($1, $2, $3, {0}, $4, $5, {0})
         ON CONFLICT (id) DO UPDATE
            SET content = excluded.content, stored_ms = excluded.stored_ms, until_ms = excluded.until_ms
            WHERE notices.sent_ms IS NULL AND notices.until_ms <= {0}",
        db.now_ms()
    );
    let withdraw = "DELETE FROM notices WHERE id = $1 AND attempts = 0 AND sent_ms IS NULL";
    let end = "UPDATE notices SET until_ms = 0 WHERE id = $1 AND sent_ms IS NULL";
    let content: Result<Vec<String>, _> = new.iter().map(|new| serde_json::to_string(&new.notice)).collect();
    let content = content.map_err(corrupt)?;
    let stored: Result<(), sqlx::Error> = on!(db, pool => async {
        let mut transaction = pool.begin().await?;
        for id in withdrawn {
            sqlx::query(withdraw).bind(id).execute(&mut *transaction).await?;
            sqlx::query(end).bind(id).execute(&mut *transaction).await?;
        }
        for (new, content) in new.iter().zip(content) {
            sqlx::query(AssertSqlSafe(insert.as_str()))
                .bind(&new.notice.id).bind(new.notifier.as_str()).bind(content)
                .bind(new.until.as_millisecond()).bind(new.over_at.as_millisecond())
                .execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }.await);
    stored.map_err(DbError::query("store what is to be told"))
}

/// Those of one kind, by the first part of their ids, that are about what is not over.
pub async fn current(db: &Db, kind: &str) -> Result<Vec<Stored>, DbError> {
    let sql = format!(
        "SELECT notifier, content, stored_ms, until_ms, attempts, sent_ms FROM notices
         WHERE over_ms > {} AND id LIKE $1 ORDER BY stored_ms, id",
        db.now_ms()
    );
    let rows: Vec<(String, String, i64, i64, i64, Option<i64>)> =
        on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).bind(format!("{kind}/%")).fetch_all(pool).await)
            .map_err(DbError::query("read what was told"))?;
    rows.into_iter()
        .map(|(notifier, content, stored_ms, until_ms, attempts, sent_ms)| {
            Ok(Stored {
                notifier: notifier.parse().map_err(corrupt)?,
                notice: serde_json::from_str(&content).map_err(corrupt)?,
                stored_at: instant("notices", stored_ms)?,
                until: instant("notices", until_ms)?,
                attempts,
                sent_at: sent_ms.map(|at| instant("notices", at)).transpose()?,
            })
        })
        .collect()
}

/// The oldest notice to this notifier that is to be told, where it may be told now;
/// nobody else gets it before `lease` has passed. A later one waits for it, so that what
/// is said last comes last, but not for one that was refused for good.
pub async fn claim(db: &Db, notifier: &NotifierName, lease: Duration) -> Result<Option<Claimed>, DbError> {
    let now = db.now_ms();
    let untold = untold(db);
    let free = format!("{untold} AND lease_until_ms <= {now} AND next_ms <= {now}");
    // What is free is asked again of the row itself: another node may have been faster.
    let sql = format!(
        "UPDATE notices SET attempts = attempts + 1, lease_until_ms = {now} + $2
         WHERE id = (SELECT id FROM notices WHERE notifier = $1 AND {untold} AND (refused = 0 OR next_ms <= {now})
                     ORDER BY stored_ms, id LIMIT 1) AND {free}
         RETURNING content, attempts"
    );
    let row: Option<(String, i64)> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql))
        .bind(notifier.as_str()).bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)).fetch_optional(pool).await)
    .map_err(DbError::query("claim what is to be told"))?;
    row.map(|(content, attempts)| Ok(Claimed { notice: serde_json::from_str(&content).map_err(corrupt)?, attempts }))
        .transpose()
}

fn untold(db: &Db) -> String {
    format!("sent_ms IS NULL AND until_ms > {}", db.now_ms())
}

/// Whether anything is left to be told to this notifier, now or later.
pub async fn is_any_untold(db: &Db, notifier: &NotifierName) -> Result<bool, DbError> {
    let sql = format!("SELECT count(*) FROM notices WHERE notifier = $1 AND {}", untold(db));
    let count: i64 =
        on!(db, pool => sqlx::query_scalar(AssertSqlSafe(sql)).bind(notifier.as_str()).fetch_one(pool).await)
            .map_err(DbError::query("count what is to be told"))?;
    Ok(count > 0)
}

/// Notes that it was told.
pub async fn note_sent(db: &Db, id: &str) -> Result<(), DbError> {
    let sql = format!("UPDATE notices SET sent_ms = {} WHERE id = $1 AND sent_ms IS NULL", db.now_ms());
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(id).execute(pool).await.map(drop))
        .map_err(DbError::query("note that it was told"))
}

/// Gives a claim back: it is tried again after `pause`. One that was refused for good
/// is tried earlier where the files are edited.
pub async fn give_back(db: &Db, claimed: &Claimed, pause: Duration, is_refused: bool) -> Result<(), DbError> {
    let sql = format!(
        "UPDATE notices SET lease_until_ms = 0, next_ms = {} + $3, refused = $4
         WHERE id = $1 AND attempts = $2 AND sent_ms IS NULL",
        db.now_ms()
    );
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(&claimed.notice.id).bind(claimed.attempts)
        .bind(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)).bind(i64::from(is_refused))
        .execute(pool).await.map(drop))
    .map_err(DbError::query("note that it could not be told"))
}

/// Has what was refused for good tried at once: what refused it may have been mended.
pub async fn try_refused(db: &Db) -> Result<(), DbError> {
    let sql =
        format!("UPDATE notices SET next_ms = {}, refused = 0 WHERE refused = 1 AND sent_ms IS NULL", db.now_ms());
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).execute(pool).await.map(drop))
        .map_err(DbError::query("have refused notices tried again"))
}

fn corrupt(error: impl std::fmt::Display) -> DbError {
    DbError::Corrupt { place: "the notices", reason: error.to_string() }
}
