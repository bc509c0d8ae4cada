//! Faults that are planted into restore tests that would pass without them: none
//! of them passes, and each is named.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    journey::{backed_up, streaming},
    site::{Site, finished, wallet, wallet_in},
    streaming::{bet, caught_up},
};
use crate::support::{Lab, eventually, moved};

const SOON: Duration = Duration::from_secs(60);
const SCHEDULE: &str = "schedules/wallet.yaml";

/// One of each kind of check, beside those of every site.
const FURTHER: &str = "    - page_checksums
    - full_read
    - {sql: {file: stakes.sql}, dbname: wallet, min: 1}
    - {sql: \"select n from generate_series(1, 0) n\", dbname: wallet, zero_rows: true}
    - {sql: \"select 0.10\", dbname: wallet, min: 0.1, max: 0.1, public: true}
    - {row_counts: {bets: 2150}, dbname: wallet}
";

/// What the copy does not meet, or cannot be asked.
const FAILING: &str = "    - {sql: \"select stake from bets\", dbname: wallet, zero_rows: true}
    - {sql: \"set work_mem = '4MB'\", dbname: wallet, zero_rows: true}
    - {row_counts: {bets: 2151, stakes: 1}, dbname: wallet}
    - {sql: {file: gone.sql}, dbname: wallet, max: 5}
";

async fn tested(site: &Site, target: &[&str], code: i32) -> Value {
    finished(site.command(&[&["restore-test", "wallet"][..], target].concat())).await.json(code)
}

/// Verdict of a check, and what was found.
#[track_caller]
fn check<'a>(test: &'a Value, name: &str) -> (&'a str, &'a str) {
    let check = test["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no check `{name}`: {test}"));
    (check["verdict"].as_str().unwrap(), check["actual"].as_str().unwrap())
}

/// The table of planted faults: what was planted, what turned red, and the verdict.
#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    /// A check turned red, and no other one.
    #[track_caller]
    fn failed(&mut self, planted: &str, test: &Value) {
        let checks = test["checks"].as_array().unwrap().iter();
        let red: Vec<&str> =
            checks.filter(|check| check["verdict"] == "FAIL").map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!((red.len(), &test["verdict"]), (1, &json!("FAIL")), "{planted}: {test}");
        self.push(planted, &format!("`{}`", red[0]), test);
    }

    /// The restore was refused, for this reason.
    #[track_caller]
    fn refused(&mut self, planted: &str, told: &str, test: &Value) {
        assert!(test["verdict"] == "ERROR" && test["findings"].to_string().contains(told), "{planted}: {test}");
        self.push(planted, &format!("refused: {told}"), test);
    }

    fn push(&mut self, planted: &str, red: &str, test: &Value) {
        self.0.push(format!("| {planted} | {red} | {} |", test["verdict"].as_str().unwrap()));
    }

    /// Prints it, and holds it against what is told to operators.
    fn assert_documented(&self) {
        let shown = format!("| planted | what turned red | verdict |\n|---|---|---|\n{}\n", self.0.join("\n"));
        println!("{shown}");
        let documented = fs::read_to_string("docs/measurement.md").unwrap();
        assert!(documented.contains(&shown), "docs/measurement.md does not hold this table:\n{shown}");
    }
}

/// Has a restore test make these checks and no others.
fn set_checks(site: &Site, checks: &str) {
    let schedule = site.text(SCHEDULE);
    let (before, _) = schedule.split_once("  checks:\n").unwrap();
    site.put(SCHEDULE, &format!("{before}  checks:\n{checks}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_that_is_planted_passes_a_restore_test() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    for _ in 0..3 {
        bet(&lab, 50).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    let beats = async || lab.psql_in("wallet", "SELECT max(seq) FROM lifeboat.heartbeat").await.parse().unwrap_or(0);
    let until: i64 = beats().await + 2;
    eventually("heartbeats are in the open segment", SOON, || async { beats().await >= until }).await;
    caught_up(&lab, &site).await;
    site.put("stakes.sql", "select count(*)\n  from bets -- all of them\n");
    site.edit(SCHEDULE, "    - heartbeat\n", &format!("    - heartbeat\n{FURTHER}"));
    let test = tested(&site, &[], 0).await;
    assert_eq!(test["verdict"], "PASS", "without a fault it passes: {test}");
    for (name, told) in [
        ("page_checksums", "pages are sound"),
        ("full_read", "3 databases were read through"),
        ("stakes.sql", "sha256:"),
        ("select n from generate_series(1, 0) n", "no row"),
        ("select 0.10", "0.10"),
        ("rows of bets", "2150"),
    ] {
        let (verdict, actual) = check(&test, name);
        assert!(verdict == "PASS" && actual.contains(told), "{name}: {test}");
    }
    let timed = test["checks"].as_array().unwrap().iter().filter(|check| check["seconds"].is_f64()).count();
    assert!(timed >= 8 && test["phases"].to_string().contains("check_pages"), "{test}");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();

    let mut table = Table::default();
    site.edit(SCHEDULE, "expect: \"t\"", "expect: \"f\"");
    table.failed("a query with another answer", &tested(&site, &["--latest"], 1).await);
    site.edit(SCHEDULE, "expect: \"f\"", "expect: \"t\"");

    site.edit(SCHEDULE, FURTHER, FAILING);
    let test = tested(&site, &["--latest"], 1).await;
    for (name, verdict, told) in [
        ("select stake from bets", "FAIL", "2150 rows"),
        ("set work_mem = '4MB'", "FAIL", "none of its statements answers with rows"),
        ("rows of bets", "FAIL", "2150"),
        ("rows of stakes", "FAIL", "there is no such table"),
        ("gone.sql", "INCONCLUSIVE", "cannot be read"),
    ] {
        let found = check(&test, name);
        assert!(found.0 == verdict && found.1.contains(told), "{name}: {test}");
    }
    site.edit(SCHEDULE, FAILING, "");

    site.new_identity("stranger.age");
    site.edit("lifeboat.yaml", "{file: identity.age}", "{file: stranger.age}");
    let test = tested(&site, &["--latest"], 1).await;
    table.refused("another identity", "none of the given identities opens", &test);
    site.edit("lifeboat.yaml", "{file: stranger.age}", "{file: identity.age}");

    a_missing_object(&site, &mut table).await;
    stale_and_missing(&site, &mut table).await;
    in_the_source(&lab, &site, &mut table).await;
    a_flipped_page(&lab, &site, &mut table).await;
    table.assert_documented();
}

/// The vault lacks an object of its only backup, which is none any more; a verification
/// names the object.
async fn a_missing_object(site: &Site, table: &mut Table) {
    let part = site.files_in("vault").into_iter().find(|path| path.to_string_lossy().contains("/data/")).unwrap();
    moved(&part, site.path("part"));
    let test = tested(site, &[], 1).await;
    table.refused("a missing object of the only backup", "holds no backup of `wallet`", &test);
    let verified = site.run(&["vault", "verify", "wallet"]).await;
    assert!(
        verified.code == 1 && verified.stdout.contains(part.file_name().unwrap().to_str().unwrap()),
        "{verified:?}"
    );
    moved(site.path("part"), &part);
}

/// The vault lacks WAL: at its end, so that the newest heartbeats are lost, and in
/// the middle.
async fn stale_and_missing(site: &Site, table: &mut Table) {
    let mut wal = site.files_in("vault");
    wal.retain(|path| path.to_string_lossy().contains("/wal/0000"));
    wal.sort();
    let is_tail = |path: &PathBuf| path.to_string_lossy().contains(".tail.");
    let (tails, segments): (Vec<PathBuf>, Vec<PathBuf>) = wal.into_iter().partition(is_tail);
    for tail in &tails {
        fs::remove_file(tail).unwrap();
    }
    site.edit(SCHEDULE, "rpo: 15s", "rpo: 1s");
    let test = tested(site, &[], 1).await;
    assert!(test["lost_commits"].as_u64().unwrap() > 0, "{test}");
    table.failed("a vault without the newest heartbeats", &test);
    site.edit(SCHEDULE, "rpo: 1s", "rpo: 15s");

    fs::remove_file(&segments[segments.len() - 2]).unwrap();
    let test = tested(site, &[], 1).await;
    assert!(test["findings"].to_string().contains("WAL of timeline 1 from "), "{test}");
    table.refused("a missing segment", "is missing", &test);
}

/// What the source lost or spoiled before the backup, each seen by the one check that is made.
async fn in_the_source(lab: &Lab, site: &Site, table: &mut Table) {
    lab.psql_in("wallet", "DELETE FROM bets WHERE id <= 10").await;
    backed_up(site).await;
    set_checks(site, "    - {row_counts: {bets: 2150}, dbname: wallet}\n");
    let test = tested(site, &["--latest"], 1).await;
    assert_eq!(check(&test, "rows of bets").1, "2140");
    table.failed("lost rows", &test);

    // Values that lie outside of their rows, in a file that then is shorter by some.
    let documents = "CREATE TABLE documents (id int, body text) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off); \
                     ALTER TABLE documents ALTER body SET STORAGE EXTERNAL; \
                     INSERT INTO documents SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 50) n";
    lab.psql_in("wallet", documents).await;
    let toast = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'documents'";
    let file = file_of(lab, toast).await;
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(8192).unwrap();
    backed_up(site).await;
    set_checks(site, "    - full_read\n");
    let test = tested(site, &["--latest"], 1).await;
    assert!(check(&test, "full_read").1.contains("\"documents\" failed"), "{test}");
    table.failed("a table's file that is cut short", &test);
    lab.psql_in("wallet", "DROP TABLE documents").await;

    let players = "CREATE TABLE players (name text PRIMARY KEY) WITH (autovacuum_enabled = off); \
                   INSERT INTO players SELECT 'player ' || n FROM generate_series(1, 5000) n";
    lab.psql_in("wallet", players).await;
    let file = file_of(lab, "SELECT pg_relation_filepath('players_pkey')").await;
    flip(&file, 3);
    assert_eq!(site.run(&["backup", "wallet"]).await.json(1)["state"], "DEGRADED");
    set_checks(site, "    - amcheck\n");
    let test = tested(site, &["--latest"], 1).await;
    assert!(check(&test, "amcheck").1.contains("players_pkey"), "{test}");
    table.failed("a flipped page of an index", &test);
    lab.psql_in("wallet", "DROP TABLE players").await;
}

/// The file that a query names, once all is in it.
async fn file_of(lab: &Lab, sql: &str) -> PathBuf {
    lab.psql("CHECKPOINT").await;
    lab.cluster.data().join(lab.psql_in("wallet", sql).await)
}

fn flip(file: &Path, page: u64) {
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(b"flipped", 8192 * page + 4000).unwrap();
}

/// In a page of the primary's, before the backup.
async fn a_flipped_page(lab: &Lab, site: &Site, table: &mut Table) {
    lab.psql_in("wallet", "CREATE TABLE rotten AS SELECT generate_series(1, 10000) AS id").await;
    flip(&file_of(lab, "SELECT pg_relation_filepath('rotten')").await, 1);
    let backup = site.run(&["backup", "wallet"]).await.json(1);
    assert_eq!(backup["state"], "DEGRADED", "{backup}");
    set_checks(site, "    - page_checksums\n");
    table.failed("a flipped page", &tested(site, &["--latest"], 1).await);

    let sql = "select count(*) > 0 from rotten";
    let all = format!("    - page_checksums\n    - full_read\n    - {{sql: \"{sql}\", dbname: wallet, expect: t}}\n");
    set_checks(site, &all);
    let test = tested(site, &["--latest"], 1).await;
    assert_eq!(test["verdict"], "FAIL", "a flipped page: {test}");
    for (name, told) in [
        (sql, "the query failed"),
        ("page_checksums", "block 1 of base/"),
        ("full_read", "`wallet`: Dumping the contents of table \"rotten\" failed"),
    ] {
        let (verdict, actual) = check(&test, name);
        assert!(verdict == "FAIL" && actual.contains(told), "{name}: {test}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_sorted_otherwise_and_a_damaged_index_are_found_in_the_copy() {
    let icu = ["--locale-provider=icu", "--icu-locale=en"];
    let lab = wallet_in(Lab::start_with(15, &icu, "").await).await;
    let site = Site::write(lab.port);
    site.edit(SCHEDULE, "    - heartbeat\n", "    - amcheck\n");
    let players = "CREATE COLLATION german (provider = icu, locale = 'de'); \
                   CREATE TABLE players (name text COLLATE german PRIMARY KEY); \
                   INSERT INTO players SELECT 'player ' || n FROM generate_series(1, 500) n";
    lab.psql_in("wallet", players).await;
    // What a cluster looks like that comes from a machine with another ICU.
    lab.psql_in("wallet", "UPDATE pg_database SET datcollversion = '1.1' WHERE datname = 'wallet'").await;
    lab.psql_in("wallet", "UPDATE pg_collation SET collversion = '2.2' WHERE collname = 'german'").await;
    backed_up(&site).await;
    let test = tested(&site, &["--latest"], 3).await;
    let (verdict, actual) = check(&test, "collations");
    assert_eq!((&test["verdict"], verdict), (&json!("INCONCLUSIVE"), "INCONCLUSIVE"), "{test}");
    for told in ["`wallet` was sorted by version 1.1", "collation public.german of `wallet`", "2.2", "REFRESH VERSION"]
    {
        assert!(actual.contains(told), "{told}: {test}");
    }
    let (looked, told) = check(&test, "amcheck");
    assert!(looked == "PASS" && told.contains("indexes in 3 databases agree"), "{test}");
    assert!(!actual.contains("template1") && !actual.contains("`postgres`"), "{test}");

    lab.psql_in("wallet", "ALTER DATABASE wallet REFRESH COLLATION VERSION").await;
    lab.psql_in("wallet", "ALTER COLLATION german REFRESH VERSION").await;
    // A row that the index never learns of.
    for sql in [
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'players_pkey'::regclass",
        "INSERT INTO players VALUES ('player nobody finds')",
        "UPDATE pg_index SET indisready = true WHERE indexrelid = 'players_pkey'::regclass",
    ] {
        lab.psql_in("wallet", sql).await;
    }
    backed_up(&site).await;
    let test = tested(&site, &["--latest"], 1).await;
    let (verdict, actual) = check(&test, "amcheck");
    assert_eq!((&test["verdict"], verdict), (&json!("FAIL"), "FAIL"), "{test}");
    let (sorted, same) = check(&test, "collations");
    assert!(sorted == "PASS" && same.contains("which is the same here"), "{test}");
    let told = "`public.players_pkey` of `wallet` is damaged: heap tuple";
    assert!(actual.contains(told) && !test.to_string().contains("nobody finds"), "{test}");
    assert!(test["phases"].to_string().contains("check_indexes"), "{test}");
}
