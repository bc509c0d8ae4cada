//! Expiry on a real database: what is kept is restored afterwards, what is not
//! kept is refused with a clear error, and in doubt nothing goes.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    db::heartbeats,
    domain::{
        BackupId, BackupKind, BackupState, Beat, DatabaseName, Lsn, Opener, RunId, Segment, SegmentSize, Timeline,
        Verdict,
    },
    flow::{NewRun, RunSummary},
    flows::{backup, prune, restore, restore_test, retention},
    tasks,
    vault::{self, Inventory, Proof},
};
use serde_json::Value;

use super::{
    journey::{bet, restored},
    site::{DIGEST, Site, wallet},
};
use crate::support::Lab;

const LINES: &str = r#"  - {kind: full, cron: "0 2 29 2 *", keep: {daily: 1}}
  - {kind: full, cron: "0 3 29 2 *", standalone: true, keep: {yearly: 1}}
"#;

pub(super) fn name() -> DatabaseName {
    "wallet".parse().unwrap()
}

/// A site whose schedule keeps little beyond a window that is still to be set.
pub(super) async fn estate() -> (Lab, Site) {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let schedule = site.text("schedules/wallet.yaml");
    let line = schedule.lines().find(|line| line.contains("kind: full")).unwrap().to_owned() + "\n";
    site.edit("schedules/wallet.yaml", &line, LINES);
    set_window(&site, "31d", "1h");
    // Nobody writes heartbeats here.
    site.edit("schedules/wallet.yaml", "    - heartbeat\n", "");
    (lab, site)
}

pub(super) fn set_window(site: &Site, from: &str, to: &str) {
    site.edit("schedules/wallet.yaml", &format!("window: {from}"), &format!("window: {to}"));
}

pub(super) async fn open(site: &Site, clock: Clock) -> Arc<App> {
    App::open(config::load(&site.path("lifeboat.yaml")).unwrap(), clock, Role::WithoutDns).await.unwrap()
}

pub(super) async fn drive(app: &Arc<App>, flow: &str, params: &impl serde::Serialize) -> RunSummary {
    // As the commands name their runs.
    let kind = if flow == prune::NAME { "primary" } else { "manual" };
    let id = RunId::new(flow, "wallet", kind, &app.stamp());
    app.runner.submit(NewRun::new(id.clone(), name(), params, "tester").unwrap()).await.unwrap();
    app.runner.drive(&id).await.unwrap()
}

pub(super) async fn back_up(app: &Arc<App>, standalone: bool) -> BackupId {
    let params = backup::Params {
        database: name(),
        kind: BackupKind::Full,
        standalone,
        manner: backup::Manner::default(),
        due_at: None,
    };
    let run = drive(app, backup::NAME, &params).await;
    let conclusion = run.conclusion.unwrap();
    assert_eq!(conclusion.verdict, Verdict::Pass, "{conclusion:?}");
    conclusion.output["id"].as_str().unwrap().parse().unwrap()
}

pub(super) async fn pruned(app: &Arc<App>) -> (Verdict, Value) {
    let params = prune::Params { database: name(), vault: "primary".parse().unwrap(), due_at: None, expected: None };
    let conclusion = drive(app, prune::NAME, &params).await.conclusion.unwrap();
    (conclusion.verdict, conclusion.output)
}

pub(super) async fn held(app: &App) -> Inventory {
    let database = app.database(&name()).unwrap();
    restore::newest(database, database.vault(None).unwrap()).await.unwrap()
}

async fn ids(app: &App) -> Vec<BackupId> {
    held(app).await.catalog.entries.into_iter().map(|entry| entry.manifest.backup).collect()
}

async fn digest(lab: &Lab) -> String {
    lab.psql_in("wallet", DIGEST).await
}

/// More than a segment of WAL, so that backups do not share one.
pub(super) async fn live(lab: &Lab) {
    bet(lab, 10).await;
    lab.psql("SELECT pg_switch_wal()").await;
    bet(lab, 20).await;
}

pub(super) fn count_of(value: &Value, path: &str) -> usize {
    value.pointer(path).and_then(Value::as_array).unwrap_or_else(|| panic!("{path} in {value:#}")).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_restored_after_a_prune_and_the_rest_is_refused() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    let mut taken = Vec::new();
    for nth in 0..5 {
        live(&lab).await;
        taken.push((back_up(&app, nth == 1).await, String::new(), Timestamp::MIN));
        let stood = (digest(&lab).await, app.clock.now());
        (taken[nth].1, taken[nth].2) = stood;
        bet(&lab, 30).await;
    }
    let latest = digest_at_latest(&lab, &app).await;
    // The window begins between the third backup and what was written after it.
    let now = app.clock.now();
    let finished_at = held(&app).await.catalog.find(&taken[3].0).unwrap().manifest.finished_at;
    let window = now.duration_since(finished_at).as_millis() - 1;
    assert!(taken[3].2 > finished_at);
    app.runner.shut_down().await;
    set_window(&site, "1h", &format!("{window}ms"));
    let orphan = leave_orphan(&site);

    let app = open(&site, Clock::held_at(now)).await;
    let (verdict, output) = pruned(&app).await;
    assert_eq!(verdict, Verdict::Pass, "{output:#}");
    let kept: Vec<BackupId> =
        [1, 3, 4, 5].map(|nth: usize| taken.get(nth).map(|taken| taken.0.clone())).into_iter().flatten().collect();
    let mut left = ids(&app).await;
    assert_eq!(left.pop(), Some(latest.0.clone()));
    assert_eq!(left, kept, "{output:#}");
    assert!(!orphan.exists() && count_of(&output, "/plan/expire/uploads") == 1);
    assert!(count_of(&output, "/plan/expire/segments") >= 2, "before and behind the standalone backup: {output:#}");
    assert!(held(&app).await.catalog.entries.iter().all(|entry| entry.state >= BackupState::WalComplete));
    let record = app.resources.evidence.get(output["run_id"].as_str().unwrap()).await.unwrap().unwrap().record;
    assert_eq!((record.kind.as_str(), record.verdict), ("prune", Verdict::Pass));
    assert!(record.checks.iter().any(|check| check.name == format!("expired {}", taken[0].0)), "{record:#?}");
    // Nothing is left to go.
    let (verdict, output) = pruned(&app).await;
    assert_eq!((verdict, output["deleted"]["objects"].as_u64()), (Verdict::Pass, Some(0)), "{output:#}");
    app.runner.shut_down().await;

    lab.cluster.stop("fast").await.unwrap();
    let of = |nth: usize| (taken[nth].0.to_string(), taken[nth].2.to_string(), taken[nth].1.clone());
    let (standalone, in_window) = (of(1), of(3));
    tokio::join!(
        restored(&lab, &site, "standalone", ["--immediate", "--backup", &standalone.0], &standalone.2),
        restored(&lab, &site, "in the window", ["--at", &in_window.1], &in_window.2),
        restored(&lab, &site, "latest", ["--latest"], &latest.1),
    );
    let to = site.path("refused");
    let try_at = async |at: &str| site.run(&["restore", "wallet", "--to", to.to_str().unwrap(), "--at", at]).await;
    try_at(&of(2).1)
        .await
        .refused(1, &["WAL of timeline 1", "is missing", &standalone.0, "choose a point before the gap"]);
    try_at(&of(0).1).await.refused(2, &["no backup was complete before", &standalone.0]);
    assert!(!to.exists());
}

/// Another backup brings all that was written so far into the vault.
async fn digest_at_latest(lab: &Lab, app: &Arc<App>) -> (BackupId, String) {
    let rows = digest(lab).await;
    (back_up(app, false).await, rows)
}

/// What a crash left of an upload years ago.
fn leave_orphan(site: &Site) -> std::path::PathBuf {
    let backups = site
        .files_in("vault")
        .iter()
        .find_map(|path| path.ancestors().find(|folder| folder.ends_with("backups")).map(std::path::Path::to_path_buf))
        .unwrap();
    let orphan = backups.join("20200101t000000z-full-dead/data/00000.tar.zst.age");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "age-encryption.org/v1\n").unwrap();
    orphan
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_its_plan_and_runs_exactly_it() {
    let (lab, site) = estate().await;
    let none = site.run(&["vault", "prune"]).await.json(0);
    assert_eq!(none[0]["plan"], Value::Null, "no backup yet");
    let app = open(&site, Clock::system()).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
    }
    // The oldest restores the window, the next one stands by, the newest is the day's.
    let shown = site.run(&["vault", "prune", "wallet", "--vault", "primary"]).await.json(0);
    assert_eq!(shown[0]["plan"]["expire"]["backups"], serde_json::json!([taken[2]]), "{shown:#}");
    assert_eq!(count_of(&shown, "/0/plan/keep"), 3);
    assert_eq!(ids(&app).await, taken, "nothing goes by being shown");
    let planned = site.run(&["plan"]).await.json(0);
    assert_eq!(planned["expires"][0]["plan"]["expire"], shown[0]["plan"]["expire"], "{planned:#}");
    let text = site.shown(&["vault", "prune"]).await;
    for words in [
        " UTC stays restorable",
        "restores the window of WAL",
        "daily: newest of",
        &format!("goes: backup {}", taken[2]),
        "--yes --plan ",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    site.run(&["vault", "prune", "walet"]).await.refused(2, &["`walet`", "there are: wallet"]);
    site.run(&["vault", "prune", "--vault", "elsewhere"]).await.refused(2, &["elsewhere"]);

    // Another backup is another plan.
    let digest = shown[0]["digest"].as_str().unwrap().to_owned();
    live(&lab).await;
    taken.push(back_up(&app, false).await);
    let ran = site.run(&["vault", "prune", "wallet", "--vault", "primary", "--yes", "--plan", &digest]).await;
    ran.refused(1, &["the plan changed", &digest, "nothing was deleted"]);
    assert_eq!(ids(&app).await, taken);

    // The last PROVEN backup would go by every rule.
    let params = restore_test::Params {
        database: name(),
        point: restore_test::Point::Asked(lifeboat::domain::RecoveryTarget::Immediate),
        due_at: None,
    };
    let tested = drive(&app, restore_test::NAME, &params).await.conclusion.unwrap();
    let proven = ids_proven(&app).await;
    assert_eq!(proven, [taken[4].clone()], "{tested:?}");
    for _ in 0..2 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
    }

    a_damaged_vault_is_refused(&site, &app, &taken[1]).await;

    let ran = site.run(&["vault", "prune", "--yes"]).await.json(0);
    assert_eq!(ran[0]["run"]["verdict"], "PASS", "{ran:#}");
    let kept = [0, 1, 4, 6].map(|nth: usize| taken[nth].clone());
    assert_eq!(ids(&app).await, kept, "{ran:#}");
    assert_eq!(ids_proven(&app).await, proven, "the last PROVEN backup stays");
    let verified = site.run(&["evidence", "verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    the_task_submits_what_goes(&lab, &app).await;
    app.runner.shut_down().await;
}

async fn ids_proven(app: &App) -> Vec<BackupId> {
    let entries = held(app).await.catalog.entries;
    entries.into_iter().filter(|entry| entry.proof.is_some()).map(|entry| entry.manifest.backup).collect()
}

pub(super) async fn findings(app: &App) -> String {
    let open = lifeboat::db::findings::open_findings(&app.resources.db).await.unwrap();
    open.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("\n")
}

/// A part of a backup is gone: what else is wrong nobody knows.
async fn a_damaged_vault_is_refused(site: &Site, app: &Arc<App>, backup: &BackupId) {
    let part = site
        .files_in("vault")
        .into_iter()
        .find(|path| path.to_string_lossy().contains(&format!("{backup}/data/00000")));
    let part = part.unwrap();
    let aside = site.path("aside");
    std::fs::copy(&part, &aside).unwrap();
    std::fs::remove_file(&part).unwrap();
    let refused = site.run(&["vault", "prune", "--yes"]).await.json(1);
    let why = refused[0]["plan"]["refusals"].to_string();
    assert!(why.contains("data/00000.tar.zst.age") && refused[0]["run"].is_null(), "{refused:#}");
    tasks::prune::Pruner::new(app).look_at_all().await;
    assert!(findings(app).await.contains("nothing expires: vault `primary`"));
    std::fs::copy(&aside, &part).unwrap();
}

/// After another backup something goes; two nodes submit one run.
async fn the_task_submits_what_goes(lab: &Lab, app: &Arc<App>) {
    live(lab).await;
    back_up(app, false).await;
    let before = app.runner.list(100).await.unwrap().len();
    let (mut one, mut other) = (tasks::prune::Pruner::new(app), tasks::prune::Pruner::new(app));
    one.look_at_all().await;
    other.look_at_all().await;
    one.look_at_all().await;
    assert_eq!(findings(app).await, "");
    let runs = app.runner.list(100).await.unwrap();
    assert_eq!(runs.len(), before + 1, "{runs:#?}");
    let id = &runs[0].run_id;
    let day = app.clock.now().strftime("%Y-%m-%d").to_string();
    assert_eq!(id.as_str(), format!("prune/wallet/primary/{day}"));
    assert_eq!(app.runner.drive(id).await.unwrap().conclusion.unwrap().verdict, Verdict::Pass);
}

/// Tails of whole segments go once they are old; those of the open one stay.
#[tokio::test(flavor = "multi_thread")]
async fn superseded_tails_are_swept() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    live(&lab).await;
    back_up(&app, false).await;
    live(&lab).await;
    back_up(&app, false).await;
    let database = app.database(&name()).unwrap();
    let primary = database.vault(None).unwrap();
    let (listing, bytes) = (held(&app).await.listing, SegmentSize::DEFAULT);
    let coverage = listing.coverage(bytes);
    let wholes: Vec<Segment> = coverage.wholes().collect();
    let layout = listing.layout();
    let open = wholes.last().unwrap().next();
    for segment in wholes.iter().chain([&open]) {
        let tail = site.path("vault").join(layout.tail(*segment, bytes, 0, 4096).as_str());
        // As long as something sealed is at least.
        std::fs::write(tail, format!("age-encryption.org/v1\n{}", "-".repeat(200))).unwrap();
    }
    let stored = async || restore::newest(database, primary).await.unwrap().listing.coverage(bytes).tails().count();
    let all = stored().await;
    assert_eq!(tasks::tails::sweep(&app, database, primary).await.unwrap(), 0, "nobody knows how old they are");
    let beat = |seq, ago: i64, lsn: Lsn| Beat {
        seq,
        acknowledged_at: app.clock.now() - SignedDuration::from_mins(ago),
        commit_lsn: lsn,
        timeline: Timeline(1),
    };
    let beats = [beat(1, 61, wholes[0].end(bytes)), beat(2, 1, Lsn(u64::MAX >> 1))];
    heartbeats::append(&app.resources.db, &name(), &beats).await.unwrap();
    let swept = tasks::tails::sweep(&app, database, primary).await.unwrap();
    assert!(swept >= 1 && stored().await == all - swept);
    heartbeats::append(&app.resources.db, &name(), &[beat(3, 60, wholes[wholes.len() - 1].end(bytes))]).await.unwrap();
    tasks::tails::sweep(&app, database, primary).await.unwrap();
    let left = restore::newest(database, primary).await.unwrap().listing.coverage(bytes);
    assert!(left.tails().count() > 0 && left.tails().all(|(segment, ..)| segment == open), "{left:?}");
    assert_eq!(left.wholes().collect::<Vec<_>>(), wholes);
    app.runner.shut_down().await;
}

/// A proof counts wherever it lies; where a vault cannot be read, nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_vault_proves_stays_here_too() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    let mut taken = Vec::new();
    for _ in 0..5 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
    }
    let database = app.database(&name()).unwrap();
    let found = held(&app).await;
    let proof = Proof {
        backup: taken[3].clone(),
        manifest_sha256: found.catalog.find(&taken[3]).unwrap().manifest_sha256.clone(),
        run: RunId::from("restore_test/wallet/manual/1".to_owned()),
        proven_at: app.clock.now(),
        opener: Opener::Node,
        opened_by: Vec::new(),
    };
    for path in site.files_in("vault") {
        let copy = site.path("copy").join(path.strip_prefix(site.path("vault")).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&path, copy).unwrap();
    }
    // Proven after it was copied: the copy holds no proof.
    let store = &database.vault(None).unwrap().store;
    vault::put_proof(store.as_ref(), found.listing.layout(), &proof, &app.signer).await.unwrap();
    app.runner.shut_down().await;

    let second = "  copy: {kind: directory, path: copy, region: eu-south-1}\napi:";
    site.edit("lifeboat.yaml", "api:", second);
    site.edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [primary, copy]");
    // What was read back was read from the other vault: here it stands for nothing yet.
    let unread = site.run(&["vault", "prune", "wallet", "--vault", "copy"]).await.json(0);
    assert_eq!(unread[0]["plan"]["expire"]["backups"], serde_json::json!([]), "{unread:#}");
    let read = site.run(&["vault", "verify", "wallet", "--vault", "copy", "--sample", "1%", "--record"]).await;
    assert_eq!(read.code, 0, "{read:?}");
    for name in ["copy", "primary"] {
        let shown = site.run(&["vault", "prune", "wallet", "--vault", name]).await.json(0);
        assert_eq!(shown[0]["plan"]["expire"]["backups"], serde_json::json!([taken[2]]), "{name}: {shown:#}");
    }
    // One vault has let go what the other still holds: neither needs it.
    site.run(&["vault", "prune", "wallet", "--vault", "copy", "--yes"]).await.json(0);
    let app = open(&site, Clock::system()).await;
    let database = app.database(&name()).unwrap();
    let memory = retention::Memory::default();
    let survey = retention::survey(database, database.vault(None).unwrap(), &memory, &[], app.clock.now()).await;
    let survey = survey.unwrap().unwrap();
    let (copied, held_in) = (site.path("copy"), survey.layout.clone());
    let (there, gone): (Vec<_>, Vec<_>) = survey.listing.keys().partition(|key| copied.join(key.as_str()).exists());
    assert!(
        gone.len() > 8 && gone.iter().all(|key| !survey.needs(key) || key.as_str().contains("/proofs/")),
        "{gone:?}"
    );
    assert!(there.iter().all(|key| survey.needs(key)), "{there:?}");
    app.runner.shut_down().await;
    // Nor is it brought back; the proof, which stays, is copied.
    site.run(&["vault", "copy", "wallet", "--to", "copy"]).await.json(0);
    let backup = format!("copy/{}", held_in.backup_prefix(&taken[2]));
    assert_eq!(site.files_in(&backup), Vec::<std::path::PathBuf>::new());
    assert!(there.iter().chain(&gone).filter(|key| survey.needs(key)).all(|key| copied.join(key.as_str()).exists()));
    site.edit("lifeboat.yaml", "path: copy,", "path: lifeboat.yaml,");
    let shown = site.run(&["vault", "prune", "wallet", "--vault", "primary", "--yes"]).await.json(1);
    let why = shown[0]["plan"]["refusals"].to_string();
    assert!(
        why.contains("vault `copy` cannot be read") && why.contains("is it mounted?") && shown[0]["run"].is_null(),
        "{shown:#}"
    );
}

/// What a verification found damaged replaces no other backup until it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_lets_nothing_go_in_its_place() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
    }
    app.runner.shut_down().await;
    let shown = async || site.run(&["vault", "prune", "wallet"]).await.json(0)[0]["plan"].clone();
    // The oldest restores the window, the next one will, the newest is the day's.
    assert_eq!(shown().await["expire"]["backups"], serde_json::json!([taken[2]]));
    let name = format!("{}/data/00000.tar.zst.age", taken[1]);
    let part = site.files_in("vault").into_iter().find(|path| path.ends_with(&name)).unwrap();
    let sound = std::fs::read(&part).unwrap();
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&part, flipped).unwrap();
    let verify = ["vault", "verify", "wallet", "--full", "--record"];
    site.run(&verify).await.json(1);
    let plan = shown().await;
    assert_eq!((&plan["expire"]["backups"], &plan["refusals"]), (&serde_json::json!([]), &serde_json::json!([])));
    let why = |backup: &BackupId| {
        let kept = plan["keep"].as_array().unwrap().iter().find(|kept| kept["backup"] == backup.as_str());
        kept.unwrap_or_else(|| panic!("{backup} is not kept: {plan:#}"))["reasons"].to_string()
    };
    assert!(why(&taken[2]).contains("window_next"), "{plan:#}");
    assert!(why(&taken[1]).contains("unsound"), "{plan:#}");
    let text = site.shown(&["vault", "prune"]).await;
    assert!(text.contains("not sound, within the window"), "{text}");
    // Mended and read again, it stands for others as before.
    std::fs::write(&part, sound).unwrap();
    site.run(&verify).await.json(0);
    assert_eq!(shown().await["expire"]["backups"], serde_json::json!([taken[2]]));
}
