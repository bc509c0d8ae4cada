//! The policies in `deploy/iam` against what a test calls: they allow that, and nothing that
//! changes a database which no test made. What decides here is as much of Amazon's rules as
//! these policies use: actions, resources and conditions on tags.

use super::*;

const RESTORE: &str = include_str!("../../../../deploy/iam/restore.json");
const DELETE: &str = include_str!("../../../../deploy/iam/delete.json");
const ACCOUNT: &str = "123456789012";

/// What is asked for, as Amazon looks at it.
#[derive(Debug, Default)]
struct Request {
    action: String,
    resource: String,
    /// `aws:RequestTag/…`, `aws:ResourceTag/…`, `aws:PrincipalTag/…`.
    context: BTreeMap<String, String>,
}

impl Request {
    fn new(action: &str, resource: &str) -> Self {
        let context = [("aws:PrincipalTag/lifeboat:database".to_owned(), "wallet".to_owned())].into();
        Self { action: format!("rds:{action}"), resource: resource.to_owned(), context }
    }

    fn tagged(mut self, kind: &str, tags: &[(String, String)]) -> Self {
        self.context.extend(tags.iter().map(|(key, value)| (format!("aws:{kind}/{key}"), value.clone())));
        self
    }
}

/// A pattern with `*`, as Amazon matches it.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        other => other.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect(),
    }
}

fn allows(policy: &str, request: &Request) -> bool {
    let policy: Value = serde_json::from_str(policy).unwrap();
    policy["Statement"].as_array().unwrap().iter().any(|statement| {
        assert_eq!(statement["Effect"], "Allow", "nothing else is decided here");
        let is_action = texts(&statement["Action"]).into_iter().any(|one| matches(one, &request.action));
        let is_resource = texts(&statement["Resource"]).into_iter().any(|one| matches(one, &request.resource));
        let conditions = statement["Condition"].as_object().into_iter().flatten();
        let holds = conditions.flat_map(|(how, keys)| keys.as_object().unwrap().iter().map(move |pair| (how, pair)));
        let mut holds = holds.map(|(how, (key, wanted))| {
            let (Some(found), wanted) = (request.context.get(key), wanted.as_str().unwrap()) else { return false };
            let variable = wanted.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            match (how.as_str(), variable) {
                ("StringEquals", Some(name)) => request.context.get(name) == Some(found),
                ("StringEquals", None) => wanted == found,
                ("StringLike", None) => matches(wanted, found),
                other => panic!("{other:?} is not decided here"),
            }
        });
        is_action && is_resource && holds.all(|holds| holds)
    })
}

fn arn(id: &str) -> String {
    format!("arn:aws:rds:{REGION}:{ACCOUNT}:db:{id}")
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
        let request = Request::new(&call.action, &arn(id)).tagged("RequestTag", &tags(call));
        // What was made bears the tags that it was given.
        let request = if id == SOURCE { request } else { request.tagged("ResourceTag", &given) };
        let by = [allows(RESTORE, &request), allows(DELETE, &request)];
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
            let request = Request::new(action, &arn(SOURCE)).tagged("RequestTag", &ours).tagged("ResourceTag", tags);
            assert!(!allows(RESTORE, &request) && !allows(DELETE, &request), "{request:?}");
        }
    }
    let delete = |id: &str, tags: &[(String, String)]| {
        allows(DELETE, &Request::new("DeleteDBInstance", &arn(id)).tagged("ResourceTag", tags))
    };
    assert!(delete("lifeboat-wallet-1", &ours));
    assert!(!delete("lifeboat-wallet-1", &[]), "no tags");
    assert!(!delete("lifeboat-wallet-1", &owned("restore_test/bets/manual/1", "bets")), "of another database");
    let restore = |tags: &[(String, String)]| {
        let request = Request::new("RestoreDBInstanceFromDBSnapshot", &arn("lifeboat-wallet-1"));
        allows(RESTORE, &request.tagged("RequestTag", tags))
    };
    assert!(restore(&ours) && !restore(&[]) && !restore(&owned("backup/wallet/manual/1", "wallet")));
}

#[test]
fn patterns_are_matched_from_end_to_end() {
    for (pattern, text, is_match) in [
        ("*", "", true),
        ("a*", "ab", true),
        ("a*", "ba", false),
        ("*:db:x-*", "arn:db:x-1", true),
        ("*:db:x-*", "arn:db:y-1", false),
        ("ab", "abc", false),
        ("a*c", "abc", true),
        ("a*c", "abd", false),
    ] {
        assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
    }
}
