//! Hears that another process changed the state: at once by `LISTEN` on
//! PostgreSQL, within half a second on SQLite by the counter that it keeps of
//! foreign writes.

use std::time::Duration;

use sqlx::{SqlitePool, postgres::PgListener};

use super::{Db, DbError};

const SQLITE_BEAT: Duration = Duration::from_millis(500);
/// After so long a silence a listening connection is asked whether it still lives.
const LISTEN_BEAT: Duration = Duration::from_secs(60);
/// How long it may take to say so.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Calls `heard` for every change of runs by another process, until the
/// connection breaks. A call may stand for several changes, or for none.
pub async fn listen(db: &Db, heard: impl Fn()) -> Result<(), DbError> {
    let listening = async {
        match db {
            Db::Sqlite { state: pool, .. } => pool.close_event().do_until(sqlite(pool, &heard)).await?,
            Db::Postgres(pool) => postgres(PgListener::connect_with(pool).await?, &heard).await,
        }
    };
    listening.await.map_err(DbError::query("listen to the state database"))
}

async fn sqlite(pool: &SqlitePool, heard: &impl Fn()) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let mut known: Option<i64> = None;
    loop {
        let version = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut *connection).await?;
        if known.replace(version).is_some_and(|known| known != version) {
            heard();
        }
        tokio::time::sleep(SQLITE_BEAT).await;
    }
}

async fn postgres(mut listener: PgListener, heard: &impl Fn()) -> Result<(), sqlx::Error> {
    listener.listen("lifeboat_runs").await?;
    loop {
        match tokio::time::timeout(LISTEN_BEAT, listener.try_recv()).await {
            // None: the connection broke and is a new one; something may have been missed.
            Ok(Ok(_)) => heard(),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let alive = sqlx::query("SELECT 1").execute(&mut listener);
                tokio::time::timeout(ANSWER_LIMIT, alive).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
        }
    }
}
