//! Whatever goes wrong at the provider, a test ends clean, or in a finding that names what
//! is left and what to do.

use super::*;

const SHORT: (&str, &str) = ("limit: 90s", "limit: 20s");
const EXHAUSTED: &str = "restore_test/wallet/resources";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_lacks_says_nothing_of_the_backup() {
    let estate = Estate::start_with(&[SHORT]).await;
    let faults = estate.lab.faults();
    for (name, told) in [
        ("capacity", "instance class or subnet group"),
        ("failed", "became `incompatible-restore`"),
        ("stuck", "raise `restore_test.limit`"),
    ] {
        match name {
            "capacity" => {
                faults.refuse_from("RestoreDBInstanceToPointInTime", 1, Refusal::Capacity);
            }
            "failed" => faults.stick(Stuck::Failed, "lifeboat-"),
            _ => faults.stick(Stuck::Creating, "lifeboat-"),
        }
        let (run, record) = estate.tested(LATEST).await;
        assert_eq!(run.state, RunState::Done, "{name}: {record:#}");
        assert_eq!(verdict(&record, "resources"), ("INCONCLUSIVE", "INCONCLUSIVE"), "{name}: {record:#}");
        let findings = estate.findings().await;
        let finding = &findings[EXHAUSTED];
        assert!(finding.contains(told) && finding.contains("lifeboat-wallet-"), "{name}: {finding}");
        faults.clear();
        estate.nothing_left(name).await;
    }
    let (_, record) = estate.tested(LATEST).await;
    assert_eq!(record["verdict"], "PASS", "{record:#}");
    assert!(!estate.findings().await.contains_key(EXHAUSTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_waited_for() {
    let estate = Estate::start().await;
    let faults = estate.lab.faults();
    faults.refuse("*", Refusal::Throttling, 3);
    faults.lose_answers("RestoreDBInstanceToPointInTime", 1);
    faults.lose_answers("DeleteDBInstance", 1);
    let (_, record) = estate.tested(LATEST).await;
    assert_eq!(record["verdict"], "PASS", "{record:#}");
    let made = |call: &&crate::lab::Call| call.action.starts_with("Restore") && call.status == 200;
    assert_eq!(estate.lab.calls().iter().filter(made).count(), 1, "one instance, however often it was asked for");
    estate.nothing_left("throttled, and answers lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_and_expired_credentials_leave_nothing() {
    let estate = Estate::start_with(&[SHORT]).await;
    let faults = estate.lab.faults();
    for (action, refusal, told) in [
        ("RestoreDBInstanceToPointInTime", Refusal::AccessDenied, "rds:RestoreDBInstanceToPointInTime"),
        ("DescribeDBSnapshots", Refusal::ExpiredToken, "renew the credentials"),
    ] {
        faults.refuse_from(action, 1, refusal);
        let (run, record) = estate.tested(LATEST).await;
        assert_eq!((run.state, record["verdict"].as_str()), (RunState::Unwound, Some("ERROR")), "{action}: {record:#}");
        let findings = estate.findings().await;
        assert!(findings["restore_test/wallet"].contains(told), "{action}: {findings:?}");
        faults.clear();
        estate.nothing_left(action).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_too_much_is_never_made() {
    let cost = ("ttl: 1h}", "ttl: 1h, hourly_cost: 2.5, cost_max: 2}");
    let estate = Estate::start_with(&[cost]).await;
    let (_, record) = estate.tested(LATEST).await;
    assert_eq!(verdict(&record, "resources"), ("INCONCLUSIVE", "INCONCLUSIVE"), "{record:#}");
    assert!(estate.findings().await[EXHAUSTED].contains("would cost 2.50 for 1.0 hours"));
    let called = estate.called();
    assert!(!called.iter().any(|action| action.starts_with("Restore")), "{called:?}");
    estate.nothing_left("too dear").await;
}
