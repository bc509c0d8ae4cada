//! What every flow must bear, run over the one list of flows: each call made twice; a
//! failure at each step, with each undo made twice; kill -9 at each journal write. In the
//! end a run is as if nothing had happened, or as if it had never begun, and nothing of it
//! is left.
//!
//! No point is chosen by hand. The steps come from the flow. The writes of the journal
//! are those that a run passes that nobody disturbs, and so are the points within steps;
//! of one that is passed often, the first, the second and the one in the middle count.
//! Each write has two sides: before it the effect is there and nobody knows, after it the
//! next one has not begun. Of flows that take long (`Case::is_long`) only the side before
//! is in the suite; `make torture` has both of all.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use lifeboat::{
    app::Role,
    clock::Clock,
    flow::{DEFAULT_TTL, Flow, Reversal, RunState, RunSummary, Runner, Signal, Step},
    process::Tasks,
};
use serde_json::Value;

use super::{
    driver::Driver,
    end::{Before, End, visible_backups_are_whole},
    lab::{LIMIT, Lab},
    list::Case,
};
use crate::{
    flow::generic::{PLANTED, Trouble, Troubled},
    support::eventually,
    torture,
};

/// Where the steps of a run stand to what cannot be taken back.
struct Steps {
    names: Vec<String>,
    /// The first point of no return.
    no_return: usize,
    /// The first whose success leaves something for good.
    keeps: usize,
    /// Whether each has an undo, or is a point of no return: before it acts is another
    /// thing than after the step before it.
    acts: Vec<bool>,
}

impl Steps {
    fn of(case: &dyn Case, steps: &[Box<dyn Step>], journal: &[Value]) -> Self {
        let names: Vec<String> = steps.iter().map(|step| step.name().to_owned()).collect();
        let is_final: Vec<bool> =
            steps.iter().map(|step| step.policy().reversal == Reversal::PointOfNoReturn).collect();
        let has_undo = |name: &str| {
            let begun = |event: &&Value| event["event"] == "step_started" && event["step"] == name;
            journal.iter().find(begun).is_some_and(|event| !event["undo_plan"].is_null())
        };
        let keeps = case.keeps_from().map_or(names.len(), |kept| {
            names.iter().position(|name| name == kept).unwrap_or_else(|| panic!("{names:?} has no {kept}"))
        });
        Self {
            no_return: is_final.iter().position(|is_final| *is_final).unwrap_or(names.len()),
            keeps,
            acts: is_final.iter().zip(&names).map(|(is_final, name)| *is_final || has_undo(name)).collect(),
            names,
        }
    }

    /// The last one after which all is undone, where there is something to undo.
    fn last_undone(&self) -> Option<&str> {
        let end = self.no_return.min(self.keeps);
        let undone = self.names.iter().zip(&self.acts).take(end);
        undone.filter(|(_, acts)| **acts).map(|(name, _)| name.as_str()).next_back()
    }
}

fn flow(case: &dyn Case, lab: &Lab) -> Arc<dyn Flow> {
    lab.app.runner.flows().into_iter().find(|flow| flow.name() == case.flow()).unwrap()
}

/// A run that was driven here.
struct Driven {
    end: End,
    run: RunSummary,
    was_held: bool,
    steps: Steps,
}

/// Drives a fresh run, with trouble; one that holds is mended and helped forward.
async fn driven(case: &dyn Case, lab: &Lab, trouble: Option<Trouble>) -> Driven {
    lab.begin_anew();
    let new = case.run(lab).await;
    let before = Before::look(case, lab).await;
    let (id, begun, flow) = (new.id.clone(), Instant::now(), flow(case, lab));
    let steps = flow.steps(&new.params).unwrap();
    let what = format!("{}: {trouble:?}", case.flow());
    let runner = Runner::new(lab.app.resources.db.clone(), "troubled", Clock::system(), DEFAULT_TTL);
    let mut mended = Arc::default();
    match trouble {
        Some(trouble) => {
            let troubled = Troubled::new(flow, trouble);
            mended = troubled.mended();
            runner.register(Arc::new(troubled));
        }
        None => runner.register(flow),
    }
    runner.submit(new).await.unwrap();
    let (tasks, driver, run_id) = (Tasks::new(), Arc::clone(&runner), id.clone());
    let driving = tasks.spawn(async move { driver.drive(&run_id).await });
    let state = async || runner.get(&id).await.unwrap().state;
    eventually(&format!("{what} ends or holds"), LIMIT, async || {
        let state = state().await;
        state.is_final() || state == RunState::Holding
    })
    .await;
    let was_held = state().await == RunState::Holding;
    if was_held {
        assert_eq!(runner.get(&id).await.unwrap().error.as_deref(), Some(PLANTED), "{what}");
        mended.store(true, Ordering::SeqCst);
        let (name, who) = ("resume".to_owned(), "tester".to_owned());
        runner.signal(&id, Signal { name, who, payload: Value::Null }).await.unwrap();
    }
    let Ok(run) = tokio::time::timeout(LIMIT, driving).await else {
        panic!("{what} does not end: {:?}", lab.journal(&id).await)
    };
    let run = run.unwrap().unwrap();
    runner.shut_down().await;
    println!("{what}: {:?} after {:.1?}", run.state, begun.elapsed());
    let end = before.end(case, lab, &what, &run).await;
    if run.state == RunState::Done {
        case.holds(lab, &end, &lab.record(&id).await).await;
    }
    Driven { end, run, was_held, steps: Steps::of(case, &steps, &lab.journal(&id).await) }
}

/// What a test has a flow bear.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ordeal {
    /// Each call made twice, and a failure at each step.
    Trouble,
    /// A kill at each of these points.
    Kills(Part),
}

/// Has a flow bear this, one after the other on one estate.
pub(super) async fn borne(case: &dyn Case, ordeals: &[Ordeal]) {
    let begun = Instant::now();
    // The port of a DNS server is for whoever drives the runs: this process, or its children.
    let drives_all = ordeals.iter().all(|ordeal| matches!(ordeal, Ordeal::Trouble));
    let lab = Lab::of(case, if drives_all { Role::Everything } else { Role::WithoutDns }).await;
    println!("{}: the estate is there after {:.1?}", case.flow(), begun.elapsed());
    for ordeal in ordeals {
        match ordeal {
            Ordeal::Trouble => troubled(case, &lab).await,
            Ordeal::Kills(part) => killed(case, &lab, *part).await,
        }
    }
    lab.tear_down().await;
    println!("{}: all was borne after {:.1?}", case.flow(), begun.elapsed());
}

/// Each call made twice, and a failure at each step.
async fn troubled(case: &dyn Case, lab: &Lab) {
    let Driven { end: expected, steps, .. } = driven(case, lab, None).await;
    passed(case, &expected);
    let twice = driven(case, lab, Some(Trouble::EachTwice)).await;
    assert_eq!(twice.end, expected, "each call made twice");
    for (nth, name) in steps.names.iter().enumerate() {
        let before = steps.acts[nth].then(|| (Trouble::FailBefore(name.clone()), nth > steps.keeps));
        let after = (Trouble::FailAfter(name.clone()), nth >= steps.keeps);
        for (trouble, is_kept) in before.into_iter().chain([after]) {
            let what = format!("{trouble:?}");
            let Driven { end, run, was_held, .. } = driven(case, lab, Some(trouble)).await;
            assert_eq!(was_held, nth >= steps.no_return, "{what}: what cannot be taken back goes forward");
            if was_held {
                assert_eq!(end, expected, "{what}, mended");
                continue;
            }
            let told = (run.state, run.step.as_deref(), run.error.as_deref());
            assert_eq!(told, (RunState::Unwound, Some(name.as_str()), Some(PLANTED)), "{what}");
            assert_ne!(end.judged["verdict"], expected.judged["verdict"], "{what}");
            let is_part = end.changes.iter().all(|change| expected.changes.contains(change));
            assert!(if is_kept { is_part } else { end.changes.is_empty() }, "{what}: {:?}", end.changes);
            assert!(!end.is_world_changed, "{what}: all is as it was");
        }
    }
    println!("{}: {} steps in trouble", case.flow(), steps.names.len());
}

fn passed(case: &dyn Case, end: &End) {
    assert_eq!((end.state, end.judged["verdict"].as_str()), (RunState::Done, Some(case.verdict())), "{end:#?}");
}

/// A part of the points, for a test of its own: the first of the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part(pub(super) usize, pub(super) usize);

impl Part {
    /// Neighbours stay together, and nothing is left out.
    fn of(self, points: &[String]) -> &[String] {
        let Self(nth, of) = self;
        &points[points.len() * (nth - 1) / of..points.len() * nth / of]
    }
}

/// A kill at each journal write and each point within a step, and then those of an
/// unwinding, where the flow has something to undo.
async fn killed(case: &dyn Case, lab: &Lab, part: Part) {
    let (expected, points, steps) = traced(case, lab, None).await;
    passed(case, &expected);
    let points = to_kill_at(case, &points);
    let mut kills = 0;
    for point in part.of(&points) {
        let (end, record) = killed_at(case, lab, point, None).await;
        assert_eq!(end, expected, "killed at {point}");
        case.holds(lab, &end, &record).await;
        kills += 1;
    }
    case.finally(lab).await;
    assert!(kills > 0, "{points:?}");
    let undone = steps.last_undone();
    assert_eq!(undone.is_some(), case.undoes(), "{}", case.flow());
    if let (Some(step), true) = (undone, part.0 == part.1) {
        let (expected, points, _) = traced(case, lab, Some(step)).await;
        assert_eq!(expected.state, RunState::Unwound, "{expected:#?}");
        let failed = points.iter().position(|point| point.starts_with("flow.step_failed.before")).unwrap();
        for point in to_kill_at(case, &points[failed..]) {
            let (end, _) = killed_at(case, lab, &point, Some(step)).await;
            assert_eq!(end, expected, "killed at {point}, after {step} had failed");
            kills += 1;
        }
    }
    println!("{}, {part:?}: killed at {kills} points", case.flow());
}

/// The end that nothing disturbs but a step that fails, and the points that are passed.
async fn traced(case: &dyn Case, lab: &Lab, fails_after: Option<&str>) -> (End, Vec<String>, Steps) {
    lab.begin_anew();
    let (new, begun) = (case.run(lab).await, Instant::now());
    let steps = flow(case, lab).steps(&new.params).unwrap();
    let before = Before::look(case, lab).await;
    let id = lab.submit(new).await;
    let (run, points) = Driver { lab, fails_after }.traced(&id).await;
    let end = before.end(case, lab, "undisturbed", &run).await;
    println!("{}, failing after {fails_after:?}: {} points, {:.1?}", case.flow(), points.len(), begun.elapsed());
    (end, points, Steps::of(case, &steps, &lab.journal(&id).await))
}

async fn killed_at(case: &dyn Case, lab: &Lab, point: &str, fails_after: Option<&str>) -> (End, Value) {
    lab.begin_anew();
    let (began, driver) = (Instant::now(), Driver { lab, fails_after });
    let new = case.run(lab).await;
    let before = Before::look(case, lab).await;
    let id = lab.submit(new).await;
    let fresh = began.elapsed();
    driver.killed_at(point, &id).await;
    let died = began.elapsed();
    visible_backups_are_whole(lab, point).await;
    lab.end_lease(&id).await;
    let run = driver.to_the_end(&id).await;
    let ended = began.elapsed();
    let end = before.end(case, lab, point, &run).await;
    println!("{point}: ready {fresh:.1?}, died {died:.1?}, ended {ended:.1?}, looked at {:.1?}", began.elapsed());
    (end, lab.record(&id).await)
}

/// Those of the points that a run passed at which it is killed. A step that failed, and
/// was tried again, may not fail the next time.
fn to_kill_at(case: &dyn Case, points: &[String]) -> Vec<String> {
    let split = |point: &str| {
        let (name, nth) = point.rsplit_once(':').unwrap();
        (name.to_owned(), nth.parse::<usize>().unwrap())
    };
    let mut often = HashMap::<String, usize>::new();
    for (name, nth) in points.iter().map(|point| split(point)) {
        often.insert(name, nth);
    }
    let is_whole = !case.is_long() || torture::minutes().is_some();
    let is_one = |point: &&String| {
        let (name, nth) = split(point);
        match name.strip_prefix("flow.") {
            Some(event) if event.starts_with("step_failed") => false,
            Some(event) => is_whole || event.ends_with(".before"),
            None => nth <= 2 || nth == often[&name] / 2 + 1,
        }
    };
    points.iter().filter(is_one).cloned().collect()
}
