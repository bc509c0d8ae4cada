//! `objectives` of `lifeboat.yaml`: bounds that bound something.

use super::{Report, Spot, Tree, known};
use crate::{config::problem::Problems, domain::Span};

/// Of `objectives`, wherever they stand.
pub(super) const KEYS: [&str; 2] = ["rto", "rpo"];

pub(super) fn check(daemon: &Tree<'_>, schedules: &[Tree<'_>], problems: &mut Problems) {
    let objectives = daemon.root.get("objectives");
    let report = &mut Report { file: daemon.file, problems };
    report.refuse_zero(objectives, "rto", "write how long a recovery may take, such as `1h`");
    let used: Vec<&str> = schedules.iter().filter_map(|schedule| jurisdiction(schedule.root)).collect();
    for (name, place, own) in objectives.get("jurisdictions").pairs() {
        report.refuse_zero(own, "rto", "write how long a recovery may take, such as `1h`");
        if !used.contains(&name) {
            let remedy = known(used.iter().copied(), name, "`residency` in a schedule");
            report.add(place, format!("no schedule's `residency` names the jurisdiction `{name}`"), remedy);
        }
        for key in KEYS {
            let (own, estate) = (own.get(key), objectives.get(key).parsed::<Span>());
            if let (Some(written), Some(estate)) = (own.parsed::<Span>(), estate)
                && written > estate
            {
                let what = format!("`{key}: {written}` is laxer than the estate's `{key}: {estate}`");
                report.add(own.place, what, format!("write at most `{estate}`, or remove it"));
            }
        }
    }
}

fn jurisdiction(schedule: Spot<'_>) -> Option<&str> {
    schedule.get("residency").get("jurisdiction").text()
}

/// What no schedule of this jurisdiction may be laxer than, and whose bound that is.
pub(super) fn bound(daemon: Spot<'_>, schedule: Spot<'_>, key: &str) -> Option<(Span, String)> {
    let objectives = daemon.get("objectives");
    // An RTO of zero is told where it stands.
    let bound = |spot: Spot<'_>| spot.get(key).parsed().filter(|span| key != "rto" || *span > Span::from_secs(0));
    let own = jurisdiction(schedule).and_then(|name| {
        Some((bound(objectives.get("jurisdictions").get(name))?, format!("of the jurisdiction {name}")))
    });
    own.or_else(|| Some((bound(objectives)?, "of the estate".to_owned())))
}
