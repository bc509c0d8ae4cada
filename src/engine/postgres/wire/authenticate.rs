//! Proving who we are: trust, password, MD5 and SCRAM-SHA-256, as `pg_hba.conf` asks.
//!
//! A password never goes over a connection that others can read. Channel
//! binding is not used.

use std::{io, sync::LazyLock};

use bytes::Bytes;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::frontend,
};
use secrecy::ExposeSecret;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    super::{Credentials, Member, Postgres, failure},
    Connection,
    reply::{Reply, c_string, nonsense},
};
use crate::engine::EngineError;

// The kinds of authentication requests.
const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Answers the server's requests until it is ready for commands.
pub(super) async fn log_in(
    connection: &mut Connection,
    postgres: &Postgres,
    (member, is_private): (&Member, bool),
    credentials: &Credentials,
) -> Result<(), EngineError> {
    let user = credentials.user.as_str();
    let refused = |reason: &str| failure::login(postgres, member, user, reason.to_owned());
    let password = || {
        let password =
            credentials.password.as_ref().ok_or_else(|| refused("it asks for a password and none is set"))?;
        Ok(password.expose_secret().as_bytes())
    };
    let mut scram: Option<ScramSha256> = None;
    loop {
        let broken = |connection: &mut Connection, source| connection.broken("the login", source);
        let reply = connection.receive().await.map_err(|source| broken(connection, source))?;
        let answered = match reply {
            Reply::Ready => return Ok(()),
            Reply::Failed(refusal) => return Err(failure::refused_login(postgres, member, user, refusal)),
            // A server that could not prove itself would leave the proof out.
            Reply::Authentication(OK, _) if scram.is_some() => Err(nonsense("a login without the server's own proof")),
            Reply::Authentication(OK, _) => Ok(()),
            Reply::Authentication(CLEARTEXT, _) if is_private => {
                let password = password()?;
                connection.send(|buffer| frontend::password_message(password, buffer)).await
            }
            Reply::Authentication(CLEARTEXT, _) => {
                return Err(refused("it asks for the password in clear text over a connection without TLS"));
            }
            Reply::Authentication(MD5, salt) => match <[u8; 4]>::try_from(salt.as_ref()) {
                Ok(salt) => {
                    let hash = md5_hash(user.as_bytes(), password()?, salt);
                    connection.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await
                }
                Err(_) => Err(nonsense("a salt of the wrong length")),
            },
            Reply::Authentication(SASL, mechanisms) => {
                if !offers_scram(mechanisms) {
                    return Err(refused("it offers no SASL mechanism that we know; SCRAM-SHA-256 is one"));
                }
                // Not `unrequested`: that would claim that we could have bound the channel.
                let exchange = scram.insert(ScramSha256::new(password()?, ChannelBinding::unsupported()));
                let first = exchange.message();
                connection.send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, first, buffer)).await
            }
            Reply::Authentication(SASL_CONTINUE, data) => match scram.take() {
                Some(exchange) => match answered(exchange, data).await {
                    Ok(exchange) => {
                        let exchange = scram.insert(exchange);
                        connection.send(|buffer| frontend::sasl_response(exchange.message(), buffer)).await
                    }
                    Err(error) => Err(error),
                },
                None => Err(nonsense("a SCRAM answer that nobody asked for")),
            },
            Reply::Authentication(SASL_FINAL, data) => match scram.take() {
                Some(mut exchange) => exchange.finish(&data),
                None => Err(nonsense("a SCRAM answer that nobody asked for")),
            },
            Reply::Authentication(..) => {
                return Err(refused("it asks for a method other than password, md5 or scram-sha-256"));
            }
            _ => Err(nonsense("an unexpected message")),
        };
        answered.map_err(|source: io::Error| broken(connection, source))?;
    }
}

/// Derives the key from the password, which takes thousands of rounds of a digest: no
/// more at once than there are cores, so that hundreds of logins end one after another
/// and not all too late, and apart from the tasks that wait. Only this waits for its
/// turn, and never for a server.
async fn answered(mut exchange: ScramSha256, challenge: Bytes) -> io::Result<ScramSha256> {
    static TURNS: LazyLock<Semaphore> =
        LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)));
    let turn = TURNS.acquire().await.map_err(io::Error::other)?;
    let derived = spawn_blocking(move || {
        let _turn = turn;
        exchange.update(&challenge).map(|()| exchange)
    });
    derived.await.map_err(io::Error::other)?
}

fn offers_scram(mut mechanisms: Bytes) -> bool {
    while let Ok(mechanism) = c_string(&mut mechanisms) {
        if mechanism == SCRAM_SHA_256 {
            return true;
        }
    }
    false
}
