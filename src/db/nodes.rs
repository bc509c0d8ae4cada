//! The nodes that serve this state database: each tells every few seconds that
//! it lives, by the database's clock. Nobody's lease depends on it; it says who
//! could take a run.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::{Db, DbError, instant, on};
use crate::domain::{Node, NodeRole, Region};

/// How long a node that says nothing more still counts as alive.
const ALIVE_FOR: Duration = Duration::from_secs(20);
/// After so long a silence a node is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, sqlx::FromRow)]
struct NodeRow {
    name: String,
    region: String,
    roles: String,
    version: String,
    seen_ms: i64,
    is_alive: i64,
}

/// Says that this node lives, and forgets those that have long been silent.
pub async fn tell(db: &Db, name: &str, region: &Region, roles: &[NodeRole], version: &str) -> Result<(), DbError> {
    let now = db.now_ms();
    let tell = format!(
        "INSERT INTO nodes (name, region, roles, version, seen_ms) VALUES ($1, $2, $3, $4, {now})
         ON CONFLICT (name) DO UPDATE SET region = excluded.region, roles = excluded.roles,
            version = excluded.version, seen_ms = excluded.seen_ms"
    );
    let forget = format!("DELETE FROM nodes WHERE seen_ms < {now} - {}", FORGOTTEN_AFTER.as_millis());
    let roles = serde_json::to_string(roles).map_err(corrupt)?;
    let told: Result<(), sqlx::Error> = on!(db, pool => async {
        sqlx::query(AssertSqlSafe(tell))
            .bind(name).bind(region.as_str()).bind(roles).bind(version).execute(pool).await?;
        sqlx::query(AssertSqlSafe(forget)).execute(pool).await.map(drop)
    }.await);
    told.map_err(DbError::query("tell that this node lives"))
}

/// Says that this node serves no more.
pub async fn leave(db: &Db, name: &str) -> Result<(), DbError> {
    on!(db, pool => sqlx::query("DELETE FROM nodes WHERE name = $1").bind(name).execute(pool).await.map(drop))
        .map_err(DbError::query("tell that this node ends"))
}

/// All nodes that were heard of lately, by name.
pub async fn list(db: &Db) -> Result<Vec<Node>, DbError> {
    let sql = format!(
        "SELECT name, region, roles, version, seen_ms,
            CAST(CASE WHEN seen_ms > {} - {} THEN 1 ELSE 0 END AS BIGINT) AS is_alive FROM nodes ORDER BY name",
        db.now_ms(),
        ALIVE_FOR.as_millis()
    );
    let rows: Vec<NodeRow> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await)
        .map_err(DbError::query("list the nodes"))?;
    rows.into_iter().map(read).collect()
}

fn read(row: NodeRow) -> Result<Node, DbError> {
    // A role that a newer version has says nothing here.
    let roles: Vec<serde_json::Value> = serde_json::from_str(&row.roles).map_err(corrupt)?;
    Ok(Node {
        name: row.name,
        region: row.region.parse().map_err(corrupt)?,
        roles: roles.into_iter().filter_map(|role| serde_json::from_value(role).ok()).collect(),
        version: row.version,
        seen_at: instant("nodes", row.seen_ms)?,
        is_alive: row.is_alive == 1,
    })
}

fn corrupt(error: impl std::fmt::Display) -> DbError {
    DbError::Corrupt { place: "the nodes", reason: error.to_string() }
}
