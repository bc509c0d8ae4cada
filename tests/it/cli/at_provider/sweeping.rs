//! What a test could not remove is named, and swept once it can be.

use super::*;

async fn swept(estate: &Estate, sweeper: &mut Sweeper) {
    let database = estate.app.managed(&wallet()).unwrap();
    sweeper.sweep(&estate.app.resources, database, estate.app.clock.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_go_is_a_finding_and_is_swept_later() {
    let estate = Estate::start_with(&[("limit: 90s", "limit: 20s")]).await;
    let faults = estate.lab.faults();
    faults.refuse_from("DeleteDBInstance", 1, Refusal::Other(400, "InvalidDBInstanceState"));
    let (run, record) = estate.tested(LATEST).await;
    assert_eq!((run.state, record["verdict"].as_str()), (RunState::Stuck, Some("ERROR")), "{record:#}");
    let [left]: [String; 1] = estate.copies().await.try_into().unwrap();
    let findings = estate.findings().await;
    assert!(findings["restore_test/wallet"].contains(&left), "{findings:?}");
    assert!(findings["restore_test/wallet"].contains("remove it there"), "{findings:?}");
    assert_eq!(verdict(&record, "clean_up").0, "FAIL", "{record:#}");

    // While it cannot be removed the sweeper says so, too.
    let (mut sweeper, id) = (Sweeper::default(), format!("sweep/wallet/{REGION}/{left}"));
    swept(&estate, &mut sweeper).await;
    assert!(estate.findings().await[&id].contains("cannot be removed"), "{:?}", estate.findings().await);
    faults.clear();
    eventually("it is swept", LIMIT, async || {
        swept(&estate, &mut Sweeper::default()).await;
        estate.copies().await.is_empty()
    })
    .await;
    swept(&estate, &mut sweeper).await;
    assert!(!estate.findings().await.contains_key(&id));
    estate.nothing_left("swept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_proves_to_be_ours_stays_and_is_told() {
    let estate = Estate::start().await;
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let client = estate.lab.client(REGION).await;
    let forged = [tag("lifeboat:database", "wallet"), tag("lifeboat:run_id", "restore_test/wallet/manual/never")];
    let new = client.create_db_instance().db_instance_identifier("lifeboat-wallet-000000000000");
    let new = new.db_instance_class("db.t3.micro").engine("postgres").allocated_storage(20);
    let new = new.backup_retention_period(0).set_tags(Some(forged.to_vec()));
    new.master_username(MASTER).master_user_password(PASSWORD).send().await.unwrap();
    swept(&estate, &mut Sweeper::default()).await;
    let findings = estate.findings().await;
    let told = &findings[&format!("sweep/wallet/{REGION}/lifeboat-wallet-000000000000")];
    assert!(told.contains("not called as the run"), "{told}");
    assert_eq!(estate.copies().await, ["lifeboat-wallet-000000000000"]);
    estate.lab.faults().refuse_from("DescribeDBInstances", 1, Refusal::AccessDenied);
    swept(&estate, &mut Sweeper::default()).await;
    let findings = estate.findings().await;
    assert!(findings[&format!("sweep/wallet/{REGION}")].contains("cannot be looked for"), "{findings:?}");
}
