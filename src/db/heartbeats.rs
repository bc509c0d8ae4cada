//! Acknowledged heartbeats: the record, outside the protected databases, of
//! what was committed when. Instants keep microseconds.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::{Db, DbError, on};
use crate::domain::{Beat, BeatRange, DatabaseName, Lsn, Timeline};

/// seq, `acknowledged_us`, LSN, timeline.
type Row = (i64, i64, String, i64);

const COLUMNS: &str = "seq, acknowledged_us, commit_lsn, timeline";

/// Stores beats. One whose number is stored already is left as it was.
pub async fn append(db: &Db, database: &DatabaseName, beats: &[Beat]) -> Result<(), DbError> {
    let sql = "INSERT INTO heartbeats (database, seq, acknowledged_us, commit_lsn, timeline)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (database, seq) DO NOTHING";
    let stored: Result<(), sqlx::Error> = on!(db, pool => async {
        let mut transaction = pool.begin().await?;
        for beat in beats {
            sqlx::query(sql)
                .bind(database.as_str())
                .bind(beat.seq)
                .bind(beat.acknowledged_at.as_microsecond())
                .bind(beat.commit_lsn.to_string())
                .bind(i64::from(beat.timeline.0))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }.await);
    stored.map_err(DbError::query("store heartbeats"))
}

/// The beat with the highest number.
pub async fn newest(db: &Db, database: &DatabaseName) -> Result<Option<Beat>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM heartbeats WHERE database = $1 ORDER BY seq DESC LIMIT 1");
    let row: Option<Row> =
        on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).bind(database.as_str()).fetch_optional(pool).await)
            .map_err(DbError::query("read the newest heartbeat"))?;
    row.map(beat).transpose()
}

/// The first beat acknowledged at or after an instant.
pub async fn first_since(db: &Db, database: &DatabaseName, from: Timestamp) -> Result<Option<Beat>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM heartbeats WHERE database = $1 AND acknowledged_us >= $2 ORDER BY acknowledged_us LIMIT 1"
    );
    let row: Option<Row> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql))
        .bind(database.as_str()).bind(from.as_microsecond()).fetch_optional(pool).await)
    .map_err(DbError::query("read the first heartbeat since an instant"))?;
    row.map(beat).transpose()
}

/// The beats acknowledged from `from` to `to`, both included, in order.
pub async fn between(db: &Db, database: &DatabaseName, from: Timestamp, to: Timestamp) -> Result<Vec<Beat>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM heartbeats
         WHERE database = $1 AND acknowledged_us BETWEEN $2 AND $3 ORDER BY seq"
    );
    let rows: Vec<Row> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql))
        .bind(database.as_str()).bind(from.as_microsecond()).bind(to.as_microsecond()).fetch_all(pool).await)
    .map_err(DbError::query("read heartbeats"))?;
    rows.into_iter().map(beat).collect()
}

/// The beats with these numbers, in order, as far as they are known.
pub async fn numbered(db: &Db, database: &DatabaseName, range: BeatRange) -> Result<Vec<Beat>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM heartbeats WHERE database = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq");
    let rows: Vec<Row> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql))
        .bind(database.as_str()).bind(range.first).bind(range.last).fetch_all(pool).await)
    .map_err(DbError::query("read heartbeats by their numbers"))?;
    rows.into_iter().map(beat).collect()
}

/// The last of the beats with these numbers that was committed at or before a
/// position. Within one history numbers and positions ascend together.
pub async fn last_until(
    db: &Db,
    database: &DatabaseName,
    BeatRange { first, last }: BeatRange,
    until: (Timeline, Lsn),
) -> Result<Option<Beat>, DbError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM heartbeats WHERE database = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq DESC LIMIT 1"
    );
    let (mut from, mut to, mut found) = (first, last, None);
    while from <= to {
        let middle = from + (to - from) / 2;
        let row: Option<Row> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql.clone()))
            .bind(database.as_str()).bind(from).bind(middle).fetch_optional(pool).await)
        .map_err(DbError::query("look for a heartbeat by its position"))?;
        match row.map(beat).transpose()? {
            Some(beat) if (beat.timeline, beat.commit_lsn) > until => to = beat.seq - 1,
            later => {
                found = later.or(found);
                from = middle + 1;
            }
        }
    }
    Ok(found)
}

/// Removes what was acknowledged before `older_than`, but for the newest beat of
/// each database, whose number the next one counts on from.
pub async fn trim(db: &Db, older_than: Timestamp) -> Result<u64, DbError> {
    let sql = "DELETE FROM heartbeats WHERE acknowledged_us < $1
         AND seq < (SELECT MAX(newest.seq) FROM heartbeats newest WHERE newest.database = heartbeats.database)";
    on!(db, pool => sqlx::query(sql).bind(older_than.as_microsecond()).execute(pool).await
        .map(|done| done.rows_affected()))
    .map_err(DbError::query("trim heartbeats"))
}

fn beat((seq, acknowledged_us, commit_lsn, timeline): Row) -> Result<Beat, DbError> {
    let corrupt = |reason: String| DbError::Corrupt { place: "heartbeats", reason };
    Ok(Beat {
        seq,
        acknowledged_at: Timestamp::from_microsecond(acknowledged_us).map_err(|error| corrupt(error.to_string()))?,
        commit_lsn: commit_lsn.parse().map_err(|error: crate::domain::lsn::InvalidLsn| corrupt(error.to_string()))?,
        timeline: Timeline(u32::try_from(timeline).map_err(|error| corrupt(error.to_string()))?),
    })
}
