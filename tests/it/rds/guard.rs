//! That no call which makes, changes or removes something can name the source: of all
//! calls of a whole life, and of all code that could make one.

use std::{collections::BTreeSet, fs, path::Path};

use lifeboat::engine::{
    managed::{Duty, Instances, RestoreFrom, SnapshotCopy, Snapshots, tag},
    rds::Rds,
};

use super::fixture::{DATABASE, FAR, FORMS, HOME, Lab, SOURCE, Setup, order, region, run};
use crate::{support::moto::KEY_ID, tidy::rust_files};

/// All that are made, and the parameter that names what they act on; none where they look.
pub(super) const CALLS: [(&str, Option<&str>); 23] = [
    ("CopyDBClusterSnapshot", Some("TargetDBClusterSnapshotIdentifier")),
    ("CopyDBSnapshot", Some("TargetDBSnapshotIdentifier")),
    ("CreateDBClusterSnapshot", Some("DBClusterSnapshotIdentifier")),
    ("CreateDBInstance", Some("DBInstanceIdentifier")),
    ("CreateDBSnapshot", Some("DBSnapshotIdentifier")),
    ("DeleteDBCluster", Some("DBClusterIdentifier")),
    ("DeleteDBClusterSnapshot", Some("DBClusterSnapshotIdentifier")),
    ("DeleteDBInstance", Some("DBInstanceIdentifier")),
    ("DeleteDBSnapshot", Some("DBSnapshotIdentifier")),
    ("DescribeDBClusterSnapshots", None),
    ("DescribeDBClusters", None),
    ("DescribeDBInstanceAutomatedBackups", None),
    ("DescribeDBInstances", None),
    ("DescribeDBSnapshots", None),
    ("GetCallerIdentity", None),
    ("ModifyDBCluster", Some("DBClusterIdentifier")),
    ("ModifyDBClusterSnapshotAttribute", Some("DBClusterSnapshotIdentifier")),
    ("ModifyDBInstance", Some("DBInstanceIdentifier")),
    ("ModifyDBSnapshotAttribute", Some("DBSnapshotIdentifier")),
    ("RestoreDBClusterFromSnapshot", Some("DBClusterIdentifier")),
    ("RestoreDBClusterToPointInTime", Some("DBClusterIdentifier")),
    ("RestoreDBInstanceFromDBSnapshot", Some("DBInstanceIdentifier")),
    ("RestoreDBInstanceToPointInTime", Some("TargetDBInstanceIdentifier")),
];

/// All that the engine can do, once.
pub(super) async fn live(lab: &Lab, rds: &Rds) {
    rds.identity(Duty::Restore).await.unwrap();
    rds.source().await.unwrap();
    let taken = rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
    let to = SnapshotCopy { id: "lifeboat-2".to_owned(), region: region(FAR), kms_key: None, tags: run("r1") };
    let copied = rds.copy_snapshot(&taken, &to).await.unwrap();
    rds.share_snapshot(&copied, &["210987654321".to_owned()]).await.unwrap();
    rds.snapshots(&region(FAR)).await.unwrap();
    rds.restore(&order("lifeboat-a", HOME, RestoreFrom::Snapshot(taken.arn.clone()), "r1")).await.unwrap();
    rds.restore(&order("lifeboat-b", HOME, RestoreFrom::Latest, "r1")).await.unwrap();
    let ours = [(tag::DATABASE, DATABASE), (tag::RUN, "r1")];
    lab.database("lifeboat-c", &ours, Setup::default()).await;
    for copy in rds.ours(&region(HOME)).await.unwrap() {
        rds.remove(&region(HOME), &copy.id, "r1").await.unwrap();
    }
    for snapshot in [taken, copied] {
        rds.delete_snapshot(&snapshot).await.unwrap();
    }
    rds.remove(&region(HOME), SOURCE, "r1").await.unwrap_err();
}

#[tokio::test]
async fn every_call_that_changes_something_names_what_is_ours() {
    let mut made = BTreeSet::new();
    for form in FORMS {
        let lab = Lab::of(form).await;
        live(&lab, &lab.rds).await;
        for call in lab.recorder.calls() {
            let known = CALLS.iter().find(|(action, _)| *action == call.action);
            let Some((_, named)) = known else { panic!("a call that nobody knows of: {call:?}") };
            if let Some(parameter) = named {
                assert!(call.get(parameter).unwrap().starts_with("lifeboat-"), "{call:?}");
            }
            made.insert(call.action);
        }
        assert_eq!(lab.is_protected(SOURCE).await, Some(true));
        assert_eq!(lab.rds.ours(&region(HOME)).await.unwrap(), []);
    }
    let known: BTreeSet<String> = CALLS.iter().map(|(action, _)| (*action).to_owned()).collect();
    assert_eq!(made, known);
}

#[tokio::test]
async fn each_duty_is_done_with_its_own_access() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let rds = lab.with_duties(&[(Duty::Restore, "AKIALIFEBOATRESTORE"), (Duty::Delete, "AKIALIFEBOATDELETE")]);
        let taken = rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        rds.restore(&order("lifeboat-a", HOME, RestoreFrom::Latest, "r1")).await.unwrap();
        rds.remove(&region(HOME), "lifeboat-a", "r1").await.unwrap();
        rds.delete_snapshot(&taken).await.unwrap();
        for call in lab.recorder.calls() {
            let wanted = match call.action.as_str() {
                action if action.starts_with("Delete") => "AKIALIFEBOATDELETE",
                action if action.starts_with("Restore") => "AKIALIFEBOATRESTORE",
                action if action.starts_with("Create") && action.ends_with("Snapshot") => KEY_ID,
                _ => continue,
            };
            assert_eq!(call.key, wanted, "{call:?}");
        }
    }
}

#[test]
fn identifiers_are_set_in_one_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/rds");
    let setters = ["instance_identifier(", "cluster_identifier(", "snapshot_identifier(", "backups_arn("];
    let mut found = BTreeSet::new();
    for file in rust_files(&folder) {
        let text = fs::read_to_string(&file).unwrap();
        // It acts on production, and knows nothing of what is ours.
        if file.ends_with("promote.rs") {
            assert!(!text.contains("own::"), "{}", file.display());
            continue;
        }
        // Reading one has no argument.
        if text.lines().any(|line| setters.iter().any(|setter| line.contains(setter))) {
            found.insert(file.strip_prefix(&folder).unwrap().display().to_string());
        }
        let makes = text.contains("Name(") || text.contains("Own(");
        assert!(!makes || file.ends_with("own.rs"), "{} makes a name", file.display());
    }
    assert_eq!(found, BTreeSet::from(["caller/change.rs".to_owned(), "caller/look.rs".to_owned()]));
}
