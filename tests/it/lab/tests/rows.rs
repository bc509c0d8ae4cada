//! Rows come back, from a snapshot and from points in time.

use aws_sdk_rds::primitives::DateTime;

use super::{assert_nothing_is_left, code, endpoint, instant, pay, payments, snapshot, status};
use crate::{
    lab::{LIMIT, PASSWORD, REGION, RdsLab},
    support::eventually,
};

#[tokio::test]
async fn each_restore_holds_what_was_committed_by_its_instant_and_no_more() {
    let lab = RdsLab::start().await;
    let client = lab.client(REGION).await;
    let source = lab.create_instance("wallet").await;
    let at = endpoint(&lab, &client, "wallet").await;
    assert_eq!((&at.0, at.1), (&source.host, source.port));

    pay(&lab, &at, 1).await;
    let new = client.create_db_snapshot().db_instance_identifier("wallet").db_snapshot_identifier("before");
    let taken = new.send().await.unwrap().db_snapshot.unwrap();
    assert_eq!((taken.status(), taken.snapshot_create_time()), (Some("creating"), None));
    let restore = || {
        let restore = client.restore_db_instance_from_db_snapshot().db_instance_identifier("from-snapshot");
        restore.db_snapshot_identifier("before").deletion_protection(false).send()
    };
    assert_eq!(code(restore().await), "InvalidDBSnapshotState");
    let taken = snapshot(&lab, &client, "before").await;
    assert_eq!(taken.percent_progress(), Some(100));
    pay(&lab, &at, 2).await;
    let between = source.flush().await;
    assert!(instant(taken.snapshot_create_time().unwrap()) < between);
    pay(&lab, &at, 3).await;
    let latest = source.flush().await;
    let shown = client.describe_db_instances().db_instance_identifier("wallet").send().await.unwrap();
    assert!(instant(shown.db_instances()[0].latest_restorable_time().unwrap()) >= latest);

    let to = |id: &str| {
        let restore = client.restore_db_instance_to_point_in_time().source_db_instance_identifier("wallet");
        restore.target_db_instance_identifier(id)
    };
    let time = DateTime::from_nanos(between.as_nanosecond()).unwrap();
    let restored = restore().await.unwrap().db_instance.unwrap();
    assert_eq!((restored.db_instance_status(), restored.endpoint()), (Some("creating"), None));
    to("from-time").restore_time(time).send().await.unwrap();
    to("from-latest").use_latest_restorable_time(true).send().await.unwrap();
    for (id, held) in [("from-snapshot", vec![1]), ("from-time", vec![1, 2]), ("from-latest", vec![1, 2, 3])] {
        let copy = endpoint(&lab, &client, id).await;
        assert_ne!(copy.1, at.1);
        assert_eq!(payments(&lab, &copy).await, held, "{id}");
        // A copy goes its own way.
        pay(&lab, &copy, 10).await;
    }
    assert_eq!(payments(&lab, &at).await, [1, 2, 3]);
    let late = DateTime::from_nanos((latest + LIMIT).as_nanosecond()).unwrap();
    assert_eq!(code(to("too-late").restore_time(late).send().await), "InvalidParameterValue");
    assert_eq!(status(&client, "too-late").await, None);

    client.delete_db_snapshot().db_snapshot_identifier("before").send().await.unwrap();
    for id in ["from-snapshot", "from-time", "from-latest", "wallet"] {
        let gone = client.delete_db_instance().db_instance_identifier(id).skip_final_snapshot(true).send().await;
        assert_eq!(gone.unwrap().db_instance.unwrap().db_instance_status(), Some("deleting"));
    }
    // It keeps the folder of its server.
    drop(source);
    assert_nothing_is_left(&lab).await;
    assert!(client.describe_db_instances().send().await.unwrap().db_instances().is_empty());
    assert!(client.describe_db_snapshots().send().await.unwrap().db_snapshots().is_empty());
}

#[tokio::test]
async fn a_copy_can_be_restored_to_a_point_in_time_itself_and_has_a_last_snapshot() {
    let lab = RdsLab::start().await;
    let client = lab.client(REGION).await;
    lab.create_instance("wallet").await;
    pay(&lab, &endpoint(&lab, &client, "wallet").await, 1).await;
    lab.instance(REGION, "wallet").unwrap().flush().await;
    let from = |source: &str, target: &str| {
        let restore = client.restore_db_instance_to_point_in_time().use_latest_restorable_time(true);
        restore.source_db_instance_identifier(source).target_db_instance_identifier(target).send()
    };
    from("wallet", "copy").await.unwrap();
    lab.restorable(REGION, "copy").await;
    pay(&lab, &endpoint(&lab, &client, "copy").await, 2).await;
    lab.instance(REGION, "copy").unwrap().flush().await;
    from("copy", "copy-of-copy").await.unwrap();
    assert_eq!(payments(&lab, &endpoint(&lab, &client, "copy-of-copy").await).await, [1, 2]);

    let delete = client.delete_db_instance().db_instance_identifier("copy");
    assert_eq!(code(delete.clone().send().await), "InvalidParameterCombination");
    delete.final_db_snapshot_identifier("last").send().await.unwrap();
    eventually("the copy is gone", LIMIT, async || status(&client, "copy").await.is_none()).await;
    snapshot(&lab, &client, "last").await;
    let restore = client.restore_db_instance_from_db_snapshot().db_snapshot_identifier("last");
    restore.db_instance_identifier("again").send().await.unwrap();
    assert_eq!(payments(&lab, &endpoint(&lab, &client, "again").await).await, [1, 2]);
}

#[tokio::test]
async fn nobody_gets_in_without_tls_or_as_amazon_and_a_changed_password_counts() {
    let lab = RdsLab::start().await;
    let client = lab.client(REGION).await;
    let source = lab.create_instance("wallet").await;
    let login = |role: &str, dbname: &str, tls: &str| {
        format!("postgres://{role}:{PASSWORD}@127.0.0.1:{}/{dbname}?sslmode={tls}", source.port)
    };
    for (role, dbname, tls) in
        [("master", "app", "disable"), ("rdsadmin", "app", "require"), ("master", "rdsadmin", "require")]
    {
        let refused = <sqlx::PgConnection as sqlx::Connection>::connect(&login(role, dbname, tls)).await;
        assert!(refused.is_err(), "{role} {dbname} {tls}");
    }
    lab.connect("localhost", source.port).await.unwrap();
    // Made by an authority that nobody else trusts.
    let untrusting = <sqlx::PgConnection as sqlx::Connection>::connect(&login("master", "app", "verify-full")).await;
    assert!(matches!(untrusting, Err(sqlx::Error::Tls(_) | sqlx::Error::Io(_))), "{untrusting:?}");
    assert_eq!(source.psql("app", "SELECT rolsuper FROM pg_roles WHERE rolname = 'master'").await, "f");

    let modify = client.modify_db_instance().db_instance_identifier("wallet").apply_immediately(true);
    modify.master_user_password("another-password").send().await.unwrap();
    assert!(lab.connect("127.0.0.1", source.port).await.is_err());
    let told = format!("{:?}", lab.calls());
    assert!(!told.contains("another-password") && !told.contains(PASSWORD), "{told}");
    let processes = lab.processes();
    assert!(!processes.is_empty());
    let folder = lab.estate.folder.clone();
    drop(lab);
    let left = crate::demo::processes_of(&folder);
    assert!(left.is_empty(), "{left:?}");
    assert!(!folder.exists());
}
