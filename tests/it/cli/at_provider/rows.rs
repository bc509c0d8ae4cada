//! Real rows come back, and wrong ones are found.

use super::*;

/// What a test may call: looks, a restore, and the removal of what it made.
const ALLOWED: [&str; 8] = [
    "GetCallerIdentity",
    "DescribeDBInstances",
    "DescribeDBSnapshots",
    "DescribeDBInstanceAutomatedBackups",
    "ListTagsForResource",
    "RestoreDBInstanceToPointInTime",
    "RestoreDBInstanceFromDBSnapshot",
    "DeleteDBInstance",
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_from_an_instant_and_from_a_snapshot() {
    let estate = Estate::start().await;
    let (run, record) = estate.tested(LATEST).await;
    assert_eq!((run.state, record["verdict"].as_str()), (RunState::Done, Some("PASS")), "{record:#}");
    assert_eq!(verdict(&record, "rpo"), ("PASS", "PASS"), "{record:#}");
    assert!(record["measured"]["rpo_seconds"].is_number() && record["measured"]["lost_commits"] == 0, "{record:#}");
    assert!(record["measured"]["restore_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(record["why"]["selection"]["vault"], Value::Null);
    assert_eq!(check(&record, "checks", "full_read")["actual"], "3 databases were read through", "{record:#}");
    assert!(check(&record, "isolation", "network")["actual"].as_str().unwrap().contains("the source is in vpc-"));
    assert_eq!((&record["target"]["kind"], &record["target"]["region"]), (&"rds".into(), &REGION.into()));
    assert_eq!(record["source"]["backup_kind"], "point_in_time");
    assert!(record["source"]["snapshot"]["arn"].as_str().unwrap().ends_with(":db:wallet-prod"), "{record:#}");
    let made = record["target"]["resources"][0]["name"].as_str().unwrap();
    assert!(made.starts_with("instance lifeboat-wallet-"), "{made}");
    let called = estate.called();
    assert!(called.iter().all(|action| ALLOWED.contains(&action.as_str())), "{called:?}");
    let restore = estate.lab.calls().into_iter().find(|call| call.action == "RestoreDBInstanceToPointInTime").unwrap();
    assert_eq!(restore.get("PubliclyAccessible"), Some("false"), "{restore:?}");
    assert_eq!(restore.get("DeletionProtection"), Some("false"), "{restore:?}");
    assert_eq!(restore.get("DBSubnetGroupName"), Some("isolated"), "{restore:?}");
    estate.nothing_left("latest").await;

    let taken = estate.lab.client(REGION).await;
    taken.create_db_snapshot().db_instance_identifier(SOURCE).db_snapshot_identifier("by-hand").send().await.unwrap();
    eventually("the snapshot is there", LIMIT, async || {
        let all = taken.describe_db_snapshots().db_snapshot_identifier("by-hand").send().await.unwrap();
        all.db_snapshots()[0].status() == Some("available")
    })
    .await;
    // What comes later is not in it.
    estate.source.psql("app", "INSERT INTO bets VALUES (4, 40)").await;
    let (_, record) = estate.tested(Point::By(RecoveryAlgorithm::Oldest)).await;
    assert_eq!(record["verdict"], "PASS", "{record:#}");
    assert_eq!(
        (&record["source"]["backup_id"], &record["source"]["backup_kind"]),
        (&"by-hand".into(), &"snapshot".into())
    );
    assert_eq!(record["measured"]["rpo_seconds"], Value::Null, "hindsight measures no RPO");
    estate.nothing_left("oldest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_rows_and_lost_heartbeats_turn_red() {
    let estate = Estate::start().await;
    // A whole second behind all that was written, and before all that follows.
    let written = Clock::system().now();
    let whole = Timestamp::from_second(written.as_second() + 1).unwrap();
    eventually("it can be restored", LIMIT, async || estate.source.flush().await > whole).await;
    // A beat that the copy must have, and that somebody took away at the source.
    estate
        .source
        .psql("app", "UPDATE bets SET stake = 7 WHERE id = 2; DELETE FROM lifeboat.heartbeat WHERE seq = 3")
        .await;
    estate.source.flush().await;
    let (run, record) = estate.tested(LATEST).await;
    assert_eq!((run.state, record["verdict"].as_str()), (RunState::Done, Some("FAIL")), "{record:#}");
    assert_eq!(verdict(&record, "checks").0, "FAIL");
    assert!(check(&record, "checks", "heartbeat")["actual"].as_str().unwrap().contains("corruption"), "{record:#}");
    let of_sql = "select string_agg(stake::text, ',' order by id) from bets";
    assert_eq!(check(&record, "checks", of_sql)["verdict"], "FAIL", "{record:#}");
    assert_eq!(verdict(&record, "clean_up").0, "PASS");
    assert!(estate.findings().await.contains_key("restore_test/wallet"));
    estate.nothing_left("wrong rows").await;

    // The rows were right at that instant, and it is one that can be restored.
    let (_, record) = estate.tested(Point::Asked(RecoveryTarget::Time(whole))).await;
    assert_eq!(check(&record, "checks", of_sql)["verdict"], "PASS", "{record:#}");
    assert_eq!(record["verdict"], "PASS", "{record:#}");
    let past = Timestamp::from_second(whole.as_second() - 86_400).unwrap();
    let (run, record) = estate.tested(Point::Asked(RecoveryTarget::Time(past))).await;
    assert_eq!(run.state, RunState::Unwound, "{record:#}");
    assert!(record["findings"].to_string().contains("is none of them"), "{record:#}");
    estate.nothing_left("an instant that is gone").await;

    // Drawn from all that the provider restores; the tables may not have been there by then.
    let (run, record) = estate.tested(Point::By(RecoveryAlgorithm::RandomWithinWindow)).await;
    assert_eq!((run.state, &record["source"]["backup_kind"]), (RunState::Done, &"point_in_time".into()), "{record:#}");
    let selection = &record["why"]["selection"];
    let (from, to) = selection["candidates"][0].as_str().unwrap().split_once(" to ").unwrap();
    let drawn: Timestamp = selection["choice"].as_str().unwrap().parse().unwrap();
    let from: Timestamp = from.trim_start_matches("every second from ").parse().unwrap();
    assert!(from <= drawn && drawn <= to.parse().unwrap(), "{record:#}");
    estate.nothing_left("a random instant").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_production_is_not_isolated() {
    let estate = Estate::start_with(&[("subnet_group: isolated", "subnet_group: beside")]).await;
    let (_, record) = estate.tested(LATEST).await;
    assert_eq!(verdict(&record, "isolation"), ("FAIL", "FAIL"), "{record:#}");
    assert!(check(&record, "isolation", "network")["actual"].as_str().unwrap().contains("as the source"));
    assert_eq!(check(&record, "isolation", "subnet_group")["verdict"], "PASS", "{record:#}");
    assert_eq!(verdict(&record, "checks").0, "PASS", "{record:#}");
    estate.nothing_left("beside production").await;
}
