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
/// What was announced has to be gone, and what was called off has to be back, for this
/// time after it was said: files reach one node after the other.
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
    /// Too late to be told from then on; long past where it was withdrawn.
    pub until: Timestamp,
    /// Whether somebody may have got it.
    pub is_tried: bool,
    pub is_sent: bool,
}

impl Told {
    /// Whether it was told, or will be.
    fn stands(&self, now: Timestamp) -> bool {
        self.is_sent || now < self.until
    }
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
    plan.withdraw.sort();
    plan.withdraw.dedup();
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
    /// In this round, also what was withdrawn; nothing where it was called off last.
    announced: Vec<&'a Told>,
    /// When the round before ended.
    ended_at: Option<Timestamp>,
}

/// One that was announced and does not take place.
struct Gone<'a> {
    said: &'a Said,
    /// Whether it may be said.
    is_settled: bool,
}

/// One that takes place, as the notifier is told of it.
struct Coming<'a> {
    occurrence: Occurrence,
    reason: &'a str,
    databases: &'a [Concerned],
}

impl<'a> View<'a> {
    fn plan(mut self, plan: &mut Plan) {
        self.take_back(plan);
        let gone = self.gone(plan);
        let coming = self.coming();
        let mut instead_of: Vec<Option<&Gone<'_>>> = vec![None; coming.len()];
        for gone in &gone {
            let free = coming.iter().enumerate().filter(|(place, coming)| {
                coming.reason == gone.said.reason
                    && instead_of.get(*place).is_some_and(Option::is_none)
                    && self.may_replace(&coming.occurrence)
            });
            let start = gone.said.occurrence.start;
            let nearest = free.min_by_key(|(_, coming)| coming.occurrence.start.duration_since(start).abs());
            match nearest.and_then(|(place, _)| instead_of.get_mut(place)) {
                Some(taken) => *taken = Some(gone),
                None if gone.is_settled => self.cancel(gone.said, plan),
                None => {}
            }
        }
        for (coming, instead_of) in coming.into_iter().zip(instead_of) {
            // It waits with what it replaces, to be told with it.
            if instead_of.is_none_or(|gone| gone.is_settled) {
                self.announce(coming, instead_of.map(|gone| gone.said.occurrence.clone()), plan);
            }
        }
    }

    /// Whether one that comes can be told of in place of another.
    fn may_replace(&self, occurrence: &Occurrence) -> bool {
        let history = self.history(occurrence, |_| true);
        history.round < ROUNDS_MAX && !history.announced.iter().any(|told| told.stands(self.now))
    }

    /// Withdraws that something is called off which takes place again. What nobody has
    /// begun to tell was never said.
    fn take_back(&mut self, plan: &mut Plan) {
        let is_untrue = |told: &Told| {
            told.said.stage == Stage::Cancelled
                && !told.is_sent
                && told.stands(self.now)
                && self.now >= told.at + SETTLE
                && self.takes_place(&told.said.occurrence)
        };
        let untrue: Vec<&Told> = self.told.iter().copied().filter(|told| is_untrue(told)).collect();
        plan.withdraw.extend(untrue.iter().map(|told| told.id.clone()));
        self.told.retain(|told| told.is_tried || !untrue.iter().any(|untrue| untrue.id == told.id));
    }

    /// What was announced and does not take place; what of it was not told is withdrawn.
    fn gone(&self, plan: &mut Plan) -> Vec<Gone<'a>> {
        let mut gone: Vec<Gone<'_>> = Vec::new();
        for told in &self.told {
            let occurrence = &told.said.occurrence;
            let is_known = gone.iter().any(|known| known.said.occurrence == *occurrence);
            if occurrence.end <= self.now || is_known || self.takes_place(occurrence) {
                continue;
            }
            // An end that was withdrawn may have reached nobody: it is said again.
            let history = self.history(occurrence, |end| end.stands(self.now));
            let unsent = history.announced.iter().filter(|told| !told.is_sent && told.stands(self.now));
            plan.withdraw.extend(unsent.map(|told| told.id.clone()));
            // Where nobody has begun to tell it, nobody need know.
            let tried = history.announced.iter().filter(|told| told.is_tried);
            if let Some(last) = tried.max_by_key(|told| told.at) {
                gone.push(Gone { said: &last.said, is_settled: self.now >= last.at + SETTLE });
            }
        }
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

    /// Of what ended it, as much as `counts`.
    fn history(&self, occurrence: &Occurrence, counts: impl Fn(&Told) -> bool) -> History<'a> {
        let is_end = |said: &Said| {
            said.instead_of.as_ref() == Some(occurrence)
                || (said.stage == Stage::Cancelled && said.occurrence == *occurrence)
        };
        let ends = self.told.iter().filter(|told| is_end(&told.said) && counts(told));
        let ended_at = ends.map(|told| told.at).max();
        let is_of = |said: &Said| said.occurrence == *occurrence && said.stage != Stage::Cancelled;
        let of = self.told.iter().copied().filter(|told| is_of(&told.said));
        let (announced, before): (Vec<&Told>, Vec<&Told>) =
            of.partition(|told| ended_at.is_none_or(|ended_at| told.at > ended_at));
        let this = announced.iter().map(|told| told.said.round).max();
        let round = this.or_else(|| before.iter().map(|told| told.said.round + 1).max()).unwrap_or(0);
        History { round, announced, ended_at }
    }

    fn announce(&self, coming: Coming<'_>, instead_of: Option<Occurrence>, plan: &mut Plan) {
        let history = self.history(&coming.occurrence, |_| true);
        let is_settled = history.ended_at.is_none_or(|ended_at| self.now >= ended_at + SETTLE);
        if history.round >= ROUNDS_MAX || !is_settled {
            return;
        }
        let has = |stage| history.announced.iter().any(|told| told.said.stage == stage && told.stands(self.now));
        let start = coming.occurrence.start;
        let due =
            if self.now >= start - HOUR { Some(Stage::Hour) } else { (self.now >= start - DAY).then_some(Stage::Day) };
        let stage = match (due.filter(|stage| !has(*stage)), &instead_of) {
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
        let said = Said { stage: Stage::Cancelled, instead_of: None, ..said.clone() };
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
