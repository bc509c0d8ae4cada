//! Many short runs on several nodes that are killed at random: each run is done
//! exactly once. The nodes are this test binary, started again with only
//! `a_node_of_the_fleet_serves`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat::{
    domain::RunId,
    flow::{NewRun, RunState, Runner},
    process::Program,
};

use super::{
    short::{STEPS, Short, not_done_once},
    state::{State, TTL},
};
use crate::support::Lab;

const URL: &str = "LIFEBOAT_TEST_FLEET_STATE";
const NODE: &str = "LIFEBOAT_TEST_FLEET_NODE";
const RUNS: usize = 100;
const NODES: usize = 3;
/// How long a node lives at most.
const LIFE_MS: std::ops::Range<u64> = 100..600;

/// Does nothing unless this process is a node of the test below.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_fleet_serves() {
    let (Some(url), Some(node)) = (std::env::var_os(URL), std::env::var_os(NODE)) else { return };
    let (url, node) = (url.into_string().unwrap(), node.into_string().unwrap());
    let runner = super::state::runner(&url, &node, TTL).await;
    runner.register(Arc::new(Short));
    runner.serve(tokio_util::sync::CancellationToken::new(), 4).await;
}

fn node(state: &State, name: &str) -> tokio::process::Child {
    Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "flow::fleet::a_node_of_the_fleet_serves"])
        .env(URL, &state.url)
        .env(NODE, name)
        .start(std::fs::File::create(state.folder.path().join(format!("{name}.log"))).unwrap())
        .unwrap()
}

async fn submitted(runner: &Arc<Runner>, objects: &Path) -> Vec<RunId> {
    let mut ids = Vec::new();
    for number in 0..RUNS {
        let id = RunId::new("short", &format!("db{number}"), "manual", "1");
        runner.submit(NewRun::new(id.clone(), id.as_str(), &objects, "tester").unwrap()).await.unwrap();
        // A second node that asks for the same gets the same run.
        runner.submit(NewRun::new(id.clone(), id.as_str(), &objects, "another").unwrap()).await.unwrap();
        ids.push(id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_runs_is_done_once_while_nodes_are_killed_at_random() {
    let lab = Lab::start("").await;
    let state = State::postgres(&lab, "fleet").await;
    let objects = state.folder.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let runner = state.runner("watcher").await;
    let ids = submitted(&runner, &objects).await;
    let mut fleet: Vec<_> = (0..NODES).map(|number| node(&state, &format!("n{number}"))).collect();
    let (begun, mut born) = (Instant::now(), NODES);
    let finished = "SELECT count(*) FROM runs WHERE finished_ms IS NOT NULL";
    let taken = || async { lab.psql_in("fleet", "SELECT count(*) FROM journal WHERE event LIKE '%taken%'").await };
    while lab.psql_in("fleet", finished).await != RUNS.to_string() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{} runs were taken", taken().await);
        tokio::time::sleep(Duration::from_millis(rand::random_range(LIFE_MS))).await;
        let unlucky = rand::random_range(0..NODES);
        fleet[unlucky].start_kill().unwrap();
        fleet[unlucky].wait().await.unwrap();
        fleet[unlucky] = node(&state, &format!("n{born}"));
        born += 1;
    }
    println!("{RUNS} runs in {:?}, {} kills, taken {} times", begun.elapsed(), born - NODES, taken().await);
    for child in &mut fleet {
        child.start_kill().unwrap();
        child.wait().await.unwrap();
    }
    assert!(born > NODES, "nobody was killed");
    for id in &ids {
        let run = runner.get(id).await.unwrap();
        assert_eq!((run.state, run.requester.as_str()), (RunState::Done, "tester"));
    }
    assert_eq!(lab.psql_in("fleet", &not_done_once()).await, "", "each event is in each journal once");
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), STEPS * RUNS);
}
