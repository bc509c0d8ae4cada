//! The verifier verifies itself: each fault that it plants turns red; a verifier that is
//! blind to one is found, told as the gravest there is, and stays found until it sees.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    journey::backed_up,
    site::{Ran, Site, finished, wallet},
};

const FAULTS: [&str; 5] = ["flipped_page", "missing_segment", "wrong_key", "stale_heartbeat", "failing_sql"];

/// What is planted into the one copy, and judged by the verdict of its test.
#[cfg(debug_assertions)]
const OF_COPY: [&str; 3] = ["flipped_page", "stale_heartbeat", "failing_sql"];

/// A check of restore tests that is made to see nothing, and the faults that are missed then.
#[cfg(debug_assertions)]
const BLINDED: [(&str, &[&str]); 6] = [
    ("page_checksums", &["flipped_page"]),
    ("missing_segment", &["missing_segment"]),
    ("wrong_key", &["wrong_key"]),
    ("heartbeat", &["stale_heartbeat"]),
    ("select 'seen'", &["failing_sql"]),
    // The checks see, and the judgement does not count them.
    ("verdict", &["flipped_page", "stale_heartbeat", "failing_sql"]),
];

async fn tested(site: &Site, blinded: Option<&str>) -> Ran {
    let mut command = site.command(&["self-test", "wallet"]);
    if let Some(check) = blinded {
        command.env("LIFEBOAT_FAULT", format!("blind@{check}"));
    }
    finished(command).await
}

/// Verdict of each fault's check, and what came out.
fn came_out(test: &Value) -> BTreeMap<&str, (&str, &str)> {
    let checks = test["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            let told = |name: &str| check[name].as_str().unwrap();
            assert!(told("expected").starts_with("RED: "), "{test}");
            (told("name"), (told("verdict"), told("actual")))
        })
        .collect()
}

/// What lies in the vault, but for evidence.
fn held(site: &Site) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = site.files_in("vault/wallet").into_iter();
    files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn nothing_is_left(site: &Site) {
    let left: Vec<_> = fs::read_dir(site.path("scratch")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_fault_turns_red_and_nothing_of_it_is_left() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["self-test", "nobody"]).await.refused(2, &["no schedule names the database `nobody`"]);
    backed_up(&site).await;
    let (before, rows) = (held(&site), lab.psql_in("wallet", "SELECT count(*) FROM bets").await);
    let test = tested(&site, None).await.json(0);
    assert_eq!((&test["verdict"], &test["database"]), (&json!("PASS"), &json!("wallet")), "{test}");
    let came_out = came_out(&test);
    assert_eq!(came_out.len(), FAULTS.len(), "{test}");
    for (fault, told) in [
        ("flipped_page", "block 0 of base/"),
        ("missing_segment", "WAL of timeline 1 from "),
        ("wrong_key", "none of the given identities opens"),
        ("stale_heartbeat", "no acknowledged heartbeat"),
        ("failing_sql", "`select 'seen'` gave FAIL (seen)"),
    ] {
        let (verdict, actual) = came_out[fault];
        assert!(verdict == "PASS" && actual.starts_with("RED: ") && actual.contains(told), "{fault}: {test}");
    }
    assert!(held(&site) == before, "nothing was written to the vault, no proof either");
    assert_eq!(lab.psql_in("wallet", "SELECT count(*) FROM bets").await, rows);
    nothing_is_left(&site);
    assert_eq!(site.run(&["findings"]).await.json(0), json!([]));
    let record = site.run(&["evidence", "show", test["run_id"].as_str().unwrap()]).await.json(0);
    assert!(record.to_string().contains("faults planted into a restore test"), "{record}");
}

/// A release build knows no blinded check.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_blind_verifier_is_the_gravest_finding_until_it_sees() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    tested(&site, None).await.json(0);
    for (check, missed) in BLINDED {
        let test = tested(&site, Some(check)).await.json(1);
        assert_eq!(test["verdict"], "FAIL", "blind@{check}: {test}");
        for (fault, (verdict, actual)) in came_out(&test) {
            let expected = if missed.contains(&fault) { ("FAIL", "GREEN: ") } else { ("PASS", "RED: ") };
            assert!(verdict == expected.0 && actual.starts_with(expected.1), "blind@{check}, {fault}: {test}");
            // But for what is planted, nothing of the copy makes the test fail.
            let is_sound = !OF_COPY.contains(&fault) || actual.ends_with("the test's verdict is PASS");
            assert!(verdict == "PASS" || is_sound, "blind@{check}, {fault}: {test}");
        }
        // Those that were missed before were seen this time.
        let findings = site.run(&["findings"]).await.json(1);
        let open = findings.as_array().unwrap();
        assert_eq!(open.len(), missed.len(), "blind@{check}: {findings}");
        for (finding, fault) in open.iter().zip(missed) {
            let message = finding["message"].as_str().unwrap();
            assert_eq!(
                (&finding["severity"], &finding["subject"]),
                (&json!("critical"), &json!("wallet")),
                "{finding}"
            );
            assert!(
                open.iter().any(|one| one["message"].as_str().unwrap().contains(&format!("`{fault}`"))),
                "{findings}"
            );
            for told in
                ["came out green", "restore tests are blind", "the last self-test that saw it is self_test/wallet/"]
            {
                assert!(message.contains(told), "blind@{check}, {told}: {message}");
            }
        }
        nothing_is_left(&site);
    }
    let told = site.shown(&["findings"]).await;
    assert!(told.contains("CRITICAL wallet: restore tests are blind"), "{told}");
    let status = site.run(&["status"]).await.json(1);
    assert_eq!(status["verdict"], "FAIL", "{status}");
    let headline = status["databases"][0]["headline"].as_str().unwrap();
    assert!(headline.contains("Restore tests are blind"), "{headline}");
    // A restore test that passes does not close it.
    site.edit("schedules/wallet.yaml", "    - heartbeat\n", "");
    site.run(&["restore-test", "wallet", "--latest"]).await.json(0);
    assert_eq!(site.run(&["findings"]).await.json(1).as_array().unwrap().len(), 3);
    tested(&site, None).await.json(0);
    assert_eq!(site.run(&["findings"]).await.json(0), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tried_is_neither_seen_nor_missed() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    // There is nothing to plant faults into.
    let test = tested(&site, None).await.json(1);
    assert_eq!(test["verdict"], "ERROR", "{test}");
    let findings = site.run(&["findings"]).await.json(1);
    assert!(findings.to_string().contains("the last self-test of restore tests ended ERROR"), "{findings}");
    assert_eq!(findings[0]["severity"], "ordinary", "{findings}");
    backed_up(&site).await;
    tested(&site, None).await.json(0);
    assert_eq!(site.run(&["findings"]).await.json(0), json!([]));
    nothing_is_left(&site);
    let plan = site.run(&["plan", "--next", "40"]).await.json(0);
    let due: Vec<&Value> = plan["runs"].as_array().unwrap().iter().filter(|run| run["flow"] == "self_test").collect();
    assert!(due.len() > 20 && due.iter().all(|run| run["cron"] == "0 1 * * 0"), "weekly, and nobody wrote it: {plan}");
    site.edit("schedules/wallet.yaml", "  checks:\n", "  self_test: {cron: \"0 1 29 2 *\"}\n  checks:\n");
    let plan = site.run(&["plan", "--next", "2"]).await.json(0);
    assert!(!plan.to_string().contains("0 1 * * 0"), "{plan}");
}
