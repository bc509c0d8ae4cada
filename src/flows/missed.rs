//! A run that did not take place is a record as well: which due times, and why.
//! It touches nothing; that it is a run makes it happen once on many nodes, and
//! leaves it to the journal to survive a crash.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Resources;
use crate::{
    decide::agenda::Why,
    domain::DatabaseName,
    flow::{Conclusion, Ending, Flow, Step, StepContext, StepError},
};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "missed";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    /// Of the runs that did not take place.
    pub flow: String,
    pub kind: String,
    pub why: Why,
    /// Oldest first; at least one.
    pub due: Vec<Timestamp>,
}

impl Params {
    /// What a person is told.
    fn told(&self) -> String {
        let Self { flow, kind, why, due, .. } = self;
        let when = match (due.first(), due.last(), due.len()) {
            (Some(only), _, 1) => format!("the {flow} ({kind}) due {only}"),
            (Some(first), Some(last), count) => format!("{count} of {flow} ({kind}) due from {first} to {last}"),
            _ => format!("a {flow} ({kind})"),
        };
        match why {
            Why::Down => format!(
                "{when} did not run: no scheduler lived; see that a daemon runs, and start it again by hand if it is needed"
            ),
            Why::Blackout => format!(
                "{when} did not run: a blackout held it until its start window had passed; make the window longer than the blackout"
            ),
            Why::Maintenance => {
                format!("{when} did not run: announced maintenance held it until its start window had passed")
            }
        }
    }
}

/// The workflow, of no steps.
#[derive(Debug)]
pub struct MissedFlow {
    resources: Arc<Resources>,
}

impl MissedFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for MissedFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, _params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        Ok(Vec::new())
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        let params: Params = cx.params()?;
        let database = self.resources.database(&params.database).ok();
        let (verdict, mut findings) = super::judged(ending, params.why.verdict());
        findings.push(params.told());
        let mut record = super::record(cx, (&params.database, database.as_deref()), NAME, params.due.last().copied());
        record.verdicts = BTreeMap::from([(format!("{}_on_time", params.flow), verdict)]);
        record.verdict = verdict;
        record.findings.clone_from(&findings);
        let evidence = self.resources.evidence.append(&record).await?;
        let output = json!({
            "run_id": cx.run_id(), "database": params.database, "verdict": verdict, "missed": params,
            "findings": findings, "evidence": evidence,
        });
        Ok(Conclusion { verdict, output })
    }
}
