//! Runs and their journal. A journal write by a driver and its check that the
//! driver still owns the run are one transaction that begins by locking the
//! run's row, so a take-over comes wholly before or wholly after it. Nothing
//! here updates or deletes a journal entry.

use sqlx::{AssertSqlSafe, QueryBuilder};

use super::{
    Db, DbError,
    agenda::{MOVE_MARKS, MarkRow},
    on,
};
use crate::domain::Placement;

/// A run as it is stored. Instants are milliseconds since 1970 by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RunRow {
    pub id: String,
    pub flow: String,
    pub subject: String,
    pub params: String,
    pub requester: String,
    pub created_ms: i64,
    pub finished_ms: Option<i64>,
    pub state: String,
    pub step: Option<String>,
    pub error: Option<String>,
    pub conclusion: Option<String>,
}

const RUN_COLUMNS: &str =
    "id, flow, subject, params, requester, created_ms, finished_ms, state, step, error, conclusion";

/// What listings repeat from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub state: &'static str,
    pub step: Option<String>,
    pub error: Option<String>,
    /// JSON; the run is finished when it is there.
    pub conclusion: Option<String>,
}

/// One journal entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EntryRow {
    pub seq: i64,
    pub at_ms: i64,
    pub event: String,
}

/// How a driver's append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    At {
        seq: i64,
        at_ms: i64,
    },
    /// The run has another fence now; nothing was written.
    Fenced,
}

/// A run that nobody drives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimable {
    pub id: String,
    pub flow: String,
    pub placement: Placement,
    /// By how many milliseconds the time has passed in which it could begin, where it has not begun.
    pub late_ms: Option<i64>,
}

/// A placement as it is stored: lists are JSON.
#[derive(Debug, sqlx::FromRow)]
struct PlacementRow {
    regions: String,
    vaults: String,
    database: Option<String>,
}

const PLACEMENT_COLUMNS: &str = "regions, vaults, database";

impl PlacementRow {
    fn of(placement: &Placement) -> Result<Self, DbError> {
        Ok(Self {
            regions: serde_json::to_string(&placement.regions).map_err(corrupt)?,
            vaults: serde_json::to_string(&placement.vaults).map_err(corrupt)?,
            database: placement.database.as_ref().map(ToString::to_string),
        })
    }

    fn read(self) -> Result<Placement, DbError> {
        Ok(Placement {
            regions: serde_json::from_str(&self.regions).map_err(corrupt)?,
            vaults: serde_json::from_str(&self.vaults).map_err(corrupt)?,
            database: self.database.map(|name| name.parse()).transpose().map_err(corrupt)?,
        })
    }
}

fn corrupt(error: impl std::fmt::Display) -> DbError {
    DbError::Corrupt { place: "where a run may be driven", reason: error.to_string() }
}

/// Rows of one statement: many databases are due at one instant, and a statement for
/// each row would make most of them late.
const ROWS_AT_ONCE: usize = 100;

/// A run that may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    pub id: String,
    pub flow: String,
    pub subject: String,
    pub params: String,
    pub requester: String,
    pub state: &'static str,
    pub placement: Placement,
    /// It does not begin after this.
    pub begin_by_ms: Option<i64>,
}

/// Stores a new run; false when its id exists already.
pub async fn insert(db: &Db, run: &NewRow) -> Result<bool, DbError> {
    Ok(insert_all(db, std::slice::from_ref(run), &[]).await? == 1)
}

/// Stores the runs whose ids do not exist already and answers how many those were;
/// moves marks of schedules on, never back. All of it or nothing.
pub async fn insert_all(db: &Db, new: &[NewRow], marks: &[MarkRow]) -> Result<u64, DbError> {
    let insert = format!(
        "INSERT INTO runs (fence, lease_until_ms, created_ms, id, flow, subject, params, requester, state,
            {PLACEMENT_COLUMNS}, begin_by_ms) "
    );
    let placed: Vec<(&NewRow, PlacementRow)> =
        new.iter().map(|run| Ok((run, PlacementRow::of(&run.placement)?))).collect::<Result<_, DbError>>()?;
    let stored: Result<u64, sqlx::Error> = on!(db, pool => async {
        let mut stored = 0;
        let mut transaction = pool.begin().await?;
        for some in placed.chunks(ROWS_AT_ONCE) {
            let mut insert = QueryBuilder::new(insert.as_str());
            insert.push_values(some, |mut row, (run, placement)| {
                row.push("0").push("0").push(db.now_ms());
                row.push_bind(&run.id).push_bind(&run.flow).push_bind(&run.subject).push_bind(&run.params)
                    .push_bind(&run.requester).push_bind(run.state)
                    .push_bind(&placement.regions).push_bind(&placement.vaults).push_bind(&placement.database)
                    .push_bind(run.begin_by_ms);
            });
            insert.push(" ON CONFLICT (id) DO NOTHING");
            stored += insert.build().execute(&mut *transaction).await?.rows_affected();
        }
        for some in marks.chunks(ROWS_AT_ONCE) {
            let mut moved = QueryBuilder::new("INSERT INTO agenda_marks (database, line, through_ms) ");
            moved.push_values(some, |mut row, mark| {
                row.push_bind(&mark.database).push_bind(&mark.line).push_bind(mark.through.as_millisecond());
            });
            moved.push(MOVE_MARKS);
            moved.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(stored)
    }.await);
    stored.map_err(DbError::query("store new runs"))
}

pub async fn get(db: &Db, id: &str) -> Result<Option<RunRow>, DbError> {
    let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE id = $1");
    on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await)
        .map_err(DbError::query("read a run"))
}

/// The newest runs, newest first.
pub async fn list(db: &Db, limit: i64) -> Result<Vec<RunRow>, DbError> {
    let sql = format!("SELECT {RUN_COLUMNS} FROM runs ORDER BY created_ms DESC, id DESC LIMIT $1");
    on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).bind(limit).fetch_all(pool).await)
        .map_err(DbError::query("list runs"))
}

/// The runs that have not ended, oldest first.
pub async fn unfinished(db: &Db) -> Result<Vec<RunRow>, DbError> {
    let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE finished_ms IS NULL ORDER BY created_ms, id");
    on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await)
        .map_err(DbError::query("list runs that have not ended"))
}

/// The runs that nobody drives and that may be driven now, oldest first.
pub async fn claimable(db: &Db) -> Result<Vec<Claimable>, DbError> {
    let sql = format!(
        "SELECT id, flow, {PLACEMENT_COLUMNS},
            CASE WHEN begun_ms IS NULL AND begin_by_ms < {now} THEN {now} - begin_by_ms END AS late_ms
         FROM runs WHERE finished_ms IS NULL AND lease_until_ms <= {now} AND (begun_ms IS NOT NULL
            OR NOT EXISTS (SELECT 1 FROM runs begun WHERE begun.flow = runs.flow AND begun.subject = runs.subject
                           AND begun.begun_ms IS NOT NULL AND begun.finished_ms IS NULL))
         ORDER BY created_ms, id",
        now = db.now_ms()
    );
    let rows: Vec<ClaimableRow> = on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await)
        .map_err(DbError::query("look for runs to drive"))?;
    let read = |row: ClaimableRow| {
        let placement = PlacementRow { regions: row.regions, vaults: row.vaults, database: row.database }.read()?;
        Ok(Claimable { id: row.id, flow: row.flow, placement, late_ms: row.late_ms })
    };
    rows.into_iter().map(read).collect()
}

#[derive(Debug, sqlx::FromRow)]
struct ClaimableRow {
    id: String,
    flow: String,
    regions: String,
    vaults: String,
    database: Option<String>,
    late_ms: Option<i64>,
}

/// Where a run may be driven; none when there is no such run.
pub async fn placement(db: &Db, id: &str) -> Result<Option<Placement>, DbError> {
    let sql = format!("SELECT {PLACEMENT_COLUMNS} FROM runs WHERE id = $1");
    let row: Option<PlacementRow> =
        on!(db, pool => sqlx::query_as(AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await)
            .map_err(DbError::query("read where a run may be driven"))?;
    row.map(PlacementRow::read).transpose()
}

/// Ids of the runs that have begun and not ended and whose subject is this one or
/// a part of it (`wallet`, `wallet/dr`), oldest first.
pub async fn under_way(db: &Db, subject: &str) -> Result<Vec<String>, DbError> {
    let sql = "SELECT id FROM runs WHERE (subject = $1 OR subject LIKE $2)
           AND begun_ms IS NOT NULL AND finished_ms IS NULL
         ORDER BY created_ms, id";
    on!(db, pool => sqlx::query_scalar(sql).bind(subject).bind(format!("{subject}/%")).fetch_all(pool).await)
        .map_err(DbError::query("look for runs that are under way"))
}

/// Whether a run of this flow and subject has begun at or after this instant.
pub async fn has_begun_since(db: &Db, flow: &str, subject: &str, since_ms: i64) -> Result<bool, DbError> {
    let sql = "SELECT COUNT(*) FROM runs WHERE flow = $1 AND subject = $2 AND begun_ms >= $3";
    let count: i64 = on!(db, pool => sqlx::query_scalar(sql).bind(flow).bind(subject).bind(since_ms)
        .fetch_one(pool).await)
    .map_err(DbError::query("look for runs that have begun"))?;
    Ok(count > 0)
}

/// Milliseconds until the first lease ends that is held by anybody; none when none is held.
pub async fn next_expiry_ms(db: &Db) -> Result<Option<i64>, DbError> {
    let now = db.now_ms();
    let sql =
        format!("SELECT MIN(lease_until_ms) - {now} FROM runs WHERE finished_ms IS NULL AND lease_until_ms > {now}");
    on!(db, pool => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await)
        .map_err(DbError::query("look for the next lease to end"))
}

/// Who takes the lease of which run, and how.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub id: &'a str,
    pub owner: &'a str,
    pub ttl_ms: i64,
    pub nonce: &'a str,
    /// Journaled under the new fence.
    pub event: &'a str,
}

/// Whether there is room beside the runs that are driven already.
pub type HasRoom<'a> = &'a (dyn Fn(&[Placement]) -> bool + Send + Sync);

/// The advisory lock under which PostgreSQL's nodes count and claim, one after the other.
const CLAIMING: &str = "SELECT pg_advisory_xact_lock(7310271863)";

/// Takes the lease of a run that nobody holds, and answers the new fence. None
/// when somebody holds it, when another run of its flow and subject has begun,
/// when it is finished, or when there is no room. Where it is asked for room,
/// nobody else who asks takes a lease between the question and the claim.
pub async fn claim(db: &Db, claim: Claim<'_>, has_room: Option<HasRoom<'_>>) -> Result<Option<i64>, DbError> {
    let now = db.now_ms();
    let take = format!(
        "UPDATE runs SET fence = fence + 1, lease_owner = $2, lease_until_ms = {now} + $3,
            begun_ms = COALESCE(begun_ms, {now})
         WHERE id = $1 AND finished_ms IS NULL AND lease_until_ms <= {now} RETURNING fence"
    );
    let driven = format!(
        "SELECT {PLACEMENT_COLUMNS} FROM runs WHERE finished_ms IS NULL AND lease_until_ms > {now} AND id <> $1"
    );
    let append = insert_entry(db);
    // SQLite has one writer; a transaction that begins as one reads nothing stale.
    let (begin, turn) = match db {
        Db::Sqlite { .. } => ("BEGIN IMMEDIATE", None),
        Db::Postgres(_) => ("BEGIN", Some(CLAIMING)),
    };
    let claimed: Result<Option<i64>, ClaimError> = on!(db, pool => async {
        let mut transaction = pool.begin_with(begin).await?;
        if let Some(has_room) = has_room {
            if let Some(turn) = turn {
                sqlx::query(turn).execute(&mut *transaction).await?;
            }
            let rows: Vec<PlacementRow> =
                sqlx::query_as(AssertSqlSafe(driven)).bind(claim.id).fetch_all(&mut *transaction).await?;
            let driven: Vec<Placement> = rows.into_iter().map(PlacementRow::read).collect::<Result<_, _>>()?;
            if !has_room(&driven) {
                transaction.rollback().await?;
                return Ok(None);
            }
        }
        let fence: Option<i64> = sqlx::query_scalar(AssertSqlSafe(take))
            .bind(claim.id).bind(claim.owner).bind(claim.ttl_ms).fetch_optional(&mut *transaction).await?;
        if let Some(fence) = fence {
            sqlx::query(AssertSqlSafe(append))
                .bind(claim.id).bind(claim.nonce).bind(fence).bind(claim.event).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(fence)
    }.await);
    match claimed {
        Err(ClaimError::Sql(sqlx::Error::Database(error))) if error.is_unique_violation() => Ok(None),
        Err(ClaimError::Sql(error)) => Err(DbError::query("take the lease of a run")(error)),
        Err(ClaimError::Db(error)) => Err(error),
        Ok(fence) => Ok(fence),
    }
}

/// What can go wrong within the transaction of a claim.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Prolongs a lease, also an expired one that nobody else has taken; false when somebody has.
pub async fn renew(db: &Db, id: &str, fence: i64, ttl_ms: i64) -> Result<bool, DbError> {
    let sql = format!("UPDATE runs SET lease_until_ms = {} + $3 WHERE id = $1 AND fence = $2", db.now_ms());
    let renewed = on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(id).bind(fence).bind(ttl_ms)
        .execute(pool).await.map(|done| done.rows_affected()));
    Ok(renewed.map_err(DbError::query("renew the lease of a run"))? == 1)
}

/// Gives a lease back, if it is still ours.
pub async fn release(db: &Db, id: &str, fence: i64) -> Result<(), DbError> {
    let sql = "UPDATE runs SET lease_until_ms = 0, lease_owner = NULL WHERE id = $1 AND fence = $2";
    on!(db, pool => sqlx::query(sql).bind(id).bind(fence).execute(pool).await.map(drop))
        .map_err(DbError::query("release the lease of a run"))
}

/// Appends an event of the driver that holds `fence`. Repeated with the same
/// nonce it is the same append, so it may be tried again when its outcome is unknown.
pub async fn append(
    db: &Db,
    id: &str,
    fence: i64,
    nonce: &str,
    event: &str,
    cached: &Cached,
) -> Result<Appended, DbError> {
    let update = format!(
        "UPDATE runs SET state = $3, step = $4, error = $5, conclusion = $6,
            finished_ms = CASE WHEN $6 IS NULL THEN NULL ELSE {} END,
            lease_owner = CASE WHEN $6 IS NULL THEN lease_owner ELSE NULL END
         WHERE id = $1 AND fence = $2",
        db.now_ms()
    );
    let insert = insert_entry(db);
    let appended: Result<Appended, sqlx::Error> = on!(db, pool => async {
        let mut transaction = pool.begin().await?;
        let owned = sqlx::query(AssertSqlSafe(update)).bind(id).bind(fence).bind(cached.state)
            .bind(&cached.step).bind(&cached.error).bind(&cached.conclusion).execute(&mut *transaction).await?;
        if owned.rows_affected() == 0 {
            return Ok(Appended::Fenced);
        }
        sqlx::query(AssertSqlSafe(insert))
            .bind(id).bind(nonce).bind(fence).bind(event).execute(&mut *transaction).await?;
        let (seq, at_ms) = sqlx::query_as("SELECT seq, at_ms FROM journal WHERE nonce = $1")
            .bind(nonce).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Appended::At { seq, at_ms })
    }.await);
    appended.map_err(DbError::query("write the journal of a run"))
}

/// Appends a signal, which needs no fence; false when the run is unknown or finished.
pub async fn append_signal(db: &Db, id: &str, nonce: &str, event: &str) -> Result<bool, DbError> {
    let sql = format!(
        "INSERT INTO journal (run_id, nonce, at_ms, fence, event)
         SELECT id, $2, {}, 0, $3 FROM runs WHERE id = $1 AND finished_ms IS NULL ON CONFLICT (nonce) DO NOTHING",
        db.now_ms()
    );
    let appended = on!(db, pool => sqlx::query(AssertSqlSafe(sql)).bind(id).bind(nonce).bind(event)
        .execute(pool).await.map(|done| done.rows_affected()));
    Ok(appended.map_err(DbError::query("store a signal"))? == 1)
}

/// The whole journal of a run, in order, and the time now by the database's clock.
pub async fn journal(db: &Db, id: &str) -> Result<(i64, Vec<EntryRow>), DbError> {
    let now = format!("SELECT {}", db.now_ms());
    let read: Result<_, sqlx::Error> = on!(db, pool => async {
        let entries = sqlx::query_as("SELECT seq, at_ms, event FROM journal WHERE run_id = $1 ORDER BY seq")
            .bind(id).fetch_all(pool).await?;
        Ok((sqlx::query_scalar(AssertSqlSafe(now)).fetch_one(pool).await?, entries))
    }.await);
    read.map_err(DbError::query("read the journal of a run"))
}

/// The signals sent to a run so far.
pub async fn signals(db: &Db, id: &str) -> Result<Vec<EntryRow>, DbError> {
    let sql = "SELECT seq, at_ms, event FROM journal WHERE run_id = $1 AND fence = 0 ORDER BY seq";
    on!(db, pool => sqlx::query_as(sql).bind(id).fetch_all(pool).await)
        .map_err(DbError::query("read the signals of a run"))
}

fn insert_entry(db: &Db) -> String {
    format!(
        "INSERT INTO journal (run_id, nonce, at_ms, fence, event) VALUES ($1, $2, {}, $3, $4)
         ON CONFLICT (nonce) DO NOTHING",
        db.now_ms()
    )
}
