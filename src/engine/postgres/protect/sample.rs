//! Asks the primary what a copy of it will be asked: in one transaction that sees
//! one state and can write nothing, between two positions of its WAL.
//!
//! It must never be a burden: what takes too long, or waits for a lock, is given up.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::{
    super::{Member, Postgres, catalogs, sql, wire::identifier, witness},
    INSPECT_LIMIT,
};
use crate::{
    decide::statement,
    domain::{ClusterParts, Lsn, MemberName, Moment, Question, Timeline, Told},
    engine::{EngineError, MemberFacts},
};

const ACTION: &str = "the sampling";

/// How long one statement may take there, and all of them together.
const HARMLESS: &str = "SET default_transaction_read_only = on; SET statement_timeout = '30s'; SET lock_timeout = '2s'; \
    SET idle_in_transaction_session_timeout = '30s'";
const SAMPLE_LIMIT: Duration = Duration::from_secs(60);

/// Before the transaction, so that it lies at or before what that sees.
const POSITION: &str = "SELECT pg_current_wal_insert_lsn()::text";
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// The first statement of the transaction. Its snapshot is taken before it is carried
/// out, so that every commit which is seen lies at or before this position.
const SNAPSHOT: &str =
    "SELECT lsn::text, pg_walfile_name(lsn), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    FROM pg_current_wal_insert_lsn() AS lsn";

pub(super) async fn sample(postgres: &Postgres, question: &Question) -> Result<(Moment, Told), EngineError> {
    let (member, facts) = postgres.primary(INSPECT_LIMIT).await?;
    let asked = async {
        match question {
            Question::Witness { dbname, sql, settle } => {
                testimony(postgres, member, facts, (dbname, sql, *settle)).await
            }
            Question::Parts => parts(postgres, member, facts).await,
        }
    };
    timeout(SAMPLE_LIMIT, asked).await.unwrap_or_else(|_| {
        Err(EngineError::Unfit {
            member: member.name.clone(),
            what: format!("it did not answer within {SAMPLE_LIMIT:?}"),
            remedy: "let the query read less, or give it an index".to_owned(),
        })
    })
}

async fn connect(postgres: &Postgres, member: &Member, dbname: &str) -> Result<PgConnection, EngineError> {
    let mut session = sql::connect(postgres, member, dbname).await?;
    for settings in [HARMLESS, witness::ALIKE] {
        sqlx::raw_sql(settings)
            .execute(&mut session)
            .await
            .map_err(|error| sql::failed(&member.name, ACTION, error))?;
    }
    Ok(session)
}

async fn position(session: &mut PgConnection, member: &MemberName) -> Result<Lsn, EngineError> {
    let lsn: String =
        sqlx::query_scalar(POSITION).fetch_one(session).await.map_err(|error| sql::failed(member, ACTION, error))?;
    lsn.parse().map_err(|_| impossible(member))
}

fn impossible(member: &MemberName) -> EngineError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "an impossible WAL position or time");
    EngineError::Broken { member: member.clone(), action: ACTION, source }
}

async fn snapshot(
    session: &mut PgConnection,
    (member, facts): (&Member, MemberFacts),
    from: Lsn,
    settle: Duration,
) -> Result<Moment, EngineError> {
    let (lsn, file, micros): (String, String, i64) =
        sqlx::query_as(SNAPSHOT).fetch_one(session).await.map_err(|error| sql::failed(&member.name, ACTION, error))?;
    let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let as_of = Timestamp::from_microsecond(micros).ok().and_then(|now| {
        let settle = SignedDuration::try_from(settle).ok()?;
        now.checked_sub(settle).ok()
    });
    match (lsn.parse::<Lsn>(), timeline, as_of) {
        (Ok(to), Some(timeline), Some(as_of)) => {
            Ok(Moment { as_of, system_id: facts.system_id, timeline: Timeline(timeline), from, to })
        }
        _ => Err(impossible(&member.name)),
    }
}

async fn testimony(
    postgres: &Postgres,
    member: &Member,
    facts: MemberFacts,
    (dbname, sql, settle): (&str, &str, Duration),
) -> Result<(Moment, Told), EngineError> {
    let mut session = connect(postgres, member, dbname).await?;
    let from = position(&mut session, &member.name).await?;
    let failed = |error| lacks_right(postgres, member, dbname, error);
    sqlx::raw_sql(BEGIN).execute(&mut session).await.map_err(failed)?;
    let moment = snapshot(&mut session, (member, facts), from, settle).await?;
    let answer = witness::digest(&mut session, &statement::bound(sql, moment.as_of)).await.map_err(failed)?;
    // What is left of an answer that is too long is not waited for.
    let answer = answer.map_err(|what| EngineError::Unfit {
        member: member.name.clone(),
        what: format!("the query cannot be compared: {what}"),
        remedy: "edit `witness` in the schedule".to_owned(),
    })?;
    sqlx::raw_sql("COMMIT").execute(&mut session).await.map_err(failed)?;
    session.close().await.map_err(failed)?;
    Ok((moment, Told::Answer(answer)))
}

/// What the server says of an error may quote rows; what it says of a missing right
/// names things alone.
fn lacks_right(postgres: &Postgres, member: &Member, dbname: &str, error: sqlx::Error) -> EngineError {
    match &error {
        sqlx::Error::Database(refusal) if refusal.code().as_deref() == Some("42501") => {
            let role = identifier(&postgres.login.user);
            EngineError::Unfit {
                member: member.name.clone(),
                what: refusal.message().to_owned(),
                remedy: format!(
                    "run in database `{dbname}` as a superuser `GRANT SELECT ON … TO {role}` for what the query reads, \
                     and `GRANT USAGE ON SCHEMA … TO {role}` where that is not `public`; a table whose policies hide \
                     rows from {role} cannot be asked"
                ),
            }
        }
        _ => sql::failed(&member.name, ACTION, error),
    }
}

async fn parts(postgres: &Postgres, member: &Member, facts: MemberFacts) -> Result<(Moment, Told), EngineError> {
    let failed = |error| sql::failed(&member.name, ACTION, error);
    let mut session = connect(postgres, member, &postgres.login.dbname).await?;
    let from = position(&mut session, &member.name).await?;
    let mut found = ClusterParts::default();
    catalogs::of_cluster(&mut session, &mut found).await.map_err(failed)?;
    // Over a connection of its own, as what a session sets is seen there in place of what
    // the files say.
    let mut unset = sql::connect(postgres, member, &postgres.login.dbname).await?;
    catalogs::settings(&mut unset, &postgres.login.user, &mut found).await.map_err(failed)?;
    unset.close().await.map_err(failed)?;
    for dbname in catalogs::databases(&mut session).await.map_err(failed)? {
        match connect(postgres, member, &dbname).await {
            Ok(mut inside) => {
                catalogs::of_database(&mut inside, &dbname, &mut found).await.map_err(failed)?;
                inside.close().await.map_err(failed)?;
            }
            Err(error @ (EngineError::Login { .. } | EngineError::Unfit { .. })) => {
                tracing::debug!(member = %member.name, dbname, %error, "not looked into");
                let role = identifier(&postgres.login.user);
                found.unseen.push(format!(
                    "what is in `{dbname}`, as {role} may not log in there; let it, in pg_hba.conf and by GRANT CONNECT"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    // Behind all that was asked.
    let moment = snapshot(&mut session, (member, facts), from, Duration::ZERO).await?;
    session.close().await.map_err(failed)?;
    Ok((moment, Told::Parts(found)))
}
