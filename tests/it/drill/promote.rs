//! Promotion, fence proofs and following, as PostgreSQL really behaves.

use std::time::Duration;

use lifeboat::{
    domain::{Check, Timeline, Verdict},
    engine::{EngineError, Promote, Role},
};

use super::estate::{LIMIT, Pair, member};
use crate::support::eventually;

fn judged(checks: &[Check]) -> Vec<(&str, Verdict)> {
    checks.iter().map(|check| (check.name.as_str(), check.verdict)).collect()
}

#[tokio::test]
async fn a_promotion_waits_for_the_given_position_and_loses_nothing() {
    let mut pair = Pair::start().await;
    pair.beat(1).await;
    eventually("the first heartbeat is replayed", LIMIT, async || {
        pair.on_standby("select count(*) from lifeboat.heartbeat").await == "1"
    })
    .await;
    pair.on_standby("select pg_wal_replay_pause()").await;
    eventually("replay is paused", LIMIT, async || {
        pair.on_standby("select pg_get_wal_replay_pause_state()").await == "paused"
    })
    .await;
    pair.beat(3).await;
    let past = pair.lsn().await;
    pair.primary.cluster.stop("fast").await.unwrap();

    let early = pair.postgres.promote(&member("b"), past, Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(&early, EngineError::Unfit { what, .. } if what.contains("replay past")), "{early}");
    assert_eq!(pair.on_standby("select pg_is_in_recovery()").await, "t", "nothing was promoted");

    let standby = member("b");
    let promote = pair.postgres.promote(&standby, past, LIMIT);
    let resume = pair.on_standby("select pg_wal_replay_resume()");
    let (facts, _) = tokio::join!(promote, resume);
    let facts = facts.unwrap();
    assert_eq!((facts.role, facts.timeline, facts.member.as_str()), (Role::Primary, Timeline(2), "b"));
    assert!(facts.lsn >= past);
    assert_eq!(pair.postgres.heartbeats().await.unwrap().present, [1, 2, 3, 4]);

    let again = pair.postgres.promote(&member("b"), past, LIMIT).await.unwrap();
    assert_eq!(again.timeline, Timeline(2), "a primary is not promoted twice");
}

#[tokio::test]
async fn a_fence_is_believed_only_when_nobody_gets_past_it() {
    let pair = Pair::start().await;
    let old = member("a");
    let prove = || pair.postgres.prove_fenced(&old);
    assert_eq!(judged(&prove().await.unwrap()), [("login", Verdict::Fail), ("write", Verdict::Fail)]);

    // A setting is no fence: a session may switch it off.
    pair.primary.psql("alter system set default_transaction_read_only = on").await;
    pair.primary.psql("select pg_reload_conf()").await;
    eventually("the setting is in force", LIMIT, async || {
        pair.primary.psql("show default_transaction_read_only").await == "on"
    })
    .await;
    assert_eq!(judged(&prove().await.unwrap()), [("login", Verdict::Fail), ("write", Verdict::Fail)]);

    let standby = pair.postgres.prove_fenced(&member("b")).await.unwrap();
    assert_eq!(judged(&standby), [("login", Verdict::Fail), ("write", Verdict::Pass)]);

    let mut stranger = pair.postgres.clone();
    stranger.login.user = "nobody_here".to_owned();
    let unknown = stranger.prove_fenced(&member("a")).await.unwrap();
    assert_eq!(judged(&unknown), [("login", Verdict::Inconclusive), ("write", Verdict::Inconclusive)]);

    let hba = pair.primary.cluster.data().join("pg_hba.conf");
    std::fs::write(&hba, "local all all trust\nhost all all 127.0.0.1/32 reject\n").unwrap();
    pair.primary.psql("select pg_reload_conf()").await;
    eventually("the rejection is in force", LIMIT, async || {
        judged(&prove().await.unwrap()) == [("login", Verdict::Pass), ("write", Verdict::Pass)]
    })
    .await;

    pair.primary.cluster.stop("immediate").await.unwrap();
    assert_eq!(judged(&prove().await.unwrap()), [("login", Verdict::Pass), ("write", Verdict::Pass)]);
}

#[tokio::test]
async fn only_a_standby_that_streams_from_the_primary_follows() {
    let pair = Pair::start().await;
    assert!(pair.postgres.is_following(&member("b")).await.unwrap());
    assert!(!pair.postgres.is_following(&member("a")).await.unwrap(), "a primary follows nobody");
    assert!(pair.postgres.is_following(&member("c")).await.is_err());
    pair.on_standby("alter system set primary_conninfo = ''").await;
    pair.on_standby("select pg_reload_conf()").await;
    eventually("the standby stops to stream", LIMIT, async || !pair.postgres.is_following(&member("b")).await.unwrap())
        .await;
}

#[tokio::test]
async fn a_client_learns_who_answers_and_whether_it_takes_writes() {
    let pair = Pair::start().await;
    assert_eq!(looked(&pair, "127.0.0.1").await.unwrap(), ("site-a".to_owned(), true));
    assert_eq!(looked(&pair, "127.0.0.2").await.unwrap(), ("site-b".to_owned(), false));
    assert!(matches!(looked(&pair, "127.0.0.3").await, Err(EngineError::Unreachable { .. })));
}

async fn looked(pair: &Pair, address: &str) -> Result<(String, bool), EngineError> {
    let answer = pair.postgres.look_at(address.parse().unwrap(), pair.primary.port, "postgres").await?;
    Ok((answer.identity, answer.wrote))
}
