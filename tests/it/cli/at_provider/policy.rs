//! The policies in `deploy/iam` against what a test calls: they allow that, and nothing that
//! changes a database which no test made.

use super::*;
use crate::support::iam::{Policy, Tags};

/// A call as a policy looks at it.
#[derive(Debug)]
struct Request {
    action: String,
    resource: String,
    tags: Tags,
}

impl Request {
    fn new(action: &str, resource: &str) -> Self {
        let tags = Tags { database: "wallet".to_owned(), ..Tags::default() };
        Self { action: format!("rds:{action}"), resource: resource.to_owned(), tags }
    }

    fn asking(mut self, tags: &[(String, String)]) -> Self {
        self.tags.asked = tags.to_vec();
        self
    }

    fn of_what_bears(mut self, tags: &[(String, String)]) -> Self {
        self.tags.borne = tags.to_vec();
        self
    }
}

fn allows(duty: &str, request: &Request) -> bool {
    Policy::of(duty).allows(&request.action, &request.resource, &request.tags)
}

fn arn(id: &str) -> String {
    format!("arn:aws:rds:{REGION}:123456789012:db:{id}")
}

/// The tags that a call gives: `Tags.Tag.1.Key` and `.Value`.
fn tags(call: &crate::lab::Call) -> Vec<(String, String)> {
    let given = (1..).map_while(|nth| {
        let part = |what: &str| call.get(&format!("Tags.Tag.{nth}.{what}")).map(str::to_owned);
        Some((part("Key")?, part("Value")?))
    });
    given.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_calls_no_more_than_its_roles_allow() {
    let estate = Estate::start().await;
    let (_, record) = estate.tested(LATEST).await;
    assert_eq!(record["verdict"], "PASS", "{record:#}");
    let calls: Vec<_> = estate.lab.calls().into_iter().filter(|call| call.service == "rds").collect();
    let made = calls.iter().find(|call| call.action.starts_with("Restore")).unwrap();
    let (given, mut changes) = (tags(made), Vec::new());
    assert!(given.len() >= 3, "{made:?}");
    for call in &calls {
        let id = call.get("TargetDBInstanceIdentifier").or(call.get("DBInstanceIdentifier")).unwrap_or("*");
        let request = Request::new(&call.action, &arn(id)).asking(&tags(call));
        // What was made bears the tags that it was given.
        let request = if id == SOURCE { request } else { request.of_what_bears(&given) };
        let by = [allows("restore", &request), allows("delete", &request)];
        assert!(by.contains(&true), "{request:?}");
        if !call.action.starts_with("Describe") && !call.action.starts_with("List") {
            changes.push((call.action.clone(), by));
        }
    }
    let expected =
        [("RestoreDBInstanceToPointInTime".to_owned(), [true, false]), ("DeleteDBInstance".to_owned(), [false, true])];
    assert_eq!(changes, expected, "each by one role alone");
}

#[test]
fn no_role_of_a_test_may_change_what_no_test_made() {
    let owned = |run: &str, database: &str| {
        [("lifeboat:run_id", run), ("lifeboat:database", database)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    let ours = owned("restore_test/wallet/manual/1", "wallet");
    for action in [
        "AddRoleToDBInstance",
        "AddTagsToResource",
        "ApplyPendingMaintenanceAction",
        "CreateDBInstance",
        "CreateDBSnapshot",
        "DeleteDBInstance",
        "DeleteDBInstanceAutomatedBackup",
        "DeleteDBSnapshot",
        "ModifyDBInstance",
        "ModifyDBParameterGroup",
        "ModifyDBSnapshotAttribute",
        "PromoteReadReplica",
        "RebootDBInstance",
        "RemoveTagsFromResource",
        "StartDBInstance",
        "StopDBInstance",
        "SwitchoverReadReplica",
    ] {
        // Whatever is said in the call, and whatever the source's own tags are.
        for tags in [&[][..], &ours] {
            let request = Request::new(action, &arn(SOURCE)).asking(&ours).of_what_bears(tags);
            assert!(!allows("restore", &request) && !allows("delete", &request), "{request:?}");
        }
    }
    let delete = |id: &str, tags: &[(String, String)]| {
        allows("delete", &Request::new("DeleteDBInstance", &arn(id)).of_what_bears(tags))
    };
    assert!(delete("lifeboat-wallet-1", &ours));
    assert!(!delete("lifeboat-wallet-1", &[]), "no tags");
    assert!(!delete("lifeboat-wallet-1", &owned("restore_test/bets/manual/1", "bets")), "of another database");
    let restore = |tags: &[(String, String)]| {
        let request = Request::new("RestoreDBInstanceFromDBSnapshot", &arn("lifeboat-wallet-1"));
        allows("restore", &request.asking(tags))
    };
    assert!(restore(&ours) && !restore(&[]) && !restore(&owned("restore_test/bets/manual/1", "bets")));
}
