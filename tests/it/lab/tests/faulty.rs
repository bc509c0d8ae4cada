//! Each fault, once.

use std::time::Duration;

use aws_sdk_rds::{Client, config::retry::RetryConfig};
use jiff::Timestamp;

use super::{assert_nothing_is_left, code, endpoint, instant, status};
use crate::{
    lab::{LIMIT, REGION, RdsLab, Refusal, Stuck},
    support::eventually,
};

/// Asks once, whatever the answer is.
async fn once(lab: &RdsLab) -> Client {
    let settings = lab.settings(REGION).await;
    let config = aws_sdk_rds::config::Builder::from(&settings).retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

#[tokio::test]
async fn calls_are_refused_by_action_and_count() {
    let lab = RdsLab::start().await;
    let client = once(&lab).await;
    let instances = async || code(client.describe_db_instances().send().await);
    let snapshots = async || code(client.describe_db_snapshots().send().await);

    lab.faults().refuse("DescribeDBInstances", Refusal::Throttling, 2);
    assert_eq!([instances().await, instances().await, instances().await], ["Throttling", "Throttling", ""]);
    lab.faults().refuse_from("DescribeDBSnapshots", 2, Refusal::AccessDenied);
    assert_eq!([snapshots().await, snapshots().await, snapshots().await], ["", "AccessDenied", "AccessDenied"]);
    lab.faults().clear();
    lab.faults().refuse("*", Refusal::ExpiredToken, 1);
    assert_eq!([snapshots().await, snapshots().await], ["ExpiredToken", ""]);
    lab.faults().refuse("DescribeDBInstances", Refusal::Broken, 1);
    lab.faults().refuse("DescribeDBSnapshots", Refusal::Other(400, "SnapshotQuotaExceeded"), 1);
    assert_eq!([instances().await, snapshots().await], ["InternalFailure", "SnapshotQuotaExceeded"]);
    lab.faults().refuse("CreateDBInstance", Refusal::Capacity, 1);
    let new = client.create_db_instance().db_instance_identifier("none").db_instance_class("db.t3.micro");
    assert_eq!(code(new.engine("postgres").send().await), "InsufficientDBInstanceCapacity");
    assert_eq!(status(&client, "none").await, None);

    let calls = lab.calls();
    let seen: Vec<_> =
        calls.iter().take(3).map(|call| (call.action.as_str(), call.status, call.code.as_str())).collect();
    let throttled = ("DescribeDBInstances", 400, "Throttling");
    assert_eq!(seen, [throttled, throttled, ("DescribeDBInstances", 200, "")]);
    // A client that repeats its calls gets through.
    lab.faults().refuse("DescribeDBInstances", Refusal::Throttling, 2);
    lab.client(REGION).await.describe_db_instances().send().await.unwrap();
}

#[tokio::test]
async fn what_is_made_or_removed_gets_stuck_or_fails_and_an_answer_is_lost() {
    let lab = RdsLab::start().await;
    let client = once(&lab).await;
    lab.create_instance("wallet").await;
    let take =
        |id: &str| client.create_db_snapshot().db_instance_identifier("wallet").db_snapshot_identifier(id).send();
    let state = async |id: &str| {
        let answer = client.describe_db_snapshots().db_snapshot_identifier(id).send().await.unwrap();
        answer.db_snapshots()[0].status().unwrap().to_owned()
    };
    let restore = |id: &str| {
        let restore = client.restore_db_instance_to_point_in_time().source_db_instance_identifier("wallet");
        restore.target_db_instance_identifier(id).use_latest_restorable_time(true).send()
    };
    let remove = |id: &str| client.delete_db_instance().db_instance_identifier(id).skip_final_snapshot(true).send();

    lab.faults().lose_answers("CreateDBSnapshot", 1);
    let lost = take("lost").await.unwrap_err();
    assert!(lost.raw_response().is_none(), "{lost:?}");
    eventually("the snapshot is there", LIMIT, async || state("lost").await == "available").await;
    assert!(lab.calls().iter().any(|call| call.action == "CreateDBSnapshot" && call.is_answer_lost));

    lab.faults().stick(Stuck::Creating, "slow");
    lab.faults().stick(Stuck::Failed, "bad");
    lab.faults().stick(Stuck::Deleting, "copy");
    for id in ["slow", "bad"] {
        take(id).await.unwrap();
        restore(id).await.unwrap();
    }
    restore("copy").await.unwrap();
    eventually("they failed", LIMIT, async || {
        state("bad").await == "failed" && status(&client, "bad").await.as_deref() == Some("incompatible-restore")
    })
    .await;
    endpoint(&lab, &client, "copy").await;
    remove("copy").await.unwrap();
    // It is there, and nobody sees it.
    eventually("its server runs", LIMIT, async || {
        let state = lab.estate.state();
        state.databases.iter().any(|(arn, one)| arn.ends_with(":db:slow") && one.server.is_some())
    })
    .await;
    assert_eq!(
        (state("slow").await, status(&client, "slow").await.unwrap()),
        ("creating".to_owned(), "creating".to_owned())
    );
    assert_eq!(status(&client, "copy").await.unwrap(), "deleting");
    assert_eq!(code(remove("copy").await), "InvalidDBInstanceState");

    lab.faults().clear();
    eventually("they go on", LIMIT, async || {
        state("slow").await == "available" && status(&client, "copy").await.is_none()
    })
    .await;
    endpoint(&lab, &client, "slow").await;
    for id in ["slow", "bad", "wallet"] {
        remove(id).await.unwrap();
    }
    for id in ["slow", "bad", "lost"] {
        client.delete_db_snapshot().db_snapshot_identifier(id).send().await.unwrap();
    }
    assert_nothing_is_left(&lab).await;
}

#[tokio::test]
async fn what_can_be_restored_stands_still_where_nothing_is_archived() {
    let lab = RdsLab::start().await;
    let client = once(&lab).await;
    for id in ["wallet", "other"] {
        lab.create_instance(id).await;
    }
    let latest = async |id: &str| {
        let answer = client.describe_db_instances().db_instance_identifier(id).send().await.unwrap();
        instant(answer.db_instances()[0].latest_restorable_time().unwrap())
    };
    let beyond = async |id: &str, mark: Timestamp| {
        eventually("it moves on", LIMIT, async || latest(id).await > mark).await;
    };
    beyond("wallet", latest("wallet").await).await;
    lab.faults().stick(Stuck::Archiving, "wallet");
    // What was begun before has ended by then.
    beyond("other", latest("wallet").await + Duration::from_secs(2)).await;
    let stood = latest("wallet").await;
    beyond("other", stood + Duration::from_secs(3)).await;
    assert_eq!(latest("wallet").await, stood);
    lab.faults().clear();
    beyond("wallet", stood).await;
}
