//! Which recovery point a restore test takes: each algorithm restores its own, a
//! rotation takes them by turns, and what cannot be had is told.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lifeboat::{
    app::App,
    clock::Clock,
    domain::{Lsn, RecoveryAlgorithm, Segment, SegmentSize, Timeline, Verdict},
    flows::restore_test::{self, Point},
};
use serde_json::{Value, json};
use tokio::process::Child;

use super::{
    journey::{backed_up, bet, streaming},
    prune,
    site::{Site, wallet, wallet_on},
    streaming::caught_up,
};
use crate::support::{Lab, eventually, moved};

const SOON: Duration = Duration::from_secs(60);
const SCHEDULE: &str = "schedules/wallet.yaml";
/// Tells the rows of two instants apart.
const SUM: &str = "select sum(id * stake) from bets";
const TURNS: [&str; 6] =
    ["oldest", "increment_chain", "other_vault", "catalog_lost", "random_within_window", "latest_at_disaster"];

async fn sum(lab: &Lab) -> String {
    lab.psql_in("wallet", SUM).await
}

/// What was found by a check of a test, and its verdict.
#[track_caller]
fn check<'a>(test: &'a Value, name: &str) -> (&'a str, &'a str) {
    let check = test["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no check `{name}`: {test}"));
    (check["verdict"].as_str().unwrap(), check["actual"].as_str().unwrap())
}

async fn served(site: &Site) -> Child {
    let daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(site)).await;
    daemon
}

async fn killed(mut daemon: Child) {
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}

/// The sums at the oldest backup, behind the chain, and now.
async fn lived(lab: &Lab, site: &Site) -> [String; 3] {
    let increment = async || site.run(&["backup", "wallet", "--kind", "incremental"]).await.json(0);
    backed_up(site).await;
    let at_oldest = sum(lab).await;
    for stake in [11, 12] {
        bet(lab, stake).await;
        assert_eq!(increment().await["kind"], "incremental");
    }
    bet(lab, 13).await;
    let behind_chain = sum(lab).await;
    backed_up(site).await;
    bet(lab, 14).await;
    site.run(&["vault", "copy", "wallet"]).await.json(0);
    [at_oldest, behind_chain, sum(lab).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recovery_point_is_restored_in_its_turn() {
    let lab = wallet_on(18, "summarize_wal = on").await;
    let site = Site::write(lab.port);
    // Of no matter here, and not to be missed on a busy machine.
    site.edit(SCHEDULE, "rpo: 15s", "rpo: 15m");
    site.add_vault();
    let increments = "  - {kind: incremental, cron: \"0 3 29 2 *\"}\nwal:";
    site.edit(SCHEDULE, "wal:", increments);
    let rotation = format!("algorithm: rotate, of: [{}]", TURNS.join(", "));
    site.edit(SCHEDULE, "algorithm: latest_at_disaster", &rotation);
    let sums = format!("    - heartbeat\n    - {{sql: \"{SUM}\", dbname: wallet, min: 1, public: true}}\n");
    site.edit(SCHEDULE, "    - heartbeat\n", &sums);
    lab.psql_in("wallet", "INSERT INTO lifeboat.heartbeat VALUES (100000)").await;
    let [at_oldest, behind_chain, latest] = lived(&lab, &site).await;
    let mut daemon = served(&site).await;
    caught_up(&lab, &site).await;

    for (nth, algorithm) in TURNS.into_iter().enumerate() {
        if nth == 3 {
            killed(daemon).await;
            daemon = served(&site).await;
        }
        let test = site.run(&["restore-test", "wallet"]).await.json(0);
        let selection = &test["selection"];
        assert_eq!((&test["verdict"], &selection["algorithm"]), (&"PASS".into(), &algorithm.into()), "{test}");
        let tried = selection["turns"].as_array().unwrap().iter().filter(|turn| turn["last_at"].is_string()).count();
        assert_eq!((selection["turns"].as_array().unwrap().len(), tried), (TURNS.len(), nth), "{selection}");
        assert!(selection["choice"].is_string() && !selection["candidates"].as_array().unwrap().is_empty());
        assert_eq!(selection["vault"], if algorithm == "other_vault" { "dr" } else { "primary" });
        let is_drawn = matches!(algorithm, "other_vault" | "random_within_window" | "latest_at_disaster");
        assert_eq!(selection["seed"].is_string(), is_drawn, "{selection}");
        let measures = matches!(algorithm, "other_vault" | "latest_at_disaster");
        assert_eq!((test["rpo_seconds"].is_number(), test["lost_commits"].is_u64()), (measures, measures), "{test}");
        let expected = match algorithm {
            "oldest" => &at_oldest,
            "increment_chain" => &behind_chain,
            "random_within_window" => continue,
            _ => &latest,
        };
        assert_eq!(check(&test, SUM).1, expected, "{algorithm}: {test}");
        match algorithm {
            "increment_chain" => {
                let chosen = selection["candidates"][0].as_str().unwrap();
                assert!(chosen.contains("incr") && chosen.ends_with("(chain of 3)"), "{selection}");
                assert_eq!(selection["candidates_total"], 2, "{selection}");
            }
            "catalog_lost" => {
                for part in ["rebuilt_vault", "rebuilt_evidence", "rebuilt_backups"] {
                    assert_eq!(check(&test, part).0, "PASS", "{test}");
                }
            }
            _ => {}
        }
    }
    let status = site.get_json("/api/v1/status").await;
    let points = status["databases"][0]["recovery_points"].as_array().unwrap();
    assert_eq!(points.iter().map(|point| point["algorithm"].as_str().unwrap()).collect::<Vec<_>>(), TURNS);
    assert!(points.iter().all(|point| point["proven_at"].is_string()), "{status}");
    assert!(site.shown(&["status"]).await.contains("next: oldest"));
    let csv = site.run(&["report", "--format", "csv"]).await.stdout;
    assert!(TURNS.iter().all(|algorithm| csv.contains(&format!(",{algorithm}\r\n"))), "{csv}");
    killed(daemon).await;
    other_vault_lacks_wal(&site).await;
}

/// A vault whose WAL is gone is told, until a test of that vault passes; what other
/// tests restore is no answer to it.
async fn other_vault_lacks_wal(site: &Site) {
    let backups = site.run(&["backups", "wallet"]).await.json(0);
    let begun = backups.as_array().unwrap().iter().map(|backup| backup["start_lsn"].as_str().unwrap().parse::<Lsn>());
    let newest = begun.map(Result::unwrap).max().unwrap();
    // The WAL behind it is there: it is a gap, not an earlier end.
    let segment = Segment::holding(Timeline(1), newest, SegmentSize::DEFAULT).file_name(SegmentSize::DEFAULT);
    let of_segment = |path: &PathBuf| path.to_string_lossy().contains(&segment);
    let files: Vec<PathBuf> = site.files_in("dr").into_iter().filter(of_segment).collect();
    assert!(!files.is_empty(), "{segment}");
    for file in files {
        std::fs::remove_file(file).unwrap();
    }
    let test = site.run(&["restore-test", "wallet", "--point", "other_vault"]).await.json(1);
    assert!(test["findings"].to_string().contains("is missing"), "{test}");
    assert_eq!(test["selection"]["vault"], "dr", "it had its turn: {test}");
    let oldest = site.run(&["restore-test", "wallet", "--point", "oldest"]).await.json(0);
    assert_eq!(oldest["selection"]["turns"], Value::Null, "nothing alternates: {oldest}");
    let findings = site.run(&["findings"]).await.json(1);
    assert!(findings.to_string().contains("the last restore test of `other_vault` ended ERROR"), "{findings}");
    let shown = site.shown(&["status"]).await;
    assert!(shown.contains("other_vault") && shown.contains("(ERROR"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_nothing_of_is_told_with_its_remedy() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    // Of no matter here, and not to be missed on a busy machine.
    site.edit(SCHEDULE, "rpo: 15s", "rpo: 15m");
    site.edit(SCHEDULE, "    - heartbeat\n", "");
    backed_up(&site).await;
    let with = async |args: &[&str]| site.run(&[&["restore-test", "wallet"][..], args].concat()).await;
    let test = with(&["--point", "increment_chain"]).await.json(3);
    let (verdict, actual) = check(&test, "recovery_point");
    assert!(verdict == "INCONCLUSIVE" && actual.contains("--kind incremental"), "{test}");
    assert!(test["findings"][0].as_str().unwrap().contains("--kind incremental"), "{test}");
    assert_eq!((&test["selection"]["choice"], &test["restore_seconds"]), (&Value::Null, &Value::Null));
    assert_eq!(std::fs::read_dir(site.path("scratch")).unwrap().count(), 0);

    with(&["--point", "other_vault"]).await.refused(2, &["`wallet` has one vault", "under `vaults`"]);
    for (args, word) in
        [(["--point", "oldst"], "catalog_lost"), (["--point=oldest", "--latest"], "cannot be used with")]
    {
        let ran = with(&args).await;
        assert!(ran.code == 2 && ran.stderr.contains(word), "{ran:?}");
    }

    // A vault that is new to the schedule has nothing yet.
    site.add_vault();
    let test = with(&["--point", "other_vault"]).await.json(1);
    let (verdict, actual) = check(&test, "recovery_point");
    assert!(verdict == "FAIL" && actual.contains("lifeboat vault copy wallet"), "{test}");
    let findings = site.run(&["findings"]).await;
    assert!(findings.code == 1 && findings.stdout.contains("vault copy wallet"), "{findings:?}");
    // A test of something else is no answer to it.
    let test = with(&["--point", "oldest"]).await.json(0);
    assert_eq!((&test["rpo_seconds"], &test["target_error_seconds"]), (&Value::Null, &Value::Null), "{test}");
    site.edit(SCHEDULE, "latest_at_disaster", "rotate, of: [latest_at_disaster, other_vault]");
    with(&["--point", "oldest"]).await.json(0);
    assert!(site.run(&["findings"]).await.stdout.contains("vault copy wallet"));
    // Nobody acknowledged a heartbeat: it is restored, and its RPO is not known.
    site.run(&["vault", "copy", "wallet"]).await.json(0);
    let test = with(&["--point", "other_vault"]).await.json(3);
    assert_eq!((&test["selection"]["vault"], check(&test, "heartbeat").0), (&"dr".into(), "INCONCLUSIVE"), "{test}");
    assert!(test["restore_seconds"].is_number());
}

/// Drives a test in this process, where nothing mends the vault before.
async fn tested(app: &Arc<App>, algorithm: RecoveryAlgorithm) -> (Verdict, Value) {
    let params = restore_test::Params { database: prune::name(), point: Point::By(algorithm), due_at: None };
    let conclusion = prune::drive(app, restore_test::NAME, &params).await.conclusion.unwrap();
    (conclusion.verdict, conclusion.output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_database_comes_back_as_it_was_or_the_difference_is_named() {
    let (lab, site) = prune::estate().await;
    let app = prune::open(&site, Clock::system()).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        prune::live(&lab).await;
        taken.push(prune::back_up(&app, false).await);
    }
    let (verdict, pruned) = prune::pruned(&app).await;
    assert_eq!((verdict, &pruned["plan"]["expire"]["backups"]), (Verdict::Pass, &json!([taken[2]])), "{pruned:#}");
    let lost = async || tested(&app, RecoveryAlgorithm::CatalogLost).await;
    let (verdict, first) = lost().await;
    assert_eq!(verdict, Verdict::Pass, "what was pruned is no difference: {first:#}");
    assert_eq!(check(&first, "rebuilt_evidence").1, "5 entries");
    assert_eq!(check(&first, "rebuilt_backups").1, "3 backups, 0 PROVEN, 0 heartbeats");
    let (verdict, second) = lost().await;
    assert_eq!(verdict, Verdict::Pass, "{second:#}");
    assert_eq!(check(&second, "rebuilt_backups").1, "3 backups, 1 PROVEN, 0 heartbeats");

    let files = |part: &str| -> Vec<PathBuf> {
        site.files_in("vault").into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
    };
    let run = first["run_id"].as_str().unwrap().replace('/', "_");
    let folder = files(&format!("/backups/{}/", taken[1]))[0].parent().unwrap().to_owned();
    let folder = folder.ancestors().find(|path| path.ends_with(taken[1].as_str())).unwrap().to_owned();
    let entry = site.path("vault/evidence/00000001.json");
    let proof = files(&format!("/proofs/{}/{run}.json", taken[3]));
    assert_eq!(proof.len(), 2, "with its signature: {proof:?}");
    for (planted, part, words) in [
        (proof[0].clone(), "rebuilt_backups", "the proof of backup"),
        (proof[1].clone(), "rebuilt_backups", "the proof of backup"),
        (folder, "rebuilt_backups", "and no prune removed it"),
        (entry.clone(), "rebuilt_evidence", "entry 1 is missing"),
    ] {
        moved(planted.clone(), site.path("away"));
        let (verdict, told) = lost().await;
        let (found, actual) = check(&told, part);
        assert!(verdict == Verdict::Fail && found == "FAIL" && actual.contains(words), "{words}: {told:#}");
        moved(site.path("away"), planted);
    }
    let sound = std::fs::read_to_string(&entry).unwrap();
    std::fs::write(&entry, sound.replace("\"PASS\"", "\"FAIL\"")).unwrap();
    let (verdict, told) = lost().await;
    assert!(verdict == Verdict::Fail && check(&told, "rebuilt_evidence").1.contains("entry 1"), "{told:#}");
    std::fs::write(&entry, sound).unwrap();
    let (verdict, mended) = lost().await;
    assert_eq!(verdict, Verdict::Pass, "{mended:#}");

    // The oldest that is kept, and what expires is none of them.
    let (verdict, oldest) = tested(&app, RecoveryAlgorithm::Oldest).await;
    assert_eq!((verdict, &oldest["selection"]["choice"]), (Verdict::Pass, &json!(taken[0])), "{oldest:#}");
    assert_eq!(oldest["selection"]["candidates"], json!([taken[0], taken[1], taken[3]]));
    app.runner.shut_down().await;
}
