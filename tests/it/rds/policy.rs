//! That the policies in `deploy/iam` allow each duty what the engine does, and nothing
//! beside it: all calls of a whole life, of instances and of clusters.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat::engine::managed::{Duty, tag};

use super::{
    fixture::{DATABASE, FORMS, Lab, SOURCE},
    guard::{CALLS, live},
    recorder::Recorded,
};
use crate::support::iam::{self, Policy, Tags};

const DUTIES: [(Duty, &str, &str); 3] = [
    (Duty::Backup, "backup", "AKIALIFEBOATBACKUP"),
    (Duty::Restore, "restore", "AKIALIFEBOATRESTORE"),
    (Duty::Delete, "delete", "AKIALIFEBOATDELETE"),
];

/// What RDS asks beside the calls themselves: to tag what is made, and to use its key.
const BESIDE: [&str; 8] = [
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "rds:AddTagsToResource",
];

/// Parameters that name a resource, and its type, as the service authorization reference
/// of RDS lists them.
const NAMED: [(&str, &str); 15] = [
    ("DBInstanceIdentifier", "db"),
    ("TargetDBInstanceIdentifier", "db"),
    ("SourceDBInstanceIdentifier", "db"),
    ("DBClusterIdentifier", "cluster"),
    ("SourceDBClusterIdentifier", "cluster"),
    ("DBSnapshotIdentifier", "snapshot"),
    ("SourceDBSnapshotIdentifier", "snapshot"),
    ("TargetDBSnapshotIdentifier", "snapshot"),
    ("DBClusterSnapshotIdentifier", "cluster-snapshot"),
    ("SourceDBClusterSnapshotIdentifier", "cluster-snapshot"),
    ("TargetDBClusterSnapshotIdentifier", "cluster-snapshot"),
    ("SnapshotIdentifier", "cluster-snapshot"),
    ("DBSubnetGroupName", "subgrp"),
    ("DBParameterGroupName", "pg"),
    ("DBClusterParameterGroupName", "cluster-pg"),
];

fn arn(kind: &str, id: &str, region: &str) -> String {
    if id.starts_with("arn:") { id.to_owned() } else { format!("arn:aws:rds:{region}:123456789012:{kind}:{id}") }
}

fn tags(asked: &BTreeMap<&str, &str>, borne: &[(&str, &str)]) -> Tags {
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Tags {
        database: DATABASE.to_owned(),
        asked: asked.iter().map(|(key, value)| owned((key, value))).collect(),
        borne: borne.iter().map(|pair| owned(*pair)).collect(),
    }
}

/// The resources of a call; each must be allowed.
fn resources(call: &Recorded) -> Vec<String> {
    let named = NAMED.iter().filter_map(|(name, kind)| Some(arn(kind, call.get(name)?, &call.region)));
    // All calls that look are asked about as one.
    let named: Vec<String> = if call.action.starts_with("Describe") { Vec::new() } else { named.collect() };
    if named.is_empty() { vec![arn("db", "any", &call.region)] } else { named }
}

fn right(call: &Recorded) -> String {
    let service = if call.action == "GetCallerIdentity" { "sts" } else { "rds" };
    format!("{service}:{}", call.action)
}

fn is_allowed(policy: &Policy, call: &Recorded, borne: &[(&str, &str)]) -> bool {
    let tags = tags(&call.tags(), borne);
    resources(call).iter().all(|resource| policy.allows(&right(call), resource, &tags))
}

const OURS: [(&str, &str); 2] = [(tag::DATABASE, DATABASE), (tag::RUN, "r1")];

#[tokio::test]
async fn each_duty_may_do_what_it_does_and_nothing_to_the_source() {
    for form in FORMS {
        let lab = Lab::of(form).await;
        let keys = DUTIES.map(|(duty, _, key)| (duty, key));
        live(&lab, &lab.with_duties(&keys)).await;
        let mut judged = 0;
        for call in lab.recorder.calls() {
            let Some((_, name, _)) = DUTIES.into_iter().find(|(_, _, key)| *key == call.key) else { continue };
            let own = Policy::of(name);
            assert!(is_allowed(&own, &call, &OURS), "{name} may not: {call:?}");
            let Some(acted_on) = CALLS.iter().find(|(action, _)| *action == call.action).and_then(|(_, named)| *named)
            else {
                continue;
            };
            judged += 1;
            if !call.tags().is_empty() {
                let kind = NAMED.iter().find(|(parameter, _)| *parameter == acted_on).unwrap().1;
                let made = arn(kind, call.get(acted_on).unwrap(), &call.region);
                assert!(
                    own.allows("rds:AddTagsToResource", &made, &tags(&call.tags(), &[])),
                    "{name} may not tag {made}"
                );
            }
            for (_, name, _) in DUTIES {
                let policy = Policy::of(name);
                // No duty does the work of another one.
                assert_eq!(is_allowed(&policy, &call, &OURS), name == self::name(&call.key), "{name}: {call:?}");
                // Nor this call with the source in the place of what is ours. What a restore to a point in
                // time makes and what it reads are one type of resource: there the tags alone tell.
                let mut foreign = call.clone();
                foreign.parameters.insert(acted_on.to_owned(), SOURCE.to_owned());
                if !call.action.ends_with("ToPointInTime") {
                    assert!(!is_allowed(&policy, &foreign, &OURS), "{name} may touch the source: {foreign:?}");
                }
                let mut bare = call.clone();
                bare.parameters.retain(|name, _| !name.starts_with("Tags."));
                if call.action.starts_with("Restore") || call.action == "CreateDBInstance" {
                    assert!(!is_allowed(&policy, &bare, &OURS), "{name} may make what bears no tag: {bare:?}");
                }
                if ["Delete", "Modify"].iter().any(|verb| call.action.starts_with(verb)) {
                    assert!(!is_allowed(&policy, &call, &[]), "{name} may change what bears no tag: {call:?}");
                }
            }
        }
        assert!(judged >= 8, "{judged} calls of {form:?}");
    }
}

fn name(key: &str) -> &'static str {
    DUTIES.into_iter().find(|(_, _, of)| *of == key).unwrap().1
}

#[test]
fn policies_name_the_calls_that_are_made_and_no_others() {
    let mut allowed = BTreeSet::new();
    for (_, name, _) in DUTIES {
        let document: serde_json::Value = serde_json::from_str(&iam::text(name)).unwrap();
        for statement in document["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow");
            for action in statement["Action"].as_array().unwrap() {
                allowed.insert(action.as_str().unwrap().to_owned());
            }
        }
    }
    let service = |action: &str| if action == "GetCallerIdentity" { "sts" } else { "rds" };
    let made = CALLS.iter().map(|(action, _)| format!("{}:{action}", service(action)));
    let wanted: BTreeSet<String> = made.chain(BESIDE.map(str::to_owned)).collect();
    assert_eq!(allowed, wanted);
}
