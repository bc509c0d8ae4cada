//! The scheduler as a daemon: what is due, what was missed, what is late.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    clock::Clock,
    db::{Db, agenda, runs},
};

use super::site::{Site, wallet};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

async fn stored(site: &Site) -> Db {
    Db::open(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap()
}

/// Each due time of the full backup that was dealt with, and how: one name per time it was.
async fn dealt_with(db: &Db) -> BTreeMap<Timestamp, Vec<String>> {
    let mut seen: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
    for run in runs::list(db, 1000).await.unwrap() {
        if run.flow == "missed" {
            let params: serde_json::Value = serde_json::from_str(&run.params).unwrap();
            assert_eq!((&params["flow"], &params["kind"]), (&"backup".into(), &"full".into()), "{params}");
            for due in params["due"].as_array().unwrap() {
                let due = due.as_str().unwrap().parse().unwrap();
                seen.entry(due).or_default().push(params["why"].as_str().unwrap().to_owned());
            }
        } else {
            let due = run.id.strip_prefix("backup/wallet/full/").unwrap().parse().unwrap();
            seen.entry(due).or_default().push("run".to_owned());
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_due_time_is_lost_or_run_twice_over_a_kill() {
    let site = Site::write(1);
    // Nobody drives what is stored, so that nothing but the scheduler is seen.
    site.edit("lifeboat.yaml", "node: {name: test,", "node: {name: test, roles: [scheduler],");
    site.edit("schedules/wallet.yaml", "0 2 29 2 *", "*/2 * * * * *");
    let mut daemon = site.serve(&[]);
    eventually("the first runs", SOON, async || site.path("lifeboat.db").exists()).await;
    let db = stored(&site).await;
    eventually("three runs", SOON, async || dealt_with(&db).await.len() >= 3).await;
    daemon.kill().await.unwrap();
    let last = *dealt_with(&db).await.last_key_value().unwrap().0;
    let clock = Clock::system();
    eventually("due times pass", SOON, async || clock.now() > last + SignedDuration::from_secs(9)).await;
    let mut daemon = site.serve(&[]);
    eventually("it goes on", SOON, async || {
        let seen = dealt_with(&db).await;
        seen.values().flatten().any(|how| how == "down")
            && seen.last_key_value().unwrap().0 > &(last + SignedDuration::from_secs(12))
    })
    .await;
    daemon.kill().await.unwrap();
    let seen = dealt_with(&db).await;
    let (first, newest) = (*seen.first_key_value().unwrap().0, *seen.last_key_value().unwrap().0);
    let steps = newest.duration_since(first).as_secs() / 2;
    for step in 0..=steps {
        let due = first + SignedDuration::from_secs(2 * step);
        assert_eq!(seen.get(&due).map(Vec::len), Some(1), "{due} of {seen:?}");
    }
    assert_eq!(seen.len(), usize::try_from(steps).unwrap() + 1, "{seen:?}");
    let missed = seen.values().flatten().filter(|how| *how == "down").count();
    assert!(missed >= 3, "{seen:?}");

    // An edited line is promised from the moment it is seen: also to who comes after a crash.
    site.edit("schedules/wallet.yaml", "*/2 * * * * *", "0 2 29 2 *");
    let mut daemon = site.serve(&[]);
    let name = "backup/full `0 2 29 2 *` Europe/Malta";
    eventually("its mark", SOON, async || {
        agenda::marks(&db).await.unwrap().get("wallet").is_some_and(|marks| marks.contains_key(name))
    })
    .await;
    daemon.kill().await.unwrap();
}

#[tokio::test]
async fn plan_tells_why_a_run_is_skipped_or_shifted() {
    let site = Site::write(1);
    site.edit("schedules/wallet.yaml", "cron: \"0 2 29 2 *\"", "cron: \"0 2 * * *\", jitter: 5m");
    site.edit("schedules/wallet.yaml", "backups:\n", "backups:\n  - {kind: incremental, cron: \"0 */2 * * *\"}\n");
    site.edit("schedules/wallet.yaml", "0 5 29 2 *\"", "0 13 * * 6\"\n  start_window: 2d");
    let text = site.text("schedules/wallet.yaml");
    site.put("schedules/wallet.yaml", &format!("{text}\nblackouts: [{{start: \"Sat 12:00\", end: \"Sun 23:59\"}}]\n"));
    let plan = site.run(&["plan", "--next", "200"]).await.json(0);
    let runs = plan["runs"].as_array().unwrap();
    let of = |flow: &str, kind: &str| -> Vec<&serde_json::Value> {
        runs.iter().filter(|run| run["flow"] == flow && (kind.is_empty() || run["kind"] == kind)).collect()
    };
    let at_two = |run: &&&serde_json::Value| run["local"].as_str().unwrap().contains(" 02:00:00 ");
    let increments = of("backup", "incremental");
    let counted: Vec<_> = increments.iter().filter(|run| run["then"] == "counted").collect();
    assert_eq!(counted.len(), increments.iter().filter(at_two).count(), "{plan:#}");
    assert!(
        counted.iter().all(|run| run["note"].as_str().unwrap().contains("full backup due at the same time")),
        "{plan:#}"
    );
    for full in of("backup", "full") {
        let due: Timestamp = full["due"].as_str().unwrap().parse().unwrap();
        let starts: Timestamp = full["starts"].as_str().unwrap().parse().unwrap();
        assert!((0..=300).contains(&starts.duration_since(due).as_secs()), "{full}");
    }
    let tests = of("restore_test", "");
    assert!(!tests.is_empty());
    for test in tests {
        assert_eq!(test["then"], "runs", "{test}");
        let note = test["note"].as_str().unwrap();
        assert!(
            note.contains("shifted to Sun") && note.contains("23:59") && note.contains("blackout Sat 12:00"),
            "{note}"
        );
    }
    let shown = site.shown(&["plan", "--next", "200"]).await;
    assert!(shown.contains("skipped: the full backup") && shown.contains("shifted to Sun"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_test_that_does_not_begin_is_a_finding_until_one_does() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.run(&["backup", "wallet"]).await.json(0);
    site.edit("lifeboat.yaml", "node: {name: test,", "node: {name: test, roles: [scheduler],");
    site.edit("schedules/wallet.yaml", "0 5 29 2 *", "*/20 * * * * *");
    let mut daemon = site.serve(&[]);
    let message = async || {
        let findings: serde_json::Value = serde_json::from_str(&site.run(&["findings"]).await.stdout).unwrap();
        let told =
            findings.as_array().unwrap().iter().find(|of| of["message"].as_str().unwrap().contains("restore test due"));
        told.map(|of| of["message"].as_str().unwrap().to_owned())
    };
    eventually("a finding", SOON, async || message().await.is_some()).await;
    let told = message().await.unwrap();
    assert!(told.contains("has not begun") && told.contains("lifeboat restore-test wallet"), "{told}");
    // Whoever begins one settles it.
    let Db::Sqlite { state: pool, .. } = stored(&site).await else { panic!() };
    let begun = Clock::system().now().as_millisecond() + 3_600_000;
    let sql = "INSERT INTO runs (id, flow, subject, params, requester, created_ms, begun_ms, finished_ms, state, fence, lease_until_ms) \
               VALUES ('restore_test/wallet/local/by-hand', 'restore_test', 'wallet', '{}', 'dba', 0, $1, $1, 'done', 0, 0)";
    sqlx::query(sql).bind(begun).execute(&pool).await.unwrap();
    eventually("it is closed", SOON, async || message().await.is_none()).await;
    daemon.kill().await.unwrap();
}
