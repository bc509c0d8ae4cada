//! Entries of the log in, the report's view model out. Each database and each
//! runbook gets one line per measure: what was promised, what was achieved over
//! all runs, and a verdict that a single good run cannot make good.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    figures::Figures,
    groups::{Facts, Group, Protected, drawn, groups},
    words,
};
use crate::{
    decide::forecast::Forecast,
    domain::{ExposureOver, Objectives, RecoveryAlgorithm, Tier, VaultName, Verdict, record::kind},
    evidence::{Entry, EvidenceRef, Month},
};

/// What the figures leave out, in the order in which it matters.
pub const EXCLUDES: [&str; 7] = [
    "A restore duration runs from the first recovery action to passed checks (T5 − T3). It leaves out noticing the disaster, deciding, moving traffic and waiting for users, and is therefore not a recovery time (RTO).",
    "Recovery time (RTO) comes only from drills and declared failovers, from the disaster to healthy users (T8 − T0). In a planned drill, noticing and deciding are simulated.",
    "Recovery point (RPO) comes only from restores whose disaster instant lay in the future when it was drawn. A restore to a point in the past has the benefit of hindsight and measures none.",
    "Percentiles are by nearest rank over the runs of the period: each is a value that was really measured.",
    "A run that failed before it could measure is counted as a failure and is in no percentile.",
    "Exposure is looked at every ten seconds and known to ± that. Time in which nobody looked was not measured: it counts neither as good nor as bad, and the share that was measured stands beside each figure.",
    "What a restore would take now is estimated from the last restore tests, for the backups and the WAL that there are now. It was not measured.",
];

/// RTO and RPO of an estate over a period.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// None for all time.
    pub month: Option<Month>,
    pub generated_at: Timestamp,
    pub daemon_version: &'static str,
    /// The worst line; INCONCLUSIVE when there is none.
    pub verdict: Verdict,
    pub headline: String,
    pub subjects: Vec<Subject>,
    /// The estate, and its jurisdictions.
    pub groups: Vec<Group>,
    pub coverage: Coverage,
    pub excludes: [&'static str; 7],
    pub findings: Vec<ReportFinding>,
    /// The last restore test of each database and the last drill of each runbook, in full.
    pub details: Vec<Entry>,
    /// Every run of the period, oldest first.
    pub records: Vec<RecordLine>,
    /// Fingerprint of the key that signs the log.
    pub signing_key: String,
    /// The newest entry of the whole log.
    pub head: Option<EvidenceRef>,
}

/// A database or a runbook.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subject {
    pub name: String,
    /// `database` or `runbook`.
    pub kind: &'static str,
    /// The tier that promises what its schedule does not write, as it is now.
    pub tier: Option<Tier>,
    pub objectives: Option<Objectives>,
    pub lines: Vec<Line>,
    /// Exposure of each vault over the period; of the last 31 days for all time.
    pub exposure: BTreeMap<VaultName, ExposureOver>,
    /// What a restore would take now; none where nothing tells.
    pub forecast: Option<Forecast>,
}

/// One measure of one subject.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub measure: &'static str,
    pub unit: Unit,
    /// What was promised; none where there is no objective for it.
    pub objective: Option<f64>,
    pub figures: Figures,
    pub verdict: Verdict,
    /// The line in plain words.
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Seconds,
    Commits,
}

impl Unit {
    /// A value for people, or that it was not measured.
    pub fn show(self, value: &Option<f64>) -> String {
        match (self, value) {
            (Self::Commits, Some(value)) => format!("{value:.0}"),
            (_, value) => words::seconds_or_not(value),
        }
    }
}

/// Which databases were restore-tested with success in the period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    pub proven: Vec<String>,
    pub not_proven: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportFinding {
    pub subject: String,
    pub run_id: String,
    pub message: String,
}

/// One run of the period.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordLine {
    pub index: u64,
    pub leaf_hash: String,
    pub run_id: String,
    pub kind: String,
    pub subject: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub verdict: Verdict,
    pub restore_seconds: Option<f64>,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
    pub rpo_bound_seconds: Option<f64>,
    pub lost_commits: Option<u64>,
    pub target_error_seconds: Option<f64>,
    /// How the recovery point of a restore test was chosen; none where a person named it.
    pub recovery_point: Option<RecoveryAlgorithm>,
}

impl Report {
    /// The verdict in a few words.
    pub fn title(&self) -> &'static str {
        match self.verdict {
            Verdict::Pass => "Objectives met",
            Verdict::Inconclusive => "Not everything is proven",
            Verdict::Fail | Verdict::Aborted | Verdict::Error => "Objectives missed",
        }
    }
}

/// Builds the report over `entries`, which are the whole log, oldest first.
/// `facts` hold the protected databases with what is promised of them now; a record's own
/// objectives, as they stood, go first.
pub fn build(
    entries: &[Entry],
    month: Option<Month>,
    facts: &Facts,
    generated_at: Timestamp,
    signing_key: String,
) -> Report {
    let period: Vec<&Entry> =
        entries.iter().filter(|entry| month.is_none_or(|month| month.contains(entry.record.finished_at))).collect();
    let subjects = subjects(&period, &facts.databases);
    let coverage = coverage(&period, &facts.databases);
    let verdict = Verdict::worst(subjects.iter().flat_map(|subject| &subject.lines).map(|line| line.verdict));
    Report {
        month,
        generated_at,
        daemon_version: env!("CARGO_PKG_VERSION"),
        verdict,
        headline: headline(verdict, &coverage, &period),
        coverage,
        groups: groups(entries, facts, month, generated_at),
        excludes: EXCLUDES,
        findings: period.iter().flat_map(|entry| findings(entry)).collect(),
        details: details(&period),
        records: period.iter().map(|entry| record_line(entry)).collect(),
        signing_key,
        head: entries.last().map(|entry| entry.evidence.clone()),
        subjects,
    }
}

fn headline(verdict: Verdict, coverage: &Coverage, period: &[&Entry]) -> String {
    let (proven, all) = (coverage.proven.len(), coverage.proven.len() + coverage.not_proven.len());
    let tests = of_kind(period, kind::RESTORE_TEST).count();
    let drills = period.iter().filter(|entry| measures_rto(&entry.record.kind)).count();
    let judgement = match verdict {
        Verdict::Pass => "Every objective was met.",
        Verdict::Inconclusive => "No objective was missed, but not every one was proven.",
        Verdict::Fail | Verdict::Aborted | Verdict::Error => "An objective was missed, or a run failed.",
    };
    format!(
        "{judgement} {proven} of {} proven by a restore, in {} and {}.",
        words::count(all, "database"),
        words::count(tests, "restore test"),
        words::count(drills, "drill"),
    )
}

fn of_kind<'a>(period: &'a [&'a Entry], kind: &'a str) -> impl Iterator<Item = &'a Entry> {
    period.iter().copied().filter(move |entry| entry.record.kind == kind)
}

/// Whether runs of this kind measure a recovery time; their subject is a runbook.
pub(super) fn measures_rto(kind: &str) -> bool {
    matches!(kind, kind::DRILL | "failover" | "incident")
}

fn subjects(period: &[&Entry], databases: &BTreeMap<String, Protected>) -> Vec<Subject> {
    let mut names: BTreeSet<(bool, &str)> = databases.keys().map(|name| (false, name.as_str())).collect();
    let of_one = period.iter().filter(|entry| entry.record.kind != kind::LEVER);
    names.extend(of_one.map(|entry| (measures_rto(&entry.record.kind), entry.record.subject.as_str())));
    names.into_iter().map(|(is_runbook, name)| subject(period, is_runbook, name, databases.get(name))).collect()
}

fn subject(period: &[&Entry], is_runbook: bool, name: &str, now: Option<&Protected>) -> Subject {
    let own: Vec<&Entry> = period
        .iter()
        .copied()
        .filter(|entry| entry.record.subject == name && measures_rto(&entry.record.kind) == is_runbook)
        .collect();
    let objectives = own.iter().rev().find_map(|entry| entry.record.objectives).or(now.map(|now| now.objectives));
    let (rto, rpo) = (objectives.map(|o| o.rto.as_secs_f64()), objectives.map(|o| o.rpo.as_secs_f64()));
    let lines = if is_runbook { runbook_lines(&own, rto, rpo) } else { database_lines(&own, rto, rpo) };
    let (kind, tier) = if is_runbook { ("runbook", None) } else { ("database", now.and_then(|now| now.tier)) };
    let exposure = now.map(|now| now.exposure.clone()).unwrap_or_default();
    let forecast = now.and_then(|now| now.forecast.clone());
    Subject { name: name.to_owned(), kind, tier, objectives, lines, exposure, forecast }
}

fn database_lines(own: &[&Entry], rto: Option<f64>, rpo: Option<f64>) -> Vec<Line> {
    let tests: Vec<&Entry> = of_kind(own, kind::RESTORE_TEST).collect();
    let drawn = drawn(&tests);
    let mut lines = vec![
        line("Restore duration", Unit::Seconds, rto, &tests, |entry| entry.record.measured.restore_seconds),
        line("Recovery point (RPO)", Unit::Seconds, rpo, &drawn, |entry| entry.record.measured.rpo_seconds),
        line("Lost commits", Unit::Commits, None, &drawn, lost_commits),
    ];
    let backups: Vec<&Entry> = of_kind(own, kind::BACKUP).collect();
    if !backups.is_empty() {
        lines.push(line("Backup duration", Unit::Seconds, None, &backups, |entry| {
            (entry.record.verdict == Verdict::Pass)
                .then(|| words::between(&entry.record.started_at, &entry.record.finished_at))
        }));
    }
    lines
}

fn runbook_lines(own: &[&Entry], rto: Option<f64>, rpo: Option<f64>) -> Vec<Line> {
    vec![
        line("Recovery time (RTO)", Unit::Seconds, rto, own, |entry| entry.record.measured.rto_seconds),
        line("Recovery point (RPO)", Unit::Seconds, rpo, own, |entry| entry.record.measured.rpo_seconds),
        line("Lost commits", Unit::Commits, None, own, lost_commits),
    ]
}

fn lost_commits(entry: &Entry) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds-long heartbeats is far below 2^53")]
    entry.record.measured.lost_commits.map(|lost| lost as f64)
}

pub(super) fn line(
    measure: &'static str,
    unit: Unit,
    objective: Option<f64>,
    runs: &[&Entry],
    value: impl Fn(&Entry) -> Option<f64>,
) -> Line {
    let figures = Figures::of(runs.iter().map(|entry| (entry.record.verdict, value(entry))));
    let runs_verdict = Verdict::worst(runs.iter().map(|entry| entry.record.verdict));
    let verdict = match (figures.max, objective) {
        (Some(max), Some(objective)) if max > objective => Verdict::Fail,
        (None, _) => runs_verdict.max(Verdict::Inconclusive),
        (Some(_), _) => runs_verdict,
    };
    let sentence = sentence(unit, objective, &figures);
    Line { measure, unit, objective, figures, verdict, sentence }
}

fn sentence(unit: Unit, objective: Option<f64>, figures: &Figures) -> String {
    let Some(max) = figures.max else {
        return match figures.runs {
            0 => "Not measured: no such run.".to_owned(),
            runs => format!("Not measured in {}.", words::count(runs, "run")),
        };
    };
    let worst = unit.show(&Some(max));
    let mut parts = vec![match objective {
        Some(objective) if max > objective => {
            format!("At worst {worst}, over the objective of {}", unit.show(&Some(objective)))
        }
        Some(objective) => format!("At worst {worst}, within {}", unit.show(&Some(objective))),
        None => format!("At worst {worst}"),
    }];
    let counted = [
        (figures.failures, "failed"),
        (figures.inconclusive, "inconclusive"),
        (figures.runs - figures.n, "without this figure"),
    ];
    let runs = words::count(figures.runs, "run");
    parts.extend(counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} of {runs} {what}")));
    parts.join("; ") + "."
}

fn coverage(period: &[&Entry], databases: &BTreeMap<String, Protected>) -> Coverage {
    let tested: BTreeSet<&str> = of_kind(period, kind::RESTORE_TEST)
        .filter(|entry| entry.record.verdict == Verdict::Pass)
        .map(|entry| entry.record.subject.as_str())
        .collect();
    let all: BTreeSet<&str> = databases
        .keys()
        .map(String::as_str)
        .chain(
            period
                .iter()
                .filter(|entry| !measures_rto(&entry.record.kind) && entry.record.kind != kind::LEVER)
                .map(|entry| entry.record.subject.as_str()),
        )
        .collect();
    let (proven, not_proven) = all.into_iter().map(str::to_owned).partition(|name| tested.contains(name.as_str()));
    Coverage { proven, not_proven }
}

fn findings(entry: &Entry) -> Vec<ReportFinding> {
    let record = &entry.record;
    let finding = |message: &String| ReportFinding {
        subject: record.subject.clone(),
        run_id: record.run_id.clone(),
        message: message.clone(),
    };
    record.findings.iter().map(finding).collect()
}

fn details(period: &[&Entry]) -> Vec<Entry> {
    let mut newest: BTreeMap<(&str, &str), &Entry> = BTreeMap::new();
    for &entry in period.iter().filter(|entry| entry.record.kind != kind::BACKUP) {
        newest.insert((&entry.record.subject, &entry.record.kind), entry);
    }
    let mut details: Vec<Entry> = newest.into_values().cloned().collect();
    details.sort_by_key(|entry| std::cmp::Reverse(entry.evidence.index));
    details
}

fn record_line(entry: &Entry) -> RecordLine {
    let (record, measured) = (&entry.record, &entry.record.measured);
    RecordLine {
        index: entry.evidence.index,
        leaf_hash: entry.evidence.leaf_hash.clone(),
        run_id: record.run_id.clone(),
        kind: record.kind.clone(),
        subject: record.subject.clone(),
        started_at: record.started_at,
        finished_at: record.finished_at,
        verdict: record.verdict,
        restore_seconds: measured.restore_seconds,
        rto_seconds: measured.rto_seconds,
        rpo_seconds: measured.rpo_seconds,
        rpo_bound_seconds: measured.rpo_bound_seconds,
        lost_commits: measured.lost_commits,
        target_error_seconds: measured.target_error_seconds,
        recovery_point: record.why.selection.as_ref().map(|selection| selection.algorithm),
    }
}
