//! Snapshots go to another region.

use super::{code, endpoint, pay, payments, snapshot};
use crate::lab::{REGION, RdsLab};

const FAR: &str = "eu-west-1";

#[tokio::test]
async fn a_snapshot_is_copied_to_another_region_and_restored_there() {
    let lab = RdsLab::start().await;
    let (here, far) = (lab.client(REGION).await, lab.client(FAR).await);
    lab.create_instance("wallet").await;
    let at = endpoint(&lab, &here, "wallet").await;
    pay(&lab, &at, 1).await;
    let new = here.create_db_snapshot().db_instance_identifier("wallet").db_snapshot_identifier("one");
    let arn = new.send().await.unwrap().db_snapshot.unwrap().db_snapshot_arn.unwrap();
    let copy = || {
        let copy = far.copy_db_snapshot().source_db_snapshot_identifier(&arn);
        copy.target_db_snapshot_identifier("one-far").send()
    };
    let original = snapshot(&lab, &here, "one").await;
    lab.forget_calls();
    copy().await.unwrap();
    let copied = snapshot(&lab, &far, "one-far").await;
    assert_eq!((copied.source_db_snapshot_identifier(), copied.source_region()), (Some(arn.as_str()), Some(REGION)));
    assert_eq!(copied.original_snapshot_create_time(), original.snapshot_create_time());
    assert!(copied.snapshot_create_time() > original.snapshot_create_time());
    assert_eq!(code(copy().await), "DBSnapshotAlreadyExists");

    // What is copied needs its source no more.
    here.delete_db_snapshot().db_snapshot_identifier("one").send().await.unwrap();
    pay(&lab, &at, 2).await;
    let restore = far.restore_db_instance_from_db_snapshot().db_instance_identifier("wallet");
    restore.db_snapshot_identifier(copied.db_snapshot_arn().unwrap()).send().await.unwrap();
    assert_eq!(payments(&lab, &endpoint(&lab, &far, "wallet").await).await, [1]);
    assert_eq!(payments(&lab, &at).await, [1, 2]);
    let asked: Vec<_> = lab.calls().into_iter().filter(|call| call.action == "CopyDBSnapshot").collect();
    assert_eq!((asked[0].region.as_str(), asked[0].identifiers()), (FAR, vec![arn.as_str(), "one-far"]));
}

#[tokio::test]
async fn an_encrypted_snapshot_needs_a_presigned_request_to_its_region() {
    let lab = RdsLab::start().await;
    let (here, far) = (lab.client(REGION).await, lab.client(FAR).await);
    let new = here.create_db_instance().db_instance_identifier("sealed").db_instance_class("db.t3.micro");
    let new = new.engine("postgres").engine_version("15.8").allocated_storage(20).storage_encrypted(true);
    new.kms_key_id("a-key").master_username("master").master_user_password("a-password").send().await.unwrap();
    lab.available(REGION, "sealed").await;
    let new = here.create_db_snapshot().db_instance_identifier("sealed").db_snapshot_identifier("one");
    let arn = new.send().await.unwrap().db_snapshot.unwrap().db_snapshot_arn.unwrap();
    snapshot(&lab, &here, "one").await;
    let copy = far.copy_db_snapshot().source_db_snapshot_identifier(&arn).target_db_snapshot_identifier("one");
    assert_eq!(code(copy.clone().send().await), "InvalidParameterValue");
    let signed = format!("https://rds.{REGION}.amazonaws.com/?Action=CopyDBSnapshot");
    copy.pre_signed_url(signed).send().await.unwrap();
    snapshot(&lab, &far, "one").await;
}
