//! From nothing to a connection that is ready for replication commands: reach
//! the member, turn on TLS, log in. All of it within one time limit.

use std::{io, time::Duration};

use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    super::{APPLICATION, Credentials, Member, Postgres, failure},
    Connection, Transport, authenticate, tls,
};
use crate::engine::EngineError;

/// How long reaching a member and logging in may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A peer that is silent for about 30 s, and does not answer the kernel either, is gone.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

impl Connection {
    /// Logs in to `member` for physical replication, within 10 s once there is something to
    /// log in with; and once more where that is refused and its source says something else by now.
    pub async fn open(postgres: &Postgres, member: &Member) -> Result<Self, EngineError> {
        let credentials = postgres.login.credentials().await?;
        match open(postgres, member, &credentials).await {
            Err(error) => match postgres.login.other_after(&error, &credentials).await {
                Some(other) => open(postgres, member, &other).await,
                None => Err(error),
            },
            opened => opened,
        }
    }
}

async fn open(postgres: &Postgres, member: &Member, credentials: &Credentials) -> Result<Connection, EngineError> {
    match timeout(CONNECT_LIMIT, open_unbounded(postgres, member, credentials)).await {
        Ok(result) => result,
        Err(_) => Err(failure::unreachable(member, io::Error::from(io::ErrorKind::TimedOut))),
    }
}

async fn open_unbounded(
    postgres: &Postgres,
    member: &Member,
    credentials: &Credentials,
) -> Result<Connection, EngineError> {
    let (transport, is_private) = reach(postgres, member).await?;
    let mut connection = Connection::new(member.name.clone(), transport);
    let parameters = [
        ("user", credentials.user.as_str()),
        ("replication", "true"),
        ("application_name", APPLICATION),
        ("client_encoding", "UTF8"),
    ];
    connection
        .send(|buffer| frontend::startup_message(parameters, buffer))
        .await
        .map_err(|source| connection.broken("the login", source))?;
    match authenticate::log_in(&mut connection, postgres, (member, is_private), credentials).await {
        // What is wrong with our certificate a server may say only after the handshake.
        Err(EngineError::Broken { member: name, action, source }) => {
            Err(tls::refused(member, source).unwrap_or_else(|source| EngineError::Broken {
                member: name,
                action,
                source,
            }))
        }
        done => done.map(|()| connection),
    }
}

/// Connects, and says whether what is sent stays private.
async fn reach(postgres: &Postgres, member: &Member) -> Result<(Box<dyn Transport>, bool), EngineError> {
    let unreachable = |source| failure::unreachable(member, source);
    if let Some(path) = member.socket() {
        return Ok((Box::new(UnixStream::connect(path).await.map_err(unreachable)?), true));
    }
    let stream = TcpStream::connect((member.host.as_str(), member.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE).map_err(unreachable)?;
    match tls::config(member, &postgres.login)? {
        None => Ok((Box::new(stream), false)),
        Some(config) => {
            let stream = ask_for_tls(member, stream).await?;
            let name = ServerName::try_from(member.host.clone())
                .map_err(|error| unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
            let stream = stream.map_err(|error| {
                tls::refused(member, error).unwrap_or_else(|source| EngineError::Broken {
                    member: member.name.clone(),
                    action: "the TLS handshake",
                    source,
                })
            })?;
            Ok((Box::new(stream), true))
        }
    }
}

/// Whether the member talks TLS at all, within 10 s: the error of one that does not.
pub(in super::super) async fn offers_tls(member: &Member) -> Result<(), EngineError> {
    let ask = async {
        let stream = TcpStream::connect((member.host.as_str(), member.port)).await;
        ask_for_tls(member, stream.map_err(|source| failure::unreachable(member, source))?).await.map(drop)
    };
    let asked = timeout(CONNECT_LIMIT, ask).await;
    asked.unwrap_or_else(|_| Err(failure::unreachable(member, io::Error::from(io::ErrorKind::TimedOut))))
}

/// Asks whether the server talks TLS. Exactly one byte is read, so that nothing
/// sent in the clear can pass for something sent inside.
async fn ask_for_tls(member: &Member, mut stream: TcpStream) -> Result<TcpStream, EngineError> {
    let broken = |source| EngineError::Broken { member: member.name.clone(), action: "the request for TLS", source };
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    if stream.read_u8().await.map_err(broken)? == b'S' {
        return Ok(stream);
    }
    Err(EngineError::Unfit {
        member: member.name.clone(),
        what: "the server offers no TLS".to_owned(),
        remedy: "set `ssl = on` with a certificate in its postgresql.conf and reload, or allow `sslmode: disable`"
            .to_owned(),
    })
}
