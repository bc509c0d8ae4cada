//! The status of a database that its provider runs. How far it can be restored is what the
//! provider claims; what was measured stands with the restore tests.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    status::{LastRestoreTest, NextRun},
    words,
};
use crate::domain::{BackupKind, DatabaseName, Objectives, Region, Snapshot, SnapshotOrigin, SnapshotState, Verdict};

/// One database: facts, and what they come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ManagedStatus {
    pub database: DatabaseName,
    /// `rds` or `aurora`.
    pub engine: String,
    /// What the provider calls it.
    pub source: String,
    pub objectives: Objectives,
    /// Set by `judged`.
    pub verdict: Verdict,
    /// Set by `judged`: the reason for the verdict.
    pub headline: String,
    /// Who says how far it can be restored: nobody here has measured it.
    pub claimed_by: &'static str,
    /// The newest state that the provider says it can restore in the database's own region.
    pub recoverable_to: Option<Timestamp>,
    /// When the provider was asked.
    pub looked_at: Timestamp,
    /// Why it is not known how the database is; none where it is.
    pub away: Option<String>,
    /// Its own region first.
    pub regions: Vec<RegionStatus>,
    /// The newest of all regions that can be restored from.
    pub newest_snapshot: Option<Snapshot>,
    /// When the newest heartbeat was acknowledged, by which a restore test measures what is
    /// lost; none when none ever was.
    pub last_heartbeat: Option<Timestamp>,
    /// The last one that came to a judgement.
    pub last_restore_test: Option<LastRestoreTest>,
    /// The last one that passed.
    pub last_proven: Option<LastRestoreTest>,
    pub next_runs: Vec<NextRun>,
    pub findings: Vec<String>,
}

/// What there is of a database in one region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionStatus {
    pub region: Region,
    /// The newest instant that the provider says it can restore there; none where it
    /// restores snapshots alone.
    pub latest_restorable: Option<Timestamp>,
    /// Its age: what would be lost there by what the provider says.
    pub exposure_seconds: Option<f64>,
    pub over_objective: bool,
    pub newest_snapshot_at: Option<Timestamp>,
    /// How many can be restored from.
    pub ours: usize,
    pub adopted: usize,
    pub automated: usize,
    /// Why its snapshots are not known; none where they are.
    pub away: Option<String>,
}

/// A snapshot, or a copy of one, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedSnapshot {
    pub database: DatabaseName,
    pub kind: BackupKind,
    /// Whether a restore test that restored it has passed.
    pub is_proven: bool,
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

impl RegionStatus {
    /// Counts what can be restored from.
    pub fn of(region: Region, latest: Option<Timestamp>, snapshots: &Result<Vec<Snapshot>, String>) -> Self {
        let usable = || snapshots.iter().flatten().filter(|one| one.state == SnapshotState::Available);
        let count = |origin: SnapshotOrigin| usable().filter(|one| one.origin == origin).count();
        Self {
            region,
            latest_restorable: latest,
            exposure_seconds: None,
            over_objective: false,
            newest_snapshot_at: usable().filter_map(|one| one.taken_at).max(),
            ours: count(SnapshotOrigin::Ours),
            adopted: count(SnapshotOrigin::Adopted),
            automated: count(SnapshotOrigin::Automated),
            away: snapshots.as_ref().err().cloned(),
        }
    }

    /// One line for people.
    pub fn in_words(&self) -> String {
        let Self { region, ours, adopted, automated, .. } = self;
        let restorable = match (&self.away, self.latest_restorable) {
            (_, Some(at)) => format!("recoverable to {} as the provider claims", words::instant(&at)),
            (Some(away), None) => format!("not known: {away}"),
            (None, None) => "snapshots alone".to_owned(),
        };
        let newest = self
            .newest_snapshot_at
            .map_or_else(|| "no snapshot".to_owned(), |at| format!("newest snapshot of {}", words::instant(&at)));
        let exposure = self
            .exposure_seconds
            .map_or_else(String::new, |seconds| format!(", exposure {}", words::seconds(&seconds)));
        format!("{region}: {restorable}{exposure}; {newest} ({ours} ours, {adopted} adopted, {automated} automated)")
    }
}

impl ManagedStatus {
    /// Fills exposure, `verdict` and `headline`.
    #[must_use]
    pub fn judged(mut self, now: Timestamp) -> Self {
        let objective = self.objectives.rpo.as_secs_f64();
        for (place, region) in self.regions.iter_mut().enumerate() {
            // Where no instants can be restored, the newest snapshot is all there is.
            let newest = region.latest_restorable.max(region.newest_snapshot_at.filter(|_| place == 0));
            region.exposure_seconds = newest.map(|at| words::between(&at, &now).max(0.0));
            region.over_objective = region.exposure_seconds.is_some_and(|seconds| seconds > objective);
        }
        (self.verdict, self.headline) = self.alarm().or_else(|| self.doubt()).unwrap_or_else(|| {
            let at = self.last_proven.as_ref().map_or(now, |test| test.at);
            let ago = words::seconds(&words::between(&at, &now).max(0.0));
            (Verdict::Pass, format!("Recoverable as the provider claims; last proven {ago} ago."))
        });
        self
    }

    fn alarm(&self) -> Option<(Verdict, String)> {
        let is_known = self.away.is_none() && self.regions.iter().all(|region| region.away.is_none());
        let text = if is_known && self.recoverable_to.is_none() && self.newest_snapshot.is_none() {
            "Not recoverable: there is neither a snapshot nor an instant that the provider restores.".to_owned()
        } else if let Some(region) = self.regions.iter().find(|region| region.over_objective) {
            format!(
                "In {} the provider restores nothing of the last {}; the objective is {}.",
                region.region,
                words::seconds_or_not(&region.exposure_seconds),
                self.objectives.rpo
            )
        } else if let Some(test) = self.last_restore_test.as_ref().filter(|test| test.verdict > Verdict::Inconclusive) {
            format!("The last restore test ended {}.", test.verdict)
        } else {
            return None;
        };
        Some((Verdict::Fail, text))
    }

    fn doubt(&self) -> Option<(Verdict, String)> {
        let away = self.regions.iter().find_map(|region| Some((&region.region, region.away.as_ref()?)));
        let text = match (&self.last_restore_test, &self.away, away) {
            (_, Some(why), _) => format!("How the database is cannot be asked: {why}"),
            (_, None, Some((region, why))) => format!("Its snapshots in {region} cannot be asked: {why}"),
            (None, ..) => "Backed up as the provider claims, but never proven by a restore test.".to_owned(),
            (Some(test), ..) if test.verdict != Verdict::Pass => {
                format!("The last restore test ended {}.", test.verdict)
            }
            (Some(_), ..) if !self.findings.is_empty() => {
                format!("Recoverable, with {} to fix.", words::count(self.findings.len(), "finding"))
            }
            (Some(_), ..) => return None,
        };
        Some((Verdict::Inconclusive, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{RunId, Span},
        report::EstateStatus,
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn status() -> ManagedStatus {
        let region = RegionStatus::of("eu-south-1".parse().unwrap(), Some(at("2026-11-29T11:55:00Z")), &Ok(Vec::new()));
        let test = LastRestoreTest {
            run_id: RunId::from("restore_test/bets/manual/1".to_owned()),
            at: at("2026-11-29T11:00:00Z"),
            verdict: Verdict::Pass,
            restore_seconds: Some(60.0),
            rpo_seconds: None,
        };
        ManagedStatus {
            database: "bets".parse().unwrap(),
            engine: "rds".to_owned(),
            source: "bets-prod".to_owned(),
            objectives: Objectives { rto: Span::from_secs(3600), rpo: Span::from_secs(900) },
            verdict: Verdict::Inconclusive,
            headline: String::new(),
            claimed_by: "provider",
            recoverable_to: Some(at("2026-11-29T11:55:00Z")),
            looked_at: at("2026-11-29T12:00:00Z"),
            away: None,
            regions: vec![region],
            newest_snapshot: None,
            last_heartbeat: None,
            last_restore_test: Some(test.clone()),
            last_proven: Some(test),
            next_runs: Vec::new(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn the_first_reason_for_alarm_or_doubt_is_told() {
        let now = at("2026-11-29T12:00:00Z");
        let sound = status().judged(now);
        assert_eq!((sound.verdict, sound.regions[0].exposure_seconds), (Verdict::Pass, Some(300.0)));
        let old = |mut of: ManagedStatus| {
            of.regions[0].latest_restorable = Some(at("2026-11-29T11:00:00Z"));
            of
        };
        let silent = |mut of: ManagedStatus| {
            of.regions[0].away = Some("denied".to_owned());
            of
        };
        for (status, verdict, told) in [
            (old(status()), Verdict::Fail, "In eu-south-1 the provider restores nothing of the last"),
            (ManagedStatus { recoverable_to: None, ..status() }, Verdict::Fail, "Not recoverable"),
            (ManagedStatus { away: Some("denied".to_owned()), ..status() }, Verdict::Inconclusive, "cannot be asked"),
            (silent(status()), Verdict::Inconclusive, "Its snapshots in eu-south-1"),
            (ManagedStatus { last_restore_test: None, ..status() }, Verdict::Inconclusive, "never proven"),
            (ManagedStatus { findings: vec!["x".to_owned()], ..status() }, Verdict::Inconclusive, "1 finding to fix"),
        ] {
            let judged = status.judged(now);
            assert_eq!(judged.verdict, verdict, "{}", judged.headline);
            assert!(judged.headline.contains(told), "`{told}` is not in {}", judged.headline);
        }
    }

    #[test]
    fn the_page_and_the_headline_tell_of_it() {
        let now = at("2026-11-29T12:00:00Z");
        let region = "eu-south-1".parse().unwrap();
        let estate = EstateStatus::new("mt-1".to_owned(), region, now, Vec::new(), Vec::new(), Vec::new());
        assert_eq!(estate.headline, "No database is protected yet.");
        let estate = estate.with_managed(vec![status().judged(now)]);
        assert_eq!(
            (estate.verdict, estate.headline.as_str()),
            (Verdict::Pass, "The database is recoverable, and it was proven.")
        );
        let page = crate::report::page(&estate).unwrap();
        for told in ["bets-prod", "as the provider claims", "(0 ours, 0 adopted, 0 automated)"] {
            assert!(page.contains(told), "{told} is not in {page}");
        }
    }
}
