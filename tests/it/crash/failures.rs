//! The real flows with trouble planted in them: a failure after each step, and
//! every call made twice.

use std::sync::Arc;

use lifeboat::{
    app::Role,
    clock::Clock,
    flow::{Flow, NewRun, RunState, RunSummary, Runner},
    flows::{backup::BackupFlow, drill::DrillFlow, restore_test::RestoreTestFlow},
    process::Tasks,
    tasks,
};

use super::lab::{LIMIT, Lab};
use crate::flow::generic::{Trouble, Troubled};

/// Drives a run in this process, with the trouble.
async fn troubled(lab: &Lab, flow: Arc<dyn Flow>, trouble: Trouble, run: NewRun) -> RunSummary {
    let (resources, described) = (&lab.app.resources, format!("{trouble:?}"));
    let runner = Runner::new(resources.db.clone(), "troubled", Clock::system(), lifeboat::flow::DEFAULT_TTL);
    runner.register(Arc::new(Troubled { flow, trouble }));
    let (id, begun) = (run.id.clone(), std::time::Instant::now());
    runner.submit(run).await.unwrap();
    let Ok(run) = tokio::time::timeout(LIMIT, runner.drive(&id)).await else {
        panic!("{id} does not end under {described}: {:?}", lab.journal(&id).await)
    };
    let run = run.unwrap();
    println!("{described} of {id}: {:.1?}", begun.elapsed());
    runner.shut_down().await;
    run
}

fn fail_after(step: &str) -> Trouble {
    Trouble::FailAfter(step.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_each_step_unwinds_and_each_call_may_be_made_twice() {
    let lab = Lab::start(Role::Everything).await;
    let tasks = Tasks::new();
    tasks::protect(&lab.app, &tasks);
    lab.protected().await;
    let resources = &lab.app.resources;

    let flow = || Arc::new(BackupFlow::new(Arc::clone(resources))) as Arc<dyn Flow>;
    // From the commit on it is a backup, whatever becomes of the run.
    for (step, backups) in [("check", 0), ("upload", 0), ("commit", 1), ("wal", 2), ("read_back", 3)] {
        let run = troubled(&lab, flow(), fail_after(step), lab.backup()).await;
        lab.assert_ended(step, &run, RunState::Unwound, "ERROR").await;
        assert_eq!(lab.backups().await, backups, "after {step}");
    }
    let run = troubled(&lab, flow(), Trouble::EachTwice, lab.backup()).await;
    lab.assert_ended("backup, each twice", &run, RunState::Done, "PASS").await;
    assert_eq!(lab.backups().await, 4);

    let flow = || Arc::new(RestoreTestFlow::new(Arc::clone(resources))) as Arc<dyn Flow>;
    for step in ["choose", "fetch", "prove", "tear_down"] {
        let run = troubled(&lab, flow(), fail_after(step), lab.restore_test()).await;
        lab.assert_ended(step, &run, RunState::Unwound, "ERROR").await;
        lab.assert_no_copy_is_left(step);
    }
    let run = troubled(&lab, flow(), Trouble::EachTwice, lab.restore_test()).await;
    lab.assert_ended("restore test, each twice", &run, RunState::Done, "PASS").await;
    lab.assert_no_copy_is_left("each twice");

    let flow = || Arc::new(DrillFlow::new(Arc::clone(resources) as Arc<_>)) as Arc<dyn Flow>;
    for (step, verdict) in [("guards", "ABORTED"), ("fence", "FAIL")] {
        let run = lab.drill("wallet-switchover", |_| {});
        let run = troubled(&lab, flow(), fail_after(step), run).await;
        lab.assert_ended(step, &run, RunState::Unwound, verdict).await;
        assert!(lab.writes(0).await && !lab.writes(1).await, "after {step} everything is as it was");
        lab.follows(1).await;
        lab.protected().await;
    }
    let run = lab.drill("wallet-switchover", |_| {});
    let run = troubled(&lab, flow(), Trouble::EachTwice, run).await;
    lab.assert_ended("drill, each twice", &run, RunState::Done, "PASS").await;
    assert!(lab.writes(1).await && !lab.writes(0).await);
    lab.assert_no_heartbeat_lost("drill, each twice").await;
    lab.tear_down(Some(tasks)).await;
}
