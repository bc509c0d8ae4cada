//! Brings what a vault lacks from the other vaults of a database, object by
//! object as stored: *look* → *copy* → *compare* → *`read_back`*. What is copied is decided in
//! `decide::copy`; a backup exists in the other vault when its manifest, the
//! last object, is there. A run that ends early leaves nothing visible, and the
//! next one goes on from what is there. The last step reads the WAL of the copies back
//! from the vault that they are in: only that makes them complete there.
//!
//! What must never happen: a byte outside the residency, which is asked before
//! each object; a damaged object that is called a copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Resources, Vault, guarded::guarded, output, read_back};
use crate::{
    domain::{
        Check, DatabaseName, EvidenceRecord, VaultName, Verdict,
        record::{Measured, Target, Why},
    },
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
};

mod carry;
pub mod look;

use look::Lack;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "copy";

/// The name of the last step.
const READ_BACK: &str = "read_back";
/// How long a copy may take.
const COPY_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long looking at all vaults may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    /// From this vault alone; from every other one when absent.
    pub from: Option<VaultName>,
    pub to: VaultName,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// What a run of these parameters is about: copies to several vaults of one
/// database go on at the same time.
pub fn subject(database: &DatabaseName, to: &VaultName) -> String {
    format!("{database}/{to}")
}

/// The workflow.
#[derive(Debug)]
pub struct CopyFlow {
    resources: Arc<Resources>,
}

impl CopyFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for CopyFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let route = Arc::new(Route::find(&self.resources, &params)?);
        Ok(vec![
            Box::new(Look(Arc::clone(&route))),
            Box::new(Carry { resources: Arc::clone(&self.resources), route: Arc::clone(&route) }),
            Box::new(Compare(Arc::clone(&route))),
            Box::new(ReadBack(route)),
        ])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        conclude(&self.resources, cx, ending).await
    }
}

/// From where to where.
#[derive(Debug)]
pub struct Route {
    pub database: Arc<Database>,
    pub sources: Vec<Vault>,
    pub target: Vault,
}

impl Route {
    fn find(resources: &Resources, params: &Params) -> Result<Self, StepError> {
        let database = resources.database(&params.database)?;
        Self::of(database, params.from.as_ref(), &params.to).ok_or_else(|| {
            let from = params.from.as_ref().map_or("another vault".to_owned(), |from| format!("`{from}`"));
            StepError::permanent(format!(
                "the schedule of `{}` no longer names {from} and `{}` as two vaults",
                params.database, params.to
            ))
        })
    }

    /// None where the database has no such vaults.
    pub fn of(database: Arc<Database>, from: Option<&VaultName>, to: &VaultName) -> Option<Self> {
        let target = database.vault(Some(to))?.clone();
        let is_source = |vault: &&Vault| {
            let name = &vault.store.place().vault;
            name != to && from.is_none_or(|from| from == name)
        };
        let sources: Vec<Vault> = database.vaults.iter().filter(is_source).cloned().collect();
        (!sources.is_empty()).then_some(Self { database, sources, target })
    }

    /// Refuses to move data where it may not be. Asked before each object.
    fn refuse_outside_residency(&self) -> Result<(), StepError> {
        self.database.refuse_outside_residency(&self.target.store.place().region)
    }

    fn in_evidence(&self) -> Target {
        Target {
            kind: "vault".to_owned(),
            limits: Vec::new(),
            region: self.target.store.place().region.clone(),
            residency: self.database.schedule.config.residency.clone(),
            server_version: String::new(),
            resources: Vec::new(),
        }
    }

    fn described(&self) -> String {
        let place = |vault: &Vault| {
            let place = vault.store.place();
            let kind = if place.region_verified { "verified" } else { "declared" };
            format!("`{}` ({}, {kind})", place.vault, place.region)
        };
        let sources: Vec<String> = self.sources.iter().map(place).collect();
        format!("from {} to {}", sources.join(" and "), place(&self.target))
    }
}

/// What does the vault lack? Its output is the account of it.
struct Look(Arc<Route>);

#[async_trait]
impl Step for Look {
    fn name(&self) -> &'static str {
        "look"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LOOK_LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        self.0.refuse_outside_residency()?;
        cx.progress("looking at the vaults", None, None);
        output(&look::lack(&look::histories(&self.0, &mut look::Seen::default(), cx.clock().now()).await?))
    }
}

/// Copies. Its output is what could not be, and why.
struct Carry {
    resources: Arc<Resources>,
    route: Arc<Route>,
}

#[async_trait]
impl Step for Carry {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn policy(&self) -> Policy {
        Policy { limit: COPY_LIMIT, backoff: Duration::from_secs(5), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let histories = look::histories(&self.route, &mut look::Seen::default(), cx.clock().now()).await?;
        output(&carry::all(&self.resources, &self.route, &histories, cx).await?)
    }
}

/// What does it lack still?
struct Compare(Arc<Route>);

#[async_trait]
impl Step for Compare {
    fn name(&self) -> &'static str {
        "compare"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LOOK_LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.progress("comparing the vaults", None, None);
        output(&look::lack(&look::histories(&self.0, &mut look::Seen::default(), cx.clock().now()).await?))
    }
}

/// Reads the WAL of copies back, where it is all there. What is still on its way is the
/// next run's. Its output is what could not be read.
struct ReadBack(Arc<Route>);

#[async_trait]
impl Step for ReadBack {
    fn name(&self) -> &'static str {
        READ_BACK
    }

    fn policy(&self) -> Policy {
        Policy { limit: COPY_LIMIT, backoff: Duration::from_secs(5), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        self.0.refuse_outside_residency()?;
        let Route { database, target, .. } = self.0.as_ref();
        let store = guarded(&target.store, cx);
        let histories = look::histories(&self.0, &mut look::Seen::default(), cx.clock().now()).await?;
        let (mut sound, mut told) = (BTreeSet::new(), Vec::new());
        for history in &histories {
            for entry in &history.unread {
                let backup = (&history.layout, &entry.manifest, entry.manifest_sha256.as_str());
                let unreadable = read_back::read_and_sign(database, &store, backup, &mut sound, cx).await?;
                told.extend(unreadable.iter().map(|one| format!("`{}`: {}", one.key, one.told())));
            }
        }
        output(&told)
    }
}

/// What was lacking and is not any more.
fn copied(before: &Lack, after: &Lack) -> Lack {
    let is_copied = |backup: &&look::LackingBackup| after.backups.iter().all(|left| left.id != backup.id);
    Lack {
        backups: before.backups.iter().filter(is_copied).cloned().collect(),
        objects: before.objects.saturating_sub(after.objects),
        bytes: before.bytes.saturating_sub(after.bytes),
        wal: before.wal.saturating_sub(after.wal),
    }
}

/// One check per backup, one for the WAL.
fn checks(before: &Lack, after: &Lack, to: &VaultName) -> Vec<Check> {
    let mut checks: Vec<Check> = before
        .backups
        .iter()
        .map(|backup| {
            let is_there = after.backups.iter().all(|left| left.id != backup.id);
            let figures = format!("{} objects, {} bytes", backup.objects, backup.bytes);
            let actual = if is_there { figures } else { "not whole there".to_owned() };
            Check::judge(format!("backup {}", backup.id), format!("whole in `{to}`"), actual, is_there)
        })
        .collect();
    if before.wal > 0 {
        // The stream goes on meanwhile: what is new since is the next run's.
        let actual = format!("{} objects were lacking before, {} after", before.wal, after.wal);
        checks.push(Check::judge("wal", format!("in `{to}`"), actual, after.wal < before.wal || after.wal == 0));
    }
    checks
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // The vault may have left the schedule; the run ends all the same.
    let route = Route::find(resources, &params).ok();
    let database = route.as_ref().map(|route| route.database.as_ref());
    let described = route.as_ref().map(Route::described);
    let before: Lack = cx.output_if_any("look")?.unwrap_or_default();
    let after: Option<Lack> = cx.output_if_any("compare")?;
    let mut refused: Vec<String> = cx.output_if_any("copy")?.unwrap_or_default();
    refused.extend(cx.output_if_any::<Vec<String>>(READ_BACK)?.unwrap_or_default());
    let checks = after.as_ref().map_or_else(Vec::new, |after| checks(&before, after, &params.to));
    let copied = after.as_ref().map_or_else(Lack::default, |after| copied(&before, after));
    let is_whole = refused.is_empty() && checks.iter().all(|check| check.verdict == Verdict::Pass);
    let (verdict, mut findings) = super::judged(ending, if is_whole { Verdict::Pass } else { Verdict::Fail });
    findings.extend(refused);
    let record = EvidenceRecord {
        why: Why { scenario: described.clone(), ..Why::of(params.due_at, cx.requester()) },
        target: route.as_ref().map(Route::in_evidence),
        measured: Measured { stored_bytes: Some(copied.bytes), ..Measured::default() },
        checks,
        safety: super::unwinding(ending),
        verdicts: BTreeMap::from([("copied".to_owned(), verdict)]),
        verdict,
        findings: findings.clone(),
        ..super::record(cx, (&params.database, database), NAME, params.due_at)
    };
    let evidence = resources.evidence.append(&record).await?;
    let output = json!({
        "run_id": cx.run_id(), "database": params.database, "to": params.to, "route": described,
        "verdict": verdict, "copied_objects": copied.objects, "copied_bytes": copied.bytes,
        "copied_wal": copied.wal, "backups": copied.backups, "findings": findings,
        "phases": record.phases, "evidence": evidence,
    });
    Ok(Conclusion { verdict, output })
}
