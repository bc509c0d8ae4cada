//! What is to be said of maintenance: 24 hours and 1 hour before it begins, at once
//! where it became known later, and that it changed or is called off where it was
//! announced before. From the windows of the files, from what was said, and now.
//!
//! A maintenance is known by its two instants and by whose runs it holds, so that
//! one that was edited is another. What must never happen: that the same is said
//! twice to one notifier, and that nodes with different files say it for ever.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{hold::Hold, sample};
use crate::domain::{DatabaseName, NotifierName};

mod wording;

pub use wording::notice;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// What was called off and comes back, and what comes back and is called off again, has
/// to stay so for this time: files reach one node after the other.
const SETTLE: SignedDuration = SignedDuration::from_mins(5);
/// How often one maintenance is announced anew after it was called off.
const ROUNDS_MAX: u32 = 3;

/// A database as it is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concerned {
    pub database: DatabaseName,
    /// The IANA zone of its schedule.
    pub timezone: String,
}

/// One maintenance of the files, which may come back every week.
#[derive(Debug, Clone)]
pub struct Window {
    pub reason: String,
    /// The databases that it names, sorted; all of them when none.
    pub scope: Vec<DatabaseName>,
    pub hold: Hold,
    /// Who is told of it, and of which databases.
    pub told: BTreeMap<NotifierName, Vec<Concerned>>,
}

/// One maintenance from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occurrence {
    pub start: Timestamp,
    pub end: Timestamp,
    /// The databases that it names; all of them when none.
    pub scope: Vec<DatabaseName>,
}

impl Occurrence {
    /// Its name in ids; the same on every node.
    fn key(&self) -> String {
        let [start, end] = [self.start, self.end].map(|at| at.strftime("%Y%m%dt%H%Mz").to_string());
        if self.scope.is_empty() {
            return format!("{start}-{end}-all");
        }
        let names: Vec<&str> = self.scope.iter().map(DatabaseName::as_str).collect();
        format!("{start}-{end}-{:08x}", sample::place_of(&names.join("/"), 1 << 32))
    }
}

/// Which of the things that are said of a maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "1h")]
    Hour,
    /// It takes the place of one that was announced, more than 24 hours ahead.
    #[serde(rename = "changed")]
    Changed,
    #[serde(rename = "cancelled")]
    Cancelled,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "24h",
            Self::Hour => "1h",
            Self::Changed => "changed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one notice says; it is kept with the notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub stage: Stage,
    #[serde(flatten)]
    pub occurrence: Occurrence,
    pub reason: String,
    pub databases: Vec<Concerned>,
    /// How often it was called off before.
    pub round: u32,
    /// The announced one that does not take place because of this one.
    pub instead_of: Option<Occurrence>,
}

/// A notice that is stored.
#[derive(Debug, Clone)]
pub struct Told {
    pub id: String,
    pub notifier: NotifierName,
    pub said: Said,
    pub at: Timestamp,
    /// Whether somebody may have got it.
    pub is_tried: bool,
    pub is_sent: bool,
}

/// A notice to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    pub id: String,
    pub notifier: NotifierName,
    pub said: Said,
    /// Too late to be said from then on.
    pub until: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub say: Vec<Saying>,
    /// Ids of stored notices that are no more true, and must not be told any more.
    pub withdraw: Vec<String>,
}

/// What is to be said now. `told` are the stored notices of maintenance that is not over.
pub fn plan(windows: &[Window], told: &[Told], now: Timestamp) -> Plan {
    let named = windows.iter().flat_map(|window| window.told.keys());
    let notifiers: BTreeSet<&NotifierName> = named.chain(told.iter().map(|told| &told.notifier)).collect();
    let mut plan = Plan::default();
    for notifier in notifiers {
        let told = told.iter().filter(|told| told.notifier == *notifier).collect();
        View { windows, notifier, told, now }.plan(&mut plan);
    }
    plan
}

/// What one notifier is told, and was.
struct View<'a> {
    windows: &'a [Window],
    notifier: &'a NotifierName,
    told: Vec<&'a Told>,
    now: Timestamp,
}

/// What was said of one maintenance.
struct History<'a> {
    round: u32,
    /// In this round; nothing where it was called off last.
    announced: Vec<&'a Told>,
    /// When the round before ended.
    ended_at: Option<Timestamp>,
}

impl History<'_> {
    fn has(&self, stage: Stage) -> bool {
        self.announced.iter().any(|told| told.said.stage == stage)
    }
}

/// One that takes place, as the notifier is told of it.
struct Coming<'a> {
    occurrence: Occurrence,
    reason: &'a str,
    databases: &'a [Concerned],
}

impl<'a> View<'a> {
    fn plan(&self, plan: &mut Plan) {
        let gone = self.gone(plan);
        let coming = self.coming();
        let mut instead_of: Vec<Option<Occurrence>> = vec![None; coming.len()];
        for said in gone {
            let free = coming.iter().enumerate().filter(|(place, coming)| {
                coming.reason == said.reason
                    && instead_of.get(*place).is_some_and(Option::is_none)
                    && self.history(&coming.occurrence).announced.is_empty()
            });
            let nearest =
                free.min_by_key(|(_, coming)| coming.occurrence.start.duration_since(said.occurrence.start).abs());
            match nearest.and_then(|(place, _)| instead_of.get_mut(place)) {
                Some(taken) => *taken = Some(said.occurrence.clone()),
                None => self.cancel(said, plan),
            }
        }
        for (coming, instead_of) in coming.into_iter().zip(instead_of) {
            self.announce(coming, instead_of, plan);
        }
    }

    /// What was announced and does not take place; what of it was not told is withdrawn.
    fn gone(&self, plan: &mut Plan) -> Vec<&'a Said> {
        let mut gone: Vec<&Said> = Vec::new();
        for told in &self.told {
            let said = &told.said;
            let is_known = gone.iter().any(|known| known.occurrence == said.occurrence);
            if said.occurrence.end <= self.now || is_known || self.takes_place(&said.occurrence) {
                continue;
            }
            let history = self.history(&said.occurrence);
            let unsent = history.announced.iter().filter(|told| !told.is_sent);
            plan.withdraw.extend(unsent.map(|told| told.id.clone()));
            // Where nobody can have got it, nobody need know.
            let since = history.announced.iter().filter(|told| told.is_tried).map(|told| told.at).max();
            if since.is_some_and(|since| history.round == 0 || self.now >= since + SETTLE) {
                gone.push(said);
            }
        }
        plan.withdraw.sort();
        plan.withdraw.dedup();
        gone
    }

    fn takes_place(&self, occurrence: &Occurrence) -> bool {
        let whole = Some((occurrence.start, occurrence.end));
        self.windows
            .iter()
            .any(|window| window.scope == occurrence.scope && window.hold.in_force(occurrence.start) == whole)
    }

    /// What is under way, and what comes next of each window.
    fn coming(&self) -> Vec<Coming<'a>> {
        let mut coming: Vec<Coming<'a>> = Vec::new();
        for window in self.windows {
            let Some(databases) = window.told.get(self.notifier) else { continue };
            let next = window.hold.next_start(self.now).and_then(|start| window.hold.in_force(start));
            for (start, end) in window.hold.in_force(self.now).into_iter().chain(next) {
                let occurrence = Occurrence { start, end, scope: window.scope.clone() };
                if !coming.iter().any(|known| known.occurrence == occurrence) {
                    coming.push(Coming { occurrence, reason: &window.reason, databases });
                }
            }
        }
        coming
    }

    fn history(&self, occurrence: &Occurrence) -> History<'a> {
        let is_end = |said: &Said| {
            said.instead_of.as_ref() == Some(occurrence)
                || (said.stage == Stage::Cancelled && said.occurrence == *occurrence)
        };
        let ends: Vec<Timestamp> = self.told.iter().filter(|told| is_end(&told.said)).map(|told| told.at).collect();
        let round = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        let is_of =
            |said: &Said| said.occurrence == *occurrence && said.stage != Stage::Cancelled && said.round == round;
        let announced = self.told.iter().filter(|told| is_of(&told.said)).copied().collect();
        History { round, announced, ended_at: ends.into_iter().max() }
    }

    fn announce(&self, coming: Coming<'_>, instead_of: Option<Occurrence>, plan: &mut Plan) {
        let history = self.history(&coming.occurrence);
        let is_settled = history.ended_at.is_none_or(|ended_at| self.now >= ended_at + SETTLE);
        if history.round >= ROUNDS_MAX || !is_settled {
            return;
        }
        let start = coming.occurrence.start;
        let due =
            if self.now >= start - HOUR { Some(Stage::Hour) } else { (self.now >= start - DAY).then_some(Stage::Day) };
        let stage = match (due.filter(|stage| !history.has(*stage)), &instead_of) {
            (Some(stage), _) => stage,
            (None, Some(_)) => Stage::Changed,
            (None, None) => return,
        };
        // What comes an hour before says it again; that something else does not take place it does not say.
        let until = if stage == Stage::Day && instead_of.is_none() { start - HOUR } else { coming.occurrence.end };
        let Coming { occurrence, reason, databases } = coming;
        let (reason, databases) = (reason.to_owned(), databases.to_vec());
        let said = Said { stage, occurrence, reason, databases, round: history.round, instead_of };
        plan.say.push(self.saying(said, until));
    }

    fn cancel(&self, said: &Said, plan: &mut Plan) {
        let round = self.history(&said.occurrence).round;
        let said = Said { stage: Stage::Cancelled, round, instead_of: None, ..said.clone() };
        let until = said.occurrence.end;
        plan.say.push(self.saying(said, until));
    }

    fn saying(&self, said: Said, until: Timestamp) -> Saying {
        let round = if said.round == 0 { String::new() } else { format!("-{}", said.round + 1) };
        let id = format!("maintenance/{}/{}{round}/{}", said.occurrence.key(), said.stage.as_str(), self.notifier);
        Saying { id, notifier: self.notifier.clone(), said, until }
    }
}

#[cfg(test)]
mod tests;
