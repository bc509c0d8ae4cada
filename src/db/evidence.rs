//! The evidence log's one table. Rows are only ever inserted; that an edit by
//! other means is noticed is the work of `evidence::verify`, not of SQL.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::{Db, DbError, evidence_file, on_evidence};

/// One row, as it stands. Nothing in it is to be trusted before it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub index: u64,
    pub run_id: String,
    /// The canonical bytes of the entry.
    pub entry: String,
    /// Lower-case hex.
    pub leaf_hash: String,
    /// Armored SSH signature.
    pub signature: String,
}

type Columns = (i64, String, String, String, String);

impl Row {
    fn from_columns((index, run_id, entry, leaf_hash, signature): Columns) -> Result<Self, DbError> {
        let index = u64::try_from(index)
            .map_err(|_| DbError::Corrupt { place: "evidence.idx", reason: format!("{index} is negative") })?;
        Ok(Self { index, run_id, entry, leaf_hash, signature })
    }
}

fn column(index: u64) -> Result<i64, DbError> {
    i64::try_from(index)
        .map_err(|_| DbError::Corrupt { place: "evidence.idx", reason: format!("{index} is out of range") })
}

/// Reads the head and inserts, in a transaction that shuts out every other
/// writer from its first statement on. Generic code over both databases would
/// need bounds longer than these statements.
macro_rules! append_in {
    ($tx:ident, $run_id:ident, $make:ident) => {{
        let found: Option<Columns> =
            sqlx::query_as("SELECT idx, run_id, entry, leaf_hash, signature FROM evidence WHERE run_id = $1")
                .bind($run_id)
                .fetch_optional(&mut *$tx)
                .await
                .map_err(DbError::query("look for the run's evidence"))?;
        if let Some(columns) = found {
            return Ok(Row::from_columns(columns)?);
        }
        let head: Option<Columns> =
            sqlx::query_as("SELECT idx, run_id, entry, leaf_hash, signature FROM evidence ORDER BY idx DESC LIMIT 1")
                .fetch_optional(&mut *$tx)
                .await
                .map_err(DbError::query("read the head of the evidence log"))?;
        let row = $make(head.map(Row::from_columns).transpose()?)?;
        sqlx::query("INSERT INTO evidence (idx, run_id, entry, leaf_hash, signature) VALUES ($1, $2, $3, $4, $5)")
            .bind(column(row.index)?)
            .bind(&row.run_id)
            .bind(&row.entry)
            .bind(&row.leaf_hash)
            .bind(&row.signature)
            .execute(&mut *$tx)
            .await
            .map_err(DbError::query("append to the evidence log"))?;
        $tx.commit().await.map_err(DbError::query("commit to the evidence log"))?;
        Ok(row)
    }};
}

/// Appends the row that `make` builds upon the head, or answers the row that
/// stands for `run_id` already. Two nodes never build upon the same head.
pub async fn append<E: From<DbError>>(
    db: &Db,
    run_id: &str,
    make: impl FnOnce(Option<Row>) -> Result<Row, E>,
) -> Result<Row, E> {
    match db {
        Db::Sqlite { evidence, .. } => {
            let mut tx =
                evidence.begin_with("BEGIN IMMEDIATE").await.map_err(DbError::query("lock the evidence log"))?;
            append_in!(tx, run_id, make)
        }
        Db::Postgres(pool) => {
            let mut tx = pool.begin().await.map_err(DbError::query("lock the evidence log"))?;
            sqlx::query("LOCK TABLE evidence IN SHARE ROW EXCLUSIVE MODE")
                .execute(&mut *tx)
                .await
                .map_err(DbError::query("lock the evidence log"))?;
            append_in!(tx, run_id, make)
        }
    }
}

/// All rows from `index` on, in order.
pub async fn rows_from(db: &Db, index: u64) -> Result<Vec<Row>, DbError> {
    let columns: Vec<Columns> = on_evidence!(db, pool => {
        sqlx::query_as("SELECT idx, run_id, entry, leaf_hash, signature FROM evidence WHERE idx >= $1 ORDER BY idx")
            .bind(column(index)?)
            .fetch_all(pool)
            .await
            .map_err(DbError::query("read the evidence log"))?
    });
    columns.into_iter().map(Row::from_columns).collect()
}

/// The row of one run.
pub async fn by_run(db: &Db, run_id: &str) -> Result<Option<Row>, DbError> {
    let columns: Option<Columns> = on_evidence!(db, pool => {
        sqlx::query_as("SELECT idx, run_id, entry, leaf_hash, signature FROM evidence WHERE run_id = $1")
            .bind(run_id)
            .fetch_optional(pool)
            .await
            .map_err(DbError::query("read the run's evidence"))?
    });
    columns.map(Row::from_columns).transpose()
}

/// The row at one index.
pub async fn by_index(db: &Db, index: u64) -> Result<Option<Row>, DbError> {
    let columns: Option<Columns> = on_evidence!(db, pool => {
        sqlx::query_as("SELECT idx, run_id, entry, leaf_hash, signature FROM evidence WHERE idx = $1")
            .bind(column(index)?)
            .fetch_optional(pool)
            .await
            .map_err(DbError::query("read an evidence entry"))?
    });
    columns.map(Row::from_columns).transpose()
}

/// Opens the evidence of a SQLite state database to look at it: nothing is created,
/// migrated or moved. It may be beside `path`, or still in that file.
pub async fn open_file(path: &Path) -> Result<Db, DbError> {
    let beside = evidence_file(path);
    let file = if beside.exists() { &beside } else { path };
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .map_err(|source| DbError::Open { url: format!("sqlite:{}", file.display()), source })?;
    Ok(Db::Sqlite { state: pool.clone(), evidence: pool })
}
