//! When a schedule is due: cron expressions in a zone, as instants.
//!
//! The clock on the wall jumps twice a year. A run that falls into the hour
//! that is missing runs once, at its end; one that falls into the hour that is
//! doubled runs once, in the first of the two. Only a schedule of every hour
//! ignores both: it skips the hour that never was and runs in both that were.

use std::{
    collections::BTreeMap,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use croner::Cron;
use jiff::{SignedDuration, Timestamp};

mod stretches;

use stretches::Stretches;

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    #[error(
        "`{cron}` is not a cron expression ({reason}): write minute, hour, day, month and weekday, such as `0 2 * * *`"
    )]
    Cron { cron: String, reason: String },
    #[error("`{0}` never falls due: correct the day or the month")]
    Never(String),
    #[error("`{0}` is not a time zone: write a name of the IANA database, such as `Europe/Malta` or `UTC`")]
    Zone(String),
}

/// The most instants that `due_between` answers, so that a schedule of every
/// second after a long sleep costs no more than this.
pub const DUE_MAX: usize = 10_000;

/// What schedules use, by its text: a compiled expression takes ten kilobytes, and very
/// many databases share a few.
static COMPILED: Shared<String, Cron> = Shared::new();

/// The same in a zone: what one database has found of it holds for all that share it.
static CALENDARS: Shared<(String, String), Calendar> = Shared::new();

/// From so many on it is looked for what nobody uses any more, each time they doubled.
const SWEPT_FROM: usize = 256;

/// Values that are made once and shared for as long as somebody uses them.
struct Shared<K, T>(Mutex<BTreeMap<K, Arc<T>>>);

impl<K: Ord, T> Shared<K, T> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn get<E>(&self, key: K, make: impl FnOnce(&K) -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(&key) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(make(&key)?);
        if known.len() >= SWEPT_FROM && known.len().is_power_of_two() {
            known.retain(|_, value| Arc::strong_count(value) > 1);
        }
        known.insert(key, Arc::clone(&value));
        Ok(value)
    }
}

/// A cron expression that falls due at some time.
pub fn parse_cron(text: &str) -> Result<Arc<Cron>, InvalidSchedule> {
    COMPILED.get(text.to_owned(), |text| compile(text))
}

fn compile(text: &str) -> Result<Cron, InvalidSchedule> {
    let invalid = |reason: String| InvalidSchedule::Cron { cron: text.to_owned(), reason };
    let fields = text.split_whitespace().count();
    if !text.starts_with('@') && !(5..=6).contains(&fields) {
        return Err(invalid(format!("it has {fields} fields, not 5 or 6")));
    }
    let cron = Cron::from_str(text).map_err(|error| invalid(error.to_string()))?;
    cron.find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, false)
        .map_err(|_| InvalidSchedule::Never(text.to_owned()))?;
    Ok(cron)
}

/// Whether a text names a zone of the IANA database.
pub fn parse_zone(text: &str) -> Result<chrono_tz::Tz, InvalidSchedule> {
    text.parse().map_err(|_| InvalidSchedule::Zone(text.to_owned()))
}

/// The instant as a clock in this zone shows it, with its offset.
pub fn on_the_wall(zone: chrono_tz::Tz, at: Timestamp) -> String {
    match DateTime::from_timestamp(at.as_second(), 0) {
        Some(at) => at.with_timezone(&zone).format("%a %Y-%m-%d %H:%M:%S %Z").to_string(),
        None => at.to_string(),
    }
}

/// The instant at which a clock in this zone shows `YYYY-MM-DD HH:MM` for the
/// first time, or the end of the jump that leaves it out; none where there is no such day.
pub fn instant_on_the_wall(wall: &str, zone: &str) -> Result<Option<Timestamp>, InvalidSchedule> {
    let zone = parse_zone(zone)?;
    let Ok(wall) = NaiveDateTime::parse_from_str(wall, "%Y-%m-%d %H:%M") else { return Ok(None) };
    let at = match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
        LocalResult::None => end_of_gap(zone, wall),
    };
    Ok(at.and_then(|at| Timestamp::from_second(at.timestamp()).ok()))
}

/// The first instant after the wall times that a jump left out.
fn end_of_gap(zone: chrono_tz::Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    let exists = |minutes: i64| {
        let wall = wall.checked_add_signed(TimeDelta::minutes(minutes))?;
        zone.from_local_datetime(&wall).earliest().map(|at| at.to_utc())
    };
    // Jumps happen on full minutes; the longest ever left out a day.
    let wall_seconds = TimeDelta::seconds(i64::from(chrono::Timelike::second(&wall)));
    (1..=25 * 60).find_map(exists).and_then(|at| at.checked_sub_signed(wall_seconds))
}

/// A cron expression in a zone.
#[derive(Debug, Clone)]
pub struct Schedule(Arc<Calendar>);

#[derive(Debug)]
struct Calendar {
    cron: Arc<Cron>,
    zone: chrono_tz::Tz,
    every_hour: bool,
    known: Stretches,
}

impl Schedule {
    /// `cron` has five fields, or six with seconds first; `zone` is an IANA name.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        let calendar = CALENDARS.get((cron.to_owned(), zone.to_owned()), |(cron, zone)| {
            let cron = parse_cron(cron)?;
            let every_hour = cron.pattern.hours.get_set_values(1).len() == 24;
            Ok(Calendar { cron, zone: parse_zone(zone)?, every_hour, known: Stretches::default() })
        });
        calendar.map(Self)
    }

    /// The first due instant after `after`; none when there is none in the
    /// years that a calendar has.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.0.known.next_after(after, || self.0.search(after))
    }

    /// Whether it is due at this very second.
    pub fn is_due_at(&self, at: Timestamp) -> bool {
        let before = at.checked_sub(SignedDuration::from_secs(1)).unwrap_or(at);
        self.next_after(before) == Some(at)
    }

    /// Due instants in (`after`, `until`], oldest first, at most [`DUE_MAX`].
    pub fn due_between(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let following = |due: &Timestamp| self.next_after(*due);
        std::iter::successors(self.next_after(after), following).take_while(|due| *due <= until).take(DUE_MAX).collect()
    }

    /// The last due instant in (`after`, `until`]: what is made up for after a
    /// pause, in which several runs were missed and one is wanted.
    pub fn latest_due(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        // Looks back in growing strides, so that a long pause costs little.
        let mut stride: i64 = 60;
        loop {
            let from = until.as_second().checked_sub(stride).and_then(|second| Timestamp::from_second(second).ok());
            let from = from.map_or(after, |from| from.max(after));
            if let Some(first) = self.next_after(from).filter(|due| *due <= until) {
                let following = |due: &Timestamp| self.next_after(*due).filter(|due| *due <= until);
                return std::iter::successors(Some(first), following).last();
            }
            if from == after {
                return None;
            }
            stride = stride.saturating_mul(4);
        }
    }

    /// The instant as a clock in this schedule's zone shows it, with its offset.
    pub fn on_the_wall(&self, at: Timestamp) -> String {
        on_the_wall(self.0.zone, at)
    }
}

impl Calendar {
    /// The first due instant after `after`, looked for in the calendar.
    fn search(&self, after: Timestamp) -> Option<Timestamp> {
        let after = DateTime::from_timestamp(after.as_second(), 0)?;
        // Wall clocks stood at least here after `after`, whatever jump is near.
        let mut wall = after.naive_utc().checked_add_signed(self.offsets(after).0)? - TimeDelta::seconds(1);
        let mut best: Option<DateTime<Utc>> = None;
        loop {
            let latest_wall = best.and_then(|best| best.naive_utc().checked_add_signed(self.offsets(best).1));
            let Ok(next) = self.cron.find_next_occurrence(&wall.and_utc(), false) else { break };
            wall = next.naive_utc();
            if latest_wall.is_some_and(|latest| wall > latest) {
                break;
            }
            let instants = self.instants(wall).into_iter().flatten();
            best = instants.filter(|instant| *instant > after).chain(best).min();
        }
        Timestamp::from_second(best?.timestamp()).ok()
    }

    /// The least and greatest distance of the wall clock from UTC around an
    /// instant. Jumps are seldom less than a day apart and reach at most a day.
    fn offsets(&self, at: DateTime<Utc>) -> (TimeDelta, TimeDelta) {
        let offset = |at: DateTime<Utc>| {
            TimeDelta::seconds(self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc().into())
        };
        let margin = TimeDelta::hours(25);
        let around = [at.checked_sub_signed(margin), Some(at), at.checked_add_signed(margin)].map(|at| at.map(offset));
        let seen = || around.iter().flatten().copied();
        (seen().min().unwrap_or_default(), seen().max().unwrap_or_default())
    }

    /// When the clock on the wall shows this and the schedule means it.
    fn instants(&self, wall: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        match self.zone.from_local_datetime(&wall) {
            LocalResult::Single(at) => [Some(at.to_utc()), None],
            LocalResult::Ambiguous(first, second) => [Some(first.to_utc()), self.every_hour.then(|| second.to_utc())],
            LocalResult::None if self.every_hour => [None, None],
            LocalResult::None => [end_of_gap(self.zone, wall), None],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn due(cron: &str, zone: &str, after: &str, until: &str) -> Vec<String> {
        let schedule = Schedule::parse(cron, zone).unwrap();
        schedule.due_between(at(after), at(until)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_missing_hour_runs_once_at_its_end() {
        // On 2026-03-29 Malta goes from 02:00 (UTC+1) to 03:00 (UTC+2).
        let night = ("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(due("30 2 * * *", "Europe/Malta", night.0, night.1), ["2026-03-29T01:00:00Z"]);
        assert_eq!(due("15,45 2 * * *", "Europe/Malta", night.0, night.1), ["2026-03-29T01:00:00Z"]);
        assert_eq!(
            due("30 2,14 * * *", "Europe/Malta", night.0, night.1),
            ["2026-03-28T13:30:00Z", "2026-03-29T01:00:00Z"]
        );
    }

    #[test]
    fn the_doubled_hour_runs_once_in_its_first_half() {
        // On 2026-10-25 Malta goes from 03:00 (UTC+2) back to 02:00 (UTC+1).
        let night = ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        assert_eq!(due("30 2 * * *", "Europe/Malta", night.0, night.1), ["2026-10-25T00:30:00Z"]);
        assert_eq!(due("0 3 * * *", "Europe/Malta", night.0, night.1), ["2026-10-25T02:00:00Z"]);
    }

    #[test]
    fn a_schedule_of_every_hour_runs_every_hour_through_both_nights() {
        for (after, until) in
            [("2026-03-28T22:30:00Z", "2026-03-29T04:30:00Z"), ("2026-10-24T22:30:00Z", "2026-10-25T04:30:00Z")]
        {
            let seen = due("0 * * * *", "Europe/Malta", after, until);
            assert_eq!(seen.len(), 6, "{seen:?}");
        }
    }

    #[test]
    fn seconds_are_optional_and_the_start_is_excluded() {
        assert_eq!(
            due("*/30 * * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ["2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"]
        );
        assert_eq!(due("0 2 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"), ["2028-02-29T02:00:00Z"]);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for cron in ["", "61 * * * *", "* * * *", "0 2 * * funday", "* * * * * * *", "hello"] {
            assert!(matches!(Schedule::parse(cron, "UTC"), Err(InvalidSchedule::Cron { .. })), "{cron}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *", "UTC").unwrap_err(), InvalidSchedule::Never("0 0 30 2 *".to_owned()));
        for zone in ["Europe/Valetta", "", "+02:00"] {
            assert_eq!(Schedule::parse("0 2 * * *", zone).unwrap_err(), InvalidSchedule::Zone(zone.to_owned()));
        }
    }

    #[test]
    fn every_second_over_a_year_is_bounded() {
        let schedule = Schedule::parse("* * * * * *", "Europe/Malta").unwrap();
        let (after, until) = (at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(schedule.due_between(after, until).len(), DUE_MAX);
        assert_eq!(schedule.latest_due(after, until), Some(until));
    }

    proptest! {
        #[test]
        fn instants_rise_and_stay_inside(
            start in 1_577_836_800_i64..2_000_000_000,
            days in 1_i64..30,
            cron in prop::sample::select(vec!["30 2 * * *", "*/17 * * * *", "0 3 * * 0", "15,45 1-3 * * *", "0 */6 * * *", "0 0 1 * *"]),
            zone in prop::sample::select(vec!["Europe/Malta", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]),
        ) {
            let schedule = Schedule::parse(cron, zone).unwrap();
            let after = Timestamp::from_second(start).unwrap();
            let until = Timestamp::from_second(start + days * 86_400).unwrap();
            let due = schedule.due_between(after, until);
            prop_assert!(due.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(due.iter().all(|at| after < *at && *at <= until));
            prop_assert_eq!(schedule.latest_due(after, until), due.last().copied());
            // From any moment between two of them the later one is next.
            for pair in due.windows(2) {
                let between = Timestamp::from_second(i64::midpoint(pair[0].as_second(), pair[1].as_second())).unwrap();
                prop_assert_eq!(schedule.next_after(between), Some(pair[1]));
                prop_assert_eq!(schedule.0.search(between), Some(pair[1]));
            }
        }

        #[test]
        fn a_daily_run_runs_once_on_every_day(day in 0_i64..3_000, hour in 0_u32..24, minute in 0_u32..60) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *"), "Europe/Malta").unwrap();
            let noon = at("2020-01-01T11:30:00Z").as_second() + day * 86_400;
            let due = schedule.due_between(Timestamp::from_second(noon).unwrap(), Timestamp::from_second(noon + 10 * 86_400).unwrap());
            prop_assert!((9..=11).contains(&due.len()), "{:?}", due);
        }
    }
}
