//! Our physical replication slot: what keeps the server's WAL until it is safe.
//!
//! A slot that lost WAL keeps nothing any more and never will: it is made anew.
//! One that is in use is another process's, and is left alone.

use std::{io, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{
        Member, Postgres, failure, sql,
        wire::{Connection, identifier},
    },
    INSPECT_LIMIT,
};
use crate::{
    domain::{Lsn, MemberName},
    engine::EngineError,
};

const LOOK: &str = "the look at the replication slot";

/// How long the server may take to let go of a slot whose stream it has ended.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Between looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the server says of the slot.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Slot {
    pub(super) active: bool,
    /// It lost WAL: it keeps none any more.
    pub(super) lost: bool,
    /// From where on it keeps WAL.
    pub(super) restart_lsn: Option<String>,
}

/// Makes sure that the slot exists and keeps WAL from now on.
pub(super) async fn ensure(connection: &mut Connection, slot: &str) -> Result<(), EngineError> {
    let create = format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", identifier(slot));
    match connection.query("the creation of the replication slot", &create).await {
        Ok(_) => Ok(()),
        Err(EngineError::Server { code, .. }) if code == "42710" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses what cannot be streamed before a sink looks through its vaults for
/// nothing: a slot that is in use, and a server that writes WAL which nothing can
/// be recovered from. Another process may still take the slot then: the start of
/// the stream is what counts.
pub(super) async fn refuse_unusable(postgres: &Postgres, member: &Member) -> Result<(), EngineError> {
    const STATE: &str = "SELECT current_setting('wal_level') = 'minimal',
        coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false),
        (SELECT slot_type || ' slot' FROM pg_replication_slots WHERE slot_name = $1 AND slot_type <> 'physical')";
    let look = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let found = sqlx::query_as(STATE).bind(postgres.slot()).fetch_one(&mut session).await;
        found.map_err(|error| sql::failed(&member.name, LOOK, error))
    };
    let state: (bool, bool, Option<String>) = in_time(member, look).await?;
    match state {
        (_, _, Some(kind)) => Err(is_others(postgres, &member.name, &kind)),
        (true, ..) => Err(EngineError::Unfit {
            member: member.name.clone(),
            what: "`wal_level` is minimal, so that its WAL can be neither streamed nor recovered from".to_owned(),
            remedy: "run `ALTER SYSTEM SET wal_level = 'replica'` as a superuser, restart the server, and take a full \
                     backup: no earlier one can be restored beyond this time"
                .to_owned(),
        }),
        (false, true, None) => Err(busy(postgres, member)),
        (false, false, None) => Ok(()),
    }
}

/// Refuses a slot that has the name of ours and is not one that we could have made.
pub(super) async fn refuse_others(postgres: &Postgres, member: &Member) -> Result<(), EngineError> {
    const KIND: &str =
        "SELECT slot_type || ' slot' FROM pg_replication_slots WHERE slot_name = $1 AND slot_type <> 'physical'";
    let look = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let found = sqlx::query_scalar(KIND).bind(postgres.slot()).fetch_optional(&mut session).await;
        found.map_err(|error| sql::failed(&member.name, LOOK, error))
    };
    let kind: Option<String> = in_time(member, look).await?;
    kind.map_or(Ok(()), |kind| Err(is_others(postgres, &member.name, &kind)))
}

/// A slot has the name of ours and is not one that we could have made.
pub(super) fn is_others(postgres: &Postgres, member: &MemberName, kind: &str) -> EngineError {
    let slot = postgres.slot();
    EngineError::Unfit {
        member: member.clone(),
        what: format!("slot `{slot}`, which is ours by its name, is a {kind} and somebody else's"),
        remedy: format!(
            "give this database another name in its schedule; or, where nobody needs that slot, run `SELECT pg_drop_replication_slot('{slot}')` as a superuser"
        ),
    }
}

/// Which slot is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renew {
    /// One that says itself that it lost WAL.
    Lost,
    /// Any: the server lacks what it was to keep, whatever the slot says.
    Any,
}

/// Drops a slot that lost WAL and is not in use: it keeps none any more, and one
/// made anew does.
pub(super) async fn drop_useless(postgres: &Postgres, member: &Member, renew: Renew) -> Result<(), EngineError> {
    const DROP: &str = "the removal of the lost replication slot";
    let drop =
        format!("SELECT pg_drop_replication_slot(slot_name) FROM ({SLOT}) AS slot WHERE (lost OR $2) AND NOT active");
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let dropped = sqlx::query(sqlx::AssertSqlSafe(drop))
        .bind(postgres.slot())
        .bind(renew == Renew::Any)
        .execute(&mut session)
        .await;
    match dropped.map_err(|error| sql::failed(&member.name, DROP, error)) {
        // Another process was quicker: it is gone, or is there anew and in use.
        Err(EngineError::Server { code, .. }) if ["42704", "55006"].contains(&code.as_str()) => Ok(()),
        done => done.map(|_| ()),
    }
}

/// Answers from where on the server keeps WAL for us, with a slot made anew where
/// it lost WAL. To be called when the server refused an older position.
pub(super) async fn renew(postgres: &Postgres, member: &Member, renew: Renew) -> Result<Lsn, EngineError> {
    await_release(postgres, member).await?;
    drop_useless(postgres, member, renew).await?;
    let name = postgres.slot();
    let mut connection = Connection::open(postgres, member).await?;
    ensure(&mut connection, &name).await?;
    connection.close().await;
    kept_from(postgres, member).await?.ok_or_else(|| EngineError::WalLost {
        member: member.name.clone(),
        slot: name,
        what: "the new slot keeps no WAL".to_owned(),
    })
}

/// From where on the server keeps WAL for us.
pub(super) async fn kept_from(postgres: &Postgres, member: &Member) -> Result<Option<Lsn>, EngineError> {
    Ok(look(postgres, member).await?.and_then(|slot| slot.restart_lsn?.parse().ok()))
}

const SLOT: &str = "SELECT slot_name, active, restart_lsn IS NULL OR wal_status = 'lost' AS lost,
        restart_lsn::text AS restart_lsn
    FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical'";

pub(super) async fn look(postgres: &Postgres, member: &Member) -> Result<Option<Slot>, EngineError> {
    let look = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let found = sqlx::query_as(SLOT).bind(postgres.slot()).fetch_optional(&mut session).await;
        found.map_err(|error| sql::failed(&member.name, LOOK, error))
    };
    in_time(member, look).await
}

/// A member that takes longer than it may is out of reach.
pub(super) async fn in_time<T>(
    member: &Member,
    look: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    timeout(INSPECT_LIMIT, look)
        .await
        .unwrap_or_else(|_| Err(failure::unreachable(member, io::ErrorKind::TimedOut.into())))
}

/// Waits until the server has let go of the slot after a stream was refused or ended.
pub(super) async fn await_release(postgres: &Postgres, member: &Member) -> Result<(), EngineError> {
    let until = Instant::now() + RELEASE_LIMIT;
    while look(postgres, member).await?.is_some_and(|slot| slot.active) {
        if Instant::now() >= until {
            return Err(busy(postgres, member));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn busy(postgres: &Postgres, member: &Member) -> EngineError {
    EngineError::SlotBusy { member: member.name.clone(), slot: postgres.slot() }
}
