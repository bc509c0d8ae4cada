//! The account of a drill: instants, verdicts, the evidence record, and what
//! the command that asked for it prints.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Drill, NAME, dns_failed,
    prepare::{Approved, Guarded},
    probe,
    settle::Checked,
    shift::{Fenced, Promoted, RELEASE_LIMIT, prove_released},
};
use crate::{
    decide::drill::{Facts, Instants, Outcome, StepKind, rollback, traffic::Judgement, verdicts},
    domain::{
        Check, EvidenceRecord, Verdict,
        record::{Measured, RECORD_SCHEMA, Why},
    },
    evidence::EvidenceRef,
    flow::{Conclusion, Ending, StepContext, StepError, context::StepTimes},
};

/// A heartbeat is written every second; that is how exact an RPO can be.
const HEARTBEAT_SECONDS: f64 = 1.0;
/// How long an unwound service may take to be healthy again.
const STEADY_LIMIT: Duration = Duration::from_secs(30);

/// Everything that the steps of a run left behind.
struct Traces {
    times: Vec<StepTimes>,
    approved: Option<Approved>,
    guarded: Option<Guarded>,
    fenced: Option<Fenced>,
    promoted: Option<Promoted>,
    judgement: Option<Judgement>,
    rejoined: Checked,
    steady: Checked,
}

impl Traces {
    fn read(cx: &StepContext) -> Result<Self, StepError> {
        Ok(Self {
            times: cx.step_times(),
            approved: cx.output_if_any("approve")?,
            guarded: cx.output_if_any("guards")?,
            fenced: cx.output_if_any("fence")?,
            promoted: cx.output_if_any("promote")?,
            judgement: cx.output_if_any("observe")?,
            rejoined: cx.output_if_any("rejoin")?.unwrap_or_default(),
            steady: cx.output_if_any("steady")?.unwrap_or_default(),
        })
    }

    fn began(&self, step: &str) -> Option<Timestamp> {
        self.times.iter().find(|times| times.step == step).map(|times| times.began_at)
    }

    fn instants(&self) -> Instants {
        let promoted = self.promoted.as_ref();
        let dns = self.judgement.as_ref().map(|judgement| &judgement.times);
        Instants {
            t0: self.began("fence"),
            t3: self.began("promote"),
            t4: promoted.map(|promoted| promoted.accepted_at),
            t5: promoted.filter(|promoted| promoted.loss.judge() == Verdict::Pass).map(|promoted| promoted.checked_at),
            t6: promoted.and_then(|promoted| promoted.probed_at),
            t7: dns.and_then(|times| times.d5),
            t8: dns.and_then(|times| times.d7),
        }
    }
}

fn outcome(ending: &Ending) -> Outcome {
    match ending {
        Ending::Done => Outcome::Completed,
        Ending::Unwound { step, .. } if step == "guards" || step == "approve" => Outcome::Refused,
        Ending::Unwound { .. } => Outcome::Failed,
        Ending::Aborted { .. } => Outcome::Aborted,
        Ending::Stuck { .. } => Outcome::Stuck,
    }
}

/// Judges the run, writes its evidence record, and answers what is printed.
pub async fn conclude(drill: &Drill, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let mut traces = Traces::read(cx)?;
    let outcome = outcome(ending);
    let cleanup = match outcome {
        Outcome::Completed => std::mem::take(&mut traces.rejoined.checks),
        Outcome::Refused => Vec::new(),
        Outcome::Aborted | Outcome::Failed | Outcome::Stuck => {
            or_unseen("unwound", prove_unwound(drill, &traces, outcome).await)?
        }
    };
    if matches!(outcome, Outcome::Aborted | Outcome::Failed) {
        traces.steady.checks = or_unseen("steady state", probe::steady_state(drill, STEADY_LIMIT).await)?;
    }
    let record = record(drill, cx, ending, &traces, &cleanup);
    let rollback = rollback_lines(&traces, ending);
    let mut printed = printed(drill, &record, &traces, &rollback);
    let verdict = record.verdict;
    let EvidenceRef { index, leaf_hash } = drill.recorder().record(record).await?;
    if let Some(printed) = printed.as_object_mut() {
        printed.insert("evidence".to_owned(), json!({"index": index, "leaf_hash": leaf_hash}));
    }
    Ok(Conclusion { verdict, output: printed })
}

/// Where it can never be looked at, as the database or the provider is no longer
/// configured, that is what was found; the run ends all the same.
fn or_unseen(name: &str, looked: Result<Vec<Check>, StepError>) -> Result<Vec<Check>, StepError> {
    match looked {
        Err(StepError::Permanent(why)) => Ok(vec![Check::new(name, Verdict::Inconclusive, "looked at", why)]),
        looked => looked,
    }
}

/// Looks whether everything that was changed is as it was.
async fn prove_unwound(drill: &Drill, traces: &Traces, outcome: Outcome) -> Result<Vec<Check>, StepError> {
    if traces.began("promote").is_some() {
        let expected = "nothing to take back";
        return Ok(vec![Check::judge("unwound", expected, "the point of no return was passed", false)]);
    }
    if traces.began("fence").is_none() {
        return Ok(vec![Check::judge("unwound", "nothing to take back", "nothing was changed", true)]);
    }
    let member = drill.from()?;
    // What a failed undo left is only looked at: a person is waited for.
    let limit = if outcome == Outcome::Stuck { Duration::ZERO } else { RELEASE_LIMIT };
    let released = prove_released(drill.engine()?.as_ref(), &member, limit).await;
    let found = released.as_ref().err().map_or_else(|| "it does".to_owned(), ToString::to_string);
    let mut checks = vec![Check::judge("fence released", format!("{member} takes writes"), found, released.is_ok())];
    if let Some(before) = traces.guarded.as_ref().and_then(|guarded| guarded.record.as_ref()) {
        let now = drill.dns()?.read(&before.name).await.map_err(dns_failed)?;
        let show = |addresses: &[std::net::IpAddr]| format!("{addresses:?}");
        let name = format!("record {}", before.name);
        checks.push(Check::judge(name, show(&before.addresses), show(&now.addresses), now == *before));
    }
    Ok(checks)
}

fn record(drill: &Drill, cx: &StepContext, ending: &Ending, traces: &Traces, cleanup: &[Check]) -> EvidenceRecord {
    let (params, runbook) = (drill.params(), drill.runbook());
    let instants = traces.instants();
    let loss = traces.promoted.as_ref().map(|promoted| promoted.loss);
    let traffic = traces.judgement.as_ref().map(|judgement| judgement.checks.as_slice()).unwrap_or_default();
    let verdicts = verdicts(&Facts {
        outcome: outcome(ending),
        objectives: &runbook.objectives,
        instants: &instants,
        loss: loss.as_ref(),
        traffic,
        cleanup,
        steady_state: &traces.steady.checks,
    });
    let approvals = traces.approved.iter().map(|approved| {
        let expected = format!("{} other than the requester", runbook.approvals.required);
        Check::judge("approvals", expected, approved.by.join(", "), true)
    });
    let guards = traces.guarded.iter().flat_map(|guarded| &guarded.checks);
    let proofs = traces.fenced.iter().flat_map(|fenced| &fenced.proofs);
    EvidenceRecord {
        schema: RECORD_SCHEMA,
        run_id: cx.run_id().to_string(),
        kind: NAME.to_owned(),
        subject: runbook.runbook.to_string(),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        plan: Some(params.plan.clone()),
        jurisdiction: params.jurisdiction.clone(),
        why: Why {
            trigger: params.trigger.clone(),
            requester: cx.requester().to_owned(),
            due_at: params.due_at,
            hypothesis: Some(runbook.hypothesis.clone()),
            scenario: Some(scenario(traces)),
            selection: None,
        },
        started_at: traces.times.first().map_or_else(|| cx.created_at(), |times| times.began_at),
        finished_at: cx.clock().now(),
        objectives: Some(runbook.objectives),
        source: None,
        target: None,
        phases: instants.phases(),
        measured: Measured {
            rto_seconds: instants.rto_seconds(),
            rpo_seconds: loss.zip(traces.fenced.as_ref()).and_then(|(loss, fenced)| loss.rpo_seconds(fenced.at)),
            rpo_bound_seconds: loss.map(|_| HEARTBEAT_SECONDS),
            lost_commits: loss.filter(|loss| loss.expected > 0).map(|loss| loss.lost_commits),
            disaster_at: instants.t0,
            dns: traces.judgement.as_ref().map(|judgement| judgement.times.clone()),
            ..Measured::default()
        },
        checks: traffic.iter().chain(&traces.steady.checks).cloned().collect(),
        isolation: Vec::new(),
        safety: approvals.chain(guards.chain(proofs).chain(cleanup).cloned()).collect(),
        verdict: Verdict::worst(verdicts.values().copied()),
        verdicts,
        findings: findings(ending, traces),
    }
}

/// What is simulated, and what nobody looked at.
fn scenario(traces: &Traces) -> String {
    let scenario = "planned switchover; detection (T1) and decision (T2) are simulated and equal T0";
    match traces.guarded.as_ref().and_then(|guarded| guarded.record.as_ref()) {
        None => scenario.to_owned(),
        Some(record) => format!(
            "{scenario}; no recursive resolver was watched (D4): one that had cached the old answer may keep it for {} s",
            record.ttl_seconds
        ),
    }
}

fn findings(ending: &Ending, traces: &Traces) -> Vec<String> {
    let mut findings: Vec<String> =
        traces.judgement.iter().flat_map(|judgement| judgement.findings.iter().cloned()).collect();
    match ending {
        Ending::Done => {}
        Ending::Unwound { step, error } => findings.push(format!("step `{step}` ended the drill: {error}")),
        Ending::Aborted { who, reason } => findings.push(format!("`{who}` aborted the drill: {reason}")),
        Ending::Stuck { step, error } => {
            findings.push(format!("step `{step}` could not be undone: {error}; a person must do it"));
        }
    }
    if traces.promoted.as_ref().is_some_and(|promoted| promoted.loss.has_gap) {
        findings.push("a heartbeat is missing below a present one on the new primary: its data is damaged".to_owned());
    }
    findings
}

fn kind(step: &str) -> Option<StepKind> {
    serde_json::from_value(Value::String(step.to_owned())).ok()
}

/// What an unwinding took back, newest first.
fn rollback_lines(traces: &Traces, ending: &Ending) -> Vec<Value> {
    if *ending == Ending::Done {
        return Vec::new();
    }
    let began: Vec<StepKind> = traces.times.iter().filter_map(|times| kind(&times.step)).collect();
    let undone: Vec<Value> = rollback(&began).iter().filter_map(|kind| serde_json::to_value(kind).ok()).collect();
    let stuck_at = match ending {
        Ending::Stuck { step, .. } => undone.iter().position(|name| name == step.as_str()),
        _ => None,
    };
    let lines = undone.into_iter().enumerate().map(|(place, step)| {
        // What stands after the undo that failed was not come to.
        let done = stuck_at.is_none_or(|stuck| place < stuck);
        json!({"step": step, "undone": done})
    });
    lines.collect()
}

fn printed(drill: &Drill, record: &EvidenceRecord, traces: &Traces, rollback: &[Value]) -> Value {
    let steps: Vec<Value> = traces
        .times
        .iter()
        .map(|times| json!({"name": times.step, "began_at": times.began_at, "succeeded_at": times.succeeded_at}))
        .collect();
    json!({
        "run_id": record.run_id,
        "runbook": drill.runbook().runbook,
        "verdict": record.verdict,
        "verdicts": record.verdicts,
        "rto_seconds": record.measured.rto_seconds,
        "rpo_seconds": record.measured.rpo_seconds,
        "lost_commits": record.measured.lost_commits,
        "dns": record.measured.dns.clone().unwrap_or_default(),
        "phases": record.phases,
        "steps": steps,
        "rollback": rollback,
        "safety": record.safety,
        "findings": record.findings,
    })
}
