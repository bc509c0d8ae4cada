//! The findings of a verification: one per defect, closed by a run that would
//! have opened it again.

use serde_json::Value;

use super::{NAME, Params, Verified};
use crate::{
    db::findings,
    flow::StepError,
    flows::{Resources, Vault},
    vault::{
        self, ObjectKey,
        verify::{Fault, Report},
    },
};

/// What the ids of all findings of one vault begin with.
pub(super) fn prefix(params: &Params) -> String {
    format!("{NAME}/{}/{}/", params.database, params.vault)
}

/// Open findings of this vault whose defect this run would have seen, and did
/// not: it has looked at all that shows it, or the object is gone.
pub(super) async fn mended(
    resources: &Resources,
    params: &Params,
    (vault, reports): (&Vault, &[Report]),
    defects: &[(String, String)],
) -> Result<Vec<String>, StepError> {
    let prefix = prefix(params);
    let mut mended = Vec::new();
    for finding in findings::open_findings(&resources.db).await? {
        let Some((fault, object)) = finding.id.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        if defects.iter().any(|(id, _)| *id == finding.id) {
            continue;
        }
        // A version that knew other faults may have opened it.
        let fault: Option<Fault> = serde_json::from_value(Value::from(fault)).ok();
        let about = reports.iter().find(|report| report.is_about(object));
        let was_seen = about.zip(fault).is_some_and(|(report, fault)| report.would_show(fault, object));
        if was_seen || is_gone(vault, fault, object).await? {
            mended.push(finding.id);
        }
    }
    Ok(mended)
}

/// Whether the object that a finding is about is gone: where it should be there,
/// whether its whole history is.
async fn is_gone(vault: &Vault, fault: Option<Fault>, object: &str) -> Result<bool, StepError> {
    let store = vault.store.as_ref();
    if matches!(fault, Some(Fault::Missing | Fault::Gap | Fault::Behind)) {
        let history: Vec<&str> = object.splitn(4, '/').take(3).collect();
        return Ok(store.list(&format!("{}/", history.join("/"))).await?.is_empty());
    }
    match ObjectKey::new(object) {
        Ok(key) => Ok(vault::stat(store, &key).await?.is_none()),
        Err(_) => Ok(false),
    }
}

/// Opens a finding per defect, and closes those of defects that are gone.
pub(super) async fn keep(resources: &Resources, params: &Params, verified: &Verified) -> Result<(), StepError> {
    let subject = params.database.as_str();
    for (id, message) in &verified.defects {
        findings::open(&resources.db, id, subject, message).await?;
    }
    for id in &verified.mended {
        findings::close(&resources.db, id).await?;
    }
    let id = format!("{NAME}/{}/{}/more", params.database, params.vault);
    if verified.more_defects > 0 {
        findings::open(&resources.db, &id, subject, &more(verified.more_defects)).await?;
    } else {
        findings::close(&resources.db, &id).await?;
    }
    Ok(())
}

/// How many are not told one by one.
pub(super) fn more(count: usize) -> String {
    format!("{count} more defects: `lifeboat vault verify` lists them all")
}
