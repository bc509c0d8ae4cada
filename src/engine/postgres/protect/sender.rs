//! A walsender that holds our slot although its client is gone: the client's host
//! vanished, and nobody told the server, which may wait for ever
//! (`wal_sender_timeout = 0`). It is ended, so that streaming can go on.
//!
//! One whose client lives is never ended: that is another process of ours, and the
//! slot is its. A role sees when a client was last heard where it may read
//! `pg_stat_replication`, with `pg_monitor`; else nothing is ended.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::{APPLICATION, Member, Postgres, sql},
    slot,
};
use crate::{
    decide::sender::{Client, Look, judge},
    engine::EngineError,
};

const ACTION: &str = "the look at who streams";

/// `state` is NULL where the role may not see more. A client that never answered
/// is heard when it logged in.
const LOOK: &str = "SELECT pid, (extract(epoch FROM coalesce(reply_time, backend_start)) * 1000000)::bigint AS heard,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS seen
FROM pg_stat_replication
WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1)
  AND usename = current_user AND application_name = $2 AND state IS NOT NULL";

/// How many looks are taken while a client is silent.
const LOOKS: u32 = 20;

/// Ends the walsender that holds our slot where its client is gone, and answers
/// whether the slot is free then. Takes a while where that is not certain, as long
/// as `stop` allows.
pub(super) async fn end_abandoned(
    postgres: &Postgres,
    member: &Member,
    stop: &CancellationToken,
) -> Result<bool, EngineError> {
    let silence_max = postgres.patience.silence_max;
    let Some(first) = look(postgres, member).await? else { return Ok(false) };
    let (begun, mut last) = (Instant::now(), first);
    loop {
        match judge(first, last, begun.elapsed(), silence_max) {
            Client::Lives => return Ok(false),
            Client::Gone => break,
            Client::Unknown => {}
        }
        if stop.run_until_cancelled(sleep(silence_max / LOOKS)).await.is_none() {
            return Ok(false);
        }
        match look(postgres, member).await? {
            Some(look) => last = look,
            None => return Ok(false),
        }
    }
    if !end(postgres, member, last).await? {
        return Ok(false);
    }
    tracing::warn!(
        database = %postgres.database, member = %member.name, pid = last.pid,
        "ended a walsender that held our slot, as its client has been silent for {silence_max:?}"
    );
    slot::await_release(postgres, member).await.map(|()| true)
}

async fn look(postgres: &Postgres, member: &Member) -> Result<Option<Look>, EngineError> {
    let look = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let found: Result<Option<(i32, i64, i64)>, _> =
            sqlx::query_as(LOOK).bind(postgres.slot()).bind(APPLICATION).fetch_optional(&mut session).await;
        found.map_err(|error| sql::failed(&member.name, ACTION, error))
    };
    Ok(slot::in_time(member, look).await?.map(|(pid, heard, seen)| Look { pid, heard, seen }))
}

/// Ends exactly the process that was judged, unless it was heard since. A role may
/// end its own.
async fn end(postgres: &Postgres, member: &Member, judged: Look) -> Result<bool, EngineError> {
    let end = format!("SELECT pg_terminate_backend(pid) FROM ({LOOK}) AS sender WHERE pid = $3 AND heard = $4");
    let end = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let ended = sqlx::query_scalar(sqlx::AssertSqlSafe(end))
            .bind(postgres.slot())
            .bind(APPLICATION)
            .bind(judged.pid)
            .bind(judged.heard)
            .fetch_optional(&mut session)
            .await;
        ended.map_err(|error| sql::failed(&member.name, "the end of an abandoned walsender", error))
    };
    Ok(slot::in_time(member, end).await?.unwrap_or(false))
}
