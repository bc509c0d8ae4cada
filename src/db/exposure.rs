//! The history of exposure: buckets per vault of a database, and up to where each was
//! measured. Instants are by the database's own clock, so that nodes agree.
//!
//! What must never happen: a stretch that two nodes measured and that counts twice.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use sqlx::AssertSqlSafe;

use super::{Db, DbError, instant, on};
use crate::domain::{
    Exposed, ExposureOver,
    exposure::{Bucket, Width},
};

/// Up to where the history of each vault goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// By the database's clock.
    pub now: Timestamp,
    pub through: BTreeMap<Exposed, Timestamp>,
}

/// What a look adds to the history that went up to `before` when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    pub of: Exposed,
    pub before: Option<Timestamp>,
    pub through: Timestamp,
    pub buckets: Vec<Bucket>,
}

pub async fn marks(db: &Db) -> Result<Marks, DbError> {
    let failed = || DbError::query("read up to where exposure was measured");
    let now = format!("SELECT {}", db.now_ms());
    let now: i64 = on!(db, pool => sqlx::query_scalar(AssertSqlSafe(now)).fetch_one(pool).await).map_err(failed())?;
    let sql = "SELECT database, vault, through_ms FROM exposure_marks";
    let rows: Vec<(String, String, i64)> =
        on!(db, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(failed())?;
    let read = |(database, vault, through): (String, String, i64)| -> Result<_, DbError> {
        Ok((exposed(&database, &vault)?, instant("exposure", through)?))
    };
    Ok(Marks { now: instant("exposure", now)?, through: rows.into_iter().map(read).collect::<Result<_, _>>()? })
}

/// Stores what looks add, all of it together; of a history that goes further by now than
/// when it was read, nothing. Answers how many counted. Additions are sorted by what
/// they are of, so that no two nodes wait for each other.
pub async fn add(db: &Db, additions: &[Addition]) -> Result<u64, DbError> {
    // As a writer from the start, SQLite reads nothing stale.
    let begin = match db {
        Db::Sqlite { .. } => "BEGIN IMMEDIATE",
        Db::Postgres(_) => "BEGIN",
    };
    let mut sorted: Vec<&Addition> = additions.iter().collect();
    sorted.sort_by(|a, b| a.of.cmp(&b.of));
    let first = "INSERT INTO exposure_marks (database, vault, through_ms) VALUES ($1, $2, $3)
         ON CONFLICT (database, vault) DO NOTHING";
    let next = "UPDATE exposure_marks SET through_ms = $3 WHERE database = $1 AND vault = $2 AND through_ms = $4";
    // No more than the width: a clock that was set back measures the same time again.
    let bucket = "INSERT INTO exposure (width_s, begins_ms, database, vault, max_ms, over_ms, measured_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (width_s, begins_ms, database, vault) DO UPDATE SET
         max_ms = CASE WHEN excluded.max_ms > exposure.max_ms THEN excluded.max_ms ELSE exposure.max_ms END,
         over_ms = CASE WHEN exposure.over_ms + excluded.over_ms > excluded.width_s * 1000
            THEN excluded.width_s * 1000 ELSE exposure.over_ms + excluded.over_ms END,
         measured_ms = CASE WHEN exposure.measured_ms + excluded.measured_ms > excluded.width_s * 1000
            THEN excluded.width_s * 1000 ELSE exposure.measured_ms + excluded.measured_ms END";
    let stored: Result<u64, sqlx::Error> = on!(db, pool => async {
        let mut transaction = pool.begin_with(begin).await?;
        let mut counted = 0;
        for Addition { of, before, through, buckets } in sorted {
            let (database, vault) = (of.database.as_str(), of.vault.as_str());
            let through = through.as_millisecond();
            let moved = match before {
                None => sqlx::query(first).bind(database).bind(vault).bind(through),
                Some(before) => sqlx::query(next).bind(database).bind(vault).bind(through).bind(before.as_millisecond()),
            };
            if moved.execute(&mut *transaction).await?.rows_affected() == 0 {
                continue;
            }
            counted += 1;
            for one in buckets {
                sqlx::query(bucket).bind(one.width.as_secs()).bind(one.begins.as_millisecond())
                    .bind(database).bind(vault).bind(ms(one.max)).bind(ms(one.over)).bind(ms(one.measured))
                    .execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(counted)
    }.await);
    stored.map_err(DbError::query("store what exposure was"))
}

/// What the buckets that begin from `from` to before `to` come to, per vault. One that
/// is not there was not measured.
pub async fn over(
    db: &Db,
    width: Width,
    (from, to): (Timestamp, Timestamp),
) -> Result<BTreeMap<Exposed, ExposureOver>, DbError> {
    let sql = "SELECT database, vault, MAX(max_ms), CAST(SUM(over_ms) AS BIGINT), CAST(SUM(measured_ms) AS BIGINT)
         FROM exposure WHERE width_s = $1 AND begins_ms >= $2 AND begins_ms < $3 GROUP BY database, vault";
    let rows: Vec<(String, String, i64, i64, i64)> = on!(db, pool => sqlx::query_as(sql)
        .bind(width.as_secs()).bind(from.as_millisecond()).bind(to.as_millisecond()).fetch_all(pool).await)
    .map_err(DbError::query("read what exposure was"))?;
    let seconds = |ms| SignedDuration::from_millis(ms).as_secs_f64();
    let read = |(database, vault, max, over, measured): (String, String, i64, i64, i64)| -> Result<_, DbError> {
        let sum = ExposureOver {
            measured_seconds: seconds(measured),
            over_seconds: seconds(over),
            max_seconds: Some(seconds(max)),
            ..ExposureOver::unmeasured(to.duration_since(from))
        };
        Ok((exposed(&database, &vault)?, sum))
    };
    rows.into_iter().map(read).collect()
}

/// Deletes the buckets that are older than they are kept; answers how many.
pub async fn forget(db: &Db) -> Result<u64, DbError> {
    let sql = format!("DELETE FROM exposure WHERE width_s = $1 AND begins_ms < {} - $2", db.now_ms());
    let mut deleted = 0;
    for width in Width::ALL {
        let kept = i64::try_from(width.kept().as_millis()).unwrap_or(i64::MAX);
        deleted += on!(db, pool => sqlx::query(AssertSqlSafe(sql.as_str())).bind(width.as_secs()).bind(kept)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(DbError::query("delete what exposure was long ago"))?;
    }
    Ok(deleted)
}

fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn exposed(database: &str, vault: &str) -> Result<Exposed, DbError> {
    let corrupt = |reason: String| DbError::Corrupt { place: "exposure", reason };
    Ok(Exposed {
        database: database.parse().map_err(|_| corrupt(format!("`{database}` is no database")))?,
        vault: vault.parse().map_err(|_| corrupt(format!("`{vault}` is no vault")))?,
    })
}
