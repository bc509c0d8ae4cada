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
    slot::{self, Slot},
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
    let standbys = postgres.look(INSPECT_LIMIT).await.into_iter().filter_map(|(member, facts)| match facts {
        Ok(facts) if facts.role == Role::Standby => Some((member, facts)),
        Ok(_) | Err(_) => None,
    });
    join_all(standbys.map(|(member, facts)| async move {
        (member.name.clone(), slot::in_time(member, Box::pin(keep(postgres, member, &facts, durable))).await)
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
    let (drop, create) =
        ("SELECT pg_drop_replication_slot($1)", "SELECT pg_create_physical_replication_slot($1, true)");
    match decided::next(standby, durable) {
        Step::Nothing => Ok(()),
        Step::Create => {
            tracing::info!(database = %postgres.database, member = %member.name, "the standby keeps WAL for the vaults from now on");
            run(postgres, member, &mut session, create).await
        }
        Step::Renew => {
            tracing::warn!(database = %postgres.database, member = %member.name, "the standby's slot lost WAL, and is made anew");
            run(postgres, member, &mut session, drop).await?;
            run(postgres, member, &mut session, create).await
        }
        Step::Advance(to) => {
            run(postgres, member, &mut session, &format!("SELECT pg_replication_slot_advance($1, '{to}')")).await
        }
    }
}

async fn run(
    postgres: &Postgres,
    member: &Member,
    session: &mut PgConnection,
    statement: &str,
) -> Result<(), EngineError> {
    let done = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).bind(postgres.slot()).execute(session).await;
    match done.map_err(|error| sql::failed(&member.name, ACTION, error)) {
        // Somebody else was quicker to make it, or streams through it by now.
        Err(EngineError::Server { code, .. }) if ["42710", "55006"].contains(&code.as_str()) => Ok(()),
        done => done.map(|_| ()),
    }
}
