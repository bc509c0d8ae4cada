//! Rules of `runbooks/*.yaml`.

use std::time::Duration;

use super::{Report, Spot, Tree, daemon::is_inside, known};
use crate::domain::Span;

pub(super) fn check(daemon: Spot<'_>, schedules: &[Tree<'_>], runbook: Spot<'_>, report: &mut Report<'_>) {
    sites(schedules, runbook, report);
    probes(runbook, report);
    report.refuse_zero(runbook.get("objectives"), "rto", "write how long the change may take, such as `5m`");
    let approvals = runbook.get("approvals");
    if approvals.get("required").text() == Some("0") && !approvals.get("reason").exists() {
        report.add(approvals.place, "nobody has to approve this drill", "say why in `reason`, or require at least 1");
    }
    let radius = runbook.get("blast_radius");
    report.refuse_zero(radius, "max_duration", "write how long the drill may take, such as `30m`");
    report.refuse_twins(radius.get("records"));
    order(runbook.get("steps"), report);
    for step in runbook.get("steps").items() {
        dns(daemon, runbook, step, report);
        for by in ["by", "release"] {
            report.command(step.get(by).get("command"));
        }
        let prove = step.get("prove");
        if prove.is_empty() {
            report.add(prove.place, "nothing shows that the fence holds", "write `prove: [login, write]`");
        }
    }
    holds(runbook, report);
}

fn sites(schedules: &[Tree<'_>], runbook: Spot<'_>, report: &mut Report<'_>) {
    let (from, to) = (runbook.get("from"), runbook.get("to"));
    if from.exists() && from.text() == to.text() {
        report.add(to.place, "`from` and `to` are the same site", "name the site that takes over in `to`");
    }
    let database = runbook.get("database");
    let Some(name) = database.text() else { return };
    let Some(schedule) = schedules.iter().find(|tree| tree.root.get("database").text() == Some(name)) else {
        if schedules.iter().any(|tree| !tree.root.get("database").exists()) {
            return; // It may be the one whose name is not written yet.
        }
        let names = schedules.iter().filter_map(|tree| tree.root.get("database").text());
        report.add(database.place, format!("the database `{name}` has no schedule"), known(names, name, "schedule"));
        return;
    };
    if schedule.root.get("engine").text().is_some_and(|engine| ["rds", "aurora"].contains(&engine)) {
        let what = format!("`{name}` is run by its provider, and no drill moves its primary in this version");
        return report.add(database.place, what, "name a database with `members`, or remove this runbook");
    }
    let members = schedule.root.get("members");
    if members.pairs().next().is_none() {
        if schedule.root.get("connection").exists() {
            let what = format!("`{name}` has one server, and a switchover needs a standby");
            report.add(database.place, what, "name both servers under `members` in its schedule");
        }
        return;
    }
    let known_sites = || members.pairs().filter_map(|(_, _, member)| member.get("site").text());
    for side in [from, to] {
        let Some(site) = side.text() else { continue };
        if !known_sites().any(|known| known == site) {
            let remedy = known(known_sites(), site, "member there");
            report.add(side.place, format!("no member of `{name}` is in the site `{site}`"), remedy);
        }
    }
}

fn probes(runbook: Spot<'_>, report: &mut Report<'_>) {
    let (probes, steady) = (runbook.get("probes"), runbook.get("steady_state"));
    if steady.is_empty() {
        report.add(steady.place, "nothing says when the service is healthy", "list at least one probe");
    }
    report.refuse_twins(steady);
    for item in steady.items() {
        let Some(name) = item.text() else { continue };
        if !probes.pairs().any(|(probe, _, _)| probe == name) {
            let remedy = known(probes.pairs().map(|(name, _, _)| name), name, "probe under `probes`");
            report.add(item.place, format!("the probe `{name}` does not exist"), remedy);
        }
    }
}

const STEPS: [&str; 5] = ["fence", "promote", "dns", "observe", "rejoin"];

/// The order that keeps two primaries from taking writes: fence, promote, DNS,
/// and only then what comes back.
fn order(steps: Spot<'_>, report: &mut Report<'_>) {
    let known = |step: Spot<'_>| STEPS.iter().any(|key| step.get(key).exists());
    if !steps.exists() || !steps.items().all(known) {
        return; // A step that cannot be read may be the one that is missed below.
    }
    let side = |step: Spot<'_>, key: &str, wanted: &str, report: &mut Report<'_>| {
        let side = step.get(key);
        if side.text().is_some_and(|text| text != wanted && matches!(text, "from" | "to")) {
            report.add(side.place, format!("`{key}` acts on the other side"), format!("write `{key}: {wanted}`"));
        }
    };
    let (mut fenced, mut promoted, mut switched, mut rejoined) = (false, false, false, false);
    for step in steps.items() {
        side(step, "fence", "from", report);
        side(step, "promote", "to", report);
        side(step, "rejoin", "from", report);
        let has = |key: &str| step.get(key).exists();
        let place = step.place;
        if has("fence") {
            if promoted {
                report.add(place, "`fence` comes after `promote`", "fence first, or two primaries take writes");
            } else if fenced {
                report.add(place, "`fence` stands here again", "keep one of the two");
            }
            fenced = true;
        } else if has("promote") {
            if promoted {
                report.add(place, "`promote` stands here again", "keep one of the two");
            } else if !fenced {
                report.add(place, "`promote` comes before `fence`", "fence first, or two primaries take writes");
            }
            promoted = true;
        } else if has("dns") {
            if !promoted {
                report.add(place, "`dns` comes before `promote`", "promote first, or users reach a standby");
            }
            switched = true;
        } else if has("observe") {
            if !switched {
                report.add(place, "`observe` comes before `dns`", "move it after the step that changes the record");
            }
        } else if has("rejoin") {
            if !promoted {
                report.add(place, "`rejoin` comes before `promote`", "move it after `promote`");
            } else if rejoined {
                report.add(place, "`rejoin` stands here again", "keep one of the two");
            }
            rejoined = true;
        }
    }
    for (done, step) in [(fenced, "fence: from"), (promoted, "promote: to")] {
        if !done {
            report.add(steps.place, "a switchover fences one side and promotes the other", format!("add `{step}`"));
        }
    }
}

fn dns(daemon: Spot<'_>, runbook: Spot<'_>, step: Spot<'_>, report: &mut Report<'_>) {
    if !step.get("dns").exists() {
        return;
    }
    let record = step.get("record");
    let allowed = runbook.get("blast_radius").get("records");
    if let Some(name) = record.text()
        && !allowed.items().any(|item| item.text() == Some(name))
    {
        let what = format!("`{name}` is outside the blast radius");
        report.add(record.place, what, "add it to `blast_radius.records`, if the drill may change it");
    }
    let (providers, chosen) = (daemon.get("dns"), step.get("provider"));
    let names = || providers.pairs().map(|(name, _, _)| name);
    let provider = match (chosen.text(), names().count()) {
        (Some(name), _) if daemon.exists() && !names().any(|known| known == name) => {
            let what = format!("the DNS provider `{name}` does not exist");
            report.add(chosen.place, what, known(names(), name, "provider under `dns` in lifeboat.yaml"));
            return;
        }
        (Some(name), _) => providers.get(name),
        (None, 1) => providers.pairs().map(|(_, _, provider)| provider).next().unwrap_or(providers),
        (None, 0) if !daemon.exists() => return,
        (None, 0) => {
            report.add(step.place, "no DNS provider is configured", "add one under `dns` in lifeboat.yaml");
            return;
        }
        (None, _) => {
            let names = names().collect::<Vec<_>>().join(", ");
            report.add(step.place, "there are several DNS providers", format!("add `provider:` with one of: {names}"));
            return;
        }
    };
    if let (Some(name), Some(zone)) = (record.text(), provider.get("zone").text())
        && zone.ends_with('.')
        && !is_inside(name, zone)
    {
        let what = format!("`{name}` is outside the zone `{zone}` of its DNS provider");
        report.add(record.place, what, "name a record of that zone, or another provider");
    }
}

/// Waiting alone must not use up the time that the drill has.
fn holds(runbook: Spot<'_>, report: &mut Report<'_>) {
    let most = runbook.get("blast_radius").get("max_duration");
    let spans = runbook.get("steps").items().filter_map(|step| step.get("hold").parsed::<Span>());
    let held = spans.fold(Duration::ZERO, |sum, span| sum.saturating_add(span.as_duration()));
    if most.parsed::<Span>().is_some_and(|most| held >= most.as_duration()) && !held.is_zero() {
        let what = format!("observing alone takes {}", Span::from(held));
        report.add(most.place, what, "allow the drill more time than its steps `hold`");
    }
}
