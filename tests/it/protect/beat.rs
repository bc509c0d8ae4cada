//! Heartbeats on a real server.

use lifeboat::{
    domain::Lsn,
    engine::{EngineError, Look, Protect},
};

use super::{documented, member, over_tcp};
use crate::support::Lab;

#[tokio::test]
async fn beats_go_up_and_a_retried_one_is_not_doubled() {
    let lab = Lab::start("").await;
    let postgres = documented(&lab).await;
    let mut last = None;
    for seq in 1..=5 {
        let beat = postgres.beat(seq).await.unwrap();
        let flushed: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        assert!(beat.seq == seq && beat.timeline.0 == 1 && beat.commit_lsn <= flushed, "{beat:?}");
        if let Some((at, lsn)) = last.replace((beat.acknowledged_at, beat.commit_lsn)) {
            assert!(beat.acknowledged_at >= at && beat.commit_lsn > lsn, "{beat:?}");
        }
    }
    postgres.beat(5).await.unwrap();
    let rows = "SELECT string_agg(seq::text, ',' ORDER BY seq) FROM lifeboat.heartbeat";
    assert_eq!(lab.psql(rows).await, "1,2,3,4,5");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lifeboat'";
    assert_eq!(lab.psql(sessions).await, "1", "one session serves all beats");
}

#[tokio::test]
async fn a_beat_follows_a_restarted_server_and_old_rows_go() {
    let lab = Lab::start("").await;
    let postgres = documented(&lab).await;
    postgres.beat(1).await.unwrap();
    lab.cluster.stop("immediate").await.unwrap();
    postgres.beat(2).await.unwrap_err();
    let error = postgres.beat(2).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    lab.cluster.start(std::time::Duration::from_secs(30)).await.unwrap();
    postgres.beat(2).await.unwrap();
    lab.psql("INSERT INTO lifeboat.heartbeat SELECT generate_series(3, 19999)").await;
    postgres.beat(20_000).await.unwrap();
    assert_eq!(lab.psql("SELECT min(seq), count(*) FROM lifeboat.heartbeat").await, "10001|10000");
}

#[tokio::test]
async fn a_role_that_may_not_write_is_told_what_it_needs() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION").await;
    let postgres = over_tcp(&lab, "plain");
    let error = postgres.beat(1).await.unwrap_err();
    let EngineError::Unfit { remedy, .. } = &error else { panic!("{error:?}") };
    // The remedy is taken at its word.
    let (_, sql) = remedy.split_once("superuser: ").unwrap();
    lab.psql(sql).await;
    postgres.beat(1).await.unwrap();
    postgres.preflight().await.unwrap();
}

#[tokio::test]
async fn a_member_that_never_answers_does_not_stop_the_heart() {
    let lab = Lab::start("").await;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // It makes its table itself where it may.
    lab.psql("CREATE ROLE plain LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO plain").await;
    let mut postgres = over_tcp(&lab, "plain");
    postgres.members.insert(0, member("b", "127.0.0.1", mute.local_addr().unwrap().port()));
    assert_eq!(postgres.beat(1).await.unwrap().seq, 1);

    postgres.members.pop();
    let begun = std::time::Instant::now();
    let error = postgres.clone().beat(2).await;
    assert!(error.is_ok(), "the session that works is kept: {error:?}");
    lab.cluster.stop("immediate").await.unwrap();
    postgres.beat(3).await.unwrap_err();
    postgres.beat(3).await.unwrap_err();
    assert!(begun.elapsed() < std::time::Duration::from_secs(6), "{:?}", begun.elapsed());
}
