//! What a restore test leaves behind: its evidence record, the findings that it opens and
//! closes, and the figures that whoever asked for it is shown.

use serde_json::json;

use super::Exhausted;
use crate::{
    db::findings,
    domain::{EvidenceRecord, RecoveryAlgorithm, Verdict},
    flow::{Conclusion, StepError},
    flows::Resources,
};

/// Writes the record, opens and closes findings by it, and answers with its figures.
/// `scheduled` is what the schedule asks for now.
pub(super) async fn concluded(
    resources: &Resources,
    record: &EvidenceRecord,
    scheduled: &[RecoveryAlgorithm],
    attempt: Attempt<'_>,
) -> Result<Conclusion, StepError> {
    let evidence = resources.evidence.append(record).await?;
    tell(resources, record, scheduled).await?;
    tell_exhausted(resources, &record.subject, attempt).await?;
    let output = json!({
        "run_id": record.run_id,
        "database": record.subject,
        "verdict": record.verdict,
        "recovery_point": record.measured.recovery_point,
        "disaster_at": record.measured.disaster_at,
        "restore_seconds": record.measured.restore_seconds,
        "rpo_seconds": record.measured.rpo_seconds,
        "rpo_bound_seconds": record.measured.rpo_bound_seconds,
        "lost_commits": record.measured.lost_commits,
        "target_error_seconds": record.measured.target_error_seconds,
        "scenario": record.why.scenario,
        "selection": record.why.selection,
        "phases": record.phases,
        "checks": record.checks,
        "isolation": record.isolation,
        "findings": record.findings,
        "evidence": evidence,
    });
    Ok(Conclusion { verdict: record.verdict, output })
}

/// The finding that a test which failed is. What only one algorithm looks at has a
/// finding of its own, which no test of something else closes.
fn finding(database: &str, algorithm: Option<RecoveryAlgorithm>) -> String {
    let base = format!("{}/{database}", super::NAME);
    match algorithm {
        None | Some(RecoveryAlgorithm::LatestAtDisaster | RecoveryAlgorithm::RandomWithinWindow) => base,
        Some(one) => format!("{base}/{one}"),
    }
}

/// A test that failed is a finding until one of its kind passes. One that was ended,
/// or measured nothing, tells neither.
async fn tell(
    resources: &Resources,
    record: &EvidenceRecord,
    scheduled: &[RecoveryAlgorithm],
) -> Result<(), StepError> {
    let algorithm = record.why.selection.as_ref().map(|selection| selection.algorithm);
    let id = finding(&record.subject, algorithm);
    match record.verdict {
        Verdict::Pass => {
            findings::close(&resources.db, &id).await?;
            if record.why.due_at.is_none() {
                return Ok(());
            }
            // What the schedule asks for no more would stay open for ever.
            let still: Vec<String> = scheduled.iter().map(|one| finding(&record.subject, Some(*one))).collect();
            let all = RecoveryAlgorithm::ALL.map(|one| finding(&record.subject, Some(one)));
            for other in all.iter().filter(|other| !still.contains(other)) {
                findings::close(&resources.db, other).await?;
            }
        }
        Verdict::Fail | Verdict::Error => {
            let of = algorithm.filter(|_| id != finding(&record.subject, None));
            let of = of.map(|one| format!(" of `{one}`")).unwrap_or_default();
            let message = format!(
                "the last restore test{of} ended {}: {}; `lifeboat evidence show {}` tells more, and a test{of} that passes closes this",
                record.verdict,
                why(record),
                record.run_id
            );
            findings::open(&resources.db, &id, &record.subject, &message).await?;
        }
        Verdict::Inconclusive | Verdict::Aborted => {}
    }
    Ok(())
}

/// What of a record is not as it should be, in words.
fn why(record: &EvidenceRecord) -> String {
    let failed = record.checks.iter().chain(&record.isolation).filter(|check| check.verdict == Verdict::Fail);
    let checks = failed.map(|check| format!("`{}` gave {} instead of {}", check.name, check.actual, check.expected));
    let told: Vec<String> = record.findings.iter().cloned().chain(checks).collect();
    if told.is_empty() {
        let parts = record.verdicts.iter().filter(|(_, verdict)| **verdict > Verdict::Inconclusive);
        return parts.map(|(part, verdict)| format!("{part} {verdict}")).collect::<Vec<_>>().join(", ");
    }
    told.join("; ")
}

/// How far a test came.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) exhausted: Option<&'a Exhausted>,
    /// Whether a copy was there and was asked.
    pub(super) is_proven: bool,
}

/// What the target had too little of is a finding until a copy is there.
async fn tell_exhausted(resources: &Resources, subject: &str, attempt: Attempt<'_>) -> Result<(), StepError> {
    let id = format!("{}/{subject}/resources", super::NAME);
    match attempt.exhausted {
        Some(exhausted) => {
            let message = format!("the last restore test could not be made: {}", exhausted.what);
            findings::open(&resources.db, &id, subject, &message).await?;
        }
        None if attempt.is_proven => findings::close(&resources.db, &id).await?,
        None => {}
    }
    Ok(())
}
