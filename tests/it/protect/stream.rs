//! Streaming WAL from a real server, compared with its own files.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    domain::{Lsn, Segment, SegmentSize, Timeline},
    engine::{EngineError, Look, Protect, Role, WalEnd, WalSink, WalSource, postgres::Postgres},
    process::Tasks,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{member, over_tcp};
use crate::support::{Lab, eventually, standby::Standby};

pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What a stream brought. Everything is called durable when it is flushed.
#[derive(Debug, Default)]
pub(super) struct Received {
    source: Option<WalSource>,
    /// Where the next stream goes on; where the server is when none.
    wanted: Option<Lsn>,
    start: Lsn,
    bytes: Vec<u8>,
    durable: Lsn,
    histories: Vec<(Timeline, Bytes)>,
}

impl Received {
    fn end(&self) -> Lsn {
        self.start.forward(self.bytes.len() as u64)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Received>>);

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut Received) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl WalSink for Memory {
    async fn begin(&mut self, source: &WalSource) -> Result<Lsn, EngineError> {
        Ok(self.with(|received| {
            received.source = Some(source.clone());
            let wanted = received.wanted.unwrap_or(source.segment_size.floor(source.server_lsn));
            let start = source.oldest.map_or(wanted, |oldest| wanted.max(source.segment_size.floor(oldest)));
            if received.bytes.is_empty() {
                received.start = start;
            }
            start
        }))
    }

    async fn history(&mut self, timeline: Timeline, content: Bytes) -> Result<(), EngineError> {
        self.with(|received| received.histories.push((timeline, content)));
        Ok(())
    }

    async fn wal(&mut self, at: Lsn, bytes: Bytes, _: std::time::Instant) -> Result<(), EngineError> {
        self.with(|received| {
            assert_eq!(at, received.end(), "WAL has a gap");
            received.bytes.extend_from_slice(&bytes);
        });
        Ok(())
    }

    async fn flush(&mut self) -> Result<Lsn, EngineError> {
        Ok(self.with(|received| {
            received.durable = received.end();
            received.durable
        }))
    }
}

pub(super) type Running = JoinHandle<Result<WalEnd, EngineError>>;

pub(super) fn start(tasks: &Tasks, postgres: &Postgres, sink: &Memory) -> (Running, CancellationToken) {
    let (postgres, mut sink, stop) = (postgres.clone(), sink.clone(), CancellationToken::new());
    let token = stop.clone();
    let running = tasks.spawn(async move { postgres.stream_wal(&mut sink, Duration::from_millis(50), token).await });
    (running, stop)
}

pub(super) async fn end(running: Running) -> Result<WalEnd, EngineError> {
    tokio::time::timeout(LIMIT, running).await.expect("the stream ends in time").unwrap()
}

/// Waits until all that the server has flushed is durable, and the server knows.
pub(super) async fn catch_up(lab: &Lab, sink: &Memory) {
    let flushed: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("the stream has caught up", LIMIT, || async {
        let told = lab.psql("SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'lifeboat'").await;
        sink.with(|received| received.durable) >= flushed && told.parse().is_ok_and(|told: Lsn| told >= flushed)
    })
    .await;
}

/// Compares what was received with the server's own files, byte for byte.
fn compare(sink: &Memory, timeline: Timeline, wal: &Path) -> usize {
    let size = SegmentSize::DEFAULT;
    sink.with(|received| {
        let mut at = received.start;
        let mut files = 0;
        while at < received.end() {
            let segment = Segment::holding(timeline, at, size);
            let file = std::fs::read(wal.join(segment.file_name(size))).unwrap();
            let until = segment.end(size).min(received.end());
            let index = |bytes: u64| usize::try_from(bytes).unwrap();
            let ours = &received.bytes[index(at.0 - received.start.0)..index(until.0 - received.start.0)];
            let from = index(size.offset(at));
            assert!(ours == &file[from..from + ours.len()], "{} differs", segment.file_name(size));
            at = until;
            files += 1;
        }
        files
    })
}

pub(super) async fn load(lab: &Lab, rounds: u32) {
    lab.psql("CREATE TABLE IF NOT EXISTS load (id bigint, filler text)").await;
    for _ in 0..rounds {
        lab.psql("INSERT INTO load SELECT g, repeat('x', 400) FROM generate_series(1, 10000) g").await;
    }
}

#[tokio::test]
async fn wal_is_contiguous_and_equal_to_the_servers_files() {
    let lab = Lab::start("wal_keep_size = 1GB").await;
    let (tasks, sink) = (Tasks::new(), Memory::default());
    let postgres = over_tcp(&lab, "postgres");
    let (running, stop) = start(&tasks, &postgres, &sink);
    load(&lab, 4).await;
    lab.psql("SELECT pg_switch_wal()").await;
    load(&lab, 4).await;
    catch_up(&lab, &sink).await;

    let unasked = Memory::default();
    let other = postgres.stream_wal(&mut unasked.clone(), LIMIT, CancellationToken::new()).await;
    assert!(matches!(other, Err(EngineError::SlotBusy { .. })), "{other:?}");
    assert_eq!(unasked.with(|received| received.source.clone()), None, "nobody looks through vaults for nothing");

    stop.cancel();
    assert_eq!(end(running).await.unwrap(), WalEnd::Stopped);
    assert!(compare(&sink, Timeline(1), &lab.cluster.data().join("pg_wal")) >= 3);

    // The next stream goes on where the durable WAL ends, with nothing twice and nothing missing.
    sink.with(|received| received.wanted = Some(received.durable));
    load(&lab, 2).await;
    let (running, stop) = start(&tasks, &postgres, &sink);
    catch_up(&lab, &sink).await;
    stop.cancel();
    end(running).await.unwrap();
    compare(&sink, Timeline(1), &lab.cluster.data().join("pg_wal"));
}

#[tokio::test]
async fn a_server_that_shuts_down_hands_over_everything_first() {
    // Or the shutdown removes the files that ours are compared with.
    let lab = Lab::start("wal_keep_size = 1GB").await;
    let (tasks, sink) = (Tasks::new(), Memory::default());
    let (running, _stop) = start(&tasks, &over_tcp(&lab, "postgres"), &sink);
    load(&lab, 2).await;
    eventually("the stream runs", LIMIT, || async { sink.with(|received| !received.bytes.is_empty()) }).await;
    let begun = std::time::Instant::now();
    lab.cluster.stop("fast").await.unwrap();
    let took = begun.elapsed();
    let ended = end(running).await.unwrap();
    let received = sink.with(|received| received.end());
    assert_eq!(ended, WalEnd::ServerShutDown(received));
    assert!(took < Duration::from_secs(20), "the server waited {took:?} for us");
    assert_eq!(sink.with(|received| received.durable), received);
    // The last record of a clean shutdown is its checkpoint; it must be there.
    let control = lab.cluster.binaries.program("pg_controldata", lab.cluster.account.clone());
    let control = control.arg(lab.cluster.data()).output(LIMIT).await.unwrap();
    let checkpoint = control.lines().find_map(|line| line.strip_prefix("Latest checkpoint location:")).unwrap();
    assert!(received > checkpoint.trim().parse().unwrap(), "{received} is before {checkpoint}");
    compare(&sink, Timeline(1), &lab.cluster.data().join("pg_wal"));
}

#[tokio::test]
async fn a_slot_that_lost_wal_is_made_anew_and_the_stream_goes_on_behind_the_gap() {
    const SLOT: &str = "FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'";
    let lab = Lab::start("max_slot_wal_keep_size = 1MB\nmax_wal_size = 32MB\nmin_wal_size = 32MB").await;
    let (tasks, sink) = (Tasks::new(), Memory::default());
    let postgres = over_tcp(&lab, "postgres");
    let pg_wal = lab.cluster.data().join("pg_wal");
    for lost in ["the slot", "the files"] {
        let (running, stop) = start(&tasks, &postgres, &sink);
        load(&lab, 1).await;
        catch_up(&lab, &sink).await;
        stop.cancel();
        end(running).await.unwrap();
        let wanted = SegmentSize::DEFAULT.floor(sink.with(|received| received.durable));
        let file = Segment::holding(Timeline(1), wanted, SegmentSize::DEFAULT).file_name(SegmentSize::DEFAULT);
        if lost == "the slot" {
            for _ in 0..4 {
                load(&lab, 3).await;
                lab.psql("SELECT pg_switch_wal()").await;
                lab.psql("CHECKPOINT").await;
            }
            assert_eq!(lab.psql(&format!("SELECT wal_status {SLOT}")).await, "lost");
            assert!(!pg_wal.join(&file).exists());
            lab.psql("ALTER SYSTEM SET max_slot_wal_keep_size = -1").await;
            lab.psql("SELECT pg_reload_conf()").await;
        } else {
            lab.psql("SELECT pg_switch_wal()").await;
            lab.psql("CHECKPOINT").await;
            std::fs::remove_file(pg_wal.join(&file)).unwrap();
            assert_ne!(lab.psql(&format!("SELECT wal_status {SLOT}")).await, "lost", "it knows nothing of it");
        }
        assert!(postgres.preflight().await.is_ok(), "neither backup nor stream is stopped by it");

        sink.with(|received| *received = Received { wanted: Some(wanted), ..Received::default() });
        let (running, stop) = start(&tasks, &postgres, &sink);
        catch_up(&lab, &sink).await;
        assert_ne!(lab.psql(&format!("SELECT wal_status {SLOT}")).await, "lost");
        let (oldest, start) = sink.with(|received| (received.source.as_ref().unwrap().oldest, received.start));
        assert!(oldest.is_some_and(|oldest| start == SegmentSize::DEFAULT.floor(oldest)) && start > wanted, "{lost}");
        assert!(compare(&sink, Timeline(1), &pg_wal) >= 1);
        stop.cancel();
        end(running).await.unwrap();
        sink.with(|received| *received = Received { wanted: Some(received.durable), ..Received::default() });
    }
}

#[tokio::test]
async fn a_server_whose_wal_is_worth_nothing_is_refused_with_the_way_out() {
    let lab = Lab::start("wal_level = minimal\nmax_wal_senders = 0").await;
    let sink = Memory::default();
    let postgres = over_tcp(&lab, "postgres");
    let refused = postgres.stream_wal(&mut sink.clone(), LIMIT, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(refused, EngineError::Unfit { .. }), "{refused:?}");
    for word in ["`wal_level` is minimal", "ALTER SYSTEM SET wal_level = 'replica'", "take a full backup"] {
        assert!(refused.to_string().contains(word), "{refused}");
    }
    assert_eq!(sink.with(|received| received.source.clone()), None);
}

#[tokio::test]
async fn a_server_that_dies_is_a_broken_connection() {
    let lab = Lab::start("").await;
    let (tasks, sink) = (Tasks::new(), Memory::default());
    let (running, _stop) = start(&tasks, &over_tcp(&lab, "postgres"), &sink);
    load(&lab, 1).await;
    catch_up(&lab, &sink).await;
    lab.cluster.stop("immediate").await.unwrap();
    let error = end(running).await.unwrap_err();
    assert!(!error.is_permanent(), "{error:?}");
}

#[tokio::test]
async fn after_a_promotion_the_old_timeline_is_finished_and_the_new_one_streamed() {
    let lab = Lab::start("wal_keep_size = 1GB").await;
    let standby = Standby::of(&lab).await;
    let (second, port) = (&standby.cluster, standby.port);
    let (tasks, sink) = (Tasks::new(), Memory::default());
    let mut postgres = over_tcp(&lab, "postgres");
    postgres.members.push(member("b", "127.0.0.1", port));

    let roles: Vec<Role> = postgres.inspect().await.into_iter().map(|(_, facts)| facts.unwrap().role).collect();
    assert_eq!(roles, [Role::Primary, Role::Standby]);

    let (running, stop) = start(&tasks, &postgres, &sink);
    load(&lab, 1).await;
    catch_up(&lab, &sink).await;
    stop.cancel();
    end(running).await.unwrap();

    // More than a segment that we do not have when the primary goes.
    load(&lab, 5).await;
    lab.psql("SELECT pg_switch_wal()").await;
    load(&lab, 1).await;
    lab.cluster.stop("fast").await.unwrap();
    let promote = second.binaries.program("pg_ctl", second.account.clone()).args(["promote", "-w", "-D"]);
    promote.arg(second.data()).output(LIMIT).await.unwrap();

    sink.with(|received| received.wanted = Some(received.durable));
    let (running, _stop) = start(&tasks, &postgres, &sink);
    let WalEnd::TimelineEnded(branched_at) = end(running).await.unwrap() else { panic!("timeline 1 goes on") };
    sink.with(|received| {
        assert_eq!(received.end(), branched_at);
        assert_eq!(received.source.as_ref().unwrap().timeline, Timeline(1));
        assert_eq!(received.histories[0].0, Timeline(2));
        let history = String::from_utf8(received.histories[0].1.to_vec()).unwrap();
        assert!(history.starts_with(&format!("1\t{branched_at}\t")), "{history}");
    });
    compare(&sink, Timeline(1), &lab.cluster.data().join("pg_wal"));

    let sink = Memory::default();
    sink.with(|received| received.wanted = Some(SegmentSize::DEFAULT.floor(branched_at)));
    let (running, stop) = start(&tasks, &postgres, &sink);
    postgres.beat(1).await.unwrap();
    let beat = postgres.beat(2).await.unwrap();
    assert_eq!(beat.timeline, Timeline(2));
    eventually("the beat is durable", LIMIT, || async { sink.with(|r| r.durable) >= beat.commit_lsn }).await;
    stop.cancel();
    assert_eq!(end(running).await.unwrap(), WalEnd::Stopped);
    compare(&sink, Timeline(2), &second.data().join("pg_wal"));
}
