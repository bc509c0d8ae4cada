//! Snapshots: whose they are, copies elsewhere, and what is refused.

use std::collections::BTreeMap;

use lifeboat::{
    aws::Kind,
    domain::{Snapshot, SnapshotOrigin, SnapshotState},
    engine::{
        managed::{Duty, Instances, SnapshotCopy, Snapshots, tag},
        rds::Form,
    },
};

use super::fixture::{DATABASE, FAR, FORMS, HOME, Lab, Setup, assert_told, region, run};

fn origins(snapshots: &[Snapshot]) -> BTreeMap<&str, SnapshotOrigin> {
    snapshots.iter().map(|snapshot| (snapshot.id.as_str(), snapshot.origin)).collect()
}

fn copy(id: &str, key: Option<&str>) -> SnapshotCopy {
    SnapshotCopy { id: id.to_owned(), region: region(FAR), kms_key: key.map(str::to_owned), tags: run("r1") }
}

#[tokio::test]
async fn the_source_is_told_of() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let facts = lab.rds.source().await.unwrap();
        let kind = if form == Form::Single { "db" } else { "cluster" };
        assert_eq!(facts.arn, format!("arn:aws:rds:{HOME}:123456789012:{kind}:wallet"));
        assert_eq!((facts.status.as_str(), facts.settings.is_protected_from_deletion), ("available", true));
        assert_eq!(facts.settings.instance_class, "db.r6g.large");
        assert_eq!(facts.settings.tags["owner"], "payments");
        assert_eq!((facts.settings.kms_key, facts.settings.is_publicly_accessible), (None, false));
        assert_eq!(facts.latest_restorable.keys().map(ToString::to_string).collect::<Vec<_>>(), [HOME]);
        assert!(facts.endpoint.unwrap().0.contains("wallet"));
        let identity = lab.rds.identity(Duty::Backup).await.unwrap();
        assert_eq!(identity.account, "123456789012");

        let error = lab.missing().source().await.unwrap_err();
        assert_told(&error, Kind::NotFound, &["nothing", HOME, "correct its name, or the region"]);
    }
}

#[tokio::test]
async fn ours_adopted_and_automated_snapshots_are_told_apart() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        lab.snapshot("before-upgrade").await;
        lab.snapshot("lifeboat-by-hand").await;
        let taken = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        assert_eq!((taken.origin, taken.state), (SnapshotOrigin::Ours, SnapshotState::Available));
        assert_eq!((taken.progress_percent, taken.kms_key.as_deref()), (100, None));
        assert!(taken.size_bytes > 0 && taken.taken_at.is_some(), "{taken:?}");
        assert_eq!(lab.rds.take_snapshot("lifeboat-1", &run("r2")).await.unwrap(), taken);

        let all = lab.rds.snapshots(&region(HOME)).await.unwrap();
        let automated = all.iter().find(|snapshot| snapshot.id.starts_with("rds:")).unwrap().id.clone();
        let wanted = BTreeMap::from([
            ("before-upgrade", SnapshotOrigin::Adopted),
            ("lifeboat-by-hand", SnapshotOrigin::Adopted),
            ("lifeboat-1", SnapshotOrigin::Ours),
            (automated.as_str(), SnapshotOrigin::Automated),
        ]);
        assert_eq!(origins(&all), wanted);

        let error = lab.rds.take_snapshot("lifeboat-by-hand", &run("r1")).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["lifeboat-by-hand", tag::DATABASE, DATABASE, "looked at by a person"]);
        let error = lab.rds.take_snapshot("nightly", &run("r1")).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["nightly", "lifeboat-"]);
        let error = lab.missing().take_snapshot("lifeboat-2", &run("r1")).await.unwrap_err();
        assert_told(&error, Kind::NotFound, &["lifeboat-2", "correct its name"]);
        let error = lab.rds.snapshots(&region("ap-south-1")).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["ap-south-1", DATABASE, "in the schedule"]);
        assert!(lab.recorder.calls().iter().all(|call| call.region != "ap-south-1"));
    }
}

#[tokio::test]
async fn snapshots_are_copied_to_another_region() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let taken = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        let copied = lab.rds.copy_snapshot(&taken, &copy("lifeboat-1-far", None)).await.unwrap();
        assert_eq!((copied.region.as_str(), copied.origin), (FAR, SnapshotOrigin::Ours));
        assert_eq!(copied.taken_at, taken.taken_at);
        let action = if form == Form::Single { "CopyDBSnapshot" } else { "CopyDBClusterSnapshot" };
        let asked = lab.recorder.last(action);
        assert_eq!(
            (asked.region.as_str(), asked.get("CopyTags"), asked.get("PreSignedUrl")),
            (FAR, Some("false"), None)
        );
        let at = taken.taken_at.unwrap().to_string();
        let tags = asked.tags();
        assert_eq!((tags[tag::DATABASE], tags[tag::RUN], tags[tag::TAKEN]), (DATABASE, "r1", at.as_str()));
        assert_eq!(lab.rds.copy_snapshot(&taken, &copy("lifeboat-1-far", None)).await.unwrap(), copied);
        let there = lab.rds.snapshots(&region(FAR)).await.unwrap();
        assert_eq!(origins(&there), BTreeMap::from([("lifeboat-1-far", SnapshotOrigin::Ours)]));

        lab.rds.delete_snapshot(&copied).await.unwrap();
        assert_eq!(lab.rds.snapshots(&region(FAR)).await.unwrap(), []);
        let gone = lab.rds.copy_snapshot(&copied, &copy("lifeboat-2-far", None)).await.unwrap_err();
        assert_told(&gone, Kind::NotFound, &["lifeboat-1-far", FAR, "correct its name"]);
    }
}

#[tokio::test]
async fn an_encrypted_snapshot_is_copied_with_a_key_of_the_region() {
    for form in FORMS {
        let lab = Lab::with(form, Setup { is_encrypted: true }).await;
        let taken = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        assert!(taken.kms_key.is_some());
        let error = lab.rds.copy_snapshot(&taken, &copy("lifeboat-1-far", None)).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["lifeboat-1", "no key", &format!("name a KMS key of {FAR}")]);

        let key = lab.kms_key(FAR).await;
        let copied = lab.rds.copy_snapshot(&taken, &copy("lifeboat-1-far", Some(&key))).await.unwrap();
        assert_eq!(copied.kms_key.as_deref(), Some(key.as_str()));
        let (action, from) = match form {
            Form::Single => ("CopyDBSnapshot", "SourceDBSnapshotIdentifier"),
            Form::Cluster => ("CopyDBClusterSnapshot", "SourceDBClusterSnapshotIdentifier"),
        };
        let asked = lab.recorder.last(action);
        assert_eq!(asked.get("KmsKeyId"), Some(key.as_str()));
        let url: reqwest::Url = asked.get("PreSignedUrl").unwrap().parse().unwrap();
        assert!(url.as_str().starts_with(&lab.recorder.endpoint), "{url}");
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!((query["Action"].as_str(), query["DestinationRegion"].as_str()), (action, FAR));
        assert_eq!((&query["KmsKeyId"], &query[from]), (&key, &taken.arn));
        assert!(query["X-Amz-Credential"].contains(&format!("/{HOME}/rds/")) && query.contains_key("X-Amz-Signature"));

        let error = lab.rds.copy_snapshot(&taken, &copy("lifeboat-2-far", Some("no-key"))).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
    }
}

#[tokio::test]
async fn snapshots_of_ours_alone_are_shared_and_removed() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        lab.snapshot("before-upgrade").await;
        let ours = lab.rds.take_snapshot("lifeboat-1", &run("r1")).await.unwrap();
        let account = ["210987654321".to_owned()];
        for _ in 0..2 {
            lab.rds.share_snapshot(&ours, &account).await.unwrap();
        }
        let action =
            if form == Form::Single { "ModifyDBSnapshotAttribute" } else { "ModifyDBClusterSnapshotAttribute" };
        assert_eq!(lab.recorder.last(action).get("AttributeName"), Some("restore"));
        let error = lab.rds.share_snapshot(&ours, &["all".to_owned()]).await.unwrap_err();
        assert_told(&error, Kind::Refused, &["lifeboat-1", "`all`", "12 digits"]);

        let all = lab.rds.snapshots(&region(HOME)).await.unwrap();
        let others: Vec<&Snapshot> = all.iter().filter(|snapshot| snapshot.origin != SnapshotOrigin::Ours).collect();
        assert_eq!(others.len(), 2, "{others:?}");
        for other in others {
            let error = lab.rds.share_snapshot(other, &account).await.unwrap_err();
            assert_told(&error, Kind::Refused, &[&other.id]);
            // Whatever is claimed of it.
            let claimed = Snapshot { origin: SnapshotOrigin::Ours, ..other.clone() };
            let error = lab.rds.delete_snapshot(&claimed).await.unwrap_err();
            assert_told(&error, Kind::Refused, &[&other.id]);
        }
        for _ in 0..2 {
            lab.rds.delete_snapshot(&ours).await.unwrap();
        }
        assert_eq!(lab.rds.snapshots(&region(HOME)).await.unwrap().len(), 2);
        let error = lab.rds.share_snapshot(&ours, &account).await.unwrap_err();
        assert_told(&error, Kind::NotFound, &["lifeboat-1", "correct its name"]);
    }
}

#[tokio::test]
async fn a_replicas_window_is_the_recovery_point_of_its_region() {
    let lab = Lab::of(Form::Single).await;
    let facts = lab.rds.source().await.unwrap();
    lab.recorder.answer(
        "DescribeDBInstanceAutomatedBackups",
        FAR,
        &format!(
            "<DBInstanceAutomatedBackups><DBInstanceAutomatedBackup><DBInstanceIdentifier>wallet</DBInstanceIdentifier>\
             <DbiResourceId>{}</DbiResourceId><RestoreWindow><EarliestTime>2026-11-20T00:00:00Z</EarliestTime>\
             <LatestTime>2026-11-29T11:55:00Z</LatestTime></RestoreWindow></DBInstanceAutomatedBackup>\
             </DBInstanceAutomatedBackups>",
            facts.resource_id
        ),
    );
    let facts = lab.replicated().source().await.unwrap();
    assert_eq!(facts.latest_restorable[&region(FAR)], "2026-11-29T11:55:00Z".parse().unwrap());
    assert!(facts.latest_restorable.contains_key(&region(HOME)));
}

#[tokio::test]
async fn all_pages_are_read() {
    let lab = Lab::of(Form::Single).await;
    // moto tells of instances in pages of 100, which is the service's own number.
    for number in 0..105 {
        lab.database(&format!("other-{number}"), &[], Setup::default()).await;
    }
    let mine = [(tag::DATABASE, DATABASE), (tag::RUN, "r1")];
    lab.database("lifeboat-z", &mine, Setup::default()).await;
    let found = lab.rds.ours(&region(HOME)).await.unwrap();
    assert_eq!(found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["lifeboat-z"]);
    let pages = lab.recorder.calls().into_iter().filter(|call| call.action == "DescribeDBInstances").count();
    assert_eq!(pages, 2);
}
