//! What each member keeps of its WAL for us, and how much room it has for it.
//! The slot and its limit every role may see. The size of the WAL folder and
//! where it is need `pg_monitor`; how full its disk is can be measured where the
//! server is on this machine. What cannot be seen is left out and never guessed.
//!
//! A standby says wrongly how far its slot is from its limit: PostgreSQL counts from
//! where the server itself writes, which is nowhere during recovery. It is worked out
//! here from what is kept.

use std::{
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use sqlx::PgConnection;
use tokio::task::spawn_blocking;

use super::{
    super::{Member, Postgres, sql},
    INSPECT_LIMIT, slot,
};
use crate::{
    decide::headroom::limit,
    domain::{Lsn, MemberName, SlotState, WalKept},
    engine::{EngineError, MemberFacts, Role},
};

const ACTION: &str = "the look at the WAL that is kept";

const STATE: &str =
    "SELECT CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END::text AS written,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS limit_mb,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_keep_size') AS keep_mb,
       slot.slot_name IS NOT NULL AS has_slot,
       coalesce(slot.active, false) AS active,
       slot.restart_lsn::text AS restart_lsn,
       slot.wal_status AS wal_status,
       slot.safe_wal_size AS safe_bytes
FROM (SELECT) AS one
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = $1 AND slot.slot_type = 'physical'";

#[derive(Debug, sqlx::FromRow)]
struct State {
    written: Option<String>,
    limit_mb: i64,
    keep_mb: i64,
    has_slot: bool,
    active: bool,
    restart_lsn: Option<String>,
    wal_status: Option<String>,
    safe_bytes: Option<i64>,
}

pub(super) async fn kept(postgres: &Postgres) -> Vec<(MemberName, Result<WalKept, EngineError>)> {
    let seen = postgres.look(INSPECT_LIMIT).await.into_iter();
    join_all(seen.map(|(member, facts)| async move {
        // A server that takes connections and answers nothing is one that is away, and so
        // is a file system that hangs.
        let kept = match facts {
            Ok(facts) => slot::in_time(member, Box::pin(look(postgres, member, facts))).await,
            Err(error) => Err(error),
        };
        (member.name.clone(), kept)
    }))
    .await
}

async fn look(postgres: &Postgres, member: &Member, facts: MemberFacts) -> Result<WalKept, EngineError> {
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let failed = |error| sql::failed(&member.name, ACTION, error);
    let state: State = sqlx::query_as(STATE).bind(postgres.slot()).fetch_one(&mut session).await.map_err(failed)?;
    let folder = visible(&mut session, "SELECT sum(size)::text FROM pg_ls_waldir()").await.map_err(failed)?;
    let data = if is_here(member) {
        visible(&mut session, "SELECT current_setting('data_directory')").await.map_err(failed)?
    } else {
        None
    };
    let from: Option<Lsn> = state.restart_lsn.as_deref().and_then(|lsn| lsn.parse().ok());
    let is_primary = facts.role == Role::Primary;
    let (timeline, segment, port) = (facts.timeline, facts.segment_size, member.port);
    let written = state.written.as_deref().and_then(|lsn| lsn.parse().ok()).unwrap_or(facts.lsn);
    let free_bytes = match data.map(PathBuf::from) {
        Some(data) => spawn_blocking(move || free_beside(&data, &facts, port)).await.ok().flatten(),
        None => None,
    };
    let megabytes = |megabytes: i64| u64::try_from(megabytes).ok().map(|megabytes| megabytes << 20);
    let limit_bytes = megabytes(state.limit_mb);
    let (slot_state, safe_bytes) = match (limit_bytes, from) {
        (Some(limit), Some(from)) if !is_primary => {
            let keep = megabytes(state.keep_mb).unwrap_or(0);
            let safe = limit::safe_on_standby(from, written, limit.max(keep), segment);
            (limit::state_on_standby(slot_state(&state), safe), Some(safe))
        }
        // Below zero where it is over its limit.
        (Some(_), _) => (slot_state(&state), state.safe_bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0))),
        (None, _) => (slot_state(&state), None),
    };
    Ok(WalKept {
        member: member.name.clone(),
        is_primary,
        slot: postgres.slot(),
        state: slot_state,
        is_active: state.active,
        timeline,
        written,
        from,
        limit_bytes,
        safe_bytes,
        folder_bytes: folder.and_then(|bytes| bytes.parse().ok()),
        free_bytes,
    })
}

fn slot_state(state: &State) -> SlotState {
    match state.wal_status.as_deref() {
        _ if !state.has_slot => SlotState::Missing,
        Some("reserved") => SlotState::Reserved,
        Some("extended") => SlotState::Extended,
        Some("unreserved") => SlotState::Unreserved,
        // Without a status it keeps nothing.
        _ => SlotState::Lost,
    }
}

/// The answer to a question that not every role may ask.
async fn visible(session: &mut PgConnection, question: &str) -> Result<Option<String>, sqlx::Error> {
    match sql::text(session, question).await {
        Err(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("42501") => Ok(None),
        answer => answer,
    }
}

/// Whether it can be on this machine: what a loopback address leads to may be a tunnel.
fn is_here(member: &Member) -> bool {
    let host = &member.host;
    host.starts_with('/') || host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Free space beside the WAL of the server, where `data` is its data folder and no
/// folder of this machine that has the same name.
fn free_beside(data: &Path, facts: &MemberFacts, port: u16) -> Option<u64> {
    let mut system_id = [0; 8];
    fs::File::open(data.join("global/pg_control")).ok()?.read_exact(&mut system_id).ok()?;
    let lock = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let is_it = u64::from_ne_bytes(system_id).to_string() == facts.system_id
        && lock.lines().nth(3).and_then(|line| line.trim().parse().ok()) == Some(port);
    let found = nix::sys::statvfs::statvfs(&data.join("pg_wal")).ok().filter(|_| is_it)?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}
