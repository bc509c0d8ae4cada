//! Who takes which run: regions, limits among nodes, priorities, flows that not
//! every node knows, clocks that differ, and runs that an older version began.

use std::{collections::BTreeMap, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use lifeboat::{
    clock::Clock,
    db::{Db, nodes, runs},
    decide::placement::Limits,
    domain::{NodeRole, Placement, RunId},
    flow::{
        Conclusion, Ending, Flow, NewRun, RunState, Runner, Station, Step, StepContext, StepError, runner::FlowError,
    },
    process::Tasks,
};
use serde_json::Value;

use super::{
    cases::count,
    state::{State, TTL, off_by},
    toy::{Act, Toy, ToyFlow, effects, step},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

cases!(
    a_run_goes_to_a_node_of_its_region,
    nodes_together_keep_the_limits,
    what_matters_more_goes_first,
    an_unknown_flow_is_left_to_a_node_that_knows_it,
    clocks_an_hour_apart_change_nothing,
    a_run_of_the_version_before_is_driven_to_its_end,
    a_node_is_alive_until_it_leaves,
);

/// A toy by another name.
struct Named(&'static str, ToyFlow);

#[async_trait]
impl Flow for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        self.1.steps(params)
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        self.1.conclude(cx, ending).await
    }
}

async fn station(state: &State, station: Station, clock: Clock) -> Arc<Runner> {
    let node = station.node.clone();
    let runner = Runner::new(state.db().await, station, clock, TTL * 4);
    runner.register(Arc::new(ToyFlow { node }));
    runner
}

fn in_region(node: &str, region: &str) -> Station {
    Station { region: Some(region.parse().unwrap()), ..Station::from(node) }
}

fn serving(tasks: &Tasks, runner: &Arc<Runner>, limit: usize) {
    let (runner, stop) = (Arc::clone(runner), tasks.stop().clone());
    tasks.spawn(async move { runner.serve(stop, limit).await });
}

fn small(folder: &Path, subject: &str, ms: u64) -> NewRun {
    Toy::new(folder, [step("one", Act::Pause { ms })]).run(subject, "1")
}

async fn ended(runner: &Runner, id: &RunId) -> RunState {
    tokio::time::timeout(SOON, runner.wait(id)).await.unwrap().unwrap().state
}

async fn a_run_goes_to_a_node_of_its_region(state: &State) {
    let tasks = Tasks::new();
    let here = station(state, in_region("here", "mt"), Clock::system()).await;
    serving(&tasks, &here, 4);
    let there = Placement { regions: vec!["it".parse().unwrap()], ..Placement::default() };
    let away = small(state.folder.path(), "wallet", 1).placed(there);
    here.submit(away.clone()).await.unwrap();
    let (asked, id) = (Arc::clone(&here), away.id.clone());
    let asking = tasks.spawn(async move { asked.drive(&id).await.unwrap().state });
    // It is passed over, not in the way: what was stored later is driven.
    let anywhere = small(state.folder.path(), "ledger", 1);
    here.submit(anywhere.clone()).await.unwrap();
    assert_eq!(ended(&here, &anywhere.id).await, RunState::Done);
    assert_eq!(here.get(&away.id).await.unwrap().state, RunState::Pending);
    let near = station(state, in_region("near", "it"), Clock::system()).await;
    serving(&tasks, &near, 4);
    assert_eq!(tokio::time::timeout(SOON, asking).await.unwrap().unwrap(), RunState::Done);
    assert_eq!(effects(state.folder.path()), ["here one made", "near one made"]);
    tasks.shut_down().await;
}

/// When each run was taken and when it ended, by the database's clock.
async fn spans(db: &Db, ids: &[RunId]) -> Vec<(i64, i64)> {
    let mut spans = Vec::new();
    for id in ids {
        let (_, rows) = runs::journal(db, id.as_str()).await.unwrap();
        let at = |event: &str| rows.iter().find(|row| row.event.contains(event)).unwrap().at_ms;
        spans.push((at("\"taken\""), at("\"concluded\"")));
    }
    spans
}

/// The most that were driven at one instant.
fn most_at_once(spans: &[(i64, i64)]) -> usize {
    let at = |instant: i64| spans.iter().filter(|(from, to)| (*from..*to).contains(&instant)).count();
    spans.iter().map(|(from, _)| at(*from)).max().unwrap()
}

async fn nodes_together_keep_the_limits(state: &State) {
    let two = NonZeroU32::new(2).unwrap();
    let limits = Limits {
        vaults: BTreeMap::from([("narrow".parse().unwrap(), two)]),
        databases: BTreeMap::from([("wallet".parse().unwrap(), NonZeroU32::MIN)]),
    };
    let tasks = Tasks::new();
    let mut runners = Vec::new();
    for node in ["a", "b", "c"] {
        let station_of = Station { limits: limits.clone(), ..Station::from(node) };
        runners.push(station(state, station_of, Clock::system()).await);
    }
    let placed = |vault: &str, database: &str| Placement {
        vaults: vec![vault.parse().unwrap()],
        database: Some(database.parse().unwrap()),
        ..Placement::default()
    };
    let (mut narrow, mut wallet, mut free) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..8 {
        for (kind, placement, ids) in [
            ("narrow", placed("narrow", "ledger"), &mut narrow),
            ("wallet", placed("wide", "wallet"), &mut wallet),
            ("free", placed("wide", "ledger"), &mut free),
        ] {
            let run = small(state.folder.path(), &format!("{kind}-{number}"), 60).placed(placement);
            runners[0].submit(run.clone()).await.unwrap();
            ids.push(run.id);
        }
    }
    // All at once, each with room for more than the limits leave.
    for runner in &runners {
        serving(&tasks, runner, 8);
    }
    for id in narrow.iter().chain(&wallet).chain(&free) {
        assert_eq!(ended(&runners[0], id).await, RunState::Done, "{id}");
    }
    let db = state.db().await;
    assert!(most_at_once(&spans(&db, &narrow).await) <= 2, "{:?}", spans(&db, &narrow).await);
    assert_eq!(most_at_once(&spans(&db, &wallet).await), 1, "{:?}", spans(&db, &wallet).await);
    assert!(most_at_once(&spans(&db, &free).await) > 2, "what is not limited runs beside each other");
    tasks.shut_down().await;
}

async fn what_matters_more_goes_first(state: &State) {
    let runner = station(state, Station::from("a"), Clock::system()).await;
    let mut ids = Vec::new();
    for flow in ["copy", "restore_test", "backup", "drill"] {
        runner.register(Arc::new(Named(flow, ToyFlow { node: "a".to_owned() })));
        for due in ["1", "2"] {
            let toy = Toy::new(state.folder.path(), [step(flow, Act::Make)]);
            let subject = format!("{flow}{due}");
            let id = RunId::new(flow, &subject, "manual", due);
            runner.submit(NewRun::new(id.clone(), &subject, &toy, "tester").unwrap()).await.unwrap();
            ids.push(id);
            // Two of one instant go by name.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    let tasks = Tasks::new();
    serving(&tasks, &runner, 1);
    for id in &ids {
        assert_eq!(ended(&runner, id).await, RunState::Done);
    }
    let order = ["drill", "drill", "backup", "backup", "restore_test", "restore_test", "copy", "copy"];
    assert_eq!(effects(state.folder.path()), order.map(|flow| format!("a {flow} made")));
    tasks.shut_down().await;
}

async fn an_unknown_flow_is_left_to_a_node_that_knows_it(state: &State) {
    let (old, new) = (state.runner("old").await, state.runner("new").await);
    new.register(Arc::new(Named("newer", ToyFlow { node: "new".to_owned() })));
    let toy = Toy::new(state.folder.path(), [step("one", Act::Make)]);
    let id = RunId::new("newer", "wallet", "manual", "1");
    new.submit(NewRun::new(id.clone(), "wallet", &toy, "tester").unwrap()).await.unwrap();
    let tasks = Tasks::new();
    serving(&tasks, &old, 4);
    let known = toy.run("ledger", "1");
    old.submit(known.clone()).await.unwrap();
    assert_eq!(ended(&old, &known.id).await, RunState::Done);
    assert_eq!(old.get(&id).await.unwrap().state, RunState::Pending);
    assert!(matches!(old.drive(&id).await, Err(FlowError::UnknownFlow { .. })));
    serving(&tasks, &new, 4);
    assert_eq!(ended(&old, &id).await, RunState::Done);
    tasks.shut_down().await;
}

async fn clocks_an_hour_apart_change_nothing(state: &State) {
    let tasks = Tasks::new();
    let slow = Runner::new(state.db().await, "slow", off_by(-1), TTL);
    let fast = Runner::new(state.db().await, "fast", off_by(1), TTL);
    slow.register(Arc::new(ToyFlow { node: "slow".to_owned() }));
    fast.register(Arc::new(ToyFlow { node: "fast".to_owned() }));
    // Longer than two leases.
    let toy = Toy::new(state.folder.path(), [step("one", Act::Effects { count: 60, pause_ms: 60 })]);
    let run = toy.run("wallet", "1");
    slow.submit(run.clone()).await.unwrap();
    let (there, id) = (Arc::clone(&slow), run.id.clone());
    let driven = tasks.spawn(async move { there.drive(&id).await });
    eventually("the slow one acts", SOON, || async { effects(state.folder.path()).len() > 3 }).await;
    serving(&tasks, &fast, 4);
    assert_eq!(driven.await.unwrap().unwrap().state, RunState::Done);
    assert_eq!(count(state, &run.id, "taken").await, 1, "nobody took it over while its node lived");
    assert!(effects(state.folder.path()).iter().all(|line| line.starts_with("slow")));
    tasks.shut_down().await;
}

/// The state database as the version before made it.
async fn made_before(state: &State) {
    let folder = state.folder.path().join("migrations");
    std::fs::create_dir_all(&folder).unwrap();
    let kind = if state.url.starts_with("sqlite") { "sqlite" } else { "postgres" };
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
    for name in ["0001_runs.sql", "0002_evidence.sql", "0003_vaults.sql"] {
        std::fs::copy(all.join(name), folder.join(name)).unwrap();
    }
    let migrator = sqlx::migrate::Migrator::new(folder).await.unwrap();
    if kind == "sqlite" {
        let options: sqlx::sqlite::SqliteConnectOptions = state.url.parse().unwrap();
        let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
        migrator.run(&pool).await.unwrap();
        pool.close().await;
    } else {
        let pool = sqlx::PgPool::connect(&state.url).await.unwrap();
        migrator.run(&pool).await.unwrap();
        pool.close().await;
    }
}

async fn execute(state: &State, sql: &str) {
    if state.url.starts_with("sqlite") {
        let pool = sqlx::SqlitePool::connect(&state.url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        pool.close().await;
    } else {
        let pool = sqlx::PgPool::connect(&state.url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

/// What the version before writes when it stores a run.
fn stored_before(id: &str, subject: &str, toy: &Toy) -> String {
    let params = serde_json::to_string(toy).unwrap();
    format!(
        "INSERT INTO runs (id, flow, subject, params, requester, created_ms, state, fence, lease_until_ms)
         VALUES ('{id}', 'toy', '{subject}', '{params}', 'tester', 1, 'pending', 0, 0);"
    )
}

/// And when it takes a run and begins its first step; the node is gone since.
fn begun_before(id: &str) -> String {
    let taken = format!(
        "UPDATE runs SET fence = fence + 1, lease_owner = 'old', lease_until_ms = 2,
            begun_ms = COALESCE(begun_ms, 1), state = 'running', step = 'one'
         WHERE id = '{id}' AND finished_ms IS NULL AND lease_until_ms <= 1;"
    );
    let events = [
        r#"{"event":"taken","node":"old"}"#,
        r#"{"event":"step_started","step":"one","undo_plan":"one"}"#,
        r#"{"event":"step_succeeded","step":"one","output":"one"}"#,
    ];
    let journal = events.iter().enumerate().map(|(number, event)| {
        format!(
            "INSERT INTO journal (run_id, nonce, at_ms, fence, event)
             VALUES ('{id}', '{id}-{number}', 1, 1, '{event}') ON CONFLICT (nonce) DO NOTHING;"
        )
    });
    std::iter::once(taken).chain(journal).collect()
}

async fn a_run_of_the_version_before_is_driven_to_its_end(state: &State) {
    made_before(state).await;
    let toy = Toy::new(state.folder.path(), ["one", "two", "three"].map(|name| step(name, Act::Make)));
    let begun = RunId::new("toy", "wallet", "manual", "1");
    execute(state, &(stored_before(begun.as_str(), "wallet", &toy) + &begun_before(begun.as_str()))).await;
    let runner = state.runner("new").await;
    assert_eq!(runner.drive(&begun).await.unwrap().state, RunState::Done);
    assert_eq!(effects(state.folder.path()), ["new two made", "new three made"], "it went on where it was");
    // While versions mix, the older one goes on storing and taking runs.
    let mixed = RunId::new("toy", "ledger", "manual", "2");
    execute(state, &stored_before(mixed.as_str(), "ledger", &toy)).await;
    execute(state, &begun_before(mixed.as_str())).await;
    assert_eq!(count(state, &mixed, "taken").await, 1);
    let here = station(state, in_region("here", "mt"), Clock::system()).await;
    assert_eq!(here.drive(&mixed).await.unwrap().state, RunState::Done, "it may be driven anywhere");
    // And what a still newer one has changed is opened as it is.
    let later = "INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, success, checksum, execution_time
        FROM _sqlx_migrations WHERE version = 4";
    execute(state, later).await;
    assert_eq!(state.runner("old").await.get(&mixed).await.unwrap().state, RunState::Done);
}

async fn a_node_is_alive_until_it_leaves(state: &State) {
    let db = state.db().await;
    let region = "mt".parse().unwrap();
    nodes::tell(&db, "b", &region, &[NodeRole::Api], "1.0").await.unwrap();
    nodes::tell(&db, "a", &region, &NodeRole::ALL, "1.0").await.unwrap();
    nodes::tell(&db, "b", &region, &[NodeRole::Worker], "1.1").await.unwrap();
    let told = nodes::list(&db).await.unwrap();
    let names: Vec<(&str, &str, bool)> =
        told.iter().map(|node| (node.name.as_str(), node.version.as_str(), node.is_alive)).collect();
    assert_eq!(names, [("a", "1.0", true), ("b", "1.1", true)]);
    assert_eq!(told[1].roles, [NodeRole::Worker]);
    assert!(told[0].seen_at > Timestamp::UNIX_EPOCH);
    execute(state, "UPDATE nodes SET seen_ms = seen_ms - 21000 WHERE name = 'a'").await;
    let told = nodes::list(&db).await.unwrap();
    assert_eq!(told.iter().map(|node| node.is_alive).collect::<Vec<_>>(), [false, true]);
    nodes::leave(&db, "b").await.unwrap();
    assert_eq!(nodes::list(&db).await.unwrap().len(), 1);
}
