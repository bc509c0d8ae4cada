//! Rules of `restore_test.recovery_point`: an algorithm that could never find its
//! point is refused where it is written, with what it lacks.

use super::{Report, Spot};
use crate::domain::{RecoveryAlgorithm, Span};

pub(super) fn check(schedule: Spot<'_>, point: Spot<'_>, report: &mut Report<'_>) {
    let (algorithm, of) = (point.get("algorithm"), point.get("of"));
    let rotates = algorithm.text() == Some("rotate");
    if rotates && of.items().next().is_none() {
        let place = if of.exists() { of.place } else { algorithm.place };
        let remedy = format!("list at least one under `of`: {}", listed());
        report.add(place, "`rotate` has nothing to take by turns", remedy);
    }
    if of.exists() && !rotates {
        let remedy = "write `algorithm: rotate`, or remove `of`";
        report.add(point.key("of"), "`of` is for `rotate` alone", remedy);
    }
    let all: Vec<Spot<'_>> = if rotates { of.items().collect() } else { vec![algorithm] };
    report.refuse_twins(of);
    for one in &all {
        lacking(schedule, *one, report);
    }
    window(schedule, point, (&all, rotates), report);
}

fn listed() -> String {
    RecoveryAlgorithm::ALL.map(|one| format!("`{one}`")).join(", ")
}

/// What an algorithm needs that the schedule does not have.
fn lacking(schedule: Spot<'_>, algorithm: Spot<'_>, report: &mut Report<'_>) {
    let (vaults, backups) = (schedule.get("vaults"), schedule.get("backups"));
    match algorithm.text() {
        Some("other_vault") if vaults.exists() && vaults.items().count() < 2 => report.add(
            algorithm.place,
            "`other_vault` restores from a further vault, and there is one only",
            "name a further vault under `vaults`, or choose another recovery point",
        ),
        // Of a database that a provider runs it is refused for what it is.
        Some("increment_chain")
            if vaults.exists() && backups.exists() && !backups.items().any(is_built_upon_another) => report.add(
            algorithm.place,
            "`increment_chain` restores backups that are built upon each other, and no line takes any",
            "add a line with `kind: incremental` (PostgreSQL 17 and later) or `kind: differential`, or choose another recovery point",
        ),
        _ => {}
    }
}

/// Whether a provider runs the database: it keeps neither vault nor chain of ours.
fn is_managed(schedule: Spot<'_>) -> bool {
    matches!(schedule.get("engine").text(), Some("rds" | "aurora"))
}

fn is_built_upon_another(line: Spot<'_>) -> bool {
    matches!(line.get("kind").text(), Some("incremental" | "differential"))
}

fn window(schedule: Spot<'_>, point: Spot<'_>, (all, rotates): (&[Spot<'_>], bool), report: &mut Report<'_>) {
    let window = point.get("window");
    let is_random = all.iter().any(|one| one.text() == Some("random_within_window"));
    // A provider tells from when on it restores.
    if is_random && !rotates && !window.exists() && !is_managed(schedule) {
        report.add(point.place, "`random_within_window` needs a window", "add `window: 30d`, within `wal.window`");
    }
    // One that is misspelt may have meant it.
    let is_read = |one: &Spot<'_>| one.text().is_some_and(|text| text.parse::<RecoveryAlgorithm>().is_ok());
    if window.exists() && !is_random && all.iter().all(is_read) {
        let algorithm = point.get("algorithm").text().unwrap_or_default();
        let remedy = if rotates { "remove `window`, or add `random_within_window` to `of`" } else { "remove `window`" };
        report.add(point.key("window"), format!("`{algorithm}` has no window"), remedy);
    }
    report.refuse_zero(point, "window", "write how far back the test may reach, such as `30d`");
    for (kept, key) in [
        (schedule.get("wal").get("window"), "wal.window"),
        (schedule.get("automated_backups").get("retention"), "automated_backups.retention"),
    ] {
        if let (Some(wanted), Some(kept)) = (window.parsed::<Span>(), kept.parsed::<Span>())
            && wanted > kept
        {
            report.add(
                window.place,
                format!("the test reaches back {wanted}, and WAL is kept for {kept}"),
                format!("make it at most `{key}`"),
            );
        }
    }
}
