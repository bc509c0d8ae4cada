//! Copies: how they are made, and that nothing else is removed.

use lifeboat::{
    aws::Kind,
    engine::{
        managed::{Instances, RestoreFrom, SnapshotCopy, Snapshots, tag},
        rds::Form,
    },
};

use super::{
    fixture::{DATABASE, FAR, FORMS, HOME, Lab, SOURCE, Setup, assert_told, order, region, run},
    recorder::Recorded,
};

type Tags = &'static [(&'static str, &'static str)];

/// How every copy is asked for.
fn assert_isolated(form: Form, asked: &Recorded) {
    let retention = if form == Form::Single { "0" } else { "1" };
    let mut wanted = vec![
        ("DBSubnetGroupName", "isolated"),
        ("VpcSecurityGroupIds.VpcSecurityGroupId.1", "sg-isolated"),
        ("DeletionProtection", "false"),
        ("CopyTagsToSnapshot", "false"),
        ("BackupRetentionPeriod", retention),
    ];
    if form == Form::Single {
        wanted.extend([
            ("PubliclyAccessible", "false"),
            ("AutoMinorVersionUpgrade", "false"),
            ("MultiAZ", "false"),
            ("DBInstanceClass", "db.t4g.medium"),
        ]);
    }
    for (name, value) in wanted {
        assert_eq!(asked.get(name), Some(value), "{name} of {asked:?}");
    }
    let tags = asked.tags();
    assert_eq!((tags[tag::DATABASE], tags[tag::RUN]), (DATABASE, "r1"));
    assert!(!tags.contains_key("owner"), "{tags:?}");
}

#[tokio::test]
async fn a_snapshot_is_restored_and_the_copy_removed() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let snapshot = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        let wanted = order("lifeboat-copy", HOME, RestoreFrom::Snapshot(snapshot.arn.clone()), "r1");
        assert_eq!(lab.rds.instance(&region(HOME), "lifeboat-copy").await.unwrap(), None);
        for _ in 0..2 {
            lab.rds.restore(&wanted).await.unwrap();
        }
        let action =
            if form == Form::Single { "RestoreDBInstanceFromDBSnapshot" } else { "RestoreDBClusterFromSnapshot" };
        let calls = lab.recorder.calls();
        assert_eq!(calls.iter().filter(|call| call.action == action).count(), 1);
        assert_isolated(form, &lab.recorder.last(action));
        if form == Form::Cluster {
            let member = lab.recorder.last("CreateDBInstance");
            let parameters = ["DBInstanceIdentifier", "PubliclyAccessible", "DBInstanceClass", "Engine"];
            let values = parameters.map(|name| member.get(name).unwrap());
            assert_eq!(values, ["lifeboat-copy-1", "false", "db.t4g.medium", "aurora-postgresql"]);
            assert_eq!(member.tags()[tag::RUN], "r1");
        }

        let copy = lab.rds.instance(&region(HOME), "lifeboat-copy").await.unwrap().unwrap();
        assert!(copy.is_available && copy.failed.is_none() && copy.created_at.is_some(), "{copy:?}");
        assert_eq!(copy.settings.instance_class, "db.t4g.medium");
        assert_eq!(copy.settings.security_groups, ["sg-isolated"]);
        assert_eq!(lab.rds.ours(&region(HOME)).await.unwrap(), [copy]);

        let error = lab.rds.remove(&region(HOME), "lifeboat-copy", "r2").await.unwrap_err();
        assert_told(&error, Kind::Refused, &["lifeboat-copy", tag::RUN, "`r1`, not `r2`"]);
        for _ in 0..2 {
            lab.rds.remove(&region(HOME), "lifeboat-copy", "r1").await.unwrap();
        }
        let action = if form == Form::Single { "DeleteDBInstance" } else { "DeleteDBCluster" };
        let asked = lab.recorder.last(action);
        assert_eq!((asked.get("SkipFinalSnapshot"), asked.get("DeleteAutomatedBackups")), (Some("true"), Some("true")));
        assert_eq!(lab.rds.ours(&region(HOME)).await.unwrap(), []);
        assert_eq!(lab.is_protected(SOURCE).await, Some(true));
        assert_eq!(lab.is_protected("lifeboat-copy").await, None);
    }
}

#[tokio::test]
async fn a_copied_snapshot_is_restored_in_its_region() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let taken = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        let to = SnapshotCopy { id: "lifeboat-1-far".to_owned(), region: region(FAR), kms_key: None, tags: run("r1") };
        let copied = lab.rds.copy_snapshot(&taken, &to).await.unwrap();
        let wrong = order("lifeboat-copy", FAR, RestoreFrom::Snapshot(taken.arn.clone()), "r1");
        let error = lab.rds.restore(&wrong).await.unwrap_err();
        assert_told(&error, Kind::Refused, &[&taken.arn, HOME, "copy it to eu-west-1"]);
        let wanted = order("lifeboat-copy", FAR, RestoreFrom::Snapshot(copied.arn), "r1");
        lab.rds.restore(&wanted).await.unwrap();
        assert!(lab.rds.instance(&region(FAR), "lifeboat-copy").await.unwrap().unwrap().is_available);
        assert_eq!(lab.rds.ours(&region(HOME)).await.unwrap(), []);
        lab.rds.remove(&region(FAR), "lifeboat-copy", "r1").await.unwrap();
        assert_eq!(lab.rds.ours(&region(FAR)).await.unwrap(), []);
    }
}

#[tokio::test]
async fn points_in_time_are_restored() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let action =
            if form == Form::Single { "RestoreDBInstanceToPointInTime" } else { "RestoreDBClusterToPointInTime" };
        let time = if form == Form::Single { "RestoreTime" } else { "RestoreToTime" };
        let at = RestoreFrom::Time("2026-11-29T11:22:33.9Z".parse().unwrap());
        lab.rds.restore(&order("lifeboat-then", HOME, at, "r1")).await.unwrap();
        let asked = lab.recorder.last(action);
        assert_isolated(form, &asked);
        assert_eq!((asked.get(time), asked.get("UseLatestRestorableTime")), (Some("2026-11-29T11:22:33Z"), None));
        lab.rds.restore(&order("lifeboat-now", HOME, RestoreFrom::Latest, "r1")).await.unwrap();
        let asked = lab.recorder.last(action);
        assert_eq!((asked.get(time), asked.get("UseLatestRestorableTime")), (None, Some("true")));
        let ours = lab.rds.ours(&region(HOME)).await.unwrap();
        assert_eq!(ours.len(), 2, "{ours:?}");
        assert!(ours.iter().all(|copy| copy.is_available));
    }
}

#[tokio::test]
async fn nothing_but_our_own_is_removed() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let ours = [(tag::DATABASE, DATABASE), (tag::RUN, "r1")];
        let cases: [(&str, Tags, &str); 4] = [
            ("lifeboat-untagged", &[("owner", "dba")], tag::DATABASE),
            ("lifeboat-other-run", &[(tag::DATABASE, DATABASE), (tag::RUN, "r9")], "`r9`, not `r1`"),
            ("lifeboat-other-database", &[(tag::DATABASE, "prod/ledger"), (tag::RUN, "r1")], "`prod/ledger`"),
            ("copy-of-wallet", &[(tag::DATABASE, DATABASE), (tag::RUN, "r1")], "`lifeboat-`"),
        ];
        for (id, tags, why) in cases {
            lab.database(id, tags, Setup::default()).await;
            let error = lab.rds.remove(&region(HOME), id, "r1").await.unwrap_err();
            assert_told(&error, Kind::Refused, &[id, why, "looked at by a person"]);
            assert_eq!(lab.is_protected(id).await, Some(true), "{id}");
        }
        let error = lab.rds.remove(&region(HOME), SOURCE, "r1").await.unwrap_err();
        assert_told(&error, Kind::Refused, &[SOURCE, "the database itself"]);
        let listed = lab.rds.ours(&region(HOME)).await.unwrap();
        assert_eq!(listed.iter().map(|copy| copy.id.as_str()).collect::<Vec<_>>(), ["lifeboat-other-run"]);

        // Protected though it is ours: whoever made it so may have been us, or a person who looked.
        lab.database("lifeboat-protected", &ours, Setup::default()).await;
        lab.rds.remove(&region(HOME), "lifeboat-protected", "r1").await.unwrap();
        assert_eq!(lab.is_protected("lifeboat-protected").await, None);
    }
}

#[tokio::test]
async fn a_name_that_others_have_is_not_restored_into() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        lab.database("lifeboat-copy", &[("owner", "dba")], Setup::default()).await;
        let wanted = order("lifeboat-copy", HOME, RestoreFrom::Latest, "r1");
        let error = lab.rds.restore(&wanted).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["lifeboat-copy", tag::DATABASE]);
        for id in [SOURCE, "copy"] {
            let error = lab.rds.restore(&order(id, HOME, RestoreFrom::Latest, "r1")).await.unwrap_err();
            assert_told(&error, Kind::Refused, &[id]);
        }
    }
}

#[tokio::test]
async fn a_cluster_that_lacks_its_instance_gets_it() {
    let lab = Lab::of(Form::Cluster).await;
    let wanted = order("lifeboat-copy", HOME, RestoreFrom::Latest, "r1");
    lab.rds.restore(&wanted).await.unwrap();
    let client = lab.client(HOME);
    client.delete_db_instance().db_instance_identifier("lifeboat-copy-1").send().await.unwrap();
    let copy = lab.rds.instance(&region(HOME), "lifeboat-copy").await.unwrap().unwrap();
    assert!(!copy.is_available, "nothing serves it: {copy:?}");
    lab.rds.restore(&wanted).await.unwrap();
    assert!(lab.rds.instance(&region(HOME), "lifeboat-copy").await.unwrap().unwrap().is_available);

    // What a person added to it is theirs.
    let foreign = client.create_db_instance().db_instance_identifier("reports").db_instance_class("db.r6g.large");
    let foreign = foreign.engine("aurora-postgresql").db_cluster_identifier("lifeboat-copy");
    foreign.send().await.unwrap();
    let error = lab.rds.remove(&region(HOME), "lifeboat-copy", "r1").await.unwrap_err();
    assert_told(&error, Kind::Refused, &["reports"]);
    let members = lab.recorder.calls().into_iter().filter(|call| call.action == "DeleteDBInstance").count();
    assert_eq!(members, 0);
}

#[tokio::test]
async fn replicated_backups_are_restored_in_their_region() {
    let lab = Lab::of(Form::Single).await;
    let wanted = order("lifeboat-copy", FAR, RestoreFrom::Latest, "r1");
    let error = lab.replicated().restore(&wanted).await.unwrap_err();
    assert_told(&error, Kind::NotFound, &["wallet", HOME, FAR]);
    // moto replicates nothing: these answers are the service's own, from its reference.
    let backup = |instance: &str, id: &str| {
        format!(
            "<DBInstanceAutomatedBackup><DBInstanceArn>{instance}</DBInstanceArn>\
             <DBInstanceAutomatedBackupsArn>arn:aws:rds:{FAR}:123456789012:auto-backup:{id}\
             </DBInstanceAutomatedBackupsArn></DBInstanceAutomatedBackup>"
        )
    };
    let others = backup("arn:aws:rds:eu-west-1:123456789012:db:wallet", "ab-of-here");
    let ours = backup("arn:aws:rds:eu-central-1:123456789012:db:wallet", "ab-replica");
    let all = format!("<DBInstanceAutomatedBackups>{others}{ours}</DBInstanceAutomatedBackups>");
    lab.recorder.answer("DescribeDBInstanceAutomatedBackups", FAR, &all);
    lab.recorder.fail("RestoreDBInstanceToPointInTime", FAR, 400, "InsufficientDBInstanceCapacity");
    let error = lab.replicated().restore(&wanted).await.unwrap_err();
    assert_told(&error, Kind::Capacity, &["lifeboat-copy", FAR, "name another instance class"]);
    let asked = lab.recorder.last("RestoreDBInstanceToPointInTime");
    let arn = format!("arn:aws:rds:{FAR}:123456789012:auto-backup:ab-replica");
    assert_eq!(asked.get("SourceDBInstanceAutomatedBackupsArn"), Some(arn.as_str()));
    assert_eq!(asked.get("SourceDBInstanceIdentifier"), None);
    assert_isolated(Form::Single, &asked);

    let cluster = Lab::of(Form::Cluster).await;
    let error = cluster.rds.restore(&order("lifeboat-copy", FAR, RestoreFrom::Latest, "r1")).await.unwrap_err();
    assert_told(&error, Kind::Refused, &["wallet", FAR, "a snapshot that was copied"]);
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let (action, right) = match form {
            Form::Single => ("RestoreDBInstanceToPointInTime", "`rds:RestoreDBInstanceToPointInTime`"),
            Form::Cluster => ("RestoreDBClusterToPointInTime", "`rds:RestoreDBClusterToPointInTime`"),
        };
        lab.recorder.fail(action, HOME, 403, "AccessDenied");
        let error = lab.rds.restore(&order("lifeboat-copy", HOME, RestoreFrom::Latest, "r1")).await.unwrap_err();
        assert_told(&error, Kind::Denied, &["lifeboat-copy", HOME, right]);
    }
}
