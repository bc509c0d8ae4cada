//! Times in which runs are held back: blackouts, such as the days of a big
//! match, and announced maintenance. WAL, heartbeats and restores that a person
//! asks for are never held.
//!
//! A hold is written on the wall of a zone and read as instants, so that it
//! begins and ends with what the clock there shows, through both jumps of a year.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};

use super::due::{InvalidSchedule, Schedule, instant_on_the_wall};

/// Why something is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Blackout,
    Maintenance,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blackout => "blackout",
            Self::Maintenance => "maintenance",
        }
    }
}

/// One end of a hold, as it is written: `Sat 12:00` every week, or once on
/// `2026-12-26 12:00`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edge {
    Weekly { cron: String, text: String },
    Once { date: String, text: String },
}

/// A text that is no edge of a hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no weekday with a time and no date with a time: write `Sat 12:00`, or `2026-12-26 12:00`")]
pub struct InvalidEdge(String);

impl FromStr for Edge {
    type Err = InvalidEdge;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidEdge(text.to_owned());
        let (day, time) = text.trim().split_once(' ').ok_or_else(invalid)?;
        let time: jiff::civil::Time =
            if time.len() == 5 { time.parse().map_err(|_| invalid())? } else { return Err(invalid()) };
        let text = text.trim().to_owned();
        if let Ok(date) = day.parse::<jiff::civil::Date>() {
            return Ok(Self::Once { date: format!("{date} {}", time.strftime("%H:%M")), text });
        }
        let weekday = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
            .into_iter()
            .find(|weekday| *weekday == day.to_ascii_lowercase())
            .ok_or_else(invalid)?;
        let cron = format!("{} {} * * {}", time.minute(), time.hour(), weekday.to_ascii_uppercase());
        Ok(Self::Weekly { cron, text })
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Weekly { text, .. } | Self::Once { text, .. }) = self;
        f.write_str(text)
    }
}

/// Why two edges make no hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHold {
    #[error(transparent)]
    Schedule(#[from] InvalidSchedule),
    #[error("one end comes back every week and the other does not: write both with a weekday, or both with a date")]
    Mixed,
    #[error("it ends before it begins, or lasts no time: correct one of the two")]
    Empty,
    #[error("no clock shows `{0}`: correct the date")]
    NoSuchTime(String),
}

/// When a hold is in force.
#[derive(Debug, Clone)]
enum When {
    /// From each instant of the one to the next of the other.
    Weekly {
        start: Box<Schedule>,
        end: Box<Schedule>,
    },
    Once {
        start: Timestamp,
        end: Timestamp,
    },
}

/// A time in which runs of some flows do not begin.
#[derive(Debug, Clone)]
pub struct Hold {
    pub cause: Cause,
    /// As people know it: `Sat 12:00 to Sun 23:59`.
    pub name: String,
    /// The flows that it holds; all of them when none is named.
    pub flows: Vec<String>,
    when: When,
}

/// The longest that a weekly hold lasts.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24 + 2);

impl Hold {
    pub fn new(
        cause: Cause,
        (start, end): (&Edge, &Edge),
        zone: &str,
        flows: Vec<String>,
    ) -> Result<Self, InvalidHold> {
        let name = format!("{start} to {end}");
        let when = match (start, end) {
            (Edge::Weekly { cron: from, .. }, Edge::Weekly { cron: to, .. }) if from == to => {
                return Err(InvalidHold::Empty);
            }
            (Edge::Weekly { cron: from, .. }, Edge::Weekly { cron: to, .. }) => When::Weekly {
                start: Box::new(Schedule::parse(from, zone)?),
                end: Box::new(Schedule::parse(to, zone)?),
            },
            (Edge::Once { date: from, .. }, Edge::Once { date: to, .. }) => {
                let at = |date: &String| {
                    instant_on_the_wall(date, zone)
                        .map_err(InvalidHold::from)?
                        .ok_or_else(|| InvalidHold::NoSuchTime(date.clone()))
                };
                let (start, end) = (at(from)?, at(to)?);
                if end <= start {
                    return Err(InvalidHold::Empty);
                }
                When::Once { start, end }
            }
            _ => return Err(InvalidHold::Mixed),
        };
        Ok(Self { cause, name, flows, when })
    }

    /// For people: `blackout Sat 12:00 to Sun 23:59`.
    pub fn in_words(&self) -> String {
        format!("{} {}", self.cause.as_str(), self.name)
    }

    /// The same hold by another name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub fn holds(&self, flow: &str) -> bool {
        self.flows.is_empty() || self.flows.iter().any(|held| held == flow)
    }

    /// The end of this hold where it is in force at `at`; its first instant belongs to it, its last does not.
    pub fn ends(&self, at: Timestamp) -> Option<Timestamp> {
        self.in_force(at).map(|(_, end)| end)
    }

    /// The same with its beginning.
    pub fn in_force(&self, at: Timestamp) -> Option<(Timestamp, Timestamp)> {
        match &self.when {
            When::Once { start, end } => (*start <= at && at < *end).then_some((*start, *end)),
            When::Weekly { start, end } => {
                let begun = start.latest_due(at - WEEK, at)?;
                Some((begun, end.next_after(begun).filter(|end| at < *end)?))
            }
        }
    }

    /// When it begins next, after `after`.
    pub fn next_start(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Once { start, .. } => Some(*start).filter(|start| *start > after),
            When::Weekly { start, .. } => start.next_after(after),
        }
    }
}

/// The first instant from `at` on at which nothing holds this flow, and what held
/// it until then. No instant where holds follow each other for more than a year.
pub fn free_from<'a>(holds: &'a [Hold], flow: &str, at: Timestamp) -> (Option<Timestamp>, Vec<&'a Hold>) {
    let mut free = at;
    let mut held: Vec<&Hold> = Vec::new();
    let year = at.checked_add(SignedDuration::from_hours(366 * 24)).unwrap_or(Timestamp::MAX);
    loop {
        let in_force = holds.iter().filter(|hold| hold.holds(flow)).filter_map(|hold| Some((hold, hold.ends(free)?)));
        let mut last = None;
        for (hold, end) in in_force {
            last = last.max(Some(end));
            if !held.iter().any(|known| std::ptr::eq(*known, hold)) {
                held.push(hold);
            }
        }
        match last {
            None => break,
            Some(end) if end > year => return (None, held),
            Some(end) => free = end,
        }
    }
    (Some(free), held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(start: &str, end: &str, flows: &[&str]) -> Hold {
        let flows = flows.iter().map(|flow| (*flow).to_owned()).collect();
        Hold::new(Cause::Blackout, (&start.parse().unwrap(), &end.parse().unwrap()), "Europe/Malta", flows).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_weekend_is_held_and_the_week_is_not() {
        // 2026-11-28 is a Saturday; Malta is an hour ahead of UTC.
        let weekend = hold("Sat 12:00", "Sun 23:59", &[]);
        for (instant, end) in [
            ("2026-11-28T10:59:59Z", None),
            ("2026-11-28T11:00:00Z", Some("2026-11-29T22:59:00Z")),
            ("2026-11-29T22:58:59Z", Some("2026-11-29T22:59:00Z")),
            ("2026-11-29T22:59:00Z", None),
            ("2026-12-02T12:00:00Z", None),
        ] {
            assert_eq!(weekend.ends(at(instant)), end.map(at), "{instant}");
        }
        assert_eq!(weekend.next_start(at("2026-11-28T11:00:00Z")), Some(at("2026-12-05T11:00:00Z")));
        // Over the end of a week, and over the jump of the clock in autumn.
        let wrapped = hold("Sun 20:00", "Mon 06:00", &[]);
        assert_eq!(wrapped.ends(at("2026-10-25T23:00:00Z")), Some(at("2026-10-26T05:00:00Z")));
    }

    #[test]
    fn a_day_is_held_once() {
        let boxing_day = hold("2026-12-26 12:00", "2026-12-27 02:00", &[]);
        assert_eq!(boxing_day.ends(at("2026-12-26T11:00:00Z")), Some(at("2026-12-27T01:00:00Z")));
        assert_eq!(boxing_day.ends(at("2027-12-26T11:00:00Z")), None);
        assert_eq!(boxing_day.next_start(at("2026-12-26T11:00:00Z")), None);
    }

    #[test]
    fn what_holds_is_waited_for_one_after_the_other() {
        let holds = [hold("Sat 12:00", "Sun 12:00", &["restore_test"]), hold("Sun 11:00", "Sun 18:00", &[])];
        let (free, held) = free_from(&holds, "restore_test", at("2026-11-28T12:00:00Z"));
        assert_eq!((free, held.len()), (Some(at("2026-11-29T17:00:00Z")), 2));
        assert_eq!(free_from(&holds, "backup", at("2026-11-28T12:00:00Z")).0, Some(at("2026-11-28T12:00:00Z")));
        let always = [hold("Mon 00:00", "Thu 00:00", &[]), hold("Wed 00:00", "Mon 00:01", &[])];
        assert_eq!(free_from(&always, "backup", at("2026-11-28T12:00:00Z")).0, None);
    }

    #[test]
    fn what_is_no_hold_is_refused() {
        for text in ["Sat", "Saturday 12:00", "Sat 25:00", "12:00", "2026-02-30 12:00", "Sat 12:00:30", ""] {
            assert!(text.parse::<Edge>().is_err(), "{text}");
        }
        let refused = |start: &str, end: &str| {
            Hold::new(Cause::Blackout, (&start.parse().unwrap(), &end.parse().unwrap()), "Europe/Malta", Vec::new())
                .unwrap_err()
        };
        assert_eq!(refused("Sat 12:00", "2026-12-26 12:00"), InvalidHold::Mixed);
        assert_eq!(refused("Sat 12:00", "Sat 12:00"), InvalidHold::Empty);
        assert_eq!(refused("2026-12-26 12:00", "2026-12-26 11:00"), InvalidHold::Empty);
    }
}
