//! Streaming WAL through our physical slot.
//!
//! The server is told as durable only what the sink said is durable; so it
//! keeps everything else for us, whatever happens to this process. A server
//! that shuts down waits until all it sent is confirmed: its questions are
//! answered after a flush and at once. Where it has not kept what is wanted, the
//! stream goes on with the oldest that it has.
//!
//! Messages: <https://www.postgresql.org/docs/15/protocol-replication.html>.

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use postgres_protocol::message::frontend;
use tokio::{
    select,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Member, Postgres,
        wire::{
            Connection, identifier,
            reply::{Reply, nonsense},
        },
    },
    INSPECT_LIMIT, history,
    slot::{self, Renew},
    text_at,
};
use crate::{
    clock::Clock,
    domain::{Lsn, SegmentSize, Timeline},
    engine::{EngineError, WalEnd, WalSink, WalSource},
};

const ACTION: &str = "the streaming of WAL";

/// What a stream may wait for, and how long.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// The server hears from us at least this often. After such a time of
    /// silence it is asked to speak.
    status_every: Duration,
    /// A server that is silent for so long, though asked, is gone.
    silence_max: Duration,
}

/// Well below the 60 s after which a server gives us up by default (`wal_sender_timeout`).
const PATIENCE: Patience = Patience { status_every: Duration::from_secs(10), silence_max: Duration::from_secs(30) };

/// How long the server may take to end a stream that we end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// PostgreSQL counts microseconds from 2000-01-01, in seconds after 1970 this.
const POSTGRES_EPOCH: i64 = 946_684_800;

pub(super) async fn stream_wal(
    postgres: &Postgres,
    sink: &mut dyn WalSink,
    flush_every: Duration,
    stop: &CancellationToken,
) -> Result<WalEnd, EngineError> {
    let (member, facts) = postgres.primary(INSPECT_LIMIT).await?;
    slot::refuse_unusable(postgres, member).await?;
    let stream = From { postgres, member, segment_size: facts.segment_size, flush_every, stop };
    let mut oldest = None;
    for renew in [Renew::Lost, Renew::Any] {
        match stream.run(sink, oldest).await {
            // What is wanted first is gone for good: what is left is better than
            // nothing, and the gap shows in the vaults.
            Err(EngineError::WalLost { what, .. }) => {
                let kept = slot::renew(postgres, member, renew).await?;
                tracing::warn!(member = %member.name, what, oldest = %kept, "WAL is lost; streaming goes on behind the gap");
                oldest = Some(kept);
            }
            ended => return ended,
        }
    }
    stream.run(sink, oldest).await
}

/// Where a stream comes from.
struct From<'a> {
    postgres: &'a Postgres,
    member: &'a Member,
    segment_size: SegmentSize,
    flush_every: Duration,
    stop: &'a CancellationToken,
}

impl From<'_> {
    /// Streams to the end, from `oldest` on at the earliest where that is given.
    async fn run(&self, sink: &mut dyn WalSink, oldest: Option<Lsn>) -> Result<WalEnd, EngineError> {
        let slot = self.postgres.slot();
        let mut connection = Connection::open(self.postgres, self.member).await?;
        slot::ensure(&mut connection, &slot).await?;
        let (system_id, newest, server_lsn) = identify(&mut connection).await?;
        let segment_size = self.segment_size;
        let mut source =
            WalSource { system_id, timeline: newest, server_timeline: newest, segment_size, server_lsn, oldest };
        let mut start = None;
        if newest > Timeline(1) {
            let content = history::fetch(&mut connection, newest).await?;
            sink.history(newest, content.clone()).await?;
            let wanted = sink.begin(&source).await?;
            source.timeline = history::timeline_of(&content, newest, segment_size.floor(wanted), segment_size);
            // Where the sink has not all of an older timeline yet, that comes first.
            start = (source.timeline == newest).then_some(wanted);
        }
        let start = match start {
            Some(start) => start,
            None => sink.begin(&source).await?,
        };
        let command =
            format!("START_REPLICATION SLOT {} PHYSICAL {start} TIMELINE {}", identifier(&slot), source.timeline);
        let refused = |error| explain(error, &slot);
        connection.start_copy(ACTION, &command).await.map_err(refused)?;
        Stream::new(connection, sink, start, self.flush_every, PATIENCE).run(self.stop).await.map_err(refused)
    }
}

/// `IDENTIFY_SYSTEM`: system identifier, timeline, end of WAL.
async fn identify(connection: &mut Connection) -> Result<(String, Timeline, Lsn), EngineError> {
    const IDENTIFY: &str = "the identification of the server";
    let rows = connection.query(IDENTIFY, "IDENTIFY_SYSTEM").await?;
    let read = |row| {
        let timeline = Timeline(text_at(row, 1)?.parse().ok()?);
        Some((text_at(row, 0)?.to_owned(), timeline, text_at(row, 2)?.parse().ok()?))
    };
    rows.first().and_then(read).ok_or_else(|| connection.broken(IDENTIFY, nonsense("an answer without a position")))
}

/// What the server's refusal to stream means. Older versions notice only after
/// the start that WAL is gone, and name the missing file.
fn explain(error: EngineError, slot: &str) -> EngineError {
    match error {
        EngineError::Server { member, code, message, .. } => match code.as_str() {
            "55006" => EngineError::SlotBusy { member, slot: slot.to_owned() },
            "55000" | "58P01" => EngineError::WalLost { member, slot: slot.to_owned(), what: message },
            _ => EngineError::Server { member, action: ACTION, code, message },
        },
        other => other,
    }
}

/// A stream that runs.
struct Stream<'a> {
    connection: Connection,
    sink: &'a mut dyn WalSink,
    flush_every: Duration,
    patience: Patience,
    /// All WAL before this position was handed to the sink.
    received: Lsn,
    /// All WAL before this position is durable, says the sink.
    durable: Lsn,
    flushed_at: Instant,
    told_at: Instant,
    heard_at: Instant,
    /// Whether the server was asked to speak since it was heard.
    is_asked: bool,
}

impl<'a> Stream<'a> {
    fn new(
        connection: Connection,
        sink: &'a mut dyn WalSink,
        start: Lsn,
        flush_every: Duration,
        patience: Patience,
    ) -> Self {
        let now = Instant::now();
        Self {
            connection,
            sink,
            flush_every,
            patience,
            received: start,
            // What the sink held before may be another server's.
            durable: Lsn(0),
            flushed_at: now,
            told_at: now,
            heard_at: now,
            is_asked: false,
        }
    }

    async fn run(&mut self, stop: &CancellationToken) -> Result<WalEnd, EngineError> {
        loop {
            let wake = (self.flushed_at + self.flush_every).min(self.told_at + self.patience.status_every);
            // What has arrived is read before silence is judged.
            let reply = select! {
                biased;
                reply = self.connection.receive() => Some(reply),
                () = stop.cancelled() => None,
                () = sleep_until(wake) => None,
            };
            match reply {
                Some(Ok(reply)) => {
                    self.heard_at = Instant::now();
                    self.is_asked = false;
                    if let Some(end) = self.take(reply).await? {
                        return Ok(end);
                    }
                }
                Some(Err(source)) => return Err(self.broken(source)),
                None if self.is_asked && self.heard_at.elapsed() >= self.patience.silence_max => {
                    return Err(self.broken(io::Error::new(io::ErrorKind::TimedOut, "the server fell silent")));
                }
                None => {}
            }
            if stop.is_cancelled() {
                self.flush().await?;
                self.say_farewell().await;
                return Ok(WalEnd::Stopped);
            }
            if self.flushed_at.elapsed() >= self.flush_every {
                self.flush().await?;
            }
            if self.told_at.elapsed() >= self.patience.status_every {
                self.tell().await;
            }
        }
    }

    /// Takes one message of the server; answers how the stream ended when it did.
    async fn take(&mut self, reply: Reply) -> Result<Option<WalEnd>, EngineError> {
        match reply {
            Reply::Data(data) => self.take_data(data).await.map(|()| None),
            // The timeline ended; the server waits for us to end our side, too.
            Reply::CopyDone => {
                self.flush().await?;
                self.end_copy().await.map_err(|source| self.broken(source))?;
                let rows = self.connection.rows_until_ready(ACTION).await?;
                let end = rows.first().and_then(|row| text_at(row, 1)).and_then(|lsn| lsn.parse().ok());
                Ok(Some(WalEnd::TimelineEnded(end.unwrap_or(self.received))))
            }
            // The server went through its shutdown and has nothing left to send.
            Reply::Complete => {
                self.flush().await?;
                Ok(Some(WalEnd::ServerShutDown(self.received)))
            }
            Reply::Failed(refusal) => Err(refusal.during(ACTION, self.connection.member())),
            _ => Err(self.broken(nonsense("an unexpected message in the stream"))),
        }
    }

    async fn take_data(&mut self, mut data: Bytes) -> Result<(), EngineError> {
        match data.try_get_u8() {
            Ok(b'w') => {
                let header = (data.try_get_u64(), data.try_get_u64(), data.try_get_i64());
                let (Ok(at), Ok(_), Ok(_)) = header else { return Err(self.broken(nonsense("a short WAL message"))) };
                if Lsn(at) != self.received {
                    return Err(self.broken(nonsense("WAL that does not follow on what came before")));
                }
                let next = self.received.forward(data.len() as u64);
                self.take_wal(data).await?;
                self.received = next;
                Ok(())
            }
            Ok(b'k') => match (data.try_get_u64(), data.try_get_i64(), data.try_get_u8()) {
                (Ok(_), Ok(_), Ok(0)) => Ok(()),
                // It waits for this answer to shut down, or to believe that we are alive.
                (Ok(_), Ok(_), Ok(_)) => self.flush().await,
                _ => Err(self.broken(nonsense("a short keepalive"))),
            },
            Ok(_) | Err(_) => Err(self.broken(nonsense("an unknown kind of data"))),
        }
    }

    async fn take_wal(&mut self, wal: Bytes) -> Result<(), EngineError> {
        let Self { connection, sink, patience, received, durable, told_at, .. } = self;
        meanwhile(sink.wal(*received, wal), connection, *patience, (*received, *durable), told_at).await
    }

    /// Has everything received made durable and tells the server.
    async fn flush(&mut self) -> Result<(), EngineError> {
        let Self { connection, sink, patience, received, durable, told_at, .. } = self;
        let flushed = meanwhile(sink.flush(), connection, *patience, (*received, *durable), told_at).await?;
        self.flushed_at = Instant::now();
        self.durable = flushed.min(self.received).max(self.durable);
        self.tell().await;
        Ok(())
    }

    /// Tells the server where we are, and asks for an answer where it was silent.
    async fn tell(&mut self) {
        let ask = self.heard_at.elapsed() >= self.patience.status_every;
        self.is_asked |= ask;
        self.told_at = Instant::now();
        say(&mut self.connection, self.received, self.durable, ask).await;
    }

    /// Ends a stream that the server would go on with. All is durable and told
    /// already, so that a server that does not answer changes nothing.
    async fn say_farewell(&mut self) {
        let ended = timeout(FAREWELL_LIMIT, async {
            self.end_copy().await?;
            while self.connection.receive().await? != Reply::Ready {}
            Ok::<(), io::Error>(())
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the stream broke while it was ended"),
            Err(_) => tracing::debug!("the server did not end the stream in time"),
        }
    }

    async fn end_copy(&mut self) -> io::Result<()> {
        self.connection
            .send(|buffer| {
                frontend::copy_done(buffer);
                Ok(())
            })
            .await
    }

    fn broken(&mut self, source: io::Error) -> EngineError {
        self.connection.broken(ACTION, source)
    }
}

/// Waits for the sink. One that takes its time does not make the server believe
/// that we are gone.
async fn meanwhile<T>(
    mut work: impl Future<Output = Result<T, EngineError>> + Unpin,
    connection: &mut Connection,
    patience: Patience,
    (received, durable): (Lsn, Lsn),
    told_at: &mut Instant,
) -> Result<T, EngineError> {
    loop {
        select! {
            done = &mut work => return done,
            () = sleep_until(*told_at + patience.status_every) => {
                *told_at = Instant::now();
                say(connection, received, durable, false).await;
            }
        }
    }
}

/// Sends a status update. A server that is gone takes none, but what it said
/// last, such as that it shuts down, may still wait to be read: so reading, and
/// not this, finds out how the stream ended.
async fn say(connection: &mut Connection, received: Lsn, durable: Lsn, ask: bool) {
    if let Err(error) = connection.send(|buffer| status(buffer, received, durable, ask)).await {
        tracing::debug!(member = %connection.member(), %error, "the server takes no status update");
    }
}

/// A standby status update. Applied is what is durable: nothing more happens here.
fn status(buffer: &mut BytesMut, received: Lsn, durable: Lsn, ask: bool) -> io::Result<()> {
    let since_epoch = Clock::system().now().duration_since(Timestamp::UNIX_EPOCH).as_micros();
    let sent_at = i64::try_from(since_epoch).unwrap_or_default() - POSTGRES_EPOCH * 1_000_000;
    let mut update = BytesMut::with_capacity(34);
    update.put_u8(b'r');
    update.put_u64(received.0);
    update.put_u64(durable.0);
    update.put_u64(durable.0);
    update.put_i64(sent_at);
    update.put_u8(u8::from(ask));
    frontend::CopyData::new(update.freeze())?.write(buffer);
    Ok(())
}

#[cfg(test)]
mod tests;
