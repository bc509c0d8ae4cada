//! Our replication slot on standbys. A standby that is promoted has all WAL that
//! the vaults lack only if it was told to keep it before; the slot of the primary
//! does not go over to it.
//!
//! A slot lets go only of what is said to be durable, and only of what the standby
//! has replayed: PostgreSQL allows no more.

use futures::future::join_all;
use sqlx::PgConnection;

use super::{
    super::{Member, Postgres, sql},
    INSPECT_LIMIT,
    slot::{self, Renew, Slot},
};
use crate::{
    decide::slot::{self as decided, Durable, Standby, Step},
    domain::{Lsn, MemberName},
    engine::{EngineError, MemberFacts, Role},
};

const ACTION: &str = "keeping WAL on the standby";

/// On all standbys at once; one that is away is none's fault here, and is looked
/// at again.
pub(super) async fn keep_on_all(
    postgres: &Postgres,
    durable: Option<Durable>,
) -> Vec<(MemberName, Result<(), EngineError>)> {
    let seen = postgres.look(INSPECT_LIMIT).await.into_iter();
    let there = seen.filter_map(|(member, facts)| Some((member, facts.ok()?)));
    join_all(there.map(|(member, facts)| async move {
        let kept = match facts.role {
            Role::Standby => slot::in_time(member, Box::pin(keep(postgres, member, &facts, durable))).await,
            // Its slot is the stream's, whatever it was as a standby.
            Role::Primary => Ok(()),
        };
        (member.name.clone(), kept)
    }))
    .await
}

async fn keep(
    postgres: &Postgres,
    member: &Member,
    facts: &MemberFacts,
    durable: Option<Durable>,
) -> Result<(), EngineError> {
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let found = slot::look(postgres, member).await?;
    let slot = found.map(|Slot { active, lost, restart_lsn }| decided::Slot {
        kept_from: restart_lsn.and_then(|lsn| lsn.parse::<Lsn>().ok()),
        is_lost: lost,
        is_active: active,
    });
    let standby = Standby { timeline: facts.timeline, replayed: facts.lsn, slot };
    match decided::next(standby, durable) {
        Step::Nothing => Ok(()),
        Step::Create => {
            tracing::info!(database = %postgres.database, member = %member.name, "the standby keeps WAL for the vaults from now on");
            create(postgres, member, &mut session).await
        }
        Step::Renew => {
            tracing::warn!(database = %postgres.database, member = %member.name, "the standby's slot lost WAL, and is made anew");
            slot::drop_useless(postgres, member, Renew::Lost).await?;
            create(postgres, member, &mut session).await
        }
        Step::Advance(to) => {
            let advance = format!("SELECT pg_replication_slot_advance($1, '{to}')");
            match run(postgres, member, &mut session, advance).await {
                // Somebody streams through it by now.
                Err(EngineError::Server { code, .. }) if code == "55006" => Ok(()),
                done => done,
            }
        }
    }
}

async fn create(postgres: &Postgres, member: &Member, session: &mut PgConnection) -> Result<(), EngineError> {
    let create = "SELECT pg_create_physical_replication_slot($1, true)".to_owned();
    match run(postgres, member, session, create).await {
        // Another process of ours was quicker, unless it is a slot that we could not have made.
        Err(EngineError::Server { code, .. }) if code == "42710" => slot::refuse_others(postgres, member).await,
        done => done,
    }
}

async fn run(
    postgres: &Postgres,
    member: &Member,
    session: &mut PgConnection,
    statement: String,
) -> Result<(), EngineError> {
    let done = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(postgres.slot()).execute(session).await;
    done.map(|_| ()).map_err(|error| sql::failed(&member.name, ACTION, error))
}
