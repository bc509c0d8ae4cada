//! How far schedules were dealt with. `runs::insert_all` stores marks and the runs
//! that they stand for in one transaction, so that no due time is passed over.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Db, DbError, instant, on};

/// Up to which due time a line of a database's schedule was dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRow {
    pub database: String,
    pub line: String,
    pub through: Timestamp,
}

/// Follows the rows: a mark moves on, never back.
pub(super) const MOVE_MARKS: &str = " ON CONFLICT (database, line) DO UPDATE SET through_ms = excluded.through_ms
    WHERE agenda_marks.through_ms < excluded.through_ms";

/// The marks of each database that has any, by the line's name.
pub async fn marks(db: &Db) -> Result<BTreeMap<String, BTreeMap<String, Timestamp>>, DbError> {
    let sql = "SELECT database, line, through_ms FROM agenda_marks";
    let rows: Vec<(String, String, i64)> = on!(db, pool => sqlx::query_as(sql).fetch_all(pool).await)
        .map_err(DbError::query("read how far schedules were dealt with"))?;
    let mut marks: BTreeMap<String, BTreeMap<String, Timestamp>> = BTreeMap::new();
    for (database, line, through_ms) in rows {
        marks.entry(database).or_default().insert(line, instant("agenda_marks", through_ms)?);
    }
    Ok(marks)
}
