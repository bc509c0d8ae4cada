//! The conformance list: what a run must do on every state database.

use std::{sync::Arc, time::Duration};

use lifeboat::{
    db::Db,
    domain::{RunId, Verdict},
    flow::{FlowError, RunState, Runner, Signal, Submitted},
    process::Tasks,
};
use serde_json::{Value, json};

use super::{
    generic::{Trouble, Troubled},
    state::{State, TTL, runner},
    toy::{Act, Toy, ToyFlow, effects, made, step},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(30);

cases!(
    steps_run_once_in_order,
    two_nodes_run_each_run_once,
    a_signal_sent_before_the_wait_is_received,
    signals_are_read_one_by_one_and_again_the_same_after_a_restart,
    a_wait_ends_at_its_limit_and_pauses_the_step_limit,
    a_wait_lasts_for_days_in_which_nobody_serves,
    an_abort_never_overlaps_the_step,
    an_abort_past_the_point_of_no_return_is_refused,
    a_run_holds_past_the_point_of_no_return_and_resumes,
    a_failure_at_each_step_ends_clean,
    each_call_made_twice_ends_the_same,
    a_step_over_its_limit_is_a_failed_attempt,
    a_panic_is_a_failure,
    a_failed_undo_is_stuck_and_concluded,
    a_shutdown_undoes_nothing_and_the_run_resumes,
    runs_of_one_subject_follow_each_other,
    an_ended_run_takes_no_signal,
);

fn three(state: &State) -> Toy {
    Toy::new(state.folder.path(), ["one", "two", "three"].map(|name| step(name, Act::Make)))
}

async fn submitted(runner: &Runner, toy: &Toy) -> RunId {
    let run = toy.run("wallet", "1");
    let id = run.id.clone();
    assert_eq!(runner.submit(run).await.unwrap(), Submitted::New);
    id
}

fn signal(name: &str, who: &str) -> Signal {
    Signal { name: name.to_owned(), who: who.to_owned(), payload: Value::Null }
}

/// Drives in the background; the handle gives the run's end.
fn driving(
    tasks: &Tasks,
    runner: &Arc<Runner>,
    id: &RunId,
) -> tokio::task::JoinHandle<Result<lifeboat::flow::RunSummary, FlowError>> {
    let (runner, id) = (Arc::clone(runner), id.clone());
    tasks.spawn(async move { runner.drive(&id).await })
}

async fn until_state(runner: &Runner, id: &RunId, state: RunState) {
    eventually(&format!("{id} is {state:?}"), SOON, || async { runner.get(id).await.unwrap().state == state }).await;
}

async fn steps_run_once_in_order(state: &State) {
    let runner = state.runner("a").await;
    let toy = three(state);
    let id = submitted(&runner, &toy).await;
    assert_eq!(runner.submit(toy.run("wallet", "1")).await.unwrap(), Submitted::Existing);
    assert_eq!(runner.get(&id).await.unwrap().state, RunState::Pending);
    let run = runner.drive(&id).await.unwrap();
    assert_eq!(effects(state.folder.path()), ["a one made", "a two made", "a three made"]);
    let conclusion = run.conclusion.unwrap();
    assert_eq!((run.state, conclusion.verdict), (RunState::Done, Verdict::Pass));
    assert_eq!(conclusion.output["steps"], json!(3));
    assert!(run.finished_at.unwrap() >= run.created_at);
    assert_eq!(runner.drive(&id).await.unwrap().state, RunState::Done);
    assert_eq!(effects(state.folder.path()).len(), 3, "an ended run is not driven again");
    assert_eq!(runner.list(10).await.unwrap().len(), 1);
    let unknown = RunId::new("toy", "none", "manual", "1");
    assert!(matches!(runner.drive(&unknown).await, Err(FlowError::NoSuchRun(_))));
}

async fn two_nodes_run_each_run_once(state: &State) {
    // No lease has to end here, and none may be lost to a busy disk.
    let ttl = TTL * 10;
    let nodes = [runner(&state.url, "a", ttl).await, runner(&state.url, "b", ttl).await];
    let (tasks, mut ids) = (Tasks::new(), Vec::new());
    for node in &nodes {
        let (node, stop) = (Arc::clone(node), tasks.stop().clone());
        tasks.spawn(async move { node.serve(stop, 4).await });
    }
    for number in 0..12 {
        let folder = state.folder.path().join(number.to_string());
        let run = Toy::new(&folder, [step("one", Act::Make), step("two", Act::Make)]).run(&number.to_string(), "1");
        ids.push((run.id.clone(), folder));
        nodes[number % 2].submit(run).await.unwrap();
    }
    for (id, folder) in ids {
        let run = tokio::time::timeout(SOON, nodes[0].wait(&id)).await.unwrap().unwrap();
        assert_eq!(run.state, RunState::Done);
        assert_eq!(effects(&folder).len(), 2, "{id}: {:?}", effects(&folder));
    }
    tasks.shut_down().await;
}

async fn a_signal_sent_before_the_wait_is_received(state: &State) {
    let runner = state.runner("a").await;
    let wait = Act::Wait { name: "approve".to_owned(), count: 1, limit_ms: 60_000 };
    let id = submitted(&runner, &Toy::new(state.folder.path(), [step("one", wait)])).await;
    runner.signal(&id, signal("approve", "ann")).await.unwrap();
    let run = tokio::time::timeout(SOON, runner.drive(&id)).await.unwrap().unwrap();
    assert_eq!(run.state, RunState::Done);
}

async fn signals_are_read_one_by_one_and_again_the_same_after_a_restart(state: &State) {
    let (runner, tasks) = (state.runner("a").await, Tasks::new());
    let wait = Act::Wait { name: "approve".to_owned(), count: 3, limit_ms: 60_000 };
    let id = submitted(&runner, &Toy::new(state.folder.path(), [step("one", wait)])).await;
    let driven = driving(&tasks, &runner, &id);
    until_state(&runner, &id, RunState::Waiting).await;
    runner.signal(&id, signal("other", "eve")).await.unwrap();
    runner.signal(&id, signal("approve", "ann")).await.unwrap();
    eventually("ann is read", SOON, || async { count(state, &id, "wait_ended").await == 1 }).await;
    runner.shut_down().await;
    assert!(matches!(driven.await.unwrap(), Err(FlowError::Interrupted(_))));

    let other = state.runner("b").await;
    other.signal(&id, signal("approve", "bob")).await.unwrap();
    let driven = driving(&tasks, &other, &id);
    eventually("bob is read", SOON, || async { count(state, &id, "wait_ended").await == 2 }).await;
    // From another process, so to say: only the database tells the driver.
    state.runner("c").await.signal(&id, signal("approve", "cid")).await.unwrap();
    assert_eq!(driven.await.unwrap().unwrap().state, RunState::Done);
    let outputs = events(state, &id).await;
    let output = outputs.iter().find(|event| event["event"] == "step_succeeded").unwrap();
    assert_eq!(output["output"], json!(["ann", "bob", "cid"]));
}

async fn a_wait_ends_at_its_limit_and_pauses_the_step_limit(state: &State) {
    let runner = state.runner("a").await;
    let wait = Act::Wait { name: "approve".to_owned(), count: 1, limit_ms: 400 };
    let id = submitted(&runner, &Toy::new(state.folder.path(), [step("one", wait).limit_ms(200)])).await;
    let run = runner.drive(&id).await.unwrap();
    assert_eq!(run.state, RunState::Done, "{run:?}");
    let output = events(state, &id).await.into_iter().find(|event| event["event"] == "step_succeeded").unwrap();
    assert_eq!(output["output"], json!([null]));
}

/// Its limit is counted by the database's clock, not by how long a process lives.
async fn a_wait_lasts_for_days_in_which_nobody_serves(state: &State) {
    const HOUR_MS: u64 = 3_600_000;
    for (hours_down, expected) in [(71, json!(["ann"])), (73, json!([null]))] {
        let (runner, tasks) = (state.runner("a").await, Tasks::new());
        let wait = Act::Wait { name: "approve".to_owned(), count: 1, limit_ms: 72 * HOUR_MS };
        let run = Toy::new(state.folder.path(), [step("one", wait)]).run("wallet", &hours_down.to_string());
        let id = run.id.clone();
        runner.submit(run).await.unwrap();
        let driven = driving(&tasks, &runner, &id);
        until_state(&runner, &id, RunState::Waiting).await;
        runner.shut_down().await;
        assert!(matches!(driven.await.unwrap(), Err(FlowError::Interrupted(_))));
        age(state, &id, hours_down * HOUR_MS).await;

        let other = state.runner("b").await;
        let driven = driving(&tasks, &other, &id);
        eventually("another node took the run", SOON, || async { count(state, &id, "taken").await == 2 }).await;
        if expected == json!(["ann"]) {
            assert_eq!(other.get(&id).await.unwrap().state, RunState::Waiting, "it still waits");
            other.signal(&id, signal("approve", "ann")).await.unwrap();
        }
        let run = tokio::time::timeout(SOON, driven).await.unwrap().unwrap().unwrap();
        assert_eq!(run.state, RunState::Done, "{hours_down} h: {run:?}");
        let output = events(state, &id).await.into_iter().find(|event| event["event"] == "step_succeeded").unwrap();
        assert_eq!(output["output"], expected, "{hours_down} h");
    }
}

/// Makes what the journal of a run tells so much older.
async fn age(state: &State, id: &RunId, by_ms: u64) {
    let sql = "UPDATE journal SET at_ms = at_ms - $1 WHERE run_id = $2";
    let by_ms = i64::try_from(by_ms).unwrap();
    let aged = match state.db().await {
        Db::Sqlite { state: pool, .. } => sqlx::query(sql).bind(by_ms).bind(id.as_str()).execute(&pool).await.map(drop),
        Db::Postgres(pool) => sqlx::query(sql).bind(by_ms).bind(id.as_str()).execute(&pool).await.map(drop),
    };
    aged.unwrap();
}

async fn an_abort_never_overlaps_the_step(state: &State) {
    let (runner, tasks) = (state.runner("a").await, Tasks::new());
    let steps = [step("one", Act::Make), step("two", Act::Linger { after_ms: 300 })];
    let id = submitted(&runner, &Toy::new(state.folder.path(), steps)).await;
    let driven = driving(&tasks, &runner, &id);
    eventually("two acts", SOON, || async { effects(state.folder.path()).len() > 5 }).await;
    state.runner("b").await.abort(&id, "ann", "enough").await.unwrap();
    let run = driven.await.unwrap().unwrap();
    assert_eq!((run.state, run.conclusion.unwrap().verdict), (RunState::Unwound, Verdict::Aborted));
    assert_eq!(run.error.unwrap(), "aborted by ann: enough");
    let effects = effects(state.folder.path());
    let last_effect = effects.iter().rposition(|line| line == "a two lingers").unwrap();
    assert_eq!(effects[last_effect + 1..], ["a two undone", "a one undone"]);
    assert!(made(state.folder.path()).is_empty());
}

async fn an_abort_past_the_point_of_no_return_is_refused(state: &State) {
    let (runner, tasks) = (state.runner("a").await, Tasks::new());
    let wait = Act::Wait { name: "go".to_owned(), count: 1, limit_ms: 60_000 };
    let steps = [step("one", Act::Make), step("two", wait).no_return(), step("three", Act::Make)];
    let id = submitted(&runner, &Toy::new(state.folder.path(), steps)).await;
    let mut progress = runner.progress();
    let driven = driving(&tasks, &runner, &id);
    until_state(&runner, &id, RunState::Waiting).await;
    runner.abort(&id, "ann", "enough").await.unwrap();
    let told = tokio::time::timeout(SOON, progress.recv()).await.unwrap().unwrap();
    assert!(told.step == "abort" && told.message.contains("point of no return"), "{told:?}");
    runner.signal(&id, signal("go", "bob")).await.unwrap();
    assert_eq!(driven.await.unwrap().unwrap().state, RunState::Done);
    assert_eq!(made(state.folder.path()).len(), 3);
    assert_eq!(count(state, &id, "abort_refused").await, 1);
}

async fn a_run_holds_past_the_point_of_no_return_and_resumes(state: &State) {
    let (runner, tasks) = (state.runner("a").await, Tasks::new());
    let steps = [step("one", Act::Make), step("two", Act::Make).no_return(), step("three", Act::FailUntilMended)];
    let id = submitted(&runner, &Toy::new(state.folder.path(), steps)).await;
    let driven = driving(&tasks, &runner, &id);
    until_state(&runner, &id, RunState::Holding).await;
    let held = runner.get(&id).await.unwrap();
    assert_eq!((held.step.as_deref(), held.error.as_deref()), (Some("three"), Some("not mended")));
    assert_eq!(made(state.folder.path()).len(), 3, "nothing is undone");
    runner.abort(&id, "ann", "enough").await.unwrap();
    eventually("the abort is refused", SOON, || async { count(state, &id, "abort_refused").await == 1 }).await;
    runner.signal(&id, signal("resume", "bob")).await.unwrap();
    eventually("it holds again", SOON, || async { count(state, &id, "held").await == 2 }).await;
    std::fs::write(state.folder.path().join("mended"), "").unwrap();
    runner.signal(&id, signal("resume", "bob")).await.unwrap();
    assert_eq!(driven.await.unwrap().unwrap().state, RunState::Done);
}

async fn a_failure_at_each_step_ends_clean(state: &State) {
    let runner = state.runner("a").await;
    for (number, at) in ["one", "two", "three"].into_iter().enumerate() {
        let flow = Arc::new(ToyFlow { node: "a".to_owned() });
        runner.register(Arc::new(Troubled::new(flow, Trouble::FailAfter(at.to_owned()))));
        let run = three(state).run("wallet", &number.to_string());
        runner.submit(run.clone()).await.unwrap();
        let run = runner.drive(&run.id).await.unwrap();
        assert_eq!(
            (run.state, run.step.as_deref(), run.error.as_deref()),
            (RunState::Unwound, Some(at), Some("planted"))
        );
        assert_eq!(run.conclusion.unwrap().verdict, Verdict::Fail);
        assert!(made(state.folder.path()).is_empty());
    }
    let undone: Vec<_> = effects(state.folder.path()).into_iter().filter(|line| line.ends_with("undone")).collect();
    let (one, two, three) = ("a one undone", "a two undone", "a three undone");
    assert_eq!(undone, [one, one, two, two, one, one, three, three, two, two, one, one], "backwards, each twice");
}

async fn each_call_made_twice_ends_the_same(state: &State) {
    let runner = state.runner("a").await;
    let flow = Arc::new(ToyFlow { node: "a".to_owned() });
    runner.register(Arc::new(Troubled::new(flow, Trouble::EachTwice)));
    let id = submitted(&runner, &three(state)).await;
    assert_eq!(runner.drive(&id).await.unwrap().state, RunState::Done);
    assert_eq!(made(state.folder.path()).len(), 3);
    let failing = [step("one", Act::Make), step("two", Act::Fail)];
    let run = Toy::new(state.folder.path(), failing).run("wallet", "2");
    runner.submit(run.clone()).await.unwrap();
    assert_eq!(runner.drive(&run.id).await.unwrap().state, RunState::Unwound);
    assert_eq!(made(state.folder.path()).into_iter().collect::<Vec<_>>(), ["three"]);
}

async fn a_step_over_its_limit_is_a_failed_attempt(state: &State) {
    let runner = state.runner("a").await;
    let id = submitted(&runner, &Toy::new(state.folder.path(), [step("one", Act::Hang).limit_ms(50)])).await;
    let run = runner.drive(&id).await.unwrap();
    assert_eq!(run.state, RunState::Unwound);
    assert_eq!(run.error.as_deref(), Some("took longer than its limit of 50ms"));
    assert_eq!(count(state, &id, "step_failed").await, 2, "both attempts were made");
}

async fn a_panic_is_a_failure(state: &State) {
    let runner = state.runner("a").await;
    let id = submitted(&runner, &Toy::new(state.folder.path(), [step("one", Act::Panic)])).await;
    let run = runner.drive(&id).await.unwrap();
    assert_eq!((run.state, run.error.as_deref()), (RunState::Unwound, Some("panicked: panics as planned")));
    assert_eq!(count(state, &id, "step_failed").await, 1, "a panic is not tried again");
    assert!(made(state.folder.path()).is_empty());
}

async fn a_failed_undo_is_stuck_and_concluded(state: &State) {
    let runner = state.runner("a").await;
    let steps = [step("one", Act::Make), step("two", Act::Sticky), step("three", Act::Fail)];
    let id = submitted(&runner, &Toy::new(state.folder.path(), steps)).await;
    let run = runner.drive(&id).await.unwrap();
    assert_eq!((run.state, run.step.as_deref(), run.error.as_deref()), (RunState::Stuck, Some("two"), Some("sticks")));
    assert_eq!(run.conclusion.unwrap().verdict, Verdict::Error);
    assert_eq!(count(state, &id, "undo_failed").await, 2, "both attempts were made");
    assert_eq!(made(state.folder.path()).into_iter().collect::<Vec<_>>(), ["one", "two"], "what came before stays");
}

async fn a_shutdown_undoes_nothing_and_the_run_resumes(state: &State) {
    let (runner, stop, tasks) = (state.runner("a").await, tokio_util::sync::CancellationToken::new(), Tasks::new());
    let steps = [step("one", Act::Make), step("two", Act::Effects { count: 40, pause_ms: 20 })];
    let id = submitted(&runner, &Toy::new(state.folder.path(), steps)).await;
    let serving = tasks.spawn({
        let (runner, stop) = (Arc::clone(&runner), stop.clone());
        async move { runner.serve(stop, 1).await }
    });
    eventually("two acts", SOON, || async { effects(state.folder.path()).len() > 5 }).await;
    stop.cancel();
    tokio::time::timeout(SOON, serving).await.unwrap().unwrap();
    let before = effects(state.folder.path()).len();
    assert!(before < 42);
    // The lease was given back: another node need not wait for its end.
    let run = state.runner("b").await.drive(&id).await.unwrap();
    assert_eq!(run.state, RunState::Done);
    let effects = effects(state.folder.path());
    assert!(effects[before..].iter().all(|line| line.starts_with("b two ")), "{effects:?}");
    for number in 0..40 {
        let times = effects.iter().filter(|line| line.ends_with(&format!(" effect {number}"))).count();
        assert_eq!(times, 1, "effect {number}");
    }
}

async fn runs_of_one_subject_follow_each_other(state: &State) {
    let (runner, tasks) = (state.runner("a").await, Tasks::new());
    let wait = Act::Wait { name: "go".to_owned(), count: 1, limit_ms: 60_000 };
    let first = Toy::new(state.folder.path(), [step("one", wait)]).run("wallet", "1");
    let second = Toy::new(state.folder.path(), [step("two", Act::Make)]).run("wallet", "2");
    let elsewhere = Toy::new(state.folder.path(), [step("three", Act::Make)]).run("ledger", "1");
    runner.submit(first.clone()).await.unwrap();
    let first_driven = driving(&tasks, &runner, &first.id);
    until_state(&runner, &first.id, RunState::Waiting).await;
    runner.submit(second.clone()).await.unwrap();
    runner.submit(elsewhere.clone()).await.unwrap();
    let second_driven = driving(&tasks, &state.runner("b").await, &second.id);
    assert_eq!(runner.drive(&elsewhere.id).await.unwrap().state, RunState::Done);
    assert_eq!(runner.get(&second.id).await.unwrap().state, RunState::Pending);
    runner.signal(&first.id, signal("go", "ann")).await.unwrap();
    assert_eq!(first_driven.await.unwrap().unwrap().state, RunState::Done);
    assert_eq!(second_driven.await.unwrap().unwrap().state, RunState::Done);
    assert_eq!(effects(state.folder.path()).last().unwrap(), "b two made");
}

async fn an_ended_run_takes_no_signal(state: &State) {
    let runner = state.runner("a").await;
    let id = submitted(&runner, &three(state)).await;
    runner.drive(&id).await.unwrap();
    assert!(matches!(runner.abort(&id, "ann", "late").await, Err(FlowError::Ended(_))));
    let unknown = RunId::new("toy", "none", "manual", "1");
    assert!(matches!(runner.abort(&unknown, "ann", "what").await, Err(FlowError::NoSuchRun(_))));
}

/// The journal of a run as JSON.
pub(super) async fn events(state: &State, id: &RunId) -> Vec<Value> {
    let (_, rows) = lifeboat::db::runs::journal(&state.db().await, id.as_str()).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(&row.event).unwrap()).collect()
}

/// How often an event is in the journal of a run.
pub(super) async fn count(state: &State, id: &RunId, event: &str) -> usize {
    events(state, id).await.iter().filter(|entry| entry["event"] == event).count()
}
