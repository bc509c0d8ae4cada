//! What the evidence tells of a database: its last tests and drills, and what a restore
//! would take by them.

use super::App;
use crate::{
    decide::forecast::{self, Forecast, TESTS_MAX, Test, Work},
    domain::{DatabaseName, RunId, Verdict},
    evidence::Entry,
    flows::{self, Database},
    report::{
        points::TestedPoint,
        status::{LastDrill, LastRestoreTest},
    },
};

impl App {
    pub(super) fn last_drill(&self, database: &DatabaseName, entries: &[Entry]) -> Option<LastDrill> {
        let runbooks: Vec<&str> = self
            .estate
            .runbooks
            .iter()
            .filter(|runbook| runbook.config.database == *database)
            .map(|runbook| runbook.config.runbook.as_str())
            .collect();
        let is_drill = |entry: &&Entry| {
            entry.record.kind == flows::drill::NAME && runbooks.contains(&entry.record.subject.as_str())
        };
        entries.iter().rev().find(is_drill).map(|entry| LastDrill {
            run_id: RunId::from(entry.record.run_id.clone()),
            runbook: entry.record.subject.clone(),
            at: entry.record.finished_at,
            verdict: entry.record.verdict,
            rto_seconds: entry.record.measured.rto_seconds,
            rpo_seconds: entry.record.measured.rpo_seconds,
        })
    }
}

/// The last restore test with such a verdict.
pub(super) fn last(
    entries: &[Entry],
    database: &DatabaseName,
    is_such: fn(Verdict) -> bool,
) -> Option<LastRestoreTest> {
    let is_one = |entry: &&Entry| {
        let record = &entry.record;
        record.kind == flows::restore_test::NAME && record.subject == database.as_str() && is_such(record.verdict)
    };
    entries.iter().rev().find(is_one).map(|entry| LastRestoreTest {
        run_id: RunId::from(entry.record.run_id.clone()),
        at: entry.record.finished_at,
        verdict: entry.record.verdict,
        restore_seconds: entry.record.measured.restore_seconds,
        rpo_seconds: entry.record.measured.rpo_seconds,
    })
}

/// What its restore tests take by turns.
pub(super) fn points(entries: &[Entry], database: &Database) -> Vec<TestedPoint> {
    let test = database.schedule.config.restore_test.as_ref();
    let algorithms = test.map(|test| test.recovery_point.algorithms()).unwrap_or_default();
    if algorithms.len() < 2 {
        return Vec::new();
    }
    let is_own = |entry: &&Entry| {
        entry.record.kind == flows::restore_test::NAME && entry.record.subject == database.name.as_str()
    };
    let own: Vec<Entry> = entries.iter().filter(is_own).cloned().collect();
    flows::restore_test::standing(&algorithms, &own).into_iter().map(TestedPoint::from).collect()
}

/// What a restore of this would take by the last tests; none where nothing tells.
pub(super) fn forecast(entries: &[Entry], database: &DatabaseName, work: Option<&Work>) -> Option<Forecast> {
    let of_database =
        |entry: &&Entry| entry.record.kind == flows::restore_test::NAME && entry.record.subject == database.as_str();
    let tests = entries.iter().rev().filter(of_database).filter_map(|entry| Test::of(&entry.record));
    forecast::forecast(&tests.take(TESTS_MAX).collect::<Vec<_>>(), work?)
}
