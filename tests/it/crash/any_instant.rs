//! Restore tests whose daemon, or whose command, is killed with SIGKILL at instants of
//! chance: not at a write of the journal, but anywhere. Nothing is left once somebody has
//! taken the run up: no process, no folder, no mount, no slot.
//!
//! `make torture` kills for minutes; what was left to chance is repeated with the seed
//! that the test prints.

use std::{
    fs,
    sync::OnceLock,
    time::{Duration, Instant},
};

use lifeboat::{
    app::Role,
    db::findings,
    domain::{RecoveryTarget, RunId},
    flow::RunState,
    flows::restore_test,
    process::Program,
};

use super::lab::{LIMIT, Lab};
use crate::{
    support::{eventually, psql},
    torture::{self, Chance},
};

/// Whom a round kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Command,
}

/// How many kills there are at least while a test was under way, one of each victim or more.
const KILLS: usize = 3;

impl Lab {
    async fn slots(&self) -> String {
        let slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
        psql(&self.estate.clusters[0], self.estate.port, "postgres", slots).await
    }

    /// The processes that have something mounted in the scratch folder.
    fn mounted(&self) -> Vec<String> {
        let scratch = self.estate.folder().join("scratch").display().to_string();
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let has_it = |process: &fs::DirEntry| {
            fs::read_to_string(process.path().join("mountinfo")).is_ok_and(|mounts| mounts.contains(&scratch))
        };
        processes.filter(has_it).map(|process| process.path().display().to_string()).collect()
    }

    fn tested(&self) -> lifeboat::flow::NewRun {
        self.restore_test_of(restore_test::Point::Asked(RecoveryTarget::Latest))
    }

    /// The run that a command has begun.
    async fn begun(&self) -> RunId {
        // It may have ended when it is asked for again.
        let begun = OnceLock::new();
        eventually("the command has begun its run", LIMIT, || async {
            let mut unfinished = self.app.runner.unfinished().await.unwrap().into_iter();
            let test = unfinished.find(|run| run.flow == restore_test::NAME);
            test.is_some_and(|run| begun.set(run.run_id).is_ok())
        })
        .await;
        begun.into_inner().unwrap()
    }
}

/// Kills somebody up to `longest` after the test began, and waits until the run has ended;
/// answers whether it was under way at the kill.
async fn killed(lab: &mut Lab, victim: Victim, chance: &mut Chance, longest: Duration) -> bool {
    let begun = Instant::now();
    let (id, command) = match victim {
        Victim::Daemon => (lab.submit(lab.tested()).await, None),
        Victim::Command => {
            let log = fs::File::create(lab.estate.folder().join("command.log")).unwrap();
            let program = Program::new(env!("CARGO_BIN_EXE_lifeboat")).arg("--config").arg(lab.estate.config_file());
            let program = program.args(["restore-test", "wallet", "--latest"]).folder(lab.estate.folder());
            let command = program.start(log).unwrap();
            (lab.begun().await, Some(command))
        }
    };
    chance.instant(longest).await;
    let was_under_way = !lab.app.runner.get(&id).await.unwrap().state.is_final();
    let step = lab.app.runner.get(&id).await.unwrap().step;
    if let Some(mut command) = command {
        command.kill().await.unwrap();
    } else {
        lab.kill().await;
        lab.serve(None);
    }
    println!("{victim:?} killed after {:.2?}, in step {step:?}, under way: {was_under_way}", begun.elapsed());
    let run = lab.ended(&id).await;
    let what = format!("{victim:?} killed in {step:?}");
    lab.assert_ended(&what, &run, RunState::Done, "PASS").await;
    was_under_way
}

async fn nothing_is_left(lab: &Lab, what: &str, slots: &str) {
    lab.assert_no_copy_is_left(what);
    assert_eq!(lab.mounted(), Vec::<String>::new(), "{what}");
    assert_eq!(lab.slots().await, slots, "{what}");
    assert!(lab.app.runner.unfinished().await.unwrap().is_empty(), "{what}");
    let open = findings::open_findings(&lab.app.resources.db).await.unwrap();
    let of_tests: Vec<_> = open.into_iter().filter(|finding| finding.id.starts_with("restore_test/")).collect();
    assert!(of_tests.is_empty(), "{what}: {of_tests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_test_that_is_killed_at_any_instant_leaves_nothing() {
    let mut chance = Chance::new("any instant");
    let mut lab = Lab::start(Role::WithoutDns).await;
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    assert_eq!(lab.ended(&backup).await.state, RunState::Done);
    let slots = lab.slots().await;
    let begun = Instant::now();
    let undisturbed = lab.submit(lab.tested()).await;
    let undisturbed = lab.ended(&undisturbed).await;
    lab.assert_ended("undisturbed", &undisturbed, RunState::Done, "PASS").await;
    let longest = begun.elapsed();
    nothing_is_left(&lab, "undisturbed", &slots).await;

    let length = torture::minutes().map_or(Duration::ZERO, |minutes| Duration::from_secs(60 * minutes));
    let (begun, mut kills) = (Instant::now(), [0_usize; 2]);
    for (nth, victim) in [Victim::Daemon, Victim::Command].into_iter().enumerate().cycle() {
        if begun.elapsed() >= length && !kills.contains(&0) && kills.iter().sum::<usize>() >= KILLS {
            break;
        }
        kills[nth] += usize::from(killed(&mut lab, victim, &mut chance, longest).await);
        nothing_is_left(&lab, &format!("{victim:?}"), &slots).await;
    }
    println!("killed while a test was under way: the daemon {} times, the command {} times", kills[0], kills[1]);
    lab.tear_down().await;
}
