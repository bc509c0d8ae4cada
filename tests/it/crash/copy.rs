//! What a copy refuses: a damaged source, a region outside the residency, a vault that
//! left the schedule.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    flow::{NewRun, RunState},
    flows::copy::{NAME, Params, subject},
};

use super::lab::{Lab, edit, files_in, wallet};

pub(super) fn with_two_vaults(folder: &Path) {
    let further = "durable: required}\n  dr: {kind: directory, path: dr, region: eu-central-1, durable: best_effort}";
    edit(folder, "lifeboat.yaml", &[("durable: required}", further)]);
    edit(folder, "schedules/wallet.yaml", &[("vaults: [primary]", "vaults: [primary, dr]")]);
}

pub(super) fn copy(lab: &Lab) -> NewRun {
    let to = "dr".parse().unwrap();
    let params = Params { database: wallet(), from: None, to, due_at: None };
    let run = lab.new_run(NAME, "wallet", &params);
    NewRun { subject: subject(&wallet(), &params.to), ..run }
}

/// Name to content of everything below `wallet/…/backups/` of a vault.
pub(super) fn backups_in(vault: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_in(&vault.join("wallet")).into_iter().filter(|path| path.to_string_lossy().contains("/backups/"));
    files.map(|path| (path.strip_prefix(vault).unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_source_and_a_foreign_region_are_refused() {
    let mut lab = Lab::start_with(Role::WithoutDns, with_two_vaults).await;
    let (primary, dr) = (lab.estate.folder().join("vault"), lab.estate.folder().join("dr"));
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    lab.assert_ended("backup", &lab.ended(&backup).await, RunState::Done, "PASS").await;
    lab.kill().await;
    lab.finish_runs().await;
    let _was_there = std::fs::remove_dir_all(dr.join("wallet"));

    // Residency that was narrowed: nothing moves, not even the first byte.
    let mut estate = config::load(&lab.estate.config_file()).unwrap();
    let residency = Arc::make_mut(&mut estate.schedules[0]).config.residency.as_mut().unwrap();
    residency.regions.retain(|region| region.as_str() != "eu-central-1");
    let app = App::open(estate, Clock::system(), Role::WithoutDns).await.unwrap();
    let run = copy(&lab);
    let id = run.id.clone();
    app.runner.submit(run).await.unwrap();
    let run = app.runner.drive(&id).await.unwrap();
    let record = lab.assert_ended("residency", &run, RunState::Unwound, "ERROR").await;
    let finding = record["findings"][0].as_str().unwrap();
    assert!(finding.contains("may not go to eu-central-1") && finding.contains("MT"), "{finding}");
    assert!(!dr.join("wallet").exists());
    app.runner.shut_down().await;

    a_vault_that_left_the_schedule_ends_the_run(&lab).await;

    // One flipped bit in one part.
    let part = backups_in(&primary).into_keys().find(|name| name.ends_with("data/00000.tar.zst.age")).unwrap();
    let sound = std::fs::read(primary.join(&part)).unwrap();
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(primary.join(&part), &flipped).unwrap();
    let run = lab.submit(copy(&lab)).await;
    let run = tokio::time::timeout(super::lab::LIMIT, lab.app.runner.drive(&run)).await.unwrap().unwrap();
    let record = lab.assert_ended("damage", &run, RunState::Done, "FAIL").await;
    let finding = record["findings"][0].as_str().unwrap();
    assert!(finding.contains("vault `primary`") && finding.contains("data/00000.tar.zst.age"), "{finding}");
    assert!(backups_in(&dr).keys().all(|name| !name.ends_with("manifest.json") && *name != part), "not a backup");

    // A person has mended it; then one is removed from the copy and comes back.
    std::fs::write(primary.join(&part), &sound).unwrap();
    for removed in [None, Some(&part)] {
        if let Some(removed) = removed {
            std::fs::remove_file(dr.join(removed)).unwrap();
        }
        let run = lab.submit(copy(&lab)).await;
        let run = tokio::time::timeout(super::lab::LIMIT, lab.app.runner.drive(&run)).await.unwrap().unwrap();
        lab.assert_ended("mended", &run, RunState::Done, "PASS").await;
        assert_eq!(backups_in(&dr), backups_in(&primary));
    }
    lab.tear_down().await;
}

async fn a_vault_that_left_the_schedule_ends_the_run(lab: &Lab) {
    let params = Params { database: wallet(), from: None, to: "gone".parse().unwrap(), due_at: None };
    let run = lab.submit(lab.new_run(NAME, "wallet", &params)).await;
    let run = tokio::time::timeout(super::lab::LIMIT, lab.app.runner.drive(&run)).await.unwrap().unwrap();
    let record = lab.assert_ended("gone", &run, RunState::Unwound, "ERROR").await;
    assert!(record["findings"][0].as_str().unwrap().contains("no longer names"), "{record}");
}
