//! Latency and idle cost, measured and printed. The bounds are loose: they
//! catch polling, not a busy machine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lifeboat::{
    domain::{RunId, Verdict},
    flow::{Conclusion, Ending, Flow, NewRun, Runner, Step, StepContext, StepError},
    process::Tasks,
};
use serde_json::{Value, json};

use super::state::State;
use crate::support::Lab;

struct Quick;
struct QuickStep(&'static str);

#[async_trait]
impl Flow for Quick {
    fn name(&self) -> &'static str {
        "quick"
    }

    fn steps(&self, _params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        Ok(["one", "two", "three"].into_iter().map(|name| Box::new(QuickStep(name)) as Box<dyn Step>).collect())
    }

    async fn conclude(&self, _cx: &StepContext, _ending: &Ending) -> Result<Conclusion, StepError> {
        Ok(Conclusion { verdict: Verdict::Pass, output: Value::Null })
    }
}

#[async_trait]
impl Step for QuickStep {
    fn name(&self) -> &str {
        self.0
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.guard().await?;
        Ok(json!(self.0))
    }
}

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn measured(state: &State, what: &str) {
    let runner: Arc<Runner> = state.runner("a").await;
    runner.register(Arc::new(Quick));
    let tasks = Tasks::new();
    let (serving, stop) = (Arc::clone(&runner), tasks.stop().clone());
    tasks.spawn(async move { serving.serve(stop, 4).await });
    let mut taken = Vec::new();
    for number in 0..20 {
        let id = RunId::new("quick", "wallet", "manual", &number.to_string());
        let begun = Instant::now();
        runner.submit(NewRun::new(id.clone(), "wallet", &(), "tester").unwrap()).await.unwrap();
        runner.wait(&id).await.unwrap();
        taken.push(begun.elapsed());
    }
    taken.sort();
    let (cpu, idle) = (cpu_seconds(), Duration::from_secs(4));
    tokio::time::sleep(idle).await;
    let idle_share = (cpu_seconds() - cpu) / idle.as_secs_f64();
    println!(
        "{what}: 3 steps in {:?} (median), {:?} (worst); idle {:.2} % of a core",
        taken[10],
        taken[19],
        idle_share * 100.0
    );
    assert!(taken[10] < Duration::from_millis(500), "{taken:?}");
    assert!(idle_share < 0.10, "{idle_share}");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_quick_and_idling_is_cheap_on_sqlite() {
    measured(&State::sqlite(), "SQLite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_quick_and_idling_is_cheap_on_postgresql() {
    let lab = Lab::start("").await;
    measured(&State::postgres(&lab, "speed").await, "PostgreSQL").await;
}
