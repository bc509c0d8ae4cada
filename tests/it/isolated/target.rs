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
        let reached = instance.recovery_point().await.unwrap();
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
    assert!(instance.recovery_point().await.unwrap().last_commit_at.unwrap() <= at);
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
        assert_eq!(sum, Some(present.iter().sum::<i64>().to_string()));
        assert_eq!(instance.query("postgres", "select null").await.unwrap(), None);
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

#[tokio::test]
async fn a_missing_middle_segment_never_shortens_history() {
    let lab = Lab::start("wal_keep_size = '1GB'").await;
    let gone_words = [
        (None, ""),
        (Some("before it was configured"), "recovery ended before configured recovery target was reached"),
        (Some("after it was configured"), "could not restore file"),
    ];
    for (gone, words) in gone_words {
        for by_time in [true, false] {
            let copy = Copy::of(&lab).await;
            switch_segment(&lab).await;
            lab.psql("create table middle as select 1; drop table middle").await;
            let middle = copy.wal().join(lab.psql("select pg_walfile_name(pg_current_wal_lsn())").await);
            switch_segment(&lab).await;
            lab.psql("create table last as select 1").await;
            let at = now(&lab).await;
            lab.psql("drop table last").await;
            let newest = copy.archive(&lab, 0).await;
            let target =
                if by_time { RecoveryTarget::Time(at) } else { RecoveryTarget::Lsn(copy.last_record(newest).await) };
            if gone == Some("before it was configured") {
                fs::remove_file(&middle).unwrap();
            }
            copy.configure(target).await.unwrap();
            if gone == Some("after it was configured") {
                fs::remove_file(&middle).unwrap();
            }
            let begun = Instant::now();
            let result = copy.postgres.start_isolated(&copy.params()).await;
            match gone {
                Some(_) => assert_refused(&copy, result, begun, words),
                None => result.unwrap().stop().await.unwrap(),
            }
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
    assert_eq!(instance.recovery_point().await.unwrap().timeline, Timeline(2));
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
