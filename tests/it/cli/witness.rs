//! A copy is held against what its source answered: it passes while the source is
//! written to, and each difference that is planted is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    journey::{backed_up, streaming},
    site::{Site, finished, wallet},
    streaming::{caught_up, findings},
};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(60);
const SCHEDULE: &str = "schedules/wallet.yaml";
const SQL: &str = "select id, stake, placed from bets where placed < :as_of";
/// Sampled once while a test runs. What is written meanwhile is not settled before it ends.
const CHECKS: &str = "    - {witness: \"select id, stake, placed from bets where placed < :as_of\", dbname: wallet, every: 12h, settle: 1h}
    - restored_config
";
/// 2000 bets that were settled long ago; what is placed now is not.
const SETTLED: &str = "ALTER TABLE bets ADD placed timestamptz NOT NULL DEFAULT '2026-01-01 00:00:00+00';
    ALTER TABLE bets ALTER placed SET DEFAULT clock_timestamp();";

async fn tested(site: &Site, target: &[&str], code: i32) -> Value {
    finished(site.command(&[&["restore-test", "wallet"][..], target].concat())).await.json(code)
}

#[track_caller]
fn check<'a>(test: &'a Value, name: &str) -> &'a Value {
    let check = test["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("no check `{name}`: {test}"))
}

/// The check has this verdict, and tells all of this.
#[track_caller]
fn tells(test: &Value, name: &str, verdict: &str, told: &[&str]) {
    let check = check(test, name);
    assert_eq!(check["verdict"], verdict, "{name}: {test}");
    let actual = check["actual"].as_str().unwrap();
    for told in told {
        assert!(actual.contains(told), "`{told}` is not in {actual}");
    }
    assert!(check["seconds"].is_f64(), "{test}");
}

fn witness() -> String {
    format!("witness: {SQL}")
}

async fn state(site: &Site) -> sqlx::SqlitePool {
    sqlx::SqlitePool::connect(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap()
}

async fn samples(site: &Site) -> i64 {
    let db = state(site).await;
    let count = sqlx::query_scalar("SELECT count(DISTINCT question) FROM samples").fetch_one(&db).await.unwrap();
    db.close().await;
    count
}

/// A client that places bets until it is told to stop; how many it placed.
struct Load {
    is_over: Arc<AtomicBool>,
    placed: Arc<AtomicU64>,
    client: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn begin(lab: &Lab) -> Self {
        let socket = lab.cluster.socket_folder();
        let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .socket(socket)
            .port(lab.port)
            .username("postgres")
            .database("wallet");
        let mut session = sqlx::ConnectOptions::connect(&options).await.unwrap();
        let (is_over, placed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&is_over), Arc::clone(&placed));
        #[expect(clippy::disallowed_methods, reason = "a client, and no task of the program")]
        let client = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                sqlx::query("INSERT INTO bets (stake) VALUES (1)").execute(&mut session).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { is_over, placed, client }
    }

    async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_held_against_what_its_source_answered() {
    let lab = wallet("").await;
    lab.psql_in("wallet", SETTLED).await;
    lab.psql_in("wallet", "GRANT SELECT ON bets TO lifeboat; CREATE ROLE ann LOGIN").await;
    let site = Site::write(lab.port);
    // Of no matter here, and not to be missed on a busy machine.
    site.edit(SCHEDULE, "rpo: 15s", "rpo: 15m");
    backed_up(&site).await;
    site.edit(SCHEDULE, "    - heartbeat\n", CHECKS);
    let before: String =
        lab.psql_in("wallet", "INSERT INTO bets (stake) VALUES (5) RETURNING pg_current_wal_lsn()").await;
    let load = Load::begin(&lab).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    eventually("the source was asked both", SOON, || async { samples(&site).await == 2 }).await;
    let placed = load.placed.load(Ordering::Relaxed);
    eventually("bets are placed behind the samples", SOON, || async {
        load.placed.load(Ordering::Relaxed) > placed + 20
    })
    .await;
    caught_up(&lab, &site).await;
    let test = tested(&site, &[], 0).await;
    assert_eq!(test["verdict"], "PASS", "under load: {test}");
    tells(&test, &witness(), "PASS", &["2000 rows, sha256:"]);
    let expected = check(&test, &witness())["expected"].as_str().unwrap();
    assert!(expected.contains("as of 20") && expected.contains("between LSN 0/"), "{expected}");
    tells(&test, "restored_config", "PASS", &["parts are the same"]);
    load.end().await;
    assert_eq!(findings(&site, &["has no new sample"]).await, Vec::<String>::new());

    // A point that no sample lies before.
    let test = tested(&site, &["--lsn", before.as_str()], 3).await;
    let why = ["the oldest sample of this history", "behind the recovery point", "test a later one"];
    tells(&test, &witness(), "INCONCLUSIVE", &why);
    tells(&test, "restored_config", "INCONCLUSIVE", &why);

    // A bet that was settled is changed, and parts of the cluster come and go.
    lab.psql_in("wallet", "UPDATE bets SET stake = stake + 1 WHERE id = 7").await;
    lab.psql_in("wallet", "DROP ROLE ann; CREATE EXTENSION amcheck").await;
    caught_up(&lab, &site).await;
    let test = tested(&site, &["--latest"], 1).await;
    assert_eq!(test["verdict"], "FAIL", "{test}");
    tells(&test, &witness(), "FAIL", &["2000 rows, sha256:"]);
    let (found, wanted) = (check(&test, &witness())["actual"].as_str(), check(&test, &witness())["expected"].as_str());
    assert!(!wanted.unwrap().contains(found.unwrap()) && wanted.unwrap().contains("2000 rows"), "{test}");
    tells(
        &test,
        "restored_config",
        "INCONCLUSIVE",
        &[
            // SHA-256 of `role ann`: evidence names nobody.
            "role sha256:8e7d776780a42459 was `{",
            "at the source and is not in the copy",
            "extension amcheck of `wallet` was not at the source",
        ],
    );
    assert!(!test.to_string().contains("role ann"), "{test}");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    another_question_and_settings_that_changed(&lab, &site).await;
}

/// With the daemon away, until it has sampled what the schedule asks now.
async fn another_question_and_settings_that_changed(lab: &Lab, site: &Site) {
    site.edit(SCHEDULE, SQL, "select count(*) from bets where placed < :as_of");
    let name = "witness: select count(*) from bets where placed < :as_of";
    let test = tested(site, &["--latest"], 3).await;
    tells(&test, name, "INCONCLUSIVE", &["no sample of the source is kept", "`lifeboat serve` takes one every 12h"]);

    // Settings are in files that WAL tells nothing of: the backup is older than these.
    lab.psql("ALTER SYSTEM SET work_mem = '11MB'").await;
    lab.psql("ALTER SYSTEM SET archive_command = 'echo hunter2'").await;
    lab.psql("SELECT pg_reload_conf()").await;
    eventually("the server has read its files", SOON, || async { lab.psql("SHOW work_mem").await == "11MB" }).await;
    let db = state(site).await;
    sqlx::query("DELETE FROM samples").execute(&db).await.unwrap();
    db.close().await;
    let mut daemon = site.serve(&[]);
    eventually("the source was asked both again", SOON, || async { samples(site).await == 2 }).await;
    eventually("the daemon streams WAL", SOON, || streaming(site)).await;
    lab.psql_in("wallet", "INSERT INTO bets (stake) VALUES (6)").await;
    caught_up(lab, site).await;
    let test = tested(site, &["--latest"], 3).await;
    assert_eq!(test["verdict"], json!("INCONCLUSIVE"), "{test}");
    tells(&test, name, "PASS", &["1 row, sha256:"]);
    tells(
        &test,
        "restored_config",
        "INCONCLUSIVE",
        &[
            "setting work_mem was `11264` at the source and is `4096` in the copy",
            "setting archive_command was `sha256:",
            "and is `empty` in the copy",
        ],
    );
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    assert!(!test.to_string().contains("hunter2"), "{test}");
    for name in ["lifeboat.db", "lifeboat.db-wal", "log"] {
        let kept = std::fs::read(site.path(name)).unwrap_or_default();
        assert!(!kept.windows(7).any(|window| window == b"hunter2"), "{name} holds the secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_may_not_be_asked_is_a_finding_that_says_what_to_grant() {
    let lab = wallet("").await;
    lab.psql_in("wallet", SETTLED).await;
    let site = Site::write(lab.port);
    // Of no matter here, and not to be missed on a busy machine.
    site.edit(SCHEDULE, "rpo: 15s", "rpo: 15m");
    site.edit(SCHEDULE, "    - heartbeat\n", CHECKS);
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    let words = ["has no new sample", "permission denied for table bets", "GRANT SELECT ON … TO \"lifeboat\""];
    eventually("what is missing is told", SOON, || async { findings(&site, &words).await.len() == 1 }).await;
    lab.psql_in("wallet", "GRANT SELECT ON bets TO lifeboat").await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    daemon = site.serve(&[]);
    eventually("nothing is missing any more", SOON, || async {
        samples(&site).await == 2 && findings(&site, &["has no new sample"]).await.is_empty()
    })
    .await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
