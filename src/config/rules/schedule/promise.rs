//! What is promised: by the file, by its tier, or by nobody.

use super::super::{Report, Spot};
use crate::{
    config::walk::nearest,
    decide::tier,
    domain::{Span, Tier},
};

/// Of `objectives`; neither is the other misspelt.
const KEYS: [&str; 2] = ["rto", "rpo"];

pub(super) fn check(schedule: Spot<'_>, report: &mut Report<'_>) {
    let objectives = schedule.get("objectives");
    report.refuse_zero(objectives, "rto", "write how long a recovery may take, such as `1h`");
    if is_written(schedule, "tier") {
        return; // It promises what is not written.
    }
    if !is_written(schedule, "objectives") {
        report.add(
            schedule.place,
            "nothing is promised: there is neither `objectives` nor `tier`",
            "write `objectives: {rto: 1h, rpo: 15m}`, or a tier such as `tier: backup_only`, which promises that",
        );
        return;
    }
    if objectives.pairs().next().is_none() && !objectives.is_empty() {
        return; // It cannot be read.
    }
    for key in KEYS.into_iter().filter(|key| !is_written(objectives, key)) {
        report.add(
            objectives.place,
            format!("the key `{key}` is missing, and no tier promises one"),
            format!("add `{key}: …`, or a `tier` to the schedule"),
        );
    }
}

/// Whether the key stands there, be it misspelt: that is reported once, as what it is.
fn is_written(parent: Spot<'_>, key: &str) -> bool {
    let is_meant = |name: &str| !KEYS.contains(&name) && nearest(name, &[key]).is_some();
    parent.pairs().any(|(name, _, _)| name == key || is_meant(name))
}

/// How much may be lost, whoever says so.
pub(super) fn rpo(schedule: Spot<'_>) -> Option<Span> {
    let written = schedule.get("objectives").get("rpo");
    if written.exists() {
        return written.parsed();
    }
    let tier = schedule.get("tier").text()?;
    let tier = Tier::ALL.into_iter().find(|known| known.as_str() == tier)?;
    Some(tier::terms(tier).objectives.rpo)
}
