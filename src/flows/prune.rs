//! Lets expire what a vault need not keep any more: *plan* → *delete* → *check*.
//! The plan is made from a fresh listing and recorded; what is deleted is what it
//! names and what another fresh listing still allows.
//!
//! What must never happen: anything is deleted that a kept recovery point needs,
//! or that the recorded plan does not name. Deleting cannot be undone, so that
//! step is a point of no return; it takes an error for its result and leaves the
//! rest to the next run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Database, Resources, Vault,
    guarded::guarded,
    output,
    retention::{self, Memory, Survey},
};
use crate::{
    db::findings,
    decide::retention::{Expiry, Plan},
    domain::{
        BackupId, Check, DatabaseName, EvidenceRecord, SegmentSize, VaultName, Verdict, record::Why, with_causes,
    },
    fault,
    flow::{Conclusion, Ending, Flow, Policy, Reversal, Step, StepContext, StepError, read},
    vault::{Layout, seal::sha256_hex},
};

mod delete;

pub use delete::Deleted;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "prune";

/// Listing a large vault takes long.
const LOOK_LIMIT: Duration = Duration::from_secs(3600);
const DELETE_LIMIT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    pub vault: VaultName,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
    /// The digest of the plan that a person has seen: another one is not carried out.
    pub expected: Option<String>,
}

/// What names a plan: two that let the same things go have the same.
pub fn digest(plan: &Plan) -> Result<String, StepError> {
    Ok(sha256_hex(output(&plan.expire)?.to_string().as_bytes()))
}

/// The workflow.
#[derive(Debug)]
pub struct PruneFlow {
    resources: Arc<Resources>,
}

impl PruneFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for PruneFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let database = self.resources.database(&params.database)?;
        let unknown =
            || StepError::permanent(format!("`{}` has no vault `{}` any more", params.database, params.vault));
        let vault = database.vault(Some(&params.vault)).cloned().ok_or_else(unknown)?;
        let at = At { resources: Arc::clone(&self.resources), database, vault };
        Ok(vec![
            Box::new(MakePlan { at: at.clone(), expected: params.expected }),
            Box::new(Delete(at.clone())),
            Box::new(CheckKept(at)),
        ])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        conclude(&self.resources, cx, ending).await
    }
}

/// Where a run works.
#[derive(Debug, Clone)]
struct At {
    resources: Arc<Resources>,
    database: Arc<Database>,
    vault: Vault,
}

impl At {
    async fn survey(&self, cx: &StepContext, half_deleted: &[BackupId]) -> Result<Option<Survey>, StepError> {
        let memory = Memory::read(&self.resources, &self.database, Some(cx.run_id())).await?;
        retention::survey(&self.database, &self.vault, &memory, half_deleted, cx.clock().now()).await
    }
}

/// What the first step records.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    layout: Layout,
    segment_size: SegmentSize,
    plan: Plan,
}

/// Lists and decides.
struct MakePlan {
    at: At,
    expected: Option<String>,
}

#[async_trait]
impl Step for MakePlan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LOOK_LIMIT, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.progress("listing the vault", None, None);
        let Some(Survey { layout, segment_size, plan, .. }) = self.at.survey(cx, &[]).await? else {
            return Err(StepError::permanent("the vault holds no backup; nothing expires"));
        };
        if let Some(expected) = &self.expected
            && digest(&plan)? != *expected
        {
            return Err(StepError::permanent(
                "the plan changed since it was shown; nothing was deleted: look at it again",
            ));
        }
        output(&Planned { layout, segment_size, plan })
    }
}

/// Deletes what the plan names and a fresh look allows.
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
        let Planned { layout, segment_size, plan } = cx.output("plan")?;
        if plan.expire.is_empty() {
            return output(&Deleted::default());
        }
        fault::point("prune.delete");
        let stopped = |why| output(&Deleted { stopped_by: why, ..Deleted::default() });
        let fresh = match self.0.survey(cx, &plan.expire.backups).await {
            Ok(Some(fresh)) if fresh.layout == layout => fresh.plan,
            Ok(_) => return stopped(vec!["the vault holds another history now".to_owned()]),
            Err(StepError::Fenced) => return Err(StepError::Fenced),
            Err(StepError::Stopped) => return Err(StepError::Stopped),
            Err(error) => return stopped(vec![error.to_string()]),
        };
        if !fresh.refusals.is_empty() {
            return stopped(fresh.refusals.iter().map(ToString::to_string).collect());
        }
        let half_deleted = self.half_deleted(&layout, &plan.expire).await;
        let allowed = plan.expire.allowed_by(&fresh.expire);
        let deleting = delete::Deleting::new(cx, guarded(&self.0.vault.store, cx), &layout, segment_size);
        let deleted = tokio::select! {
            deleted = deleting.all(&allowed, &half_deleted) => deleted?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        output(&deleted)
    }
}

impl Delete {
    /// Those of the plan whose manifest is gone already; something of them may be left.
    async fn half_deleted(&self, layout: &Layout, expire: &Expiry) -> Vec<BackupId> {
        let mut half = Vec::new();
        for backup in &expire.backups {
            let manifest = crate::vault::stat(self.0.vault.store.as_ref(), &layout.manifest(backup)).await;
            if matches!(manifest, Ok(None)) {
                half.push(backup.clone());
            }
        }
        half
    }
}

/// Looks afresh: what was to stay is there, what was to go is gone.
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
        let Planned { layout, plan, .. } = cx.output("plan")?;
        let held = match self.0.database.histories(&self.0.vault).await {
            Ok(histories) => histories.into_iter().find(|held| *held.listing.layout() == layout),
            Err(error) => {
                let check = Check::new("vault", Verdict::Inconclusive, "listed again", with_causes(&error));
                return output(&vec![check]);
            }
        };
        let entry = |backup: &BackupId| held.as_ref().and_then(|held| held.catalog.find(backup));
        let kept = plan.keep.iter().map(|kept| {
            let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
            let state = entry(&kept.backup).map_or("not there", |entry| entry.state.as_str());
            let is_there = entry(&kept.backup).is_some();
            Check::judge(format!("kept {}", kept.backup), format!("there: {}", reasons.join(", ")), state, is_there)
        });
        let gone = plan.expire.backups.iter().map(|backup| {
            let is_gone = entry(backup).is_none();
            let actual = if is_gone { "gone" } else { "still there" };
            Check::judge(expired(backup), "gone: nothing keeps it", actual, is_gone)
        });
        output(&kept.chain(gone).collect::<Vec<_>>())
    }
}

/// The check of a record that says that this backup expired and is gone.
pub fn expired(backup: &BackupId) -> String {
    format!("expired {backup}")
}

/// What a run did, for its record and its output.
struct Account {
    verdict: Verdict,
    findings: Vec<String>,
}

fn account(
    ending: &Ending,
    planned: Option<&Planned>,
    deleted: &Deleted,
    checks: &[Check],
    locked_at_most: Timestamp,
) -> Account {
    let (mut verdict, mut findings) = super::judged(ending, Verdict::Pass);
    if let Some(planned) = planned {
        let refusals = planned.plan.refusals.iter().map(|doubt| format!("nothing expires: {doubt}"));
        findings.extend(refusals);
    }
    findings.extend(deleted.stopped_by.iter().map(|why| format!("deleting ended early: {why}")));
    if !findings.is_empty() {
        verdict = Verdict::worst([verdict, Verdict::Aborted]);
    }
    // Our own locks end soon; a longer one is somebody's mistake, or a bucket's default.
    let overlong = deleted.locked.iter().filter(|(_, until)| *until > locked_at_most);
    findings.extend(overlong.map(|(key, until)| {
        format!(
            "`{key}` has expired and is locked until {until}, longer than Lifeboat locks anything here; look who locked it, or whether `object_lock.for` was longer"
        )
    }));
    let failed = checks.iter().filter(|check| check.verdict != Verdict::Pass);
    findings.extend(failed.clone().map(|check| format!("{}: {}, not {}", check.name, check.actual, check.expected)));
    verdict = Verdict::worst(failed.map(|check| check.verdict).chain([verdict]));
    Account { verdict, findings }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let planned: Option<Planned> = cx.output_if_any("plan")?;
    let deleted: Deleted = cx.output_if_any("delete")?.unwrap_or_default();
    let checks: Vec<Check> = cx.output_if_any("check")?.unwrap_or_default();
    let reach = database.as_ref().map(|database| database.lock_reach(&params.vault)).unwrap_or_default();
    let locked_at_most = reach.until(cx.clock().now());
    let Account { verdict, findings } = account(ending, planned.as_ref(), &deleted, &checks, locked_at_most);
    let why = Why { scenario: planned.as_ref().map(scenario), ..Why::of(params.due_at, cx.requester()) };
    let record = EvidenceRecord {
        why,
        checks,
        safety: super::unwinding(ending),
        verdicts: BTreeMap::from([("retention".to_owned(), verdict)]),
        verdict,
        findings: findings.clone(),
        ..super::record(cx, (&params.database, database.as_deref()), NAME, params.due_at)
    };
    let evidence = resources.evidence.append(&record).await?;
    let finding = format!("{NAME}/{}/{}", params.database, params.vault);
    if verdict == Verdict::Pass && findings.is_empty() {
        findings::close(&resources.db, &finding).await?;
    } else if params.due_at.is_some() || verdict == Verdict::Fail {
        // What a person asked for and was refused, that person knows.
        findings::open(&resources.db, &finding, params.database.as_str(), &findings.join("; ")).await?;
    }
    let figures = json!({
        "run_id": cx.run_id(), "database": params.database, "vault": params.vault, "verdict": verdict,
        "plan": planned.map(|planned| planned.plan), "deleted": deleted, "checks": record.checks,
        "findings": findings, "phases": record.phases, "evidence": evidence,
    });
    Ok(Conclusion { verdict, output: figures })
}

/// What went, and since when all is restorable, in one sentence.
fn scenario(planned: &Planned) -> String {
    let Plan { window_start, keep, expire, .. } = &planned.plan;
    let wal = planned.plan.expire.segments.iter().map(|run| {
        let name = |number| crate::domain::Segment { timeline: run.timeline, number }.file_name(planned.segment_size);
        format!("{} to {}", name(run.first), name(run.last))
    });
    format!(
        "window from {window_start}: {} backups kept, {} expired, {} uploads swept; WAL expired: {} segments ({}), {} tails, {} history files, {} keys",
        keep.len(),
        expire.backups.len(),
        expire.uploads.len(),
        expire.segment_count(),
        wal.collect::<Vec<_>>().join(", "),
        expire.tails.len(),
        expire.histories.len(),
        expire.wal_keys.len()
    )
}
