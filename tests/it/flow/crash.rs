//! kill -9 before and after every journal write, then a restart: the end must
//! be that of an undisturbed run. The process that is killed is this test binary,
//! started again with only `the_child_drives_its_run`.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use lifeboat::{
    domain::RunId,
    flow::{RunState, RunSummary},
    process::Program,
};
use sqlx::{ConnectOptions, Connection};

use super::{
    cases::{count, events},
    state::{State, runner},
    toy::{ACTING, Act, Toy, ToyStep, effects, made, step},
};
use crate::support::{Lab, eventually};

/// Long enough that the child keeps its lease, short enough to wait for its end.
const TTL: Duration = Duration::from_millis(600);
const URL: &str = "LIFEBOAT_TEST_STATE";
const RUN: &str = "LIFEBOAT_TEST_RUN";

/// Does nothing unless this process is a child of the tests below.
#[tokio::test(flavor = "multi_thread")]
async fn the_child_drives_its_run() {
    let (Some(url), Some(run)) = (std::env::var_os(URL), std::env::var_os(RUN)) else { return };
    let id = RunId::from(run.into_string().unwrap());
    runner(url.to_str().unwrap(), "child", TTL).await.drive(&id).await.unwrap();
}

fn child(state: &State, id: &RunId, fault: Option<&str>) -> tokio::process::Child {
    let program = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "flow::crash::the_child_drives_its_run"])
        .env(URL, &state.url)
        .env(RUN, id.as_str());
    let program = match fault {
        Some(fault) => program.env("LIFEBOAT_FAULT", fault),
        None => program,
    };
    program.start(std::fs::File::create(state.folder.path().join("child.log")).unwrap()).unwrap()
}

fn to_the_end() -> Vec<ToyStep> {
    vec![step("one", Act::Make), step("two", Act::Make).no_return(), step("three", Act::Make)]
}

fn to_failure() -> Vec<ToyStep> {
    vec![step("one", Act::Make), step("two", Act::Make), step("three", Act::Fail)]
}

/// What must be the same however the run was disturbed.
type End = (RunState, Option<lifeboat::flow::Conclusion>, Option<String>, std::collections::BTreeSet<String>);

fn end(run: RunSummary, folder: &Path) -> End {
    (run.state, run.conclusion, run.error, made(folder))
}

/// Kills the child at the `nth` fault point, drives the run to its end, and
/// answers that end; none when the child ended before it passed so many points.
async fn killed_at(state: &State, steps: Vec<ToyStep>, nth: u32) -> Option<End> {
    let run = Toy::new(state.folder.path(), steps).run("wallet", "1");
    let survivor = runner(&state.url, "survivor", TTL).await;
    survivor.submit(run.clone()).await.unwrap();
    let status = child(state, &run.id, Some(&format!("kill@*:{nth}"))).wait().await.unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    assert!(killed || status.success(), "{}", std::fs::read_to_string(state.folder.path().join("child.log")).unwrap());
    let run = survivor.drive(&run.id).await.unwrap();
    let journal = events(state, &run.run_id).await;
    for name in ["one", "two", "three"] {
        let begun = |event: &&serde_json::Value| event["event"] == "step_started" && event["step"] == name;
        assert!(journal.iter().filter(begun).count() <= 1, "the undo plan of {name} was recorded twice: {journal:?}");
    }
    survivor.shut_down().await;
    killed.then(|| end(run, state.folder.path()))
}

/// The end, and how many fault points were passed: one before and one after each event.
async fn undisturbed(steps: Vec<ToyStep>) -> (End, u32) {
    let state = State::sqlite();
    let run = Toy::new(state.folder.path(), steps).run("wallet", "1");
    let runner = state.runner("a").await;
    runner.submit(run.clone()).await.unwrap();
    let summary = runner.drive(&run.id).await.unwrap();
    let points = 2 * events(&state, &run.id).await.len();
    (end(summary, state.folder.path()), u32::try_from(points).unwrap())
}

async fn killed_at_every_point(lab: Option<&Lab>, name: &str, steps: fn() -> Vec<ToyStep>) {
    let (expected, points) = undisturbed(steps()).await;
    let ends: Vec<Option<End>> = futures::stream::iter(1..=points)
        .map(|nth| async move {
            let state = match lab {
                Some(lab) => State::postgres(lab, &format!("{name}{nth}")).await,
                None => State::sqlite(),
            };
            killed_at(&state, steps(), nth).await
        })
        .buffered(4)
        .collect()
        .await;
    for (index, end) in ends.iter().enumerate() {
        assert_eq!(end.as_ref(), Some(&expected), "killed at point {} of {points}", index + 1);
    }
    println!("{name}: killed at {points} points");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_point_of_a_run_ends_the_same_on_sqlite() {
    killed_at_every_point(None, "done", to_the_end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_point_of_an_unwinding_ends_the_same_on_sqlite() {
    killed_at_every_point(None, "unwound", to_failure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_point_ends_the_same_on_postgresql() {
    let lab = Lab::start("").await;
    killed_at_every_point(Some(&lab), "unwound", to_failure).await;
}

/// Whether no thread of a process runs after it was told to stop.
fn stands_still(pid: nix::unistd::Pid) -> bool {
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('T'))
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(is_stopped)
}

/// Whether nobody holds the lock of writers.
async fn is_unlocked(state: &State) -> bool {
    let options: sqlx::sqlite::SqliteConnectOptions = state.url.parse().unwrap();
    let mut connection = options.busy_timeout(Duration::ZERO).connect().await.unwrap();
    let locked = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut connection).await;
    connection.close().await.unwrap();
    locked.is_ok()
}

/// A stopped process wakes up in the middle of its step after another node has
/// taken the run over: it must not act any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_beyond_its_lease_acts_no_more() {
    use nix::sys::signal::{Signal, kill};
    let state = State::sqlite();
    let run = Toy::new(state.folder.path(), [step("one", Act::Effects { count: 40, pause_ms: 50 })]).run("wallet", "1");
    let survivor = runner(&state.url, "survivor", TTL).await;
    survivor.submit(run.clone()).await.unwrap();
    let mut child = child(&state, &run.id, None);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    let acted = |node: &'static str| {
        let folder = state.folder.path().to_owned();
        move || {
            let folder = folder.clone();
            async move { effects(&folder).iter().filter(|line| line.starts_with(node)).count() > 5 }
        }
    };
    eventually("the child acts", Duration::from_secs(30), acted("child")).await;
    // Not with the database's lock in its hand, nor between its last look at the
    // lease and the act: against either no lease helps.
    loop {
        kill(pid, Signal::SIGSTOP).unwrap();
        eventually("the child stands still", Duration::from_secs(30), || async { stands_still(pid) }).await;
        if !state.folder.path().join(ACTING).exists() && is_unlocked(&state).await {
            break;
        }
        kill(pid, Signal::SIGCONT).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let taken_over = effects(state.folder.path()).len();
    let (tasks, id, taker) = (lifeboat::process::Tasks::new(), run.id.clone(), survivor.clone());
    let driven = tasks.spawn(async move { taker.drive(&id).await });
    eventually("the survivor acts", Duration::from_secs(30), acted("survivor")).await;
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(driven.await.unwrap().unwrap().state, RunState::Done);
    assert!(child.wait().await.unwrap().success(), "the child sees that its run was finished");
    let effects = effects(state.folder.path());
    assert!(effects[taken_over..].iter().all(|line| line.starts_with("survivor")), "{effects:?}");
    assert_eq!(count(&state, &run.id, "step_succeeded").await, 1);
}
