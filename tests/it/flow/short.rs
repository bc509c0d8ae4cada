//! A flow of two short steps, for many runs on many nodes. Each step writes one
//! file, once, as objects are written to a vault. The benchmark uses it too.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use lifeboat::{
    domain::Verdict,
    flow::{Conclusion, Ending, Flow, Step, StepContext, StepError},
};
use serde_json::Value;

pub(crate) const STEPS: usize = 2;

/// Its parameter is the folder of the files.
pub(crate) struct Short;
struct Write(&'static str);

#[async_trait]
impl Flow for Short {
    fn name(&self) -> &'static str {
        "short"
    }

    fn steps(&self, _params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let steps: [&'static str; STEPS] = ["one", "two"];
        Ok(steps.into_iter().map(|name| Box::new(Write(name)) as Box<dyn Step>).collect())
    }

    async fn conclude(&self, _cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        let verdict = if *ending == Ending::Done { Verdict::Pass } else { Verdict::Error };
        Ok(Conclusion { verdict, output: Value::Null })
    }
}

#[async_trait]
impl Step for Write {
    fn name(&self) -> &str {
        self.0
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.sleep(Duration::from_millis(50)).await?;
        cx.guard().await?;
        let folder: PathBuf = cx.params()?;
        let path = folder.join(format!("{}-{}", cx.run_id().as_str().replace('/', "_"), self.0));
        match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(StepError::transient(error)),
            _ => Ok(Value::Null),
        }
    }
}

/// SQL for the runs in whose journal an event of a done run is missing, or is twice.
pub(crate) fn not_done_once() -> String {
    let of = |event: &str| format!("count(*) FILTER (WHERE event::json->>'event' = '{event}')");
    format!(
        "SELECT run_id FROM journal GROUP BY run_id HAVING ({}, {}, {}, {}) <> ({STEPS}, {STEPS}, 1, 1)",
        of("step_started"),
        of("step_succeeded"),
        of("ended"),
        of("concluded")
    )
}
