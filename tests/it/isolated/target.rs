//! You get the recovery point that you asked for, or a failure.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lifeboat::{
    domain::{Lsn, RecoveryTarget, SegmentSize, Timeline},
    engine::{EngineError, Recover, SoughtRecord},
};

use super::copy::{Copy, LIMIT, beat, processes_in, switch_segment};
use crate::support::Lab;

/// The lab's own time.
async fn now(lab: &Lab) -> Timestamp {
    let micros = lab.psql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint").await;
    Timestamp::from_microsecond(micros.parse().unwrap()).unwrap()
}

/// Fails unless recovery failed quickly, with the server's own words, leaving nothing.
fn assert_refused(copy: &Copy, result: Result<impl Sized, EngineError>, begun: Instant, words: &str) {
    let Err(EngineError::Recovery { expected, log }) = result.map(drop) else {
        panic!("recovery ended although {words} was expected");
    };
    assert!(log.contains(words), "{expected}: {log}");
    assert!(begun.elapsed() < LIMIT / 2, "it waited instead of watching the server");
    assert_eq!(processes_in(&copy.folder), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn the_latest_state_is_the_last_whole_record_of_a_log_cut_anywhere() {
    let lab = Lab::start("").await;
    beat(&lab, 1..=3).await;
    for cut in [0, 13] {
        let copy = Copy::of(&lab).await;
        beat(&lab, 4 + cut..=8 + cut).await;
        let newest = copy.archive(&lab, cut.unsigned_abs()).await;
        let last = copy.last_record(newest).await;
        let instance = copy.recover(RecoveryTarget::Lsn(last)).await.unwrap();
        let reached = instance.lineage().reached;
        assert!(reached.lsn > last && reached.timeline == Timeline(1), "{reached:?} {last}");
        // Cut short, the last commit is not whole any more.
        let newest_seq = if cut == 0 { 8 } else { 7 + cut };
        assert_eq!(instance.heartbeats().await.unwrap().present.last(), Some(&newest_seq));
        assert!(reached.last_commit_at.is_some());
        assert!(instance.server_version().starts_with("15."));
        instance.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_segment_without_a_record_of_its_own_sends_the_search_back() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    beat(&lab, 1..=2).await;
    let before = copy.archive(&lab, 0).await;
    let expected = copy.last_record(before).await;
    // The log ended right behind the header of a new segment.
    let next = lifeboat::domain::Segment { timeline: before.timeline, number: before.number + 1 };
    let size = SegmentSize::DEFAULT;
    fs::write(copy.wal().join(next.file_name(size)), vec![0_u8; 16 << 20]).unwrap();
    assert_eq!(copy.last_record(next).await, expected);
}

#[tokio::test]
async fn a_time_stops_before_the_first_later_commit() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    beat(&lab, 1..=5).await;
    let at = now(&lab).await;
    beat(&lab, 6..=9).await;
    copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Time(at)).await.unwrap();
    assert_eq!(instance.heartbeats().await.unwrap().present, [1, 2, 3, 4, 5]);
    assert!(instance.lineage().reached.last_commit_at.unwrap() <= at);
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn immediate_is_the_end_of_the_backup_and_a_name_its_restore_point() {
    let lab = Lab::start("wal_keep_size = '1GB'").await;
    beat(&lab, 1..=2).await;
    let (first, second) = (Copy::of(&lab).await, Copy::of(&lab).await);
    beat(&lab, 3..=4).await;
    lab.psql("select pg_create_restore_point('it''s noon')").await;
    beat(&lab, 5..=6).await;
    first.archive(&lab, 0).await;
    second.archive(&lab, 0).await;
    for (copy, target, present) in [
        (&first, RecoveryTarget::Immediate, vec![1, 2]),
        (&second, RecoveryTarget::Name("it's noon".to_owned()), vec![1, 2, 3, 4]),
    ] {
        let instance = copy.recover(target).await.unwrap();
        assert_eq!(instance.heartbeats().await.unwrap().present, present);
        let sum = instance.query("postgres", "select sum(seq), 'x' from lifeboat.heartbeat").await.unwrap();
        assert_eq!(sum.first, Some(present.iter().sum::<i64>().to_string()));
        assert_eq!(instance.query("postgres", "select null").await.unwrap().first, None);
        assert!(instance.query("postgres", "select 1; select 1/0").await.is_err());
        instance.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_target_after_the_end_fails_at_once() {
    let lab = Lab::start("").await;
    let far = Timestamp::from_second(4_000_000_000).unwrap();
    for target in
        [RecoveryTarget::Lsn(Lsn(1 << 40)), RecoveryTarget::Time(far), RecoveryTarget::Name("never".to_owned())]
    {
        let copy = Copy::of(&lab).await;
        copy.archive(&lab, 0).await;
        let begun = Instant::now();
        let result = copy.recover(target).await;
        assert_refused(&copy, result, begun, "recovery ended before configured recovery target was reached");
    }
}

/// What of the WAL is gone, and when it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Nothing,
    BeforeConfiguration,
    BeforeStart,
}

/// Every kind of target, each inclusive and exclusive where that can be said, with
/// the heartbeats that it holds. The commit of the fourth is what is named.
async fn targets(lab: &Lab, copy: &Copy) -> Vec<(RecoveryTarget, Vec<i64>)> {
    beat(lab, 3..=3).await;
    let insert = "with beat as (insert into lifeboat.heartbeat (seq) values (4)) select pg_current_xact_id()::text";
    let xid = lab.psql(insert).await;
    let micros = format!("select (extract(epoch from pg_xact_commit_timestamp('{xid}'::xid)) * 1000000)::bigint");
    let at = Timestamp::from_microsecond(lab.psql(&micros).await.parse().unwrap()).unwrap();
    lab.psql("select pg_create_restore_point('noon')").await;
    beat(lab, 5..=6).await;
    let newest = copy.archive(lab, 0).await;
    let begin = Lsn(newest.number * SegmentSize::DEFAULT.bytes());
    let commit = copy.find(SoughtRecord::TransactionEnd(xid.parse().unwrap()), begin).await.unwrap();
    let last = copy.find(SoughtRecord::LatestEnd, begin).await.unwrap();
    assert!(last.start > commit.start && last.at.unwrap() > at, "{last:?}");
    let named = [RecoveryTarget::Lsn(commit.start), RecoveryTarget::Time(at), RecoveryTarget::Xid(xid)];
    let mut all: Vec<_> = named.iter().map(|target| (target.clone(), vec![1, 2, 3, 4])).collect();
    all.extend(named.into_iter().map(|target| (target.exclusive().unwrap(), vec![1, 2, 3])));
    all.push((RecoveryTarget::Name("noon".to_owned()), vec![1, 2, 3, 4]));
    all.push((RecoveryTarget::Immediate, vec![1, 2]));
    all.push((RecoveryTarget::Lsn(copy.last_record(newest).await), vec![1, 2, 3, 4, 5, 6]));
    all
}

#[tokio::test]
async fn every_target_is_reached_exactly_and_never_where_a_segment_is_missing() {
    let lab = Lab::start("wal_keep_size = '1GB'\ntrack_commit_timestamp = on").await;
    beat(&lab, 1..=2).await;
    let copy = Copy::of(&lab).await;
    let first = copy.wal().join(lab.psql("select pg_walfile_name(redo_lsn) from pg_control_checkpoint()").await);
    switch_segment(&lab).await;
    lab.psql("create table middle as select 1; drop table middle").await;
    let middle = copy.wal().join(lab.psql("select pg_walfile_name(pg_current_wal_lsn())").await);
    switch_segment(&lab).await;
    for (target, present) in targets(&lab, &copy).await {
        // The backup itself needs what was written while it ran, and nothing else.
        let lost = if target == RecoveryTarget::Immediate { &first } else { &middle };
        for gone in [Gone::Nothing, Gone::BeforeConfiguration, Gone::BeforeStart] {
            let twin = copy.twin();
            let lost = twin.wal().join(lost.file_name().unwrap());
            if gone == Gone::BeforeConfiguration {
                fs::remove_file(&lost).unwrap();
            }
            twin.configure(target.clone()).await.unwrap();
            if gone == Gone::BeforeStart {
                fs::remove_file(&lost).unwrap();
            }
            let begun = Instant::now();
            let result = twin.postgres.start_isolated(&twin.params()).await;
            let words = match (gone, &target) {
                (Gone::Nothing, _) => {
                    let instance = result.unwrap_or_else(|error| panic!("{target}: {error}"));
                    assert_eq!(instance.heartbeats().await.unwrap().present, present, "{target}");
                    instance.stop().await.unwrap();
                    continue;
                }
                (Gone::BeforeConfiguration, RecoveryTarget::Immediate) => "could not locate",
                (Gone::BeforeConfiguration, _) => "recovery ended before configured recovery target was reached",
                (Gone::BeforeStart, _) => "could not restore file",
            };
            assert_refused(&twin, result, begun, words);
            let promoted = twin.folder.join("data/pg_wal").join(Timeline(2).history_file());
            assert!(!promoted.exists(), "{target}, {gone:?}: it was promoted");
        }
    }
}

#[tokio::test]
async fn recovery_follows_the_timeline_that_a_promotion_opened() {
    let lab = Lab::start("wal_keep_size = '1GB'").await;
    beat(&lab, 1..=2).await;
    let copy = Copy::of(&lab).await;
    beat(&lab, 3..=4).await;
    let start: Lsn = lab.psql("select pg_create_restore_point('before')").await.parse().unwrap();
    lab.cluster.stop("fast").await.unwrap();
    fs::write(lab.cluster.data().join("standby.signal"), "").unwrap();
    lab.cluster.start(Duration::from_secs(30)).await.unwrap();
    lab.psql("select pg_promote()").await;
    beat(&lab, 5..=5).await;
    let after: Lsn = lab.psql("select pg_create_restore_point('after')").await.parse().unwrap();
    // A commit flushes the point's record, which nobody waits for.
    beat(&lab, 6..=6).await;
    let newest = copy.archive(&lab, 0).await;
    assert_eq!(newest.timeline, Timeline(2));
    // A look into the WAL follows it too.
    let from = Lsn(SegmentSize::DEFAULT.floor(start).0 - SegmentSize::DEFAULT.bytes());
    for (name, ends_at) in [("before", Some(start)), ("after", Some(after)), ("aft", None)] {
        let found = copy.find(SoughtRecord::RestorePoint(name.to_owned()), from).await;
        // What the function answers is the record's end.
        assert_eq!(found.map(|found| found.start < ends_at.unwrap()), ends_at.map(|_| true), "{name}: {found:?}");
    }
    let last = copy.last_record(newest).await;
    let instance = copy.recover(RecoveryTarget::Lsn(last)).await.unwrap();
    assert_eq!(instance.heartbeats().await.unwrap().present, [1, 2, 3, 4, 5, 6]);
    assert_eq!(instance.lineage().reached.timeline, Timeline(2));
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_no_fresh_restore_or_has_no_target_is_refused() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    let latest = copy.configure(RecoveryTarget::Latest).await.unwrap_err();
    assert!(latest.to_string().contains("known target"), "{latest}");
    assert!(!copy.folder.join("data/recovery.signal").exists());
    fs::remove_file(copy.folder.join("data/backup_label")).unwrap();
    let stale = copy.configure(RecoveryTarget::Immediate).await.unwrap_err();
    assert!(stale.to_string().contains("backup_label"), "{stale}");
}
