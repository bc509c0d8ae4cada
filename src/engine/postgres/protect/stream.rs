//! Streaming WAL through our physical slot.
//!
//! The server is told as durable only what the sink said is durable; so it
//! keeps everything else for us, whatever happens to this process. A server
//! that shuts down waits until all it sent is confirmed: its questions are
//! answered after a flush and at once. Where its commits wait for us, so is all
//! that it sends. Where it has not kept what is wanted, the stream goes on with the
//! oldest that it has.
//!
//! Messages: <https://www.postgresql.org/docs/15/protocol-replication.html>.

use std::{future::ready, io, time::Duration};

use bytes::{Buf, Bytes};
use postgres_protocol::message::frontend;
use tokio::{
    select,
    sync::watch,
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
    INSPECT_LIMIT, awaited, history, sender,
    slot::{self, Renew},
    text_at,
};
use crate::{
    domain::{Lsn, SegmentSize, Timeline},
    engine::{EngineError, WalEnd, WalSink, WalSource},
};

mod status;

use status::{now, say};

const ACTION: &str = "the streaming of WAL";

/// What a stream may wait for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The server hears from us at least this often. After such a time of
    /// silence it is asked to speak.
    pub status_every: Duration,
    /// A server that is silent for so long, though asked, is gone; and so is another
    /// process of ours that streams, and is to speak as often.
    pub silence_max: Duration,
}

impl Default for Patience {
    /// Well below the 60 s after which a server gives us up by default (`wal_sender_timeout`).
    fn default() -> Self {
        Self { status_every: Duration::from_secs(10), silence_max: Duration::from_secs(30) }
    }
}

/// Where commits wait for us: for how long WAL that keeps arriving is gathered
/// before it is made durable together.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// Where commits wait for us: how soon what a vault did not take is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How long the server may take to end a stream that we end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn stream_wal(
    postgres: &Postgres,
    sink: &mut dyn WalSink,
    flush_every: Duration,
    stop: &CancellationToken,
) -> Result<WalEnd, EngineError> {
    let (member, facts) = postgres.primary(INSPECT_LIMIT).await?;
    match slot::refuse_unusable(postgres, member).await {
        Err(EngineError::SlotBusy { .. }) if sender::end_abandoned(postgres, member, stop).await? => {}
        usable => usable?,
    }
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
        let (awaited, is_awaited) = watch::channel(false);
        let patience = self.postgres.patience;
        let mut stream = Stream::new(connection, sink, start, self.flush_every, patience, is_awaited);
        select! {
            ended = stream.run(self.stop) => ended.map_err(refused),
            never = awaited::watch(self.postgres, self.member, &awaited) => match never {},
        }
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
    /// Whether commits of the server wait for us.
    is_awaited: watch::Receiver<bool>,
    /// All WAL before this position was handed to the sink.
    received: Lsn,
    /// All WAL before this position is durable, says the sink.
    durable: Lsn,
    /// Since when the sink has WAL that it was not asked to make durable.
    gathers_since: Option<Instant>,
    flushed_at: Instant,
    told_at: Instant,
    heard_at: Instant,
    /// Whether the server was asked to speak since it was heard.
    is_asked: bool,
    /// The least by which our clock was ahead of the time that a message bears, in
    /// microseconds: the way of the fastest one, and what the clocks differ by.
    fastest: i64,
}

impl<'a> Stream<'a> {
    fn new(
        connection: Connection,
        sink: &'a mut dyn WalSink,
        start: Lsn,
        flush_every: Duration,
        patience: Patience,
        is_awaited: watch::Receiver<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            connection,
            sink,
            flush_every,
            patience,
            is_awaited,
            received: start,
            // What the sink held before may be another server's.
            durable: Lsn(0),
            gathers_since: None,
            flushed_at: now,
            told_at: now,
            heard_at: now,
            is_asked: false,
            fastest: i64::MAX,
        }
    }

    async fn run(&mut self, stop: &CancellationToken) -> Result<WalEnd, EngineError> {
        loop {
            let wake = self.flush_at().min(self.told_at + self.patience.status_every);
            let gathers = self.gathers_since.is_some() && *self.is_awaited.borrow();
            // What has arrived is read before silence is judged, and before what
            // commits wait for is made durable.
            let reply = select! {
                biased;
                reply = self.connection.receive() => Some(reply),
                () = ready(()), if gathers => None,
                Ok(()) = self.is_awaited.changed() => None,
                () = stop.cancelled() => None,
                () = sleep_until(wake) => None,
            };
            let is_all_read = reply.is_none();
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
            let is_gathered = self.gathers_since.is_some_and(|since| is_all_read || since.elapsed() >= GATHER_MAX);
            if is_gathered && *self.is_awaited.borrow() || self.flush_at() <= Instant::now() {
                self.flush().await?;
            }
            if self.told_at.elapsed() >= self.patience.status_every {
                self.tell().await;
            }
        }
    }

    /// When the sink is asked at the latest. Where commits wait for what a vault did
    /// not take, that is soon.
    fn flush_at(&self) -> Instant {
        let is_late = self.durable < self.received && *self.is_awaited.borrow();
        self.flushed_at + if is_late { self.flush_every.min(RETRY_EVERY) } else { self.flush_every }
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
                let (Ok(at), Ok(_), Ok(sent)) = header else {
                    return Err(self.broken(nonsense("a short WAL message")));
                };
                if Lsn(at) != self.received {
                    return Err(self.broken(nonsense("WAL that does not follow on what came before")));
                }
                let next = self.received.forward(data.len() as u64);
                let sent = self.sent_at(sent);
                self.take_wal(data, sent).await?;
                self.received = next;
                self.gathers_since = self.gathers_since.or_else(|| Some(Instant::now()));
                Ok(())
            }
            Ok(b'k') => match (data.try_get_u64(), data.try_get_i64(), data.try_get_u8()) {
                (Ok(_), Ok(sent), Ok(asks)) => {
                    // How the clocks differ shows best where nothing is under way.
                    self.sent_at(sent);
                    // It waits for this answer to shut down, or to believe that we are alive.
                    if asks == 0 { Ok(()) } else { self.flush().await }
                }
                _ => Err(self.broken(nonsense("a short keepalive"))),
            },
            Ok(_) | Err(_) => Err(self.broken(nonsense("an unknown kind of data"))),
        }
    }

    /// When a message that bears this time was sent, by our clock: as long ago as it
    /// took longer than the fastest one, whatever the clocks differ by.
    fn sent_at(&mut self, stamp: i64) -> std::time::Instant {
        let took = now().saturating_sub(stamp);
        self.fastest = self.fastest.min(took);
        let late = Duration::from_micros(u64::try_from(took.saturating_sub(self.fastest)).unwrap_or_default());
        let arrived = std::time::Instant::now();
        arrived.checked_sub(late).unwrap_or(arrived)
    }

    async fn take_wal(&mut self, wal: Bytes, sent: std::time::Instant) -> Result<(), EngineError> {
        let Self { connection, sink, patience, received, durable, told_at, .. } = self;
        meanwhile(sink.wal(*received, wal, sent), connection, *patience, *durable, told_at).await
    }

    /// Has everything received made durable and tells the server.
    async fn flush(&mut self) -> Result<(), EngineError> {
        self.gathers_since = None;
        let Self { connection, sink, patience, durable, told_at, .. } = self;
        let flushed = meanwhile(sink.flush(), connection, *patience, *durable, told_at).await?;
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
        say(&mut self.connection, self.durable, ask).await;
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
    durable: Lsn,
    told_at: &mut Instant,
) -> Result<T, EngineError> {
    loop {
        select! {
            done = &mut work => return done,
            () = sleep_until(*told_at + patience.status_every) => {
                *told_at = Instant::now();
                say(connection, durable, false).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
