//! The id that each vault had when it was first written to. What shows another
//! one, or none, is not that vault.

use sqlx::AssertSqlSafe;

use super::{Db, DbError, on};
use crate::domain::VaultName;

/// The id of a vault; none when it was never written to.
pub async fn id_of(db: &Db, vault: &VaultName) -> Result<Option<String>, DbError> {
    on!(db, pool => sqlx::query_scalar("SELECT id FROM vaults WHERE name = $1").bind(vault.as_str())
        .fetch_optional(pool).await)
    .map_err(DbError::query("read the id of a vault"))
}

/// Keeps the id of a vault; one that is known keeps the id it has. Answers
/// whether it is new.
pub async fn remember(db: &Db, vault: &VaultName, id: &str) -> Result<bool, DbError> {
    let sql = format!(
        "INSERT INTO vaults (name, id, known_since_ms) VALUES ($1, $2, {}) ON CONFLICT (name) DO NOTHING",
        db.now_ms()
    );
    on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(vault.as_str()).bind(id).execute(pool).await
        .map(|done| done.rows_affected() > 0))
    .map_err(DbError::query("keep the id of a vault"))
}
