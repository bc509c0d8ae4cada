//! A stream against a server that is played: silence, questions, gaps, a slow sink.

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const SHORT: Patience = Patience { status_every: Duration::from_millis(40), silence_max: Duration::from_millis(120) };
const SELDOM: Duration = Duration::from_secs(3600);
const START: Lsn = Lsn(0x0100_0000);

/// Counts what it is given; a flush takes `flush_takes`.
#[derive(Default)]
struct Counting {
    bytes: u64,
    /// How long ago what came was sent.
    ages: Vec<Duration>,
    flushes: u32,
    flush_takes: Duration,
}

#[async_trait]
impl WalSink for Counting {
    async fn begin(&mut self, _: &WalSource) -> Result<Lsn, EngineError> {
        Ok(START)
    }

    async fn history(&mut self, _: Timeline, _: Bytes) -> Result<(), EngineError> {
        Ok(())
    }

    async fn wal(&mut self, _: Lsn, bytes: Bytes, sent: std::time::Instant) -> Result<(), EngineError> {
        self.bytes += bytes.len() as u64;
        self.ages.push(sent.elapsed());
        Ok(())
    }

    async fn flush(&mut self) -> Result<Lsn, EngineError> {
        self.flushes += 1;
        tokio::time::sleep(self.flush_takes).await;
        Ok(START.forward(self.bytes))
    }
}

fn patient() -> Patience {
    Patience::default()
}

fn nobody_waits() -> watch::Receiver<bool> {
    watch::channel(false).1
}

fn connect() -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Connection::new("a".parse().unwrap(), Box::new(ours)), theirs)
}

async fn send(server: &mut DuplexStream, tag: u8, body: &[u8]) {
    server.write_u8(tag).await.unwrap();
    server.write_u32(u32::try_from(body.len() + 4).unwrap()).await.unwrap();
    server.write_all(body).await.unwrap();
}

async fn send_wal(server: &mut DuplexStream, at: Lsn, wal: &[u8]) {
    send_wal_of(server, at, wal, 0).await;
}

/// WAL that bears this time.
async fn send_wal_of(server: &mut DuplexStream, at: Lsn, wal: &[u8], sent: i64) {
    let mut body = vec![b'w'];
    body.extend_from_slice(&at.0.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(&sent.to_be_bytes());
    body.extend_from_slice(wal);
    send(server, b'd', &body).await;
}

/// The tag and the body of what we say next.
async fn next_message(server: &mut DuplexStream) -> (u8, Vec<u8>) {
    let tag = server.read_u8().await.unwrap();
    let mut body = vec![0; server.read_u32().await.unwrap() as usize - 4];
    server.read_exact(&mut body).await.unwrap();
    (tag, body)
}

/// The next status update: what is durable, whether an answer is asked for.
async fn next_status(server: &mut DuplexStream) -> (Lsn, bool) {
    let (tag, body) = next_message(server).await;
    assert_eq!((tag, body[0], body.len()), (b'd', b'r', 34));
    let lsn = |from: usize| Lsn(u64::from_be_bytes(body[from..from + 8].try_into().unwrap()));
    assert_eq!((lsn(1), lsn(17)), (lsn(9), lsn(9)), "written and applied are what is durable");
    (lsn(9), body[33] == 1)
}

#[tokio::test]
async fn a_silent_server_is_asked_and_then_given_up() {
    let (connection, mut server) = connect();
    let mut sink = Counting::default();
    let begun = Instant::now();
    let ended =
        Stream::new(connection, &mut sink, START, SELDOM, SHORT, nobody_waits()).run(&CancellationToken::new()).await;
    let Err(EngineError::Broken { source, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() >= SHORT.silence_max);
    assert_eq!(next_status(&mut server).await, (Lsn(0), true));
}

#[tokio::test]
async fn a_question_is_answered_after_a_flush_and_at_once() {
    let (connection, mut server) = connect();
    let mut sink = Counting::default();
    let stop = CancellationToken::new();
    let mut stream = Stream::new(connection, &mut sink, START, SELDOM, patient(), nobody_waits());
    let (ended, ()) = tokio::join!(stream.run(&stop), async {
        send_wal(&mut server, START, b"12345").await;
        send_wal(&mut server, START.forward(5), b"678").await;
        send(&mut server, b'd', &[&b"k"[..], &[0; 16], &[1]].concat()).await;
        let end = START.forward(8);
        assert_eq!(next_status(&mut server).await, (end, false));
        send(&mut server, b'C', b"COPY 0\0").await;
    });
    assert_eq!(ended.unwrap(), WalEnd::ServerShutDown(START.forward(8)));
}

#[tokio::test]
async fn wal_with_a_gap_is_refused() {
    let (connection, mut server) = connect();
    let mut sink = Counting::default();
    send_wal(&mut server, START, b"12345").await;
    send_wal(&mut server, START.forward(6), b"7").await;
    let ended = Stream::new(connection, &mut sink, START, SELDOM, patient(), nobody_waits())
        .run(&CancellationToken::new())
        .await;
    assert!(matches!(ended, Err(EngineError::Broken { .. })), "{ended:?}");
    assert_eq!(sink.bytes, 5);
}

#[tokio::test]
async fn a_slow_sink_does_not_silence_us_and_claims_nothing() {
    let (connection, mut server) = connect();
    let mut sink = Counting { flush_takes: SHORT.status_every * 4, ..Counting::default() };
    send_wal(&mut server, START, b"12345").await;
    let stop = CancellationToken::new();
    let patience = Patience { silence_max: SELDOM, ..SHORT };
    let mut stream = Stream::new(connection, &mut sink, START, Duration::from_millis(1), patience, nobody_waits());
    let (ended, ()) = tokio::join!(stream.run(&stop), async {
        let end = START.forward(5);
        assert_eq!(next_status(&mut server).await, (Lsn(0), false), "while it flushes, nothing is durable");
        while next_status(&mut server).await.0 != end {}
        stop.cancel();
        while next_message(&mut server).await.0 != b'c' {}
        send(&mut server, b'Z', b"I").await;
    });
    assert_eq!(ended.unwrap(), WalEnd::Stopped);
}

#[tokio::test]
async fn the_last_words_of_a_server_that_left_are_read() {
    let (connection, mut server) = connect();
    let mut sink = Counting::default();
    send_wal(&mut server, START, b"12345").await;
    send(&mut server, b'd', &[&b"k"[..], &[0; 16], &[1]].concat()).await;
    send(&mut server, b'C', b"COPY 0\0").await;
    // Nobody is left to take our answers.
    drop(server);
    let ended = Stream::new(connection, &mut sink, START, SELDOM, patient(), nobody_waits())
        .run(&CancellationToken::new())
        .await;
    assert_eq!(ended.unwrap(), WalEnd::ServerShutDown(START.forward(5)));
}

#[tokio::test]
async fn where_commits_wait_what_arrives_is_made_durable_at_once_and_together() {
    let (connection, mut server) = connect();
    let mut sink = Counting::default();
    let stop = CancellationToken::new();
    let (awaited, is_awaited) = watch::channel(false);
    let mut stream = Stream::new(connection, &mut sink, START, SELDOM, patient(), is_awaited);
    let (ended, ()) = tokio::join!(stream.run(&stop), async {
        send_wal(&mut server, START, b"12345").await;
        // What came before is not waited for any longer either.
        awaited.send_replace(true);
        assert_eq!(next_status(&mut server).await, (START.forward(5), false));
        for nth in 0..10 {
            send_wal(&mut server, START.forward(5 + nth), b"6").await;
        }
        let end = START.forward(15);
        while next_status(&mut server).await.0 != end {}
        // Nothing new: the sink is left alone.
        send(&mut server, b'd', &[&b"k"[..], &[0; 16], &[0]].concat()).await;
        stop.cancel();
        while next_message(&mut server).await.0 != b'c' {}
        send(&mut server, b'Z', b"I").await;
    });
    assert_eq!(ended.unwrap(), WalEnd::Stopped);
    assert!((3..=12).contains(&sink.flushes), "{} flushes", sink.flushes);
}

#[tokio::test]
async fn the_age_of_wal_does_not_depend_on_what_the_clocks_differ_by() {
    for differs in [-3_600_000_000, 0, 3_600_000_000] {
        let (connection, mut server) = connect();
        let mut sink = Counting::default();
        let clock = now() + differs;
        send_wal_of(&mut server, START, b"1", clock).await;
        // Sent ten minutes before the other one, and here with it.
        send_wal_of(&mut server, START.forward(1), b"2", clock - 600_000_000).await;
        send(&mut server, b'C', b"COPY 0\0").await;
        let stop = CancellationToken::new();
        let mut stream = Stream::new(connection, &mut sink, START, SELDOM, patient(), nobody_waits());
        assert!(stream.run(&stop).await.is_ok());
        let [first, second] = sink.ages[..] else { panic!("{:?}", sink.ages) };
        assert!(first < Duration::from_secs(60), "{differs}: {first:?}");
        assert!((600..660).contains(&second.as_secs()), "{differs}: {second:?}");
    }
}
