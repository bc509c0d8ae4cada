//! Expiry where objects are locked by a real store: what no rule keeps is not
//! locked anew, goes when its lock has ended and not before, and no vault brings
//! back what another has let go.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    clock::Clock,
    decide::retention::Reason,
    domain::{BackupId, RunId, VaultName, Verdict},
    flow::NewRun,
    flows::{Vault, copy, locks, prune, restore, retention},
    tasks,
    vault::{Inventory, ObjectKey, StoreError},
};
use serde_json::Value;

use super::{
    bucket::vault_on,
    prune::{back_up, drive, estate, live, name, open},
    site::Site,
};
use crate::support::moto::{Kind, Moto};

const DIRECTORY: &str = "{kind: directory, path: vault, region: eu-south-1, durable: required}";

/// A clock that a store follows.
struct Time {
    clock: Clock,
    began: Timestamp,
    ahead: PathBuf,
}

impl Time {
    fn pass(&self, hours: i64) {
        let now = self.clock.now() + SignedDuration::from_hours(hours);
        self.clock.set(now);
        std::fs::write(&self.ahead, now.duration_since(self.began).as_secs().to_string()).unwrap();
    }
}

async fn held(database: &lifeboat::flows::Database, vault: &Vault) -> (Vec<BackupId>, Inventory) {
    let held = restore::newest(database, vault).await.unwrap();
    (held.catalog.entries.iter().map(|entry| entry.manifest.backup.clone()).collect(), held)
}

async fn pruned(app: &std::sync::Arc<lifeboat::app::App>, vault: &str) -> Value {
    let params = prune::Params { database: name(), vault: vault.parse().unwrap(), due_at: None, expected: None };
    let conclusion = drive(app, prune::NAME, &params).await.conclusion.unwrap();
    assert_eq!(conclusion.verdict, Verdict::Pass, "{:#}", conclusion.output);
    conclusion.output
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_goes_when_its_lock_has_ended() {
    let folder = crate::support::scratch();
    let ahead = folder.path().join("ahead");
    std::fs::write(&ahead, "0").unwrap();
    let moto = Moto::start_with(&[("MOTO_AHEAD", ahead.to_str().unwrap())]).await;
    let client = moto.bucket("backups", Kind::Locking).await;
    let (lab, site) = estate().await;
    let bucket = vault_on(&moto, &site, ", object_lock: {mode: compliance, for: 2d}");
    site.edit("lifeboat.yaml", DIRECTORY, &bucket);
    let began = Clock::system().now();
    let time = Time { clock: Clock::held_at(began), began, ahead };
    let app = open(&site, time.clock.clone()).await;
    let database = app.database(&name()).unwrap();
    let vault = database.vault(None).unwrap();
    let mut taken = Vec::new();
    for _ in 0..3 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
        time.pass(2);
    }
    let mut known = BTreeMap::new();
    tasks::locks::renew(&app, database, &mut known).await.unwrap();

    // No rule keeps the first any more, and its lock does.
    let output = pruned(&app, "primary").await;
    let (ids, first) = held(database, vault).await;
    assert_eq!(ids, taken, "{output:#}");
    let survey = retention::survey(database, vault, &retention::Memory::default(), &[], time.clock.now())
        .await
        .unwrap()
        .unwrap();
    let reasons = &survey.plan.keep.iter().find(|kept| kept.backup == taken[0]).unwrap().reasons;
    assert!(matches!(reasons[..], [Reason::Locked(until)] if until > time.clock.now()), "{reasons:?}");
    let layout = first.listing.layout().clone();
    let prefix = layout.backup_prefix(&taken[0]);
    let of_first: Vec<ObjectKey> = first.listing.under(&prefix).cloned().collect();
    let wal = |held: &Inventory| held.listing.keys().filter(|key| key.as_str().contains("/wal/")).count();
    let wal_before = wal(&first);
    for key in &of_first {
        assert!(matches!(vault.store.delete(key).await, Err(StoreError::Locked { .. })), "{key}");
    }

    // The task looks every hour of a day, and it is not locked any longer than it was.
    for _ in 0..24 {
        time.pass(1);
        tasks::locks::renew(&app, database, &mut known).await.unwrap();
    }
    pruned(&app, "primary").await;
    assert_eq!(held(database, vault).await.0, taken, "not before its lock ends");
    for _ in 0..12 {
        time.pass(6);
        tasks::locks::renew(&app, database, &mut known).await.unwrap();
    }
    let output = pruned(&app, "primary").await;
    let (ids, left) = held(database, vault).await;
    assert_eq!(ids, taken[2..], "{output:#}");
    let versions =
        client.list_object_versions().bucket("backups").prefix(format!("prod/{prefix}")).send().await.unwrap();
    assert!(versions.versions().is_empty() && versions.delete_markers().is_empty(), "{versions:?}");
    assert!(wal(&left) < wal_before, "its WAL went with it");
    // What is kept is locked all the same, as far as was asked.
    for key in left.listing.keys().filter(|key| key.as_str().contains(&format!("/backups/{}/", taken[2]))) {
        let until = vault.store.locks().unwrap().locked_until(key).await.unwrap().unwrap();
        let ahead = until.duration_since(time.clock.now()).as_hours();
        assert!((48..=72).contains(&ahead), "{key} is locked {ahead} hours ahead");
    }
    app.runner.shut_down().await;
}

async fn copied(app: &std::sync::Arc<lifeboat::app::App>, to: &str) -> Value {
    let to: VaultName = to.parse().unwrap();
    let id = RunId::new(copy::NAME, "wallet", to.as_str(), &app.stamp());
    let subject = copy::subject(&name(), &to);
    let params = copy::Params { database: name(), from: None, to, due_at: None };
    app.runner.submit(NewRun::new(id.clone(), subject, &params, "tester").unwrap()).await.unwrap();
    let conclusion = app.runner.drive(&id).await.unwrap().conclusion.unwrap();
    assert_eq!(conclusion.verdict, Verdict::Pass, "{:#}", conclusion.output);
    conclusion.output
}

/// One vault locks and the other does not, so that the other lets go first.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_locked_at_once_and_what_only_its_lock_keeps_does_not_come_back() {
    let moto = Moto::start().await;
    moto.bucket("backups", Kind::Locking).await;
    let (lab, site) = estate().await;
    with_dr(&site, &vault_on(&moto, &site, ", object_lock: {mode: governance}"));
    let app = open(&site, Clock::system()).await;
    let database = app.database(&name()).unwrap();
    let (primary, dr) = (&database.vaults[0], &database.vaults[1]);
    let mut taken = Vec::new();
    for _ in 0..4 {
        live(&lab).await;
        taken.push(back_up(&app, false).await);
        copied(&app, "dr").await;
    }
    let (ids, there) = held(database, dr).await;
    assert_eq!(ids, taken);
    let locks_of = dr.store.locks().unwrap();
    for key in there.listing.keys().filter(|key| key.as_str().contains("/backups/")) {
        assert!(locks_of.locked_until(key).await.unwrap().is_some(), "{key} is not locked");
    }
    // The verification says the same.
    let verified = site.run(&["vault", "verify", "wallet", "--vault", "dr", "--quick"]).await.stdout;
    assert!(verified.contains("\"defects\""), "{verified}");
    assert!(!verified.contains("must be until"), "{verified}");

    // The oldest restores the window, the next stands by, the newest is the day's.
    pruned(&app, "primary").await;
    pruned(&app, "dr").await;
    let kept = [0, 1, 3].map(|nth: usize| taken[nth].clone());
    assert_eq!(held(database, primary).await.0, kept);
    assert_eq!(held(database, dr).await.0, taken, "it is locked there");
    let output = copied(&app, "primary").await;
    assert_eq!(held(database, primary).await.0, kept, "{output:#}");
    assert_eq!(output["copied_objects"], 0, "{output:#}");
    let status = serde_json::to_value(app.status().await.unwrap()).unwrap();
    for copies in status["databases"][0]["copies"].as_array().unwrap() {
        assert_eq!((&copies["missing_backups"], &copies["fell_behind"]), (&0.into(), &false.into()), "{copies}");
    }
    let (memory, mut known) = (retention::Memory::default(), locks::Known::default());
    let later = app.clock.now() + SignedDuration::from_hours(9 * 24);
    let renewed = locks::renew(database, dr, &memory, &mut known, later).await.unwrap().unwrap();
    let expected = there.listing.keys().filter(|key| key.as_str().contains(&format!("/{}/", taken[2]))).count();
    assert!(renewed.locked > expected && renewed.failed.is_empty(), "{renewed:?}");
    let until = async |backup: &BackupId| {
        locks_of.locked_until(&there.listing.layout().manifest(backup)).await.unwrap().unwrap()
    };
    assert!(until(&taken[2]).await < until(&taken[3]).await, "what no rule keeps is not locked anew");
    app.runner.shut_down().await;
}

fn with_dr(site: &Site, dr: &str) {
    site.edit("lifeboat.yaml", DIRECTORY, &format!("{DIRECTORY}\n  dr: {dr}"));
    site.edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [primary, dr]");
    site.edit("schedules/wallet.yaml", "timezone:", "copy: {lag_max: 1ms}\ntimezone:");
}
