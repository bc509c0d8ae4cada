//! The turns of the safety lever. Nothing here changes or removes one; the last
//! one says how the lever stands.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::{Db, DbError, instant, on};
use crate::domain::{Attribution, Lever};

/// One turn of the lever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub seq: i64,
    pub on: bool,
    pub by: Attribution,
    pub at: Timestamp,
}

type TurnRow = (i64, i64, String, String, i64);

fn read((seq, is_on, who, reason, at_ms): TurnRow) -> Result<Turn, DbError> {
    Ok(Turn { seq, on: is_on != 0, by: Attribution { who, reason }, at: instant("lever", at_ms)? })
}

/// How the lever stands; off where nobody ever turned it.
pub async fn current(db: &Db) -> Result<Lever, DbError> {
    let sql = "SELECT seq, is_on, who, reason, at_ms FROM lever ORDER BY seq DESC LIMIT 1";
    let row: Option<TurnRow> = on!(db, pool => sqlx::query_as(sql).fetch_optional(pool).await)
        .map_err(DbError::query("read the safety lever"))?;
    let Some(turn) = row.map(read).transpose()? else { return Ok(Lever::default()) };
    Ok(Lever { on: turn.on, who: Some(turn.by.who), reason: Some(turn.by.reason), since: Some(turn.at) })
}

/// Turns the lever; one that stands so already keeps who turned it, and why.
/// Answers whether it was turned. Of two who turn it at once one does.
pub async fn turn(db: &Db, to_on: bool, by: &Attribution) -> Result<bool, DbError> {
    let sql = format!(
        "INSERT INTO lever (seq, is_on, who, reason, at_ms)
         SELECT (SELECT COALESCE(MAX(seq), 0) + 1 FROM lever), $1, $2, $3, {}
         WHERE COALESCE((SELECT is_on FROM lever ORDER BY seq DESC LIMIT 1), 0) <> $1 ON CONFLICT (seq) DO NOTHING",
        db.now_ms()
    );
    loop {
        let turned = on!(db, pool => sqlx::query(AssertSqlSafe(sql.as_str())).bind(i64::from(to_on))
            .bind(&by.who).bind(&by.reason).execute(pool).await.map(|done| done.rows_affected()));
        if turned.map_err(DbError::query("turn the safety lever"))? == 1 {
            return Ok(true);
        }
        // Nothing was stored: it stands so already, or somebody was faster by a moment.
        if current(db).await?.on == to_on {
            return Ok(false);
        }
    }
}

/// The turns that are not in the evidence yet, oldest first.
pub async fn unrecorded(db: &Db) -> Result<Vec<Turn>, DbError> {
    let sql = "SELECT seq, is_on, who, reason, at_ms FROM lever WHERE recorded = 0 ORDER BY seq";
    let rows: Vec<TurnRow> = on!(db, pool => sqlx::query_as(sql).fetch_all(pool).await)
        .map_err(DbError::query("read turns of the safety lever"))?;
    rows.into_iter().map(read).collect()
}

/// Notes that a turn is in the evidence.
pub async fn note_recorded(db: &Db, seq: i64) -> Result<(), DbError> {
    let sql = "UPDATE lever SET recorded = 1 WHERE seq = $1";
    on!(db, pool => sqlx::query(sql).bind(seq).execute(pool).await.map(drop))
        .map_err(DbError::query("note a turn of the safety lever"))
}
