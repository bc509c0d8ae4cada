//! The heartbeat: one small committed row per beat, by which the recovery
//! point is measured.
//!
//! A beat is acknowledged only when the server has said so. The time is taken
//! after that and never before; the position is read after the commit.

use std::{io, sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::super::{Postgres, sql, wire::identifier};
use crate::{
    clock::Clock,
    domain::{Beat, Lsn, MemberName, Timeline},
    engine::EngineError,
};

const ACTION: &str = "the heartbeat";

/// How long one beat may take, finding the primary included.
const BEAT_LIMIT: Duration = Duration::from_secs(2);

/// How long each member may take to say whether it is the primary.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// How many beats stay in the table, and after how many older ones are removed.
const KEPT: i64 = 10_000;
const TRIM_EVERY: i64 = 1_000;

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS lifeboat;
CREATE TABLE IF NOT EXISTS lifeboat.heartbeat (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);";

/// Where the commit is: what is flushed when the commit was, else (with
/// `synchronous_commit = off`) everything written so far.
const POSITION: &str = "SELECT lsn::text, pg_walfile_name(lsn) FROM (
    SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
                ELSE pg_current_wal_flush_lsn() END AS lsn) AS position";

/// The session that beats are written in. It is kept from beat to beat, and
/// made anew on whichever member is the primary after any failure.
#[derive(Debug, Clone, Default)]
pub struct BeatSession {
    kept: Arc<Mutex<Option<(MemberName, PgConnection)>>>,
}

pub(super) async fn beat(postgres: &Postgres, seq: i64) -> Result<Beat, EngineError> {
    let mut kept = postgres.beats.kept.lock().await;
    let deadline = Instant::now() + BEAT_LIMIT;
    // Taken out: a session that failed or ran out of time is in an unknown state and is not kept.
    let (member, mut session) = match kept.take() {
        Some(session) => session,
        None => timeout_at(deadline, open(postgres)).await.unwrap_or_else(|_| {
            Err(EngineError::NoPrimary { seen: format!("no member let us in within {BEAT_LIMIT:?}") })
        })?,
    };
    let late =
        |_| EngineError::Broken { member: member.clone(), action: ACTION, source: io::ErrorKind::TimedOut.into() };
    let beat = timeout_at(deadline, write(postgres, &member, &mut session, seq)).await.map_err(late)??;
    *kept = Some((member, session));
    Ok(beat)
}

async fn open(postgres: &Postgres) -> Result<(MemberName, PgConnection), EngineError> {
    let (member, _) = postgres.primary(LOOK_LIMIT).await?;
    Ok((member.name.clone(), sql::connect(postgres, member, &postgres.login.dbname).await?))
}

async fn write(
    postgres: &Postgres,
    member: &MemberName,
    session: &mut PgConnection,
    seq: i64,
) -> Result<Beat, EngineError> {
    let failed = |error| refused(postgres, member, error);
    match insert(session, seq).await {
        // No such table, no such schema.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42P01" | "3F000")) => {
            sqlx::raw_sql(CREATE).execute(&mut *session).await.map_err(failed)?;
            insert(session, seq).await.map_err(failed)?;
        }
        done => done.map_err(failed)?,
    }
    let acknowledged_at = Clock::system().now();
    let (lsn, file) = sqlx::query_as::<_, (String, String)>(POSITION).fetch_one(&mut *session).await.map_err(failed)?;
    if seq % TRIM_EVERY == 0 {
        let trim = sqlx::query("DELETE FROM lifeboat.heartbeat WHERE seq <= $1").bind(seq - KEPT);
        trim.execute(session).await.map_err(failed)?;
    }
    let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match (lsn.parse::<Lsn>(), timeline) {
        (Ok(commit_lsn), Some(timeline)) => Ok(Beat { seq, acknowledged_at, commit_lsn, timeline: Timeline(timeline) }),
        _ => Err(EngineError::Broken {
            member: member.clone(),
            action: ACTION,
            source: io::Error::new(io::ErrorKind::InvalidData, "an impossible WAL position"),
        }),
    }
}

/// A beat that is there already was written by an attempt whose outcome we did not learn.
async fn insert(session: &mut PgConnection, seq: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO lifeboat.heartbeat (seq) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(seq)
        .execute(session)
        .await
        .map(drop)
}

fn refused(postgres: &Postgres, member: &MemberName, error: sqlx::Error) -> EngineError {
    match &error {
        sqlx::Error::Database(refusal) if refusal.code().as_deref() == Some("42501") => lacks_table(postgres, member),
        _ => sql::failed(member, ACTION, error),
    }
}

/// The role can neither use nor make the heartbeat's table.
pub(super) fn lacks_table(postgres: &Postgres, member: &MemberName) -> EngineError {
    let role = identifier(&postgres.login.user);
    let create = CREATE.split_whitespace().collect::<Vec<_>>().join(" ");
    EngineError::Unfit {
        member: member.clone(),
        what: format!("role {role} may not write the heartbeat"),
        remedy: format!(
            "run in database `{}` as a superuser: {create} GRANT USAGE ON SCHEMA lifeboat TO {role}; \
             GRANT SELECT, INSERT, DELETE ON lifeboat.heartbeat TO {role};",
            postgres.login.dbname
        ),
    }
}
