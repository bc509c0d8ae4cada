//! Moves the evidence of an older SQLite state out of the file of the runs, once.
//!
//! What must never happen: an entry that is in neither file, or in both with other
//! bytes. Rows are dropped here only after the other file has committed the same
//! bytes; a crash between the two leaves them in both, and the next opening goes on.

use sqlx::{Sqlite, SqlitePool, Transaction};

use super::DbError;

type Columns = (i64, String, String, String, String);

/// Rows that are moved at a time.
const AT_ONCE: i64 = 500;
const READ: &str =
    "SELECT idx, run_id, entry, leaf_hash, signature FROM evidence WHERE idx >= $1 ORDER BY idx LIMIT $2";
const WRITE: &str = "INSERT INTO evidence (idx, run_id, entry, leaf_hash, signature) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING";

/// Moves it, if it is still there. Whoever opens the same files meanwhile waits.
pub(super) async fn move_out(state: &SqlitePool, evidence: &SqlitePool) -> Result<(), DbError> {
    let is_there = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'evidence'";
    let look = DbError::query("look where the evidence is");
    if sqlx::query_scalar::<_, i64>(is_there).fetch_one(state).await.map_err(look)? == 0 {
        return Ok(());
    }
    let mut from = state.begin_with("BEGIN IMMEDIATE").await.map_err(moving)?;
    if sqlx::query_scalar::<_, i64>(is_there).fetch_one(&mut *from).await.map_err(moving)? == 0 {
        return Ok(());
    }
    let mut to = evidence.begin_with("BEGIN IMMEDIATE").await.map_err(moving)?;
    let moved = copy(&mut from, &mut to).await?;
    to.commit().await.map_err(moving)?;
    sqlx::query("DROP TABLE evidence").execute(&mut *from).await.map_err(moving)?;
    from.commit().await.map_err(moving)?;
    if moved > 0 {
        tracing::info!(entries = moved, "the evidence is in a file of its own now");
    }
    Ok(())
}

fn moving(source: sqlx::Error) -> DbError {
    DbError::query("move the evidence into a file of its own")(source)
}

/// Copies all rows and reads each back; answers how many there are.
async fn copy(from: &mut Transaction<'_, Sqlite>, to: &mut Transaction<'_, Sqlite>) -> Result<usize, DbError> {
    // Tampered with, it may begin anywhere.
    let (mut next, mut moved) = (i64::MIN, 0);
    loop {
        let rows: Vec<Columns> =
            sqlx::query_as(READ).bind(next).bind(AT_ONCE).fetch_all(&mut **from).await.map_err(moving)?;
        let Some((last, ..)) = rows.last() else { return Ok(moved) };
        for (idx, run_id, entry, leaf_hash, signature) in &rows {
            let write = sqlx::query(WRITE).bind(idx).bind(run_id).bind(entry).bind(leaf_hash).bind(signature);
            write.execute(&mut **to).await.map_err(moving)?;
        }
        let written: Vec<Columns> =
            sqlx::query_as(READ).bind(next).bind(AT_ONCE).fetch_all(&mut **to).await.map_err(moving)?;
        if !written.starts_with(&rows) {
            return Err(DbError::Corrupt {
                place: "the two files of evidence",
                reason: "both hold entries, and not the same; put the file back that does not belong here".to_owned(),
            });
        }
        (next, moved) = (last.saturating_add(1), moved + rows.len());
    }
}
