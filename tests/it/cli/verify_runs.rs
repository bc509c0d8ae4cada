//! Verifications of a vault that was pruned, of a run that comes late, and on a
//! node that can open nothing.

use std::path::PathBuf;

use jiff::SignedDuration;
use lifeboat::{
    app::App,
    clock::Clock,
    domain::{Beat, Lsn, Segment, Verdict},
    flows::verify::{self, Asked},
    vault::ledger,
};
use serde_json::{Value, json};

use super::{
    prune::{back_up, count_of, drive, estate, findings, held, live, name, open, pruned, set_window},
    site::Site,
};

/// Takes a file away and answers what brings it back.
fn take_away(path: PathBuf) -> impl FnOnce() {
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    move || std::fs::write(path, bytes).unwrap()
}

async fn newest_segment(app: &App, site: &Site) -> PathBuf {
    let held = held(app).await;
    let manifest = &held.catalog.entries.last().unwrap().manifest;
    let segment = Segment::holding(manifest.timeline, manifest.start_lsn, manifest.segment_size);
    site.path("vault").join(held.listing.layout().segment(segment, manifest.segment_size).as_str())
}

/// As a run; `late` is how long ago it was due.
async fn verified(app: &std::sync::Arc<App>, late: SignedDuration) -> (Verdict, Value) {
    let due_at = Some(app.clock.now() - late);
    let params = verify::Params { database: name(), vault: "primary".parse().unwrap(), depth: Asked::Full, due_at };
    let conclusion = drive(app, verify::NAME, &params).await.conclusion.unwrap();
    (conclusion.verdict, conclusion.output)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_no_gap_and_what_is_lost_is() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    for nth in 0..4 {
        live(&lab).await;
        back_up(&app, nth == 0).await;
    }
    app.runner.shut_down().await;
    // The window holds the newest backup and nothing before it.
    set_window(&site, "1h", "1ms");
    let app = open(&site, Clock::system()).await;
    let (verdict, output) = pruned(&app).await;
    assert_eq!(verdict, Verdict::Pass, "{output:#}");
    assert_eq!(count_of(&output, "/plan/expire/backups"), 2, "{output:#}");
    assert!(count_of(&output, "/plan/expire/segments") >= 1, "behind the standalone backup: {output:#}");
    for args in [&["vault", "verify", "wallet"][..], &["vault", "verify", "wallet", "--quick"]] {
        let found = site.run(args).await.json(0);
        assert_eq!((&found["reports"][0]["defects"], &found["reports"][0]["notes"]), (&json!([]), &json!([])));
    }
    let (verdict, output) = verified(&app, SignedDuration::ZERO).await;
    assert_eq!(verdict, Verdict::Pass, "{output:#}");

    let segment = newest_segment(&app, &site).await;
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    app.runner.shut_down().await;
    // An hour later nothing is still on its way.
    let app = open(&site, Clock::held_at(app.clock.now() + SignedDuration::from_hours(1))).await;
    let bring_back = take_away(segment);
    let (verdict, output) = verified(&app, SignedDuration::ZERO).await;
    assert_eq!(verdict, Verdict::Fail, "{output:#}");
    let told: Vec<&str> = output["findings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let [gap] = &told[..] else { panic!("{output:#}") };
    assert!(gap.contains(&name) && gap.contains("(1 segment)"), "{gap}");
    // Without it retention would fall back to the other backup, whose WAL has expired.
    assert!(output["checks"].to_string().contains("may have expired"), "{output:#}");
    assert!(findings(&app).await.contains(&name));
    bring_back();
    let (verdict, output) = verified(&app, SignedDuration::ZERO).await;
    assert_eq!((verdict, findings(&app).await.as_str()), (Verdict::Pass, ""), "{output:#}");
    app.runner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_run_judges_by_the_clock_and_closes_only_what_it_opened() {
    let (lab, site) = estate().await;
    let app = open(&site, Clock::system()).await;
    live(&lab).await;
    back_up(&app, false).await;
    let hours = SignedDuration::from_hours;
    assert_eq!(verified(&app, hours(3)).await.0, Verdict::Pass);

    // The stream has been dead for an hour, since the run fell due.
    let (database, layout) = (app.database(&name()).unwrap(), held(&app).await.listing.layout().clone());
    let timeline = held(&app).await.catalog.entries[0].manifest.timeline;
    let beat = Beat { seq: 1, acknowledged_at: app.clock.now() - hours(1), commit_lsn: Lsn(u64::MAX >> 1), timeline };
    let store = &database.vault(None).unwrap().store;
    ledger::append(store.as_ref(), &layout, &database.keys.recipients, &[beat]).await.unwrap();
    let (verdict, output) = verified(&app, hours(3)).await;
    assert_eq!(verdict, Verdict::Fail, "{output:#}");
    assert!(findings(&app).await.contains("a commit at"), "{output:#}");
    // Without an identity nobody hears of it, and nobody says that it is over.
    let segment = newest_segment(&app, &site).await;
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let part = site.files_in("vault").into_iter().find(|path| path.ends_with("data/00000.tar.zst.age")).unwrap();
    let whole = std::fs::read(&part).unwrap();
    std::fs::write(&part, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(verified(&app, hours(0)).await.0, Verdict::Fail);
    let told = findings(&app).await;
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(told.contains("a commit at") && told.contains(name) && told.contains("data/00000.tar.zst.age"), "{told}");
    std::fs::write(&part, &whole).unwrap();
    app.runner.shut_down().await;

    // Nothing is restored here any more.
    let schedule = site.text("schedules/wallet.yaml");
    site.put("schedules/wallet.yaml", schedule.split("restore_test:").next().unwrap());
    site.edit("lifeboat.yaml", "  identity: {file: identity.age}\n", "");
    let app = open(&site, Clock::system()).await;
    let (verdict, output) = verified(&app, hours(0)).await;
    assert_eq!(verdict, Verdict::Inconclusive, "{output:#}");
    let told = findings(&app).await;
    assert!(told.contains("a commit at") && told.contains(name), "not opened, so not closed: {told}");
    assert!(!told.contains("data/00000.tar.zst.age"), "its size is right again: {told}");
    app.runner.shut_down().await;
}
