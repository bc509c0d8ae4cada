//! Expiry under kill -9: whatever was half deleted is gone in the end, nobody is
//! offered half a backup, and what was to stay can be restored.

use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    flow::RunState,
    flows::{prune, restore},
};

use super::lab::{Lab, wallet};

/// Steps: 1 plan, 2 delete, 3 check.
const POINTS: [&str; 5] = [
    "prune.delete:1",
    "prune.manifest_deleted:1",
    "prune.manifest_deleted:2",
    "prune.deleted:12",
    "flow.step_succeeded.before:2",
];

async fn kept(lab: &Lab) -> Vec<String> {
    let database = lab.app.database(&wallet()).unwrap();
    let held = restore::newest(database, database.vault(None).unwrap()).await.unwrap();
    held.catalog.entries.iter().map(|entry| entry.manifest.backup.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_killed_anywhere_has_pruned_in_the_end() {
    let mut lab = Lab::start(Role::WithoutDns).await;
    let file = lab.estate.folder().join("schedules/wallet.yaml");
    let schedule = std::fs::read_to_string(&file).unwrap();
    let schedule = schedule.replace("daily: 31", "daily: 1").replace("window: 31d", "window: 1h");
    std::fs::write(&file, schedule).unwrap();
    lab.app =
        App::open(config::load(&lab.estate.config_file()).unwrap(), Clock::system(), Role::WithoutDns).await.unwrap();
    for point in POINTS {
        while lab.backups().await < 5 {
            let backup = lab.submit(lab.backup()).await;
            assert_eq!(lab.app.runner.drive(&backup).await.unwrap().state, RunState::Done);
        }
        let all = kept(&lab).await;
        let params = prune::Params {
            database: wallet(),
            vault: lab.app.database(&wallet()).unwrap().vaults[0].store.place().vault.clone(),
            due_at: None,
            expected: None,
        };
        let run = lab.new_run(prune::NAME, "wallet", &params);
        let run = lab.killed_at(point, run).await;
        lab.assert_ended(point, &run, RunState::Done, "PASS").await;
        // The window's base, the one after it, the newest of the day; nothing of the others.
        assert_eq!(lab.backups().await, 3, "{point}");
        assert_eq!(kept(&lab).await, [0, 1, 4].map(|nth: usize| all[nth].clone()), "{point}");
    }
    lab.serve(None);
    lab.protected().await;
    let run = lab.submit(lab.restore_test()).await;
    let run = lab.ended(&run).await;
    lab.assert_ended("after all prunes", &run, RunState::Done, "PASS").await;
    lab.tear_down(None).await;
}
