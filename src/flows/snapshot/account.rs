//! What a run made, for its record and for who asked for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    CHECK, Checked, Planned,
    copies::COPIED,
    found,
    make::{TAKE, WAIT},
};
use crate::{
    db::findings,
    domain::{
        BackupKind, Check, DatabaseName, Snapshot, SnapshotState, Verdict,
        record::{SnapshotSource, Source, kind},
    },
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{ManagedDatabase, Resources, judged, merge, output, record_of, unwinding},
};

pub(in crate::flows) async fn conclude(
    resources: &Resources,
    cx: &StepContext,
    ending: &Ending,
    (name, due_at): (&DatabaseName, Option<Timestamp>),
) -> Result<Conclusion, StepError> {
    // It may have left the schedules since; the run ends all the same.
    let database = resources.managed.get(name);
    let checked: Option<Checked> = cx.output_if_any(CHECK)?;
    let taken: Option<Snapshot> = cx.output_if_any(WAIT)?;
    let copies = match (cx.output_if_any::<Vec<Snapshot>>(COPIED)?, database.zip(checked.as_ref())) {
        (None, Some((database, checked))) if taken.is_some() => Some(kept(database, checked).await),
        (copies, _) => copies,
    };
    let mut checks: Vec<Check> = checked.iter().map(identity).collect();
    checks.extend(copies.iter().flatten().map(|copy| copied(copy, checked.as_ref())));
    let (verdict, mut findings) = judged(ending, Verdict::worst(checks.iter().map(|check| check.verdict)));
    let failed = checks.iter().filter(|check| check.verdict != Verdict::Pass);
    findings.extend(failed.map(|check| format!("{}: {}, not {}", check.name, check.actual, check.expected)));
    let of_snapshot = if taken.is_some() { Verdict::Pass } else { verdict };
    let schedule = database.map(|database| database.schedule.as_ref());
    let mut record = record_of(cx, (name, schedule), kind::BACKUP, due_at);
    record.source = checked.as_ref().zip(taken.as_ref()).map(|(checked, snapshot)| source(checked, snapshot));
    record.checks = checks;
    record.safety = unwinding(ending);
    record.verdicts = BTreeMap::from([("snapshot".to_owned(), of_snapshot), ("copies".to_owned(), verdict)]);
    record.verdict = verdict;
    record.findings.clone_from(&findings);
    let evidence = resources.evidence.append(&record).await?;
    keep_finding(resources, name, verdict, (&findings, due_at)).await?;
    let mut figures = json!({"run_id": cx.run_id(), "database": name, "verdict": verdict, "findings": findings});
    if let Some(snapshot) = taken.or(cx.output_if_any(TAKE)?.filter(|_| matches!(ending, Ending::Stuck { .. }))) {
        merge(&mut figures, shown(&snapshot)?);
        merge(&mut figures, json!({"kind": BackupKind::Snapshot}));
    }
    let copies: Vec<Value> = copies.iter().flatten().map(shown).collect::<Result<_, _>>()?;
    merge(&mut figures, json!({"copies": copies, "phases": record.phases, "evidence": evidence}));
    Ok(Conclusion { verdict, output: figures })
}

/// The copies that stay though the run ended before all of them were there. Of a region that
/// does not answer nothing is told.
async fn kept(database: &ManagedDatabase, checked: &Checked) -> Vec<Snapshot> {
    let mut kept = Vec::new();
    for Planned { to, .. } in &checked.copies {
        let copy = found(database, &to.region, &to.id).await.ok().flatten();
        kept.extend(copy.filter(|copy| copy.state == SnapshotState::Available));
    }
    kept
}

/// What a schedule asked for and did not get is told until it gets it.
async fn keep_finding(
    resources: &Resources,
    name: &DatabaseName,
    verdict: Verdict,
    (told, due_at): (&[String], Option<Timestamp>),
) -> Result<(), StepError> {
    let id = format!("snapshot/{name}");
    if verdict == Verdict::Pass {
        findings::close(&resources.db, &id).await?;
    } else if due_at.is_some() && verdict != Verdict::Aborted {
        findings::open(&resources.db, &id, name.as_str(), &told.join("; ")).await?;
    }
    Ok(())
}

fn shown(snapshot: &Snapshot) -> Result<Value, StepError> {
    output(snapshot)
}

/// Who the calls were made as, and whether that is of the account that has the database.
fn identity(checked: &Checked) -> Check {
    // An ARN is `arn:partition:service:region:account:resource`.
    let owner = checked.source.arn.split(':').nth(4).unwrap_or_default();
    let expected = format!("of the account {owner}");
    Check::judge("caller", expected, checked.identity.arn.clone(), checked.identity.account == owner)
}

/// Whether a copy is encrypted with the key that was asked for.
fn copied(copy: &Snapshot, checked: Option<&Checked>) -> Check {
    let ordered = checked.and_then(|checked| checked.copies.iter().find(|planned| planned.to.region == copy.region));
    let ordered = ordered.and_then(|planned| planned.to.kms_key.as_deref());
    let key = copy.kms_key.as_deref().unwrap_or("no key");
    let expected = format!("with {}", ordered.unwrap_or("whatever key"));
    let is_so = ordered.is_none_or(|ordered| ordered == key);
    Check::judge(format!("copy in {}", copy.region), expected, format!("{}, {key}", copy.arn), is_so)
}

fn source(checked: &Checked, snapshot: &Snapshot) -> Source {
    Source {
        vault: format!("aws:{}", checked.identity.account),
        region: snapshot.region.clone(),
        // The provider itself says where it keeps it.
        region_verified: true,
        backup_id: snapshot.id.clone(),
        backup_kind: BackupKind::Snapshot.as_str().to_owned(),
        manifest_sha256: String::new(),
        size_bytes: snapshot.size_bytes,
        recipients: 0,
        from: None,
        snapshot: Some(SnapshotSource {
            arn: snapshot.arn.clone(),
            kms_key: snapshot.kms_key.clone(),
            taken_at: snapshot.taken_at,
        }),
    }
}
