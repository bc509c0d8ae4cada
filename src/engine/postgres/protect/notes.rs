//! What a person should know of the servers though it stops nothing now: a member
//! that would not let us in once it is the primary, rights that a drill lacks, a
//! server that gives up our slot by the clock, commits that wait for us, what our role
//! may not see. It only looks.

use futures::future::join_all;

use super::{
    super::{
        Member, Postgres, sql,
        wire::{Connection, identifier},
    },
    INSPECT_LIMIT, awaited,
};
use crate::{domain::with_causes, engine::EngineError};

const ACTION: &str = "the look at rights and settings";

/// `idle_replication_slot_timeout` exists since version 18.
const STATE: &str = "SELECT pg_has_role(current_user, 'pg_monitor', 'USAGE') AS may_monitor,
       has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE') AS may_promote,
       (SELECT setting::bigint > 0 FROM pg_settings WHERE name = 'idle_replication_slot_timeout') AS slots_end,
       current_setting('idle_replication_slot_timeout', true) AS slots_end_after";

#[derive(Debug, sqlx::FromRow)]
struct State {
    may_monitor: bool,
    may_promote: bool,
    slots_end: Option<bool>,
    slots_end_after: Option<String>,
}

pub(super) async fn notes(postgres: &Postgres) -> Result<Vec<String>, EngineError> {
    let (primary, _) = postgres.primary(INSPECT_LIMIT).await?;
    let mut session = sql::connect(postgres, primary, &postgres.login.dbname).await?;
    let state: State = sqlx::query_as(STATE)
        .fetch_one(&mut session)
        .await
        .map_err(|error| sql::failed(&primary.name, ACTION, error))?;
    let mut notes = awaited::notes(postgres, primary).await?;
    let others = postgres.members.iter().filter(|member| member.name != primary.name);
    for errors in join_all(others.map(|member| shut_out(postgres, member))).await {
        notes.extend(
            errors.iter().map(|error| format!("once it is the primary it must let us in: {}", with_causes(error))),
        );
    }
    let role = identifier(&postgres.login.user);
    let lacks: Vec<String> = [
        (state.may_monitor, format!("GRANT pg_monitor TO {role};")),
        (state.may_promote, format!("GRANT EXECUTE ON FUNCTION pg_promote TO {role};")),
    ]
    .into_iter()
    .filter_map(|(may, grant)| (!may).then_some(grant))
    .collect();
    if !state.may_monitor {
        notes.push(format!(
            "role {role} may not see who streams and how much room the server has for WAL: a walsender of ours whose \
             client vanished is not ended, and holds the slot until the server notices; run `GRANT pg_monitor TO {role};` as a superuser"
        ));
    }
    // Drills need a standby.
    if postgres.members.len() > 1 && !lacks.is_empty() {
        notes.push(format!("role {role} has no right to drills; run `{}` as a superuser for them", lacks.join(" ")));
    }
    if let (Some(true), Some(after)) = (state.slots_end, state.slots_end_after) {
        notes.push(format!(
            "`idle_replication_slot_timeout` is {after}: when nobody streams for longer, the server gives up our slot and WAL is lost; set it to 0, or longer than a daemon may be away"
        ));
    }
    Ok(notes)
}

/// Why a member does not let us in, for SQL and for replication.
async fn shut_out(postgres: &Postgres, member: &Member) -> Vec<EngineError> {
    let sql = sql::connect(postgres, member, &postgres.login.dbname).await.map(drop);
    let replication = match Connection::open(postgres, member).await {
        Ok(connection) => {
            connection.close().await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    let mut errors: Vec<EngineError> = [sql, replication].into_iter().filter_map(Result::err).collect();
    errors.dedup_by_key(|error| error.to_string());
    errors
}
