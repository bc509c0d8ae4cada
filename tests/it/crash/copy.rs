//! A copy under kill -9: in the end the other vault holds the same backups, and
//! never a part of one that can be seen. And what it refuses: a damaged source,
//! a region outside the residency.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    flow::{NewRun, RunState},
    flows::copy::{NAME, Params, subject},
};

use super::lab::{Lab, wallet};

/// Steps: 1 look, 2 copy, 3 compare. A copy of one backup takes several objects.
const POINTS: [&str; 8] = [
    "flow.taken.after:1",
    "flow.step_started.after:2",
    "copy.object:1",
    "copy.object:3",
    "copy.committed:1",
    "flow.step_succeeded.before:2",
    "flow.step_succeeded.after:3",
    "flow.concluded.before:1",
];

fn with_two_vaults(folder: &Path) {
    let edit = |name: &str, old: &str, new: &str| {
        let file = folder.join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(file, text.replace(old, new)).unwrap();
    };
    let further = "durable: required}\n  dr: {kind: directory, path: dr, region: eu-central-1, durable: best_effort}";
    edit("lifeboat.yaml", "durable: required}", further);
    edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [primary, dr]");
}

fn copy(lab: &Lab) -> NewRun {
    let to = "dr".parse().unwrap();
    let params = Params { database: wallet(), from: None, to, due_at: None };
    let run = lab.new_run(NAME, "wallet", &params);
    NewRun { subject: subject(&wallet(), &params.to), ..run }
}

/// Name to content of everything below `wallet/…/backups/` of a vault.
fn backups_in(vault: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![vault.join("wallet")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("/backups/") {
                files.insert(path.strip_prefix(vault).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_anywhere_is_a_copy() {
    let mut lab = Lab::start_with(Role::WithoutDns, with_two_vaults).await;
    let (primary, dr) = (lab.estate.folder().join("vault"), lab.estate.folder().join("dr"));
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    lab.assert_ended("backup", &lab.ended(&backup).await, RunState::Done, "PASS").await;
    lab.kill().await;
    for point in POINTS {
        // As a vault that is new to the schedule.
        let _was_there = std::fs::remove_dir_all(dr.join("wallet"));
        lab.serve(Some(&format!("kill@{point}")));
        let run = lab.submit(copy(&lab)).await;
        lab.died().await;
        let seen: Vec<_> = backups_in(&dr).into_keys().filter(|name| name.ends_with("manifest.json")).collect();
        if !seen.is_empty() {
            assert_eq!(backups_in(&dr), backups_in(&primary), "{point}: what can be seen is whole");
        }
        lab.serve(None);
        let run = lab.ended(&run).await;
        lab.kill().await;
        lab.assert_ended(point, &run, RunState::Done, "PASS").await;
        assert_eq!(backups_in(&dr), backups_in(&primary), "{point}");
    }
    lab.tear_down(None).await;
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
    let residency = estate.schedules[0].config.residency.as_mut().unwrap();
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
    lab.tear_down(None).await;
}

async fn a_vault_that_left_the_schedule_ends_the_run(lab: &Lab) {
    let params = Params { database: wallet(), from: None, to: "gone".parse().unwrap(), due_at: None };
    let run = lab.submit(lab.new_run(NAME, "wallet", &params)).await;
    let run = tokio::time::timeout(super::lab::LIMIT, lab.app.runner.drive(&run)).await.unwrap().unwrap();
    let record = lab.assert_ended("gone", &run, RunState::Unwound, "ERROR").await;
    assert!(record["findings"][0].as_str().unwrap().contains("no longer names"), "{record}");
}
