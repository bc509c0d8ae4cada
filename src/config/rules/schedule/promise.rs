//! What is promised: by the file, by its tier, by the estate, or by nobody; and no less
//! than the estate and the jurisdiction ask for.

use super::super::{
    Report, Spot,
    objectives::{KEYS, bound},
};
use crate::{
    config::walk::nearest,
    decide::tier,
    domain::{Objectives, Span, Tier},
};

pub(super) fn check(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    let objectives = schedule.get("objectives");
    report.refuse_zero(objectives, "rto", "write how long a recovery may take, such as `1h`");
    refuse_laxer(daemon, schedule, report);
    if is_written(schedule, "tier") {
        return; // It promises what is not written.
    }
    let is_promised = |key: &&str| bound(daemon, schedule, key).is_some();
    if KEYS.iter().all(is_promised) {
        return;
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
    for key in KEYS.into_iter().filter(|key| !is_promised(key) && !is_written(objectives, key)) {
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

/// A schedule or its tier may promise more than the estate and its jurisdiction do, and
/// never less.
fn refuse_laxer(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    for key in KEYS {
        let Some((least, whose)) = bound(daemon, schedule, key) else { continue };
        let written = schedule.get("objectives").get(key);
        if let Some(span) = written.parsed::<Span>().filter(|span| *span > least) {
            let what = format!("`{key}: {span}` is laxer than the `{key}: {least}` {whose}");
            report.add(written.place, what, format!("write at most `{least}`, or remove it"));
        } else if let Some(span) = of_tier(schedule, key).filter(|span| !written.exists() && *span > least) {
            let what = format!("this tier promises `{key}: {span}`, laxer than the `{key}: {least}` {whose}");
            let remedy = format!("choose a stricter tier, or write `objectives: {{{key}: {least}}}` beside it");
            report.add(schedule.get("tier").place, what, remedy);
        }
    }
}

fn of_tier(schedule: Spot<'_>, key: &str) -> Option<Span> {
    let tier = schedule.get("tier").text()?;
    let tier = Tier::ALL.into_iter().find(|known| known.as_str() == tier)?;
    let Objectives { rto, rpo } = tier::terms(tier).objectives;
    Some(if key == "rto" { rto } else { rpo })
}

/// What is promised, whoever says so.
pub(super) fn promised(daemon: Spot<'_>, schedule: Spot<'_>, key: &str) -> Option<Span> {
    let written = schedule.get("objectives").get(key);
    if written.exists() {
        return written.parsed();
    }
    of_tier(schedule, key).or_else(|| bound(daemon, schedule, key).map(|(bound, _)| bound))
}
