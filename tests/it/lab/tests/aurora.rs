//! Clusters of Aurora, with rows as well.

use aws_sdk_rds::{Client, primitives::DateTime};

use super::{assert_nothing_is_left, code, endpoint, pay, payments};
use crate::{
    lab::{LIMIT, MASTER, PASSWORD, REGION, RdsLab},
    support::eventually,
};

async fn cluster(client: &Client, id: &str) -> aws_sdk_rds::types::DbCluster {
    let answer = client.describe_db_clusters().db_cluster_identifier(id).send().await.unwrap();
    answer.db_clusters()[0].clone()
}

async fn member(client: &Client, cluster: &str, id: &str) {
    let new = client.create_db_instance().db_instance_identifier(id).db_cluster_identifier(cluster);
    new.db_instance_class("db.t3.medium").engine("aurora-postgresql").send().await.unwrap();
}

#[tokio::test]
async fn a_cluster_comes_back_and_is_reached_by_its_instances_alone() {
    let lab = RdsLab::start().await;
    let client = lab.client(REGION).await;
    let new = client.create_db_cluster().db_cluster_identifier("ledger").engine("aurora-postgresql");
    let new = new.engine_version("15.4").database_name("app").master_username(MASTER);
    new.master_user_password(PASSWORD).send().await.unwrap();
    eventually("the cluster is available", LIMIT, async || {
        lab.assert_sound();
        cluster(&client, "ledger").await.status() == Some("available")
    })
    .await;
    let port = u16::try_from(cluster(&client, "ledger").await.port().unwrap()).unwrap();
    assert!(lab.connect("127.0.0.1", port).await.is_err());
    member(&client, "ledger", "ledger-1").await;
    let at = endpoint(&lab, &client, "ledger-1").await;
    assert_eq!(at.1, port);
    pay(&lab, &at, 1).await;
    eventually("the cluster can be restored", LIMIT, async || {
        cluster(&client, "ledger").await.latest_restorable_time().is_some()
    })
    .await;
    let new = client.create_db_cluster_snapshot().db_cluster_identifier("ledger");
    let arn = new.db_cluster_snapshot_identifier("one").send().await.unwrap();
    let arn = arn.db_cluster_snapshot.unwrap().db_cluster_snapshot_arn.unwrap();
    eventually("the snapshot is available", LIMIT, async || {
        lab.assert_sound();
        let shown = client.describe_db_cluster_snapshots().db_cluster_snapshot_identifier("one").send().await.unwrap();
        shown.db_cluster_snapshots()[0].status() == Some("available")
    })
    .await;
    pay(&lab, &at, 2).await;
    let between = lab.cluster(REGION, "ledger").unwrap().flush().await;
    pay(&lab, &at, 3).await;

    let restore = client.restore_db_cluster_from_snapshot().db_cluster_identifier("from-snapshot");
    restore.snapshot_identifier(arn).engine("aurora-postgresql").send().await.unwrap();
    let restore = client.restore_db_cluster_to_point_in_time().db_cluster_identifier("from-time");
    let time = DateTime::from_nanos(between.as_nanosecond()).unwrap();
    restore.source_db_cluster_identifier("ledger").restore_to_time(time).send().await.unwrap();
    for (id, held) in [("from-snapshot", vec![1]), ("from-time", vec![1, 2])] {
        member(&client, id, &format!("{id}-1")).await;
        let copy = endpoint(&lab, &client, &format!("{id}-1")).await;
        assert_eq!(payments(&lab, &copy).await, held, "{id}");
    }
    assert_eq!(payments(&lab, &at).await, [1, 2, 3]);

    let remove = |id: &str| client.delete_db_cluster().db_cluster_identifier(id).skip_final_snapshot(true).send();
    assert_eq!(code(remove("ledger").await), "InvalidDBClusterStateFault");
    for id in ["ledger", "from-snapshot", "from-time"] {
        client.delete_db_instance().db_instance_identifier(format!("{id}-1")).send().await.unwrap();
        remove(id).await.unwrap();
    }
    client.delete_db_cluster_snapshot().db_cluster_snapshot_identifier("one").send().await.unwrap();
    assert_nothing_is_left(&lab).await;
    assert!(client.describe_db_clusters().send().await.unwrap().db_clusters().is_empty());
    assert!(client.describe_db_cluster_snapshots().send().await.unwrap().db_cluster_snapshots().is_empty());
}
