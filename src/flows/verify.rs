//! Verifies one vault of one database: *verify*. It reads the vault and
//! decrypts on this node, signs for each backup what it found sound, and opens
//! a finding per defect. What must never happen: PASS of what was not looked at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Database, KeyError, Resources, Vault,
    guarded::guarded,
    output, read_back,
    retention::{self, Survey},
};
use crate::{
    config::schedule::VerifyConfig,
    decide::{recovery::gaps::Need, retention::Doubt, sample::Rotation},
    domain::{
        Check, DatabaseName, EvidenceRecord, Segment, VaultName, Verdict,
        record::{Measured, Why},
    },
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{
        self, Catalog, Layout, Listing, ObjectKey, SharedStore, VaultError, Verification,
        verify::{Depth, Kind, LockUntil, Report, Say, Tally, Verify},
    },
};

mod findings;

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "verify";

/// How long reading a vault may take.
const LIMIT: Duration = Duration::from_secs(48 * 3600);
/// More defects than that are one finding: whoever mends the first sees the rest.
const FINDINGS_MAX: usize = 100;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    pub vault: VaultName,
    pub depth: Asked,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    Quick,
    /// The share of the content whose turn it is.
    Sample(Rotation),
    Full,
}

/// The rotation that a schedule asks for.
pub fn rotation(config: &VerifyConfig) -> Rotation {
    Rotation { every: config.every.as_duration(), share: config.sample, period: config.period.as_duration() }
}

/// What the rotation of a vault belongs to.
pub fn rotation_name(database: &DatabaseName, vault: &VaultName) -> String {
    format!("{database}/{vault}")
}

/// What is asked of a vault.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub depth: Asked,
    /// The instant whose turn it is in the rotation.
    pub turn_at: Timestamp,
    /// By the clock: what must be there, and be locked, by then.
    pub now: Timestamp,
}

/// Verifies every history of a database that a vault holds. An old one without
/// a backup is not looked at while another has one.
pub async fn vault(
    database: &Database,
    vault: &Vault,
    request: Request,
    stop: &CancellationToken,
    say: &Say<'_>,
) -> Result<Vec<Report>, StepError> {
    let identities = match request.depth {
        // Nothing is opened.
        Asked::Quick => Vec::new(),
        Asked::Sample(_) | Asked::Full => match database.keys.identities().await {
            Ok(identities) => identities,
            Err(KeyError::NoIdentity) => Vec::new(),
            Err(error) => return Err(error.into()),
        },
    };
    let others: Vec<SharedStore> = database
        .vaults
        .iter()
        .filter(|other| other.store.place().vault != vault.store.place().vault)
        .map(|other| Arc::clone(&other.store))
        .collect();
    let Request { depth: asked, turn_at, now } = request;
    let depth = match asked {
        Asked::Quick => Depth::Quick,
        Asked::Sample(rotation) => {
            let name = rotation_name(&database.name, &vault.store.place().vault);
            Depth::Sample { rotation, name, at: turn_at }
        }
        Asked::Full => Depth::Full,
    };
    say("looking at what is kept", None, None);
    let (kept, unknown) = match retention::survey(database, vault, &retention::Memory::default(), &[], now).await {
        Ok(kept) => (kept, None),
        Err(error) => (None, Some(format!("what retention keeps is not known, so neither are locks: {error}"))),
    };
    // A new backup is locked when it is committed; WAL later, by the task that renews.
    let lock_until = |key: &ObjectKey| {
        let kept = kept.as_ref()?;
        let backup = kept.layout.parse_backup(key)?;
        kept.needs.backup(&backup).then(|| vault.lock_reach.least(now))
    };
    let mut reports = Vec::new();
    for listing in Listing::of_all(vault.store.as_ref(), &database.name).await? {
        let verify = Verify {
            store: &vault.store,
            layout: listing.layout(),
            verifier: &database.keys.verifier,
            identities: &identities,
            depth: depth.clone(),
            others: &others,
            lock_until: kept.as_ref().map(|_| &lock_until as &LockUntil<'_>),
            retained: &|segment| retained(kept.as_ref().filter(|kept| kept.layout == *listing.layout()), segment),
            now,
            stop,
            done: Arc::default(),
        };
        let mut report = vault::verify::verify(&verify, say).await.map_err(|error| match error {
            VaultError::Stopped => StepError::Stopped,
            error => error.into(),
        })?;
        report.unchecked.extend(unknown.clone());
        reports.push(report);
    }
    if reports.iter().any(|report| !report.backups.is_empty()) {
        reports.retain(|report| !report.backups.is_empty() || !report.defects.is_empty());
    }
    Ok(reports)
}

/// Whether WAL that no backup needs for itself must be there. Where WAL was lost
/// that a backup needs, retention falls back to an older one, whose WAL may long
/// have expired; and of an older history nobody knows when it was pruned last.
fn retained(kept: Option<&Survey>, segment: Segment) -> Need {
    let Some(kept) = kept else { return Need::Unknown };
    let is_unclear = kept.plan.refusals.iter().any(|doubt| matches!(doubt, Doubt::NoHistory { .. }));
    match (kept.if_whole.wal(segment), kept.needs.wal(segment)) {
        (true, _) if !is_unclear => Need::Needed,
        (false, false) => Need::Expired,
        _ => Need::Unknown,
    }
}

/// The verdict over all histories; nothing looked at is nothing passed.
pub fn verdict(reports: &[Report]) -> Verdict {
    Verdict::worst(reports.iter().map(Report::verdict))
}

/// The workflow.
#[derive(Debug)]
pub struct VerifyFlow {
    resources: Arc<Resources>,
}

impl VerifyFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for VerifyFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        let database = self.resources.database(&params.database)?;
        Ok(vec![Box::new(Read { resources: Arc::clone(&self.resources), database, params })])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        conclude(&self.resources, cx, ending).await
    }
}

/// Reads, and signs what was found sound.
struct Read {
    resources: Arc<Resources>,
    database: Arc<Database>,
    params: Params,
}

/// What is kept of a verification; names of sound objects are in the vault.
#[derive(Debug, Serialize, Deserialize)]
struct Verified {
    verdict: Verdict,
    /// What was looked at, and how many defects it had.
    objects: BTreeMap<Kind, (Tally, usize)>,
    /// Id and words of each defect's finding.
    defects: Vec<(String, String)>,
    more_defects: usize,
    unchecked: Vec<String>,
    /// What is told and is no defect.
    #[serde(default)]
    notes: Vec<String>,
    /// Findings of earlier runs whose defect is gone.
    mended: Vec<String>,
    histories: usize,
    backups: usize,
}

#[async_trait]
impl Step for Read {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LIMIT, backoff: Duration::from_secs(5), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let Params { vault: name, depth, due_at, .. } = &self.params;
        let vault = self.database.vault(Some(name)).ok_or_else(|| {
            StepError::permanent(format!("the schedule of `{}` names the vault `{name}` no more", self.database.name))
        })?;
        self.database.refuse_outside_residency(&vault.store.place().region)?;
        if *depth != Asked::Quick {
            self.database.refuse_outside_residency(&self.database.region)?;
        }
        let said = cx.clone();
        let say = move |what: &str, done, total| said.progress(what, done, total);
        let turn_at = due_at.unwrap_or_else(|| cx.created_at());
        let request = Request { depth: *depth, turn_at, now: cx.clock().now() };
        let mut reports = self::vault(&self.database, vault, request, cx.stop(), &say).await?;
        let store = guarded(&vault.store, cx);
        if *depth != Asked::Quick {
            for report in &mut reports {
                read_back::complete(&self.database, &store, report, cx).await?;
            }
        }
        for report in &reports {
            sign(&self.database, &store, report, cx).await?;
        }
        output(&self.summary(vault, &reports).await?)
    }
}

/// Signs what was found of each backup, carrying on what was known before.
async fn sign(database: &Database, store: &SharedStore, report: &Report, cx: &StepContext) -> Result<(), StepError> {
    let layout = Layout::new(database.name.clone(), &report.system_id, report.incarnation)?;
    let listing = Listing::take(store.as_ref(), &layout).await?;
    let catalog = Catalog::read(&listing, store.as_ref(), &database.keys.verifier).await?;
    let period = database.schedule.config.verify.period.as_duration().as_secs();
    let (vault, now) = (store.place().vault.clone(), cx.clock().now());
    for found in report
        .backups
        .iter()
        .filter(|found| found.is_wal_read_back || !found.sound.is_empty() || !found.damaged.is_empty())
    {
        let earlier = catalog.find(&found.backup).and_then(|entry| entry.verification.as_ref());
        let here = (vault.clone(), cx.run_id().clone());
        let verification = Verification::after(earlier, found.clone(), here, now, period);
        // Signed by this run before it was interrupted.
        if earlier.is_some_and(|earlier| earlier.is_repeated_by(&verification)) {
            continue;
        }
        vault::put_verification(store.as_ref(), &layout, &verification, &database.keys.signer).await?;
    }
    Ok(())
}

impl Read {
    async fn summary(&self, vault: &Vault, reports: &[Report]) -> Result<Verified, StepError> {
        let prefix = findings::prefix(&self.params);
        let mut objects: BTreeMap<Kind, (Tally, usize)> = BTreeMap::new();
        for defect in reports.iter().flat_map(|report| &report.defects) {
            objects.entry(defect.kind()).or_default().1 += 1;
        }
        for (kind, tally) in reports.iter().flat_map(|report| &report.objects) {
            let (sum, _) = objects.entry(*kind).or_default();
            sum.listed += tally.listed;
            sum.read += tally.read;
            sum.read_bytes += tally.read_bytes;
        }
        let mut defects: Vec<(String, String)> = reports
            .iter()
            .flat_map(|report| &report.defects)
            .map(|defect| {
                let id = format!("{prefix}{}/{}", defect.fault.as_str(), defect.object);
                (id, format!("vault `{}`: {defect}", self.params.vault))
            })
            .collect();
        let mended = findings::mended(&self.resources, &self.params, (vault, reports), &defects).await?;
        let more_defects = defects.len().saturating_sub(FINDINGS_MAX);
        defects.truncate(FINDINGS_MAX);
        Ok(Verified {
            verdict: verdict(reports),
            objects,
            defects,
            more_defects,
            unchecked: reports.iter().flat_map(|report| report.unchecked.clone()).collect(),
            notes: reports.iter().flat_map(|report| report.notes.clone()).collect(),
            mended,
            histories: reports.len(),
            backups: reports.iter().map(|report| report.backups.len()).sum(),
        })
    }
}

async fn conclude(resources: &Resources, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let verified: Option<Verified> = cx.output_if_any("verify")?;
    let done = verified.as_ref().map_or(Verdict::Error, |verified| verified.verdict);
    let (verdict, mut told) = super::judged(ending, done);
    let mut verdicts = BTreeMap::from([("sound".to_owned(), verdict)]);
    if let Some(verified) = &verified {
        findings::keep(resources, &params, verified).await?;
        told.extend(verified.defects.iter().map(|(_, message)| message.clone()));
        if verified.more_defects > 0 {
            told.push(findings::more(verified.more_defects));
        }
        if verified.histories == 0 {
            told.push(format!("vault `{}` holds nothing of `{}`", params.vault, params.database));
        }
        told.extend(verified.unchecked.iter().map(|what| format!("not checked: {what}")));
        let complete = if verified.unchecked.is_empty() { Verdict::Pass } else { Verdict::Inconclusive };
        verdicts.insert("complete".to_owned(), complete);
    }
    let record = EvidenceRecord {
        why: Why { scenario: Some(scenario(&params)), ..Why::of(params.due_at, cx.requester()) },
        measured: Measured {
            stored_bytes: verified.as_ref().map(|v| v.objects.values().map(|(tally, _)| tally.read_bytes).sum()),
            ..Measured::default()
        },
        checks: verified.as_ref().map(checks).unwrap_or_default(),
        safety: super::unwinding(ending),
        verdicts,
        verdict,
        findings: told.clone(),
        ..super::record(cx, (&params.database, database.as_deref()), NAME, params.due_at)
    };
    let evidence = resources.evidence.append(&record).await?;
    let figures = json!({
        "run_id": cx.run_id(), "database": params.database, "vault": params.vault, "verdict": verdict,
        "checks": record.checks, "findings": told, "phases": record.phases, "evidence": evidence,
    });
    Ok(Conclusion { verdict, output: figures })
}

fn scenario(params: &Params) -> String {
    match params.depth {
        Asked::Quick => format!("vault {}: names and signatures", params.vault),
        Asked::Sample(rotation) => format!("vault {}: {} of the content, by rotation", params.vault, rotation.share),
        Asked::Full => format!("vault {}: all content", params.vault),
    }
}

/// What was looked at, by kind of object.
fn checks(verified: &Verified) -> Vec<Check> {
    let mut checks: Vec<Check> = verified
        .objects
        .iter()
        .map(|(kind, (tally, defects))| {
            let actual = format!("{} listed, {} read, {defects} defects", tally.listed, tally.read);
            Check::judge(kind.as_str(), "no defect", actual, *defects == 0)
        })
        .collect();
    let noted = |note| Check::new("WAL that is not there", Verdict::Pass, "needed by no backup for itself", note);
    checks.extend(verified.notes.iter().map(noted));
    let unchecked = verified.unchecked.len();
    let verdict = if unchecked == 0 { Verdict::Pass } else { Verdict::Inconclusive };
    checks.push(Check::new("not checked", verdict, "0", unchecked.to_string()));
    checks
}
