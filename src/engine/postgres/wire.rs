//! A thin client of PostgreSQL's replication protocol: startup, simple queries
//! and COPY in both directions, message by message.
//!
//! Existing drivers either do not speak replication or hide what matters here:
//! the result sets after a COPY, and an ERROR that comes late. Ordinary SQL
//! goes through `sql`.
//!
//! It never retries, never spawns a task and never interprets what it carries.
//! Framing: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::reply::{Refusal, Reply, Row};
use crate::{domain::MemberName, engine::EngineError};

mod authenticate;
mod connect;
pub(super) mod reply;
pub(super) mod tls;

pub(super) use connect::offers_tls;

/// How much is read at once when data flows.
const READ_BYTES: usize = 256 << 10;

/// With less room than this, a new buffer is better than a small read.
const READ_BYTES_MIN: usize = 32 << 10;

/// What carries the protocol: TCP, plain or in TLS, or a Unix socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection to one member that is ready for replication commands.
pub struct Connection {
    member: MemberName,
    transport: Box<dyn Transport>,
    received: BytesMut,
    /// The last error the server sent; explains an end of the connection that follows.
    refusal: Option<Refusal>,
    /// The first of what the server said beside its answers.
    notices: Vec<Refusal>,
}

/// So many notices are kept: who sends more says the same again.
const NOTICES_MAX: usize = 32;

impl Connection {
    pub(super) fn new(member: MemberName, transport: Box<dyn Transport>) -> Self {
        Self { member, transport, received: BytesMut::new(), refusal: None, notices: Vec::new() }
    }

    pub(super) fn member(&self) -> &MemberName {
        &self.member
    }

    /// The next reply that carries anything. Notices are kept aside, parameter
    /// changes passed over. Safe to cancel: what was read stays.
    pub(super) async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            while let Some(reply) = reply::decode(&mut self.received)? {
                if let Reply::Failed(refusal) = &reply {
                    self.refusal = Some(refusal.clone());
                }
                match reply {
                    Reply::Notice(notice) if self.notices.len() < NOTICES_MAX => self.notices.push(notice),
                    Reply::Notice(_) | Reply::Aside => {}
                    reply => return Ok(reply),
                }
            }
            if self.received.capacity() - self.received.len() < READ_BYTES_MIN {
                self.received.reserve(READ_BYTES);
            }
            if self.transport.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }

    /// What the server said beside its answers so far.
    pub(super) fn notices(&self) -> &[Refusal] {
        &self.notices
    }

    /// Sends what `write` puts into the buffer.
    pub(super) async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        let mut message = BytesMut::new();
        write(&mut message)?;
        self.transport.write_all(&message).await?;
        self.transport.flush().await
    }

    /// Runs a command and answers the rows of its last result set.
    pub(super) async fn query(&mut self, action: &'static str, sql: &str) -> Result<Vec<Row>, EngineError> {
        self.command(action, sql).await?;
        self.rows_until_ready(action).await
    }

    /// Sends a command whose replies the caller reads.
    pub(super) async fn command(&mut self, action: &'static str, sql: &str) -> Result<(), EngineError> {
        self.refusal = None;
        self.send(|buffer| frontend::query(sql, buffer)).await.map_err(|source| self.broken(action, source))
    }

    /// Runs a command up to the begin of its COPY; answers the rows of every
    /// result set before that.
    pub(super) async fn start_copy(&mut self, action: &'static str, sql: &str) -> Result<Vec<Vec<Row>>, EngineError> {
        self.command(action, sql).await?;
        let mut sets = Vec::new();
        let mut rows = Vec::new();
        loop {
            match self.receive().await {
                Ok(Reply::Row(row)) => rows.push(row),
                Ok(Reply::Complete) => sets.push(std::mem::take(&mut rows)),
                Ok(Reply::CopyStarts) => return Ok(sets),
                Ok(Reply::Ready) => return Err(self.refused(action)),
                Ok(_) => {}
                Err(source) => return Err(self.broken(action, source)),
            }
        }
    }

    /// Reads to the end of the command, and answers the rows of its last result set.
    pub(super) async fn rows_until_ready(&mut self, action: &'static str) -> Result<Vec<Row>, EngineError> {
        let mut rows = Vec::new();
        loop {
            match self.receive().await {
                Ok(Reply::Columns) => rows.clear(),
                Ok(Reply::Row(row)) => rows.push(row),
                Ok(Reply::Ready) if self.refusal.is_some() => return Err(self.refused(action)),
                Ok(Reply::Ready) => return Ok(rows),
                Ok(_) => {}
                Err(source) => return Err(self.broken(action, source)),
            }
        }
    }

    /// The error of an action that ended: the server's own words where it sent
    /// any, else what happened to the connection.
    pub(super) fn broken(&mut self, action: &'static str, source: io::Error) -> EngineError {
        match self.refusal.take() {
            Some(refusal) => refusal.during(action, &self.member),
            None => EngineError::Broken { member: self.member.clone(), action, source },
        }
    }

    fn refused(&mut self, action: &'static str) -> EngineError {
        self.broken(action, io::Error::new(io::ErrorKind::InvalidData, "the server ended the command without a result"))
    }

    /// Tells the server that we go. The connection is of no use afterwards, so
    /// a failure to say so changes nothing.
    pub async fn close(mut self) {
        let said = self
            .send(|buffer| {
                frontend::terminate(buffer);
                Ok(())
            })
            .await;
        if let Err(error) = said {
            tracing::debug!(member = %self.member, %error, "the connection was gone before it was closed");
        }
    }
}

/// Quotes an identifier for a replication command.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for a replication command.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Takes `count` bytes off the front of what came from the network, if there are so many.
pub(super) fn take(bytes: &mut Bytes, count: usize) -> Option<Bytes> {
    (bytes.remaining() >= count).then(|| bytes.split_to(count))
}
