//! Three nodes on one PostgreSQL and many short runs, while nodes are killed at
//! random: how long it takes, and whether each run was done exactly once. The
//! nodes are this program, started again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat::{
    clock::Clock,
    db::Db,
    domain::RunId,
    flow::{DEFAULT_TTL, NewRun, Runner},
    process::Program,
};
use tokio_util::sync::CancellationToken;

use super::{
    estate::{Estate, PEERS_MAJOR},
    table::Figure,
};

#[path = "../../tests/it/flow/short.rs"]
mod short;

use short::{STEPS, Short, not_done_once};

const URL: &str = "LIFEBOAT_BENCH_STATE";
const NODE: &str = "LIFEBOAT_BENCH_NODE";
const RUNS: usize = 1000;
const NODES: usize = 3;
/// How many runs each drives at a time, as a daemon does.
const AT_ONCE: usize = 4;
/// How long it takes until the next node is killed.
const PAUSE_MS: std::ops::Range<u64> = 300..1500;

/// Which node of which state this process is to be.
pub(crate) fn asked() -> Option<(String, String)> {
    Some((std::env::var_os(URL)?.into_string().ok()?, std::env::var_os(NODE)?.into_string().ok()?))
}

/// Drives runs until it is killed.
pub(crate) async fn serve(url: &str, name: &str) {
    let runner = Runner::new(Db::open(url).await.unwrap(), name, Clock::system(), DEFAULT_TTL);
    runner.register(Arc::new(Short));
    runner.serve(CancellationToken::new(), AT_ONCE).await;
}

fn started(url: &str, number: usize) -> tokio::process::Child {
    let log = tempfile::tempfile().unwrap();
    let program = Program::new(std::env::current_exe().unwrap()).env(URL, url).env(NODE, &format!("n{number}"));
    program.start(log).unwrap()
}

pub(crate) async fn measure() -> Vec<Figure> {
    let estate = Estate::start(PEERS_MAJOR).await;
    estate.psql("CREATE DATABASE state").await;
    let socket = estate.cluster.socket_folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/state", estate.port);
    let db = Db::open(&url).await.unwrap();
    let asker = Runner::new(db, "asker", Clock::system(), DEFAULT_TTL);
    let objects = tempfile::tempdir().unwrap();
    for number in 0..RUNS {
        let id = RunId::new("short", &format!("db{number}"), "manual", "1");
        asker.submit(NewRun::new(id.clone(), id.as_str(), &objects.path(), "bench").unwrap()).await.unwrap();
    }
    let begun = Instant::now();
    let mut nodes: Vec<_> = (0..NODES).map(|number| started(&url, number)).collect();
    let mut born = NODES;
    let ask = async |sql: &str| estate.psql_in("state", sql).await;
    while ask("SELECT count(*) FROM runs WHERE finished_ms IS NOT NULL").await != RUNS.to_string() {
        tokio::time::sleep(Duration::from_millis(rand::random_range(PAUSE_MS))).await;
        let unlucky = rand::random_range(0..NODES);
        nodes[unlucky].start_kill().unwrap();
        nodes[unlucky].wait().await.unwrap();
        nodes[unlucky] = started(&url, born);
        born += 1;
    }
    let taken = begun.elapsed().as_secs_f64();
    for node in &mut nodes {
        node.start_kill().unwrap();
        node.wait().await.unwrap();
    }
    let wrong = ask(&not_done_once()).await.lines().count();
    let files = std::fs::read_dir(objects.path()).unwrap().count();
    let again = ask("SELECT count(*) FROM journal WHERE event::json->>'event' = 'taken'").await;
    let again = again.parse::<usize>().unwrap() - RUNS;
    // Between the last that the dead node wrote and the new one's first.
    let longest = ask(
        "SELECT coalesce(max(gap), 0) FROM (SELECT at_ms - lag(at_ms) OVER (PARTITION BY run_id ORDER BY seq) AS gap,
         event::json->>'event' AS name FROM journal) gaps WHERE name = 'taken'",
    )
    .await;
    estate.end().await;
    let what = format!("{RUNS} runs of {STEPS} steps, {NODES} nodes, one killed every 0.3 to 1.5 s");
    let done =
        if wrong == 0 && files == RUNS * STEPS { "each exactly once".to_owned() } else { format!("{wrong} NOT") };
    let kills = born - NODES;
    vec![
        Figure {
            work: "runs on three nodes".to_owned(),
            what: what.clone(),
            measured: format!("{done}; {taken:.1} s, {kills} kills, {again} runs taken over"),
            goal: "each exactly once".to_owned(),
        },
        Figure {
            work: "take-over of a run whose node was killed".to_owned(),
            what,
            measured: format!("{:.1} s at most", longest.parse::<f64>().unwrap() / 1000.0),
            goal: "≤ 30 s".to_owned(),
        },
    ]
}
