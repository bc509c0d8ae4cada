//! Judges a self-test, writes its evidence record, and opens and closes its findings. A
//! fault that was not seen stays a finding until a later self-test sees it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::{NAME, Params, Tried};
use crate::{
    db::findings,
    decide::self_test::{self, Concluded, Fault, Outcome, Sight},
    domain::{Check, DatabaseName, EvidenceRecord, Verdict, record::Why},
    evidence::Filter,
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{self, Resources},
};

/// The steps, in their order.
const STEPS: [&str; 3] = [Fault::MissingSegment.as_str(), Fault::WrongKey.as_str(), "copy"];

pub(super) async fn conclude(
    resources: &Resources,
    cx: &StepContext,
    ending: &Ending,
) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let mut tried: Vec<(&str, Tried)> = Vec::new();
    for step in STEPS {
        tried.extend(cx.output_if_any(step)?.map(|tried| (step, tried)));
    }
    let mut outcomes: Vec<&Outcome> = tried.iter().flat_map(|(_, tried)| &tried.outcomes).collect();
    outcomes.sort_by_key(|outcome| outcome.fault);
    let checks: Vec<Check> = outcomes.iter().map(|outcome| outcome.check()).collect();
    let clean_up = tried.iter().map(|(step, tried)| {
        let left = if tried.is_gone { "gone" } else { "still there" };
        Check::judge(
            format!("folder of `{step}`"),
            "gone",
            format!("{} is {left}", tried.folder.display()),
            tried.is_gone,
        )
    });
    let clean_up: Vec<Check> = clean_up.collect();
    let seen = Verdict::worst(checks.iter().map(|check| check.verdict));
    let gone = Verdict::worst(clean_up.iter().map(|check| check.verdict));
    let mut verdicts = BTreeMap::from([("faults_seen".to_owned(), seen), ("clean_up".to_owned(), gone)]);
    let (ended, mut told) = flows::judged(ending, seen.max(gone));
    if *ending != Ending::Done {
        verdicts.insert("completed".to_owned(), ended);
    }
    let Concluded { verdict, is_made } = self_test::conclude(ended, seen);
    tell(resources, &params.database, (is_made, &told), cx).await?;
    told.extend(keep(resources, &params.database, &outcomes, cx).await?);
    let record = EvidenceRecord {
        why: Why {
            scenario: Some("faults planted into a restore test".to_owned()),
            ..Why::of(params.due_at, cx.requester())
        },
        objectives: database.as_deref().map(|database| database.schedule.config.objectives()),
        checks,
        safety: clean_up.into_iter().chain(flows::unwinding(ending)).collect(),
        verdicts,
        verdict,
        findings: told,
        ..flows::record(cx, (&params.database, database.as_deref()), NAME, params.due_at)
    };
    let evidence = resources.evidence.append(&record).await?;
    let output = json!({
        "run_id": record.run_id, "database": params.database, "verdict": verdict, "checks": record.checks,
        "phases": record.phases, "findings": record.findings, "evidence": evidence,
    });
    Ok(Conclusion { verdict, output })
}

/// Opens a finding for each fault that was not seen, and closes those of the ones that
/// were; what is not known leaves them as they are. Answers what is told.
async fn keep(
    resources: &Resources,
    database: &DatabaseName,
    outcomes: &[&Outcome],
    cx: &StepContext,
) -> Result<Vec<String>, StepError> {
    let mut told = Vec::new();
    for outcome in outcomes {
        let id = self_test::finding_id(database, outcome.fault);
        match outcome.sight {
            Sight::Red(_) => findings::close(&resources.db, &id).await?,
            Sight::Green(_) => {
                let run = cx.run_id().as_str();
                let seen = last_seen(resources, database, outcome.fault, run).await?;
                let seen = seen.as_ref().map(|(run, at)| (run.as_str(), *at));
                let message = self_test::told(database, outcome, run, seen);
                findings::open(&resources.db, &id, database.as_str(), &message).await?;
                told.push(message);
            }
            Sight::Unknown(_) => {}
        }
    }
    Ok(told)
}

/// The last self-test before this one that saw the fault.
async fn last_seen(
    resources: &Resources,
    database: &DatabaseName,
    fault: Fault,
    run: &str,
) -> Result<Option<(String, Timestamp)>, StepError> {
    let filter = Filter { kind: Some(NAME.to_owned()), subject: Some(database.to_string()), ..Filter::default() };
    let entries = resources.evidence.records(&filter).await?;
    let is_seen = |check: &Check| check.name == fault.as_str() && check.verdict == Verdict::Pass;
    let seen = entries
        .into_iter()
        .map(|entry| entry.record)
        .rfind(|record| record.run_id != run && record.checks.iter().any(is_seen));
    Ok(seen.map(|record| (record.run_id, record.finished_at)))
}

/// A self-test that could not be made is a finding of its own until one can.
async fn tell(
    resources: &Resources,
    database: &DatabaseName,
    (is_made, told): (Option<bool>, &[String]),
    cx: &StepContext,
) -> Result<(), StepError> {
    let id = format!("{NAME}/{database}");
    match is_made {
        Some(false) => {
            let message = format!(
                "the last self-test of restore tests ended ERROR: {}; `lifeboat evidence show {}` tells more, and one that comes to its end closes this",
                told.join("; "),
                cx.run_id()
            );
            findings::open(&resources.db, &id, database.as_str(), &message).await?;
        }
        Some(true) => findings::close(&resources.db, &id).await?,
        None => {}
    }
    Ok(())
}
