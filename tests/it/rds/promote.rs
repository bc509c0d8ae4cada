//! Moving primaries: what is refused, what is asked, and that twice is once. moto knows of
//! no global cluster that moves: those answers are the service's own, from its reference.

use jiff::SignedDuration;
use lifeboat::{
    aws::Kind,
    clock::Clock,
    decide::promotion::{AcceptedLoss, Lag},
    engine::{
        managed::Handover,
        rds::{Form, RdsHandover},
    },
};

use super::fixture::{FAR, HOME, Lab, SOURCE, assert_told, region};

const TARGET: &str = "arn:aws:rds:eu-west-1:123456789012:cluster:wallet-far";

fn handover(lab: &Lab) -> RdsHandover {
    RdsHandover::new(lab.access(), Clock::system())
}

/// Measured now.
fn lag(seconds: u64) -> Lag {
    Lag { seconds, measured_at: Clock::system().now() }
}

fn actions(lab: &Lab, action: &str) -> usize {
    lab.recorder.calls().into_iter().filter(|call| call.action == action).count()
}

#[tokio::test]
async fn a_replica_is_promoted_once_its_lag_is_known() {
    let lab = Lab::of(Form::Single).await;
    let request = lab.client(HOME).create_db_instance_read_replica().db_instance_identifier("wallet-replica");
    request.source_db_instance_identifier(SOURCE).send().await.unwrap();
    let mover = handover(&lab);
    let stale = Some(Lag { seconds: 0, measured_at: Clock::system().now() - SignedDuration::from_mins(5) });
    for (lag, why) in [(None, "measure its lag first"), (Some(lag(100)), "seconds behind"), (stale, "measure it again")]
    {
        let error = mover.promote_replica(&region(HOME), "wallet-replica", lag, 60).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["wallet-replica", why, "nothing was changed"]);
    }
    assert_eq!(actions(&lab, "PromoteReadReplica"), 0);
    mover.promote_replica(&region(HOME), "wallet-replica", Some(lag(1)), 60).await.unwrap();
    assert_eq!(actions(&lab, "PromoteReadReplica"), 1);
    let error = mover.promote_replica(&region(HOME), "nothing", Some(lag(1)), 60).await.unwrap_err();
    assert_told(&error, Kind::NotFound, &["nothing", HOME]);

    // moto tells of its source for ever; the service stops to once it is promoted.
    let told = "<DBInstanceIdentifier>wallet-replica</DBInstanceIdentifier>";
    let told = format!("<DBInstances><DBInstance>{told}</DBInstance></DBInstances>");
    lab.recorder.answer("DescribeDBInstances", HOME, &told);
    mover.promote_replica(&region(HOME), "wallet-replica", None, 0).await.unwrap();
    assert_eq!(actions(&lab, "PromoteReadReplica"), 1);
}

#[tokio::test]
async fn a_cluster_fails_over_to_one_of_its_instances() {
    let lab = Lab::of(Form::Cluster).await;
    let client = lab.client(HOME);
    let request = client.create_db_instance().db_instance_identifier("wallet-2").db_instance_class("db.r6g.large");
    request.engine("aurora-postgresql").db_cluster_identifier(SOURCE).send().await.unwrap();
    let mover = handover(&lab);
    let error = mover.fail_over_cluster(&region(HOME), SOURCE, "other").await.unwrap_err();
    assert_told(&error, Kind::Refused, &[SOURCE, "other", "none of its instances"]);
    for _ in 0..2 {
        mover.fail_over_cluster(&region(HOME), SOURCE, "wallet-2").await.unwrap();
    }
    assert_eq!(actions(&lab, "FailoverDBCluster"), 1);
    let asked = lab.recorder.last("FailoverDBCluster");
    assert_eq!(asked.get("TargetDBInstanceIdentifier"), Some("wallet-2"));
}

/// Who writes, and where it is moving to.
fn global(writer: &str, moving: Option<&str>) -> String {
    let member = |arn: &str| {
        format!(
            "<GlobalClusterMember><DBClusterArn>{arn}</DBClusterArn><IsWriter>{}</IsWriter></GlobalClusterMember>",
            arn == writer
        )
    };
    let state = moving.map_or_else(String::new, |to| {
        format!("<FailoverState><Status>failing-over</Status><ToDbClusterArn>{to}</ToDbClusterArn></FailoverState>")
    });
    format!(
        "<GlobalClusters><GlobalClusterMember><GlobalClusterIdentifier>wallet-global</GlobalClusterIdentifier>\
         <GlobalClusterMembers>{}{}</GlobalClusterMembers>{state}</GlobalClusterMember></GlobalClusters>",
        member("arn:aws:rds:eu-central-1:123456789012:cluster:wallet"),
        member(TARGET),
    )
}

#[tokio::test]
async fn a_global_cluster_is_switched_over_once() {
    let lab = Lab::of(Form::Cluster).await;
    let mover = handover(&lab);
    let here = "arn:aws:rds:eu-central-1:123456789012:cluster:wallet";
    lab.recorder.answer("SwitchoverGlobalCluster", HOME, "");
    lab.recorder.answer("DescribeGlobalClusters", HOME, &global(here, None));
    let error = mover.switch_over_global(&region(HOME), "wallet-global", "arn:other").await.unwrap_err();
    assert_told(&error, Kind::Refused, &["wallet-global", "arn:other", "none of its clusters"]);
    mover.switch_over_global(&region(HOME), "wallet-global", TARGET).await.unwrap();
    let asked = lab.recorder.last("SwitchoverGlobalCluster");
    assert_eq!(asked.get("TargetDbClusterIdentifier"), Some(TARGET));
    for state in [global(here, Some(TARGET)), global(TARGET, None)] {
        lab.recorder.answer("DescribeGlobalClusters", HOME, &state);
        mover.switch_over_global(&region(HOME), "wallet-global", TARGET).await.unwrap();
    }
    assert_eq!(actions(&lab, "SwitchoverGlobalCluster"), 1);
}

#[tokio::test]
async fn data_is_lost_by_name_alone() {
    let lab = Lab::of(Form::Cluster).await;
    let mover = handover(&lab);
    lab.recorder.answer("FailoverGlobalCluster", FAR, "");
    lab.recorder.answer(
        "DescribeGlobalClusters",
        FAR,
        &global("arn:aws:rds:eu-central-1:123456789012:cluster:wallet", None),
    );
    let loss = |approver: &str, reason: &str| AcceptedLoss {
        lag_seconds_max: 30,
        reason: reason.to_owned(),
        approver: approver.to_owned(),
    };
    for (lag, loss, why) in [
        (None, loss("Ada", "the region is gone"), "measure its lag first"),
        (Some(lag(90)), loss("Ada", "the region is gone"), "seconds behind"),
        (Some(lag(1)), loss("", "the region is gone"), "who approves"),
        (Some(lag(1)), loss("Ada", ""), "nobody says why"),
    ] {
        let error = mover.fail_over_global(&region(FAR), "wallet-global", TARGET, lag, &loss).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["wallet-global", TARGET, why, "nothing was changed"]);
    }
    assert_eq!(actions(&lab, "FailoverGlobalCluster"), 0);
    let agreed = loss("Ada", "the region is gone");
    mover.fail_over_global(&region(FAR), "wallet-global", TARGET, Some(lag(1)), &agreed).await.unwrap();
    let asked = lab.recorder.last("FailoverGlobalCluster");
    assert_eq!((asked.get("AllowDataLoss"), asked.get("TargetDbClusterIdentifier")), (Some("true"), Some(TARGET)));
}
