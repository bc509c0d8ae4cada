//! A flow for tests. Each step makes a file `state/NAME` and its undo removes
//! it; whoever acts says so in `effects`, one line each, in the order of acting.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use lifeboat::{
    domain::{RunId, Verdict},
    flow::{Conclusion, Ending, Flow, NewRun, Policy, Reversal, Step, StepContext, StepError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Is there while a step of `Effects` looks at its lease and acts.
pub(super) const ACTING: &str = "acting";

/// What a step does besides making its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    Make,
    /// Fails, trying again cannot help.
    Fail,
    /// Fails until the file `mended` is there.
    FailUntilMended,
    Panic,
    /// Acts, then waits for so many signals of this name.
    Wait {
        name: String,
        count: usize,
        limit_ms: u64,
    },
    /// So many effects, each behind the guard.
    Effects {
        count: u32,
        pause_ms: u64,
    },
    /// Effects until it is asked to stop, and for so long after that.
    Linger {
        after_ms: u64,
    },
    /// Does nothing for so long.
    Pause {
        ms: u64,
    },
    /// Never returns before it is asked to stop.
    Hang,
    /// Its undo always fails.
    Sticky,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ToyStep {
    pub(super) name: String,
    pub(super) act: Act,
    pub(super) no_return: bool,
    pub(super) attempts: u32,
    pub(super) limit_ms: u64,
}

pub(super) fn step(name: &str, act: Act) -> ToyStep {
    ToyStep { name: name.to_owned(), act, no_return: false, attempts: 2, limit_ms: 60_000 }
}

impl ToyStep {
    pub(super) fn no_return(mut self) -> Self {
        self.no_return = true;
        self
    }

    pub(super) fn limit_ms(mut self, limit_ms: u64) -> Self {
        self.limit_ms = limit_ms;
        self
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Toy {
    pub(super) folder: PathBuf,
    pub(super) steps: Vec<ToyStep>,
}

impl Toy {
    pub(super) fn new(folder: &Path, steps: impl IntoIterator<Item = ToyStep>) -> Self {
        fs::create_dir_all(folder.join("state")).unwrap();
        Self { folder: folder.to_owned(), steps: steps.into_iter().collect() }
    }

    pub(super) fn run(&self, subject: &str, due: &str) -> NewRun {
        NewRun::new(RunId::new("toy", subject, "manual", due), subject, self, "tester").unwrap()
    }
}

/// What was done, oldest first: `NODE STEP WHAT`.
pub(super) fn effects(folder: &Path) -> Vec<String> {
    fs::read_to_string(folder.join("effects")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The names of the files that the steps have made and not taken back.
pub(super) fn made(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder.join("state")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn act(folder: &Path, node: &str, step: &str, what: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(folder.join("effects")).unwrap();
    file.write_all(format!("{node} {step} {what}\n").as_bytes()).unwrap();
}

#[derive(Debug)]
pub(super) struct ToyFlow {
    pub(super) node: String,
}

struct Running {
    node: String,
    folder: PathBuf,
    step: ToyStep,
}

#[async_trait]
impl Flow for ToyFlow {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let toy: Toy = lifeboat::flow::read("toy", params)?;
        let running = |step| Running { node: self.node.clone(), folder: toy.folder.clone(), step };
        Ok(toy.steps.iter().cloned().map(|step| Box::new(running(step)) as Box<dyn Step>).collect())
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        // The first try of every conclusion fails, so that every test shows that it is tried again.
        if cx.attempt() == 1 {
            return Err(StepError::permanent("not yet"));
        }
        let verdict = match ending {
            Ending::Done => Verdict::Pass,
            Ending::Aborted { .. } => Verdict::Aborted,
            Ending::Unwound { .. } => Verdict::Fail,
            Ending::Stuck { .. } => Verdict::Error,
        };
        Ok(Conclusion { verdict, output: json!({ "ending": ending, "steps": cx.step_times().len() }) })
    }
}

#[async_trait]
impl Step for Running {
    fn name(&self) -> &str {
        &self.step.name
    }

    fn policy(&self) -> Policy {
        Policy {
            limit: Duration::from_millis(self.step.limit_ms),
            attempts: self.step.attempts,
            backoff: Duration::from_millis(10),
            reversal: if self.step.no_return { Reversal::PointOfNoReturn } else { Reversal::Undo },
        }
    }

    async fn undo_plan(&self, _cx: &StepContext) -> Result<Option<Value>, StepError> {
        Ok((!self.step.no_return).then(|| json!(self.step.name)))
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        assert_eq!(cx.undo_plan().is_none(), self.step.no_return);
        cx.guard().await?;
        fs::write(self.folder.join("state").join(&self.step.name), "").unwrap();
        act(&self.folder, &self.node, &self.step.name, "made");
        match &self.step.act {
            Act::Make | Act::Sticky => {}
            Act::Fail => return Err(StepError::permanent("fails as planned")),
            Act::FailUntilMended if self.folder.join("mended").exists() => {}
            Act::FailUntilMended => return Err(StepError::transient("not mended")),
            Act::Panic => panic!("panics as planned"),
            Act::Wait { name, count, limit_ms } => {
                let mut from = Vec::new();
                for _ in 0..*count {
                    from.push(cx.wait_for_signal(name, Duration::from_millis(*limit_ms)).await?.map(|it| it.who));
                }
                return Ok(json!(from));
            }
            Act::Effects { count, pause_ms } => {
                let acting = self.folder.join(ACTING);
                for number in 0..*count {
                    let marker = self.folder.join(format!("effect-{number}"));
                    if !marker.exists() {
                        fs::write(&acting, "").unwrap();
                        cx.guard().await?;
                        fs::write(marker, "").unwrap();
                        act(&self.folder, &self.node, &self.step.name, &format!("effect {number}"));
                        // Another node may be acting in the same folder, and take it away.
                        let _was_there = fs::remove_file(&acting);
                        tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
                    }
                }
            }
            Act::Linger { after_ms } => {
                let mut stopping = None;
                while stopping.is_none_or(|at: std::time::Instant| at.elapsed() < Duration::from_millis(*after_ms)) {
                    act(&self.folder, &self.node, &self.step.name, "lingers");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if stopping.is_none() && cx.stop().is_cancelled() {
                        stopping = Some(std::time::Instant::now());
                    }
                }
                return Err(StepError::Stopped);
            }
            Act::Pause { ms } => cx.sleep(Duration::from_millis(*ms)).await?,
            Act::Hang => {
                cx.stop().cancelled().await;
                return Err(StepError::Stopped);
            }
        }
        Ok(json!(self.step.name))
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        assert_eq!(plan, &json!(self.step.name));
        cx.guard().await?;
        act(&self.folder, &self.node, &self.step.name, "undone");
        if matches!(self.step.act, Act::Sticky) {
            return Err(StepError::transient("sticks"));
        }
        match fs::remove_file(self.folder.join("state").join(&self.step.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StepError::transient(error)),
            _ => Ok(()),
        }
    }
}
