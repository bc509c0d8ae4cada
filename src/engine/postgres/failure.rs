//! Turns what drivers and servers say into errors that tell the operator what to do.

use std::io;

use super::{Member, Postgres, hba, wire::reply::Refusal};
use crate::{domain::MemberName, engine::EngineError};

/// SQLSTATE `too_many_connections`.
pub(super) const CROWDED: &str = "53300";

/// Nobody answers at this member's address.
pub(super) fn unreachable(member: &Member, source: io::Error) -> EngineError {
    EngineError::Unreachable { member: member.name.clone(), address: member.address(), source }
}

/// The server does not let us in.
pub(super) fn login(postgres: &Postgres, member: &Member, user: &str, reason: String) -> EngineError {
    refused(postgres, member, user, (reason, false))
}

fn refused(postgres: &Postgres, member: &Member, user: &str, (reason, is_password): (String, bool)) -> EngineError {
    EngineError::Login {
        member: member.name.clone(),
        address: member.address().into_boxed_str(),
        user: user.to_owned(),
        is_password,
        remedy: hba::remedy(postgres, &reason)
            .unwrap_or_else(|| "check `login` in the schedule and the server's pg_hba.conf".to_owned()),
        reason,
    }
}

/// What a server's refusal of a new connection means.
pub(super) fn refused_login(postgres: &Postgres, member: &Member, user: &str, refusal: Refusal) -> EngineError {
    match refusal.code.as_str() {
        // Wrong password, or no such role.
        "28P01" => refused(postgres, member, user, (refusal.message, true)),
        // No line in pg_hba.conf, or a role that may not log in.
        "28000" => login(postgres, member, user, refusal.message),
        "42501" => lacks_replication(postgres, member),
        // Of the role, the server, or the walsenders.
        CROWDED => {
            let role = super::wire::identifier(&postgres.login.user);
            let message = format!(
                "{}; raise the limit: `ALTER ROLE {role} CONNECTION LIMIT -1` for the role, `max_connections` or `max_wal_senders` for the server",
                refusal.message
            );
            Refusal { message, ..refusal }.during("the login", &member.name)
        }
        "3D000" => EngineError::Unfit {
            member: member.name.clone(),
            what: refusal.message,
            remedy: "create it, or name an existing one in `login`".to_owned(),
        },
        _ => refusal.during("the login", &member.name),
    }
}

/// The role may not use the replication protocol.
pub(super) fn lacks_replication(postgres: &Postgres, member: &Member) -> EngineError {
    let role = super::wire::identifier(&postgres.login.user);
    EngineError::Unfit {
        member: member.name.clone(),
        what: format!("role {role} may not replicate"),
        remedy: format!("run `ALTER ROLE {role} REPLICATION` as a superuser"),
    }
}

/// The role may not log in to the database that the server names.
fn lacks_connect(postgres: &Postgres, member: &Member, said: &str) -> EngineError {
    let role = super::wire::identifier(&postgres.login.user);
    EngineError::Unfit {
        member: member.name.clone(),
        what: said.to_owned(),
        remedy: format!("run `GRANT CONNECT ON DATABASE … TO {role}` as a superuser"),
    }
}

/// What a driver's error during ordinary SQL means.
pub(super) fn of_sql(member: &MemberName, action: &'static str, error: sqlx::Error) -> EngineError {
    let broken = |source| EngineError::Broken { member: member.clone(), action, source };
    match error {
        sqlx::Error::Database(error) => refusal(error.as_ref()).during(action, member),
        sqlx::Error::Io(source) => broken(source),
        other => broken(io::Error::other(other)),
    }
}

/// What a driver's error while connecting means.
pub(super) fn of_connect(postgres: &Postgres, member: &Member, user: &str, error: sqlx::Error) -> EngineError {
    match error {
        sqlx::Error::Database(error) if error.code().as_deref() == Some("42501") => {
            lacks_connect(postgres, member, error.message())
        }
        sqlx::Error::Database(error) => refused_login(postgres, member, user, refusal(error.as_ref())),
        sqlx::Error::Io(source) => {
            super::wire::tls::refused(member, source).unwrap_or_else(|source| unreachable(member, source))
        }
        sqlx::Error::Tls(source) => EngineError::Unfit {
            member: member.name.clone(),
            what: format!("TLS failed: {source}"),
            remedy: super::wire::tls::REMEDY.to_owned(),
        },
        other => login(postgres, member, user, other.to_string()),
    }
}

fn refusal(error: &dyn sqlx::error::DatabaseError) -> Refusal {
    Refusal {
        code: error.code().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        message: error.message().to_owned(),
    }
}
