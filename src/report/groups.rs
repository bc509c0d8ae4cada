//! The estate as a whole, and what the law of each jurisdiction covers: achieved against
//! promised over all their databases, how that changed since the month before, what is
//! exposed, what a restore would take now, and what of it all was proven.
//!
//! What must never happen: a group that looks good because a database of it was not
//! looked at. What was not measured is counted and named.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    build::{Line, Unit, line},
    figures::Figures,
    words,
};
use crate::{
    decide::forecast::Forecast,
    domain::{Backup, BackupId, BackupState, ExposureOver, Objectives, Span, Tier, VaultName, Verdict, record::kind},
    evidence::{Entry, Month},
};

mod told;

/// A database is proven as long as a restore test of it passed within so many days.
pub const PROVEN_WITHIN_DAYS: i64 = 31;

/// A protected database as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Protected {
    pub tier: Option<Tier>,
    pub objectives: Objectives,
    pub jurisdiction: Option<String>,
    /// The newest state that can be restored; none when nothing can, or nobody knows.
    pub recoverable_to: Option<Timestamp>,
    pub forecast: Option<Forecast>,
    /// Over the period, per vault.
    pub exposure: BTreeMap<VaultName, ExposureOver>,
    pub proven: Proven,
}

/// What is promised of a group; none where nobody promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bound {
    pub rto: Option<Span>,
    pub rpo: Option<Span>,
}

/// What is known of the estate besides its evidence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub databases: BTreeMap<String, Protected>,
    /// Per jurisdiction; of the estate where none is named.
    pub bounds: BTreeMap<Option<String>, Bound>,
}

/// How many of the kept backups, and of their chains, a restore has proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Proven {
    pub backups: usize,
    pub backups_proven: usize,
    /// A chain is a full backup with all that builds on it.
    pub chains: usize,
    /// Its newest backup was restored, and so all of it.
    pub chains_proven: usize,
}

/// A figure and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Of<T> {
    pub database: String,
    pub value: T,
}

/// The exposure of all vaults of a group together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupExposure {
    /// The longest that was seen; `value` is in seconds.
    pub worst: Option<Of<f64>>,
    pub vault: Option<VaultName>,
    #[serde(flatten)]
    pub over: ExposureOver,
    /// Of the time that was measured; none where none was.
    pub over_share: Option<f64>,
    /// Of the period.
    pub measured_share: f64,
}

/// A measure in a month and in the one before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    pub measure: &'static str,
    pub unit: Unit,
    pub month: Month,
    pub figures: Figures,
    pub before: Figures,
    /// In plain words.
    pub sentence: String,
}

/// The estate, or a jurisdiction of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// `estate`, or the jurisdiction.
    pub name: String,
    /// `estate` or `jurisdiction`.
    pub kind: &'static str,
    pub objectives: Bound,
    pub databases: Vec<String>,
    /// Of the database that is furthest behind; of those that can be restored.
    pub recoverable_to: Option<Of<Timestamp>>,
    /// Of which nothing can be restored, or nobody knows.
    pub not_recoverable: Vec<String>,
    /// Achieved over all databases.
    pub lines: Vec<Line>,
    pub trend: Vec<Trend>,
    pub exposure: GroupExposure,
    /// The longest of the estimates, in seconds; never an RTO.
    pub would_take: Option<Of<f64>>,
    /// Of which there is no estimate.
    pub without_forecast: Vec<String>,
    /// The database whose last passed restore test is the longest ago.
    pub last_proven: Option<Of<Timestamp>>,
    /// Of which no restore test passed in `PROVEN_WITHIN_DAYS`.
    pub untested: Vec<String>,
    pub proven: Proven,
}

impl Proven {
    /// Over the backups of one database, in whichever vaults they are.
    pub fn of(backups: &[Backup]) -> Self {
        let all: BTreeMap<&BackupId, &Backup> = backups.iter().map(|backup| (&backup.id, backup)).collect();
        let proven: BTreeSet<&BackupId> =
            backups.iter().filter(|backup| backup.state == BackupState::Proven).map(|backup| &backup.id).collect();
        let root = |backup: &Backup| {
            let (mut root, mut left) = (backup.id.clone(), all.len());
            while let Some(parent) = all.get(&root).and_then(|one| one.parent.clone()).filter(|_| left > 0) {
                (root, left) = (parent, left - 1);
            }
            root
        };
        let mut newest: BTreeMap<BackupId, &Backup> = BTreeMap::new();
        for &backup in all.values() {
            let last = newest.entry(root(backup)).or_insert(backup);
            if backup.finished_at > last.finished_at {
                *last = backup;
            }
        }
        Self {
            backups: all.len(),
            backups_proven: proven.len(),
            chains: newest.len(),
            chains_proven: newest.values().filter(|backup| proven.contains(&backup.id)).count(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            backups: self.backups + other.backups,
            backups_proven: self.backups_proven + other.backups_proven,
            chains: self.chains + other.chains,
            chains_proven: self.chains_proven + other.chains_proven,
        }
    }
}

/// The estate first, then each jurisdiction by name. `month` bounds what was achieved;
/// none is all time.
pub fn groups(entries: &[Entry], facts: &Facts, month: Option<Month>, now: Timestamp) -> Vec<Group> {
    let named = facts.databases.values().filter_map(|database| database.jurisdiction.clone());
    let jurisdictions: BTreeSet<String> = named.chain(facts.bounds.keys().flatten().cloned()).collect();
    let all = std::iter::once(None).chain(jurisdictions.into_iter().map(Some));
    all.map(|jurisdiction| Scope { entries, facts, month, now, jurisdiction }.group()).collect()
}

/// What one group is made from.
struct Scope<'a> {
    entries: &'a [Entry],
    facts: &'a Facts,
    month: Option<Month>,
    now: Timestamp,
    /// None for the estate.
    jurisdiction: Option<String>,
}

impl Scope<'_> {
    fn group(&self) -> Group {
        let databases: BTreeMap<&String, &Protected> =
            self.facts.databases.iter().filter(|(_, of)| self.covers(of.jurisdiction.as_ref())).collect();
        let names = || databases.keys().map(|name| (*name).clone());
        let without = |is_known: &dyn Fn(&Protected) -> bool| {
            databases.iter().filter(|(_, of)| !is_known(of)).map(|(name, _)| (*name).clone()).collect()
        };
        let bounds = &self.facts.bounds;
        let own = bounds.get(&self.jurisdiction).or(bounds.get(&None)).copied().unwrap_or_default();
        let last = self.last_passed();
        let since = self.as_of().checked_sub(SignedDuration::from_hours(PROVEN_WITHIN_DAYS * 24)).ok();
        let is_recent =
            |name: &String| last.get(name.as_str()).is_some_and(|at| since.is_some_and(|since| *at >= since));
        let recoverable = databases.iter().filter_map(|(name, of)| Some(named(name, of.recoverable_to?)));
        let would_take = databases.iter().filter_map(|(name, of)| Some(named(name, of.forecast.as_ref()?.seconds)));
        let proven = databases.keys().filter_map(|name| Some(named(name, *last.get(name.as_str())?)));
        Group {
            name: self.jurisdiction.clone().unwrap_or_else(|| "estate".to_owned()),
            kind: if self.jurisdiction.is_some() { "jurisdiction" } else { "estate" },
            objectives: own,
            recoverable_to: recoverable.min_by_key(|of| of.value),
            not_recoverable: without(&|of| of.recoverable_to.is_some()),
            lines: self.lines(own),
            trend: self.trend(),
            exposure: exposure(&databases),
            would_take: would_take.max_by(|one, other| one.value.total_cmp(&other.value)),
            without_forecast: without(&|of| of.forecast.is_some()),
            last_proven: proven.min_by_key(|of| of.value),
            untested: names().filter(|name| !is_recent(name)).collect(),
            proven: databases.values().fold(Proven::default(), |sum, of| sum.and(of.proven)),
            databases: names().collect(),
        }
    }

    fn covers(&self, jurisdiction: Option<&String>) -> bool {
        self.jurisdiction.is_none() || self.jurisdiction.as_ref() == jurisdiction
    }

    /// The end of the period, or now.
    fn as_of(&self) -> Timestamp {
        self.month.map_or(self.now, |month| month.next().begins().min(self.now))
    }

    fn tests(&self, is_in: impl Fn(Timestamp) -> bool) -> Vec<&Entry> {
        let is_ours = |entry: &&Entry| {
            let record = &entry.record;
            record.kind == kind::RESTORE_TEST && self.covers(record.jurisdiction.as_ref()) && is_in(record.finished_at)
        };
        self.entries.iter().filter(is_ours).collect()
    }

    fn lines(&self, bound: Bound) -> Vec<Line> {
        let tests = self.tests(|at| self.month.is_none_or(|month| month.contains(at)));
        let seconds = |span: Option<Span>| span.map(Span::as_secs_f64);
        let [duration, point] = MEASURES;
        vec![
            line(duration.0, Unit::Seconds, seconds(bound.rto), &tests, duration.1),
            line(point.0, Unit::Seconds, seconds(bound.rpo), &drawn(&tests), point.1),
        ]
    }

    /// The month, or the one that now is in, beside the one before.
    fn trend(&self) -> Vec<Trend> {
        let month = self.month.unwrap_or_else(|| Month::of(self.now));
        let (this, before) = (self.tests(|at| month.contains(at)), self.tests(|at| month.before().contains(at)));
        let trend = |(measure, value): (&'static str, Value), this: &[&Entry], before: &[&Entry]| {
            let figures = |tests: &[&Entry]| Figures::of(tests.iter().map(|e| (e.record.verdict, value(e))));
            let (figures, before) = (figures(this), figures(before));
            let sentence = compared(&figures, &before, month);
            Trend { measure, unit: Unit::Seconds, month, figures, before, sentence }
        };
        let [duration, point] = MEASURES;
        vec![trend(duration, &this, &before), trend(point, &drawn(&this), &drawn(&before))]
    }

    /// When a restore test of each database last passed.
    fn last_passed(&self) -> BTreeMap<&str, Timestamp> {
        let as_of = self.as_of();
        let mut last = BTreeMap::new();
        for record in self.entries.iter().map(|entry| &entry.record) {
            let is_passed = record.kind == kind::RESTORE_TEST && record.verdict == Verdict::Pass;
            if is_passed && record.finished_at <= as_of {
                let at = last.entry(record.subject.as_str()).or_insert(record.finished_at);
                *at = record.finished_at.max(*at);
            }
        }
        last
    }
}

type Value = fn(&Entry) -> Option<f64>;

/// What restore tests measure.
const MEASURES: [(&str, Value); 2] = [
    ("Restore duration", |entry| entry.record.measured.restore_seconds),
    ("Recovery point (RPO)", |entry| entry.record.measured.rpo_seconds),
];

/// Only a disaster that lay in the future measures a recovery point.
pub(super) fn drawn<'a>(tests: &[&'a Entry]) -> Vec<&'a Entry> {
    let is_drawn =
        |entry: &&&Entry| entry.record.measured.disaster_at.is_some() || entry.record.measured.rpo_seconds.is_some();
    tests.iter().filter(is_drawn).copied().collect()
}

fn named<T>(database: &str, value: T) -> Of<T> {
    Of { database: database.to_owned(), value }
}

fn exposure(databases: &BTreeMap<&String, &Protected>) -> GroupExposure {
    let all =
        || databases.iter().flat_map(|(name, of)| of.exposure.iter().map(move |(vault, over)| (*name, vault, over)));
    let over = all().map(|(_, _, over)| *over).reduce(ExposureOver::and).unwrap_or_default();
    let seen = all().filter_map(|(name, vault, over)| Some((named(name, over.max_seconds?), vault.clone())));
    let (worst, vault) = seen.max_by(|(one, _), (other, _)| one.value.total_cmp(&other.value)).unzip();
    GroupExposure { worst, vault, over_share: over.over_share(), measured_share: over.measured_share(), over }
}

/// `half as long as`, in numbers.
fn compared(figures: &Figures, before: &Figures, month: Month) -> String {
    let (name, earlier) = (month.in_words(), month.before().in_words());
    match (figures.p50, before.p50) {
        (None, None) => format!("Not measured in {name}, nor in {earlier}."),
        (None, Some(before)) => format!("Not measured in {name}; {} in {earlier} (median).", words::seconds(&before)),
        (Some(now), None) => format!("{} in {name} (median); not measured in {earlier}.", words::seconds(&now)),
        (Some(now), Some(then)) => {
            let change = if then > 0.0 { format!(", {:+.0} %", (now / then - 1.0) * 100.0) } else { String::new() };
            let (now, then) = (words::seconds(&now), words::seconds(&then));
            format!("{now} in {name} (median), {then} in {earlier}{change}.")
        }
    }
}
