//! Moving the primary: promotion of a standby, proof that the old primary is
//! fenced, and whether a member follows again.
//!
//! A promotion cannot be undone. It never begins before the standby has
//! replayed everything that the fenced primary is known to have written, and a
//! fence is never believed without trying to get past it.

use std::{
    io::ErrorKind,
    net::IpAddr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::{Connection, PgConnection, Row};

use super::{Member, Postgres, protect, sql};
use crate::{
    domain::{Check, Lsn, MemberName, Verdict},
    engine::{CopiedBeats, EngineError, MemberFacts, Promote, ServerAnswer},
};

/// How long each member may take to say whether it is the primary.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks at a position that moves.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Writes WAL that the commit must flush, and wait for where the server waits
/// for synchronous standbys; a standby and a read-only server refuse it. Needs
/// no table. `transaction_read_only` alone would believe a setting.
const WRITE: &str = "select pg_logical_emit_message(true, 'lifeboat', 'probe')::text";

/// `cluster_name` where it is set, else the address that the server itself says
/// it answered on: a standby shares everything else with its primary.
const IDENTITY: &str = "select coalesce(nullif(current_setting('cluster_name'), ''), \
     host(inet_server_addr()) || ':' || inet_server_port())";

#[async_trait]
impl Promote for Postgres {
    async fn promote(&self, member: &MemberName, past: Lsn, limit: Duration) -> Result<MemberFacts, EngineError> {
        let member = self.member(member)?;
        let deadline = Instant::now() + limit;
        let mut connection = connect(self, member).await?;
        if in_recovery(member, &mut connection).await? {
            wait_for_replay(member, &mut connection, past, deadline).await?;
            let seconds = i32::try_from(left(deadline).as_secs()).unwrap_or(i32::MAX).max(1);
            let promoted: bool = sqlx::query_scalar("select pg_promote(true, $1)")
                .bind(seconds)
                .fetch_one(&mut connection)
                .await
                .map_err(failed(member, "the promotion"))?;
            if !promoted {
                return Err(EngineError::Recovery {
                    expected: format!("promote member `{}` within {limit:?}", member.name),
                    log: "pg_promote gave up waiting; look at the server's log".to_owned(),
                });
            }
        }
        loop {
            if !in_recovery(member, &mut connection).await? && try_write(member, &mut connection).await.is_ok() {
                return protect::facts(self, member).await;
            }
            pause(member, deadline, "take writes").await?;
        }
    }

    async fn prove_fenced(&self, member: &MemberName) -> Result<Vec<Check>, EngineError> {
        let member = self.member(member)?;
        let check = |name: &str, verdict, actual: String| Check::new(name, verdict, "refused", actual);
        let mut connection = match connect(self, member).await {
            Ok(connection) => connection,
            Err(error) => {
                let verdict = refusal_verdict(&error);
                let write = format!("no login, so no write; {}", reason(&error));
                return Ok(vec![check("login", verdict, reason(&error)), check("write", verdict, write)]);
            }
        };
        let write = match try_write(member, &mut connection).await {
            Ok(()) => check("write", Verdict::Fail, "accepted".to_owned()),
            Err(error) => check("write", Verdict::Pass, reason(&error)),
        };
        Ok(vec![check("login", Verdict::Fail, "accepted".to_owned()), write])
    }

    async fn look_at(&self, address: IpAddr, port: u16, dbname: &str) -> Result<ServerAnswer, EngineError> {
        let host = address.to_string();
        let known = self.members.iter().find(|member| member.host == host && member.port == port);
        let Some(known) = known.or(self.members.first()) else {
            return Err(EngineError::NoPrimary { seen: format!("database `{}` has no members", self.database) });
        };
        let member = Member { host, port, ..known.clone() };
        let mut connection = sql::connect(self, &member, dbname).await?;
        let identity: Option<String> = sqlx::query_scalar(IDENTITY)
            .fetch_one(&mut connection)
            .await
            .map_err(failed(&member, "reading the server's identity"))?;
        let identity = identity.ok_or_else(|| EngineError::Unfit {
            member: member.name.clone(),
            what: "the server does not tell who it is".to_owned(),
            remedy: "set `cluster_name` to a different name on every member".to_owned(),
        })?;
        Ok(ServerAnswer { identity, wrote: try_write(&member, &mut connection).await.is_ok() })
    }

    async fn is_following(&self, member: &MemberName) -> Result<bool, EngineError> {
        let member = self.member(member)?;
        let mut connection = connect(self, member).await?;
        if !in_recovery(member, &mut connection).await? {
            return Ok(false);
        }
        let receiver = sqlx::query("select status, received_tli from pg_stat_wal_receiver")
            .fetch_optional(&mut connection)
            .await
            .map_err(failed(member, "reading pg_stat_wal_receiver"))?;
        let Some(receiver) = receiver else { return Ok(false) };
        let read = failed(member, "reading pg_stat_wal_receiver");
        let (status, timeline): (Option<String>, Option<i32>) =
            receiver.try_get(0).and_then(|status| Ok((status, receiver.try_get(1)?))).map_err(read)?;
        let Some(status) = status else {
            return Err(EngineError::Unfit {
                member: member.name.clone(),
                what: format!("user `{}` may not see what the standby receives", self.login.user),
                remedy: format!("run `grant pg_monitor to {}`", self.login.user),
            });
        };
        let (_, primary) = self.primary(LOOK_LIMIT).await?;
        Ok(status == "streaming" && timeline.and_then(|tli| u32::try_from(tli).ok()) == Some(primary.timeline.0))
    }

    async fn heartbeats(&self) -> Result<CopiedBeats, EngineError> {
        let (member, _) = self.primary(LOOK_LIMIT).await?;
        let mut connection = connect(self, member).await?;
        let is_there: bool = sqlx::query_scalar("select to_regclass('lifeboat.heartbeat') is not null")
            .fetch_one(&mut connection)
            .await
            .map_err(failed(member, "looking for lifeboat.heartbeat"))?;
        if !is_there {
            return Ok(CopiedBeats::default());
        }
        let present = sqlx::query_scalar("select seq from lifeboat.heartbeat order by seq")
            .fetch_all(&mut connection)
            .await
            .map_err(failed(member, "reading lifeboat.heartbeat"))?;
        Ok(CopiedBeats { present })
    }
}

impl Postgres {
    fn member(&self, name: &MemberName) -> Result<&Member, EngineError> {
        self.members.iter().find(|member| member.name == *name).ok_or_else(|| EngineError::Unfit {
            member: name.clone(),
            what: format!("database `{}` has no such member", self.database),
            remedy: "add it to `members` in the schedule or correct its name".to_owned(),
        })
    }
}

/// Logs in to one member, to the database that holds the heartbeats.
async fn connect(postgres: &Postgres, member: &Member) -> Result<PgConnection, EngineError> {
    sql::connect(postgres, member, &postgres.login.dbname).await
}

/// For `map_err`: names what was being done on a member.
fn failed(member: &Member, action: &'static str) -> impl FnOnce(sqlx::Error) -> EngineError {
    move |error| sql::failed(&member.name, action, error)
}

/// Why a login failed, without repeating advice about our own configuration.
fn reason(error: &EngineError) -> String {
    match error {
        EngineError::Login { reason, .. } => reason.clone(),
        EngineError::Unreachable { source, .. } | EngineError::Broken { source, .. } => source.to_string(),
        EngineError::Server { message, code, .. } => format!("{message} (SQLSTATE {code})"),
        other => other.to_string(),
    }
}

/// A login that fails proves a fence only where it would fail for every client:
/// a wrong password of ours or a server that is full says nothing.
fn refusal_verdict(error: &EngineError) -> Verdict {
    match error {
        EngineError::Login { reason, .. } if reason.contains("pg_hba.conf") => Verdict::Pass,
        EngineError::Unreachable { source, .. } => match source.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut
            | ErrorKind::NotFound => Verdict::Pass,
            // Such as a host name that does not resolve here.
            _ => Verdict::Inconclusive,
        },
        // Shutting down or starting up: not fenced for certain yet.
        _ => Verdict::Inconclusive,
    }
}

async fn in_recovery(member: &Member, connection: &mut PgConnection) -> Result<bool, EngineError> {
    sqlx::query_scalar("select pg_is_in_recovery()")
        .fetch_one(connection)
        .await
        .map_err(failed(member, "asking for its role"))
}

/// Commits a transaction that has an id, so that the server must write WAL.
async fn try_write(member: &Member, connection: &mut PgConnection) -> Result<(), EngineError> {
    let write = failed(member, "a write");
    let mut transaction = connection.begin().await.map_err(failed(member, "a write"))?;
    sqlx::query("set transaction read write").execute(&mut *transaction).await.map_err(failed(member, "a write"))?;
    sqlx::query(WRITE).execute(&mut *transaction).await.map_err(failed(member, "a write"))?;
    transaction.commit().await.map_err(write)
}

async fn wait_for_replay(
    member: &Member,
    connection: &mut PgConnection,
    past: Lsn,
    deadline: Instant,
) -> Result<(), EngineError> {
    loop {
        let replayed = lsn(member, connection).await?;
        if replayed >= past {
            return Ok(());
        }
        pause(member, deadline, &format!("replay past {past}; it has replayed up to {replayed}")).await?;
    }
}

/// Waits a moment, or says that the time for `goal` is over.
async fn pause(member: &Member, deadline: Instant, goal: &str) -> Result<(), EngineError> {
    if left(deadline).is_zero() {
        return Err(EngineError::Unfit {
            member: member.name.clone(),
            what: format!("it did not {goal} in time"),
            remedy: "see that it receives WAL or has all of it, then resume the run".to_owned(),
        });
    }
    tokio::time::sleep(LOOK_AGAIN).await;
    Ok(())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Written on a primary, replayed on a standby.
async fn lsn(member: &Member, connection: &mut PgConnection) -> Result<Lsn, EngineError> {
    let text: Option<String> = sqlx::query_scalar(
        "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end)::text",
    )
    .fetch_one(connection)
    .await
    .map_err(failed(member, "reading its position"))?;
    let text = text.unwrap_or_else(|| "0/0".to_owned());
    text.parse().map_err(|error| unreadable(member, "reading its position", error))
}

fn unreadable(
    member: &Member,
    action: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> EngineError {
    EngineError::Broken { member: member.name.clone(), action, source: std::io::Error::other(error) }
}
