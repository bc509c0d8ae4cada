//! Lets expire what of a provider's snapshots need not stay: *plan* → *delete* → *check*. The
//! plan is made from a fresh list of all regions and recorded; what is removed is what it
//! names and what another fresh list still allows.
//!
//! What must never happen: anything is removed that the recorded plan does not name, or that
//! somebody else made. Removing cannot be undone, so that step is a point of no return; it
//! takes an error for its result and leaves the rest to the next run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ManagedDatabase, Resources, output, snapshot};
use crate::{
    db::{findings, runs},
    decide::retention::snapshots::{self, Facts, Plan, Policy as Keep},
    domain::{
        BackupKind, Check, DatabaseName, EvidenceRecord, Region, RunId, Snapshot, Verdict,
        record::{Why, kind},
        with_causes,
    },
    evidence::Filter,
    fault,
    flow::{Conclusion, Ending, Flow, Policy, Reversal, Step, StepContext, StepError, read},
};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "prune_snapshots";

/// Lists of several regions, each of which may be throttled.
const LOOK_LIMIT: Duration = Duration::from_secs(600);
const DELETE_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// Where snapshots of a database may be: its own region, and those that they are copied to.
pub fn regions(database: &ManagedDatabase) -> Result<BTreeSet<Region>, StepError> {
    let home = database.source()?.region.clone();
    let copies = database.schedule.config.snapshot_copies.iter().map(|copy| copy.region.clone());
    Ok(copies.chain([home]).collect())
}

/// What stays and goes by the schedule, from a fresh list of all regions. One that does not
/// answer is an error: nothing expires while the picture is unclear.
/// `own` is the run that asks.
pub async fn survey(resources: &Resources, database: &ManagedDatabase, own: Option<&RunId>) -> Result<Plan, StepError> {
    let under_way = runs::under_way(&resources.db, database.name.as_str()).await?;
    let busy = under_way.into_iter().map(RunId::from).find(|run| Some(run) != own);
    let proven = proven(resources, &database.name).await?;
    let mut facts = Facts { proven, busy, snapshots: Vec::new() };
    for region in regions(database)? {
        facts.snapshots.extend(database.provider.snapshots(&region).await?);
    }
    Ok(snapshots::plan(&facts, &policy(database)))
}

fn policy(database: &ManagedDatabase) -> Keep {
    let config = &database.schedule.config;
    let lines = config.backups.iter().filter(|line| line.kind == BackupKind::Snapshot);
    Keep {
        lines: lines.map(|line| line.keep.clone()).collect(),
        // What was loaded names a zone.
        zone: config.timezone.parse().unwrap_or(chrono_tz::UTC),
    }
}

/// The ARNs of the snapshots that a restore test has proven: copies of one snapshot in
/// several regions may have one id, and each is proven by itself.
pub async fn proven(resources: &Resources, database: &DatabaseName) -> Result<BTreeSet<String>, StepError> {
    let filter =
        Filter { kind: Some(kind::RESTORE_TEST.to_owned()), subject: Some(database.to_string()), ..Filter::default() };
    let entries = resources.evidence.records(&filter).await?;
    let passed = entries.into_iter().filter(|entry| entry.record.verdict == Verdict::Pass);
    let snapshots = passed.filter_map(|entry| entry.record.source?.snapshot);
    Ok(snapshots.map(|snapshot| snapshot.arn).collect())
}

/// The workflow.
#[derive(Debug)]
pub struct PruneSnapshotsFlow {
    resources: Arc<Resources>,
}

impl PruneSnapshotsFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for PruneSnapshotsFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let at =
            At { resources: Arc::clone(&self.resources), database: self.resources.managed_database(&params.database)? };
        Ok(vec![Box::new(MakePlan(at.clone())), Box::new(Delete(at.clone())), Box::new(CheckKept(at))])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        conclude(&self.resources, cx, ending).await
    }
}

/// Where a run works.
#[derive(Debug, Clone)]
struct At {
    resources: Arc<Resources>,
    database: Arc<ManagedDatabase>,
}

/// Lists and decides.
struct MakePlan(At);

#[async_trait]
impl Step for MakePlan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LOOK_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.progress("listing the snapshots", None, None);
        output(&survey(&self.0.resources, &self.0.database, Some(cx.run_id())).await?)
    }
}

/// What was removed, and what kept the rest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Removed {
    pub arns: Vec<String>,
    pub stopped_by: Vec<String>,
}

/// Why nothing goes now.
fn needed(run: &RunId) -> String {
    format!("`{run}` may need any of them; the next prune looks again")
}

/// Removes what the plan names and a fresh look allows.
struct Delete(At);

#[async_trait]
impl Step for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    fn policy(&self) -> Policy {
        Policy { limit: DELETE_LIMIT, reversal: Reversal::PointOfNoReturn, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let recorded: Plan = cx.output("plan")?;
        if recorded.expire.is_empty() {
            return output(&Removed::default());
        }
        fault::point("prune_snapshots.delete");
        let fresh = match survey(&self.0.resources, &self.0.database, Some(cx.run_id())).await {
            Ok(fresh) => fresh,
            Err(error @ (StepError::Fenced | StepError::Stopped)) => return Err(error),
            Err(error) => return output(&Removed { stopped_by: vec![error.to_string()], ..Removed::default() }),
        };
        let mut removed = Removed { stopped_by: fresh.busy.iter().map(needed).collect(), ..Removed::default() };
        for one in fresh.allows(&recorded) {
            cx.guard().await?;
            cx.progress(format!("removing snapshot {} in {}", one.id, one.region), None, None);
            match self.0.database.provider.delete_snapshot(&one).await {
                Ok(()) => removed.arns.push(one.arn),
                Err(error) => removed.stopped_by.push(with_causes(&error)),
            }
        }
        output(&removed)
    }
}

/// Looks afresh: what was to stay is there, what was removed is gone.
struct CheckKept(At);

#[async_trait]
impl Step for CheckKept {
    fn name(&self) -> &'static str {
        "check"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LOOK_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let plan: Plan = cx.output("plan")?;
        let removed: Removed = cx.output("delete")?;
        let is_removed = |one: &&Snapshot| removed.arns.contains(&one.arn);
        for one in plan.expire.iter().filter(is_removed) {
            snapshot::gone(&self.0.database, (&one.region, &one.id), cx).await?;
        }
        let mut there = BTreeSet::new();
        for region in regions(&self.0.database)? {
            let listed = self.0.database.provider.snapshots(&region).await?;
            there.extend(listed.into_iter().map(|one| (one.id, region.clone())));
        }
        let mut checks = Vec::new();
        for kept in &plan.keep {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            for region in &kept.regions {
                let id = if there.contains(&(kept.id.clone(), region.clone())) {
                    kept.id.clone()
                } else {
                    format!("{}{}", kept.id, snapshots::COPY)
                };
                let is_there = there.contains(&(id, region.clone()));
                let actual = if is_there { "there" } else { "not there" };
                let name = format!("kept {} in {region}", kept.id);
                checks.push(Check::judge(name, format!("there: {}", reasons.join(", ")), actual, is_there));
            }
        }
        let gone = plan.expire.iter().map(|one| {
            let is_gone = !there.contains(&(one.id.clone(), one.region.clone()));
            let actual = if is_gone { "gone" } else { "still there" };
            let name = format!("expired {} in {}", one.id, one.region);
            Check::judge(name, "gone: nothing keeps it", actual, is_gone)
        });
        checks.extend(gone);
        output(&checks)
    }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.managed.get(&params.database);
    let plan: Option<Plan> = cx.output_if_any("plan")?;
    let removed: Removed = cx.output_if_any("delete")?.unwrap_or_default();
    let checks: Vec<Check> = cx.output_if_any("check")?.unwrap_or_default();
    let (judged, mut findings) = super::judged(ending, Verdict::Pass);
    findings.extend(plan.iter().filter_map(|plan| plan.busy.as_ref()).map(needed));
    findings.extend(removed.stopped_by.iter().map(|why| format!("removing ended early: {why}")));
    let failed = checks.iter().filter(|check| check.verdict != Verdict::Pass);
    findings.extend(failed.clone().map(|check| format!("{}: {}, not {}", check.name, check.actual, check.expected)));
    let is_busy = plan.as_ref().is_some_and(|plan| plan.busy.is_some());
    let stopped = (is_busy || !removed.stopped_by.is_empty()).then_some(Verdict::Aborted);
    let verdict = Verdict::worst(failed.map(|check| check.verdict).chain(stopped).chain([judged]));
    let why = Why { scenario: plan.as_ref().map(scenario), ..Why::of(params.due_at, cx.requester()) };
    let schedule = database.map(|database| database.schedule.as_ref());
    let record = EvidenceRecord {
        why,
        checks,
        safety: super::unwinding(ending),
        verdicts: BTreeMap::from([("retention".to_owned(), verdict)]),
        verdict,
        findings: findings.clone(),
        ..super::record_of(cx, (&params.database, schedule), NAME, params.due_at)
    };
    let evidence = resources.evidence.append(&record).await?;
    let id = format!("{NAME}/{}", params.database);
    if verdict == Verdict::Pass {
        findings::close(&resources.db, &id).await?;
    } else if params.due_at.is_some() || verdict == Verdict::Fail {
        findings::open(&resources.db, &id, params.database.as_str(), &findings.join("; ")).await?;
    }
    let figures = json!({
        "run_id": cx.run_id(), "database": params.database, "verdict": verdict, "plan": plan, "removed": removed,
        "checks": record.checks, "findings": findings, "phases": record.phases, "evidence": evidence,
    });
    Ok(Conclusion { verdict, output: figures })
}

/// What went, in one sentence.
fn scenario(plan: &Plan) -> String {
    let gone: Vec<String> = plan.expire.iter().map(|one| format!("{} in {}", one.id, one.region)).collect();
    format!(
        "{} snapshots of ours stay, {} are others'; expired: {}",
        plan.keep.len(),
        plan.foreign,
        if gone.is_empty() { "none".to_owned() } else { gone.join(", ") }
    )
}
