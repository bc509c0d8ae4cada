//! Which objects a verification reads when it reads only a share of them. Each
//! object has its place in a rotation, from its name or from its position in
//! the backup alone, so that nothing has to be remembered: as many runs as make
//! the whole read every object once, whatever came or went meanwhile.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::Share;

/// How often is verified, how much of the content each time, and within which
/// time all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub every: Duration,
    pub share: Share,
    pub period: Duration,
}

/// One run's turn: the `number`-th since 1970, where `of` runs read everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub number: u64,
    pub of: u64,
}

impl Rotation {
    /// How long it takes until everything was read.
    pub fn takes(&self) -> Duration {
        let runs = u32::try_from(self.share.to_the_whole()).unwrap_or(u32::MAX);
        self.every.checked_mul(runs).unwrap_or(Duration::MAX)
    }

    fn every_ms(&self) -> i64 {
        i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX).max(1)
    }

    /// Not all databases at the same instant: each has its own shift, by name.
    fn shift_ms(&self, name: &str) -> i64 {
        let seconds = (self.every_ms() / 1000).max(1).unsigned_abs();
        i64::try_from(seed(name) % seconds).unwrap_or_default() * 1000
    }

    /// The turn of a run of `name` at this instant.
    pub fn turn(&self, name: &str, at: Timestamp) -> Turn {
        let number = (at.as_millisecond() - self.shift_ms(name)).div_euclid(self.every_ms());
        Turn { number: u64::try_from(number).unwrap_or_default(), of: self.share.to_the_whole() }
    }

    /// When the run that stands for `now` was due: the latest one, as it stands
    /// for those that it overtook. None while nothing was there to be verified,
    /// `held_since`, when it was.
    pub fn due(&self, name: &str, held_since: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let since = (now.as_millisecond() - self.shift_ms(name)).rem_euclid(self.every_ms());
        let due = Timestamp::from_millisecond(now.as_millisecond() - since).ok()?;
        held_since.is_some_and(|held| held <= due).then_some(due)
    }

    /// When the next run after `now` is due.
    pub fn next(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        let since = (now.as_millisecond() - self.shift_ms(name)).rem_euclid(self.every_ms());
        now.checked_add(SignedDuration::from_millis(self.every_ms() - since)).ok()
    }
}

impl Turn {
    /// The one run that reads everything.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// Whether this run reads what has this place in the rotation.
    pub const fn takes(&self, place: u64) -> bool {
        place % self.of == self.number % self.of
    }
}

/// The place of an object that stands for itself.
pub fn place_of(name: &str, of: u64) -> u64 {
    seed(name) % of.max(1)
}

/// The place of the `number`-th object of a sequence of like ones that grows:
/// neighbours have neighbouring places, so that every run reads as many.
pub fn place_in_sequence(name: &str, number: u64, of: u64) -> u64 {
    let of = of.max(1);
    (seed(name) % of + number % of) % of
}

/// The places of the objects of a backup, given their sizes in bytes in the
/// order of its manifest: each run reads the same share of its bytes, as far as
/// objects allow, and the first run after the backup, `first`, its first share.
pub fn places_in_backup(first: Turn, sizes: &[u64]) -> Vec<u64> {
    let total: u128 = sizes.iter().map(|size| u128::from(*size)).sum::<u128>().max(1);
    let of = first.of.max(1);
    let mut before: u128 = 0;
    sizes
        .iter()
        .map(|size| {
            let share = u64::try_from(before * u128::from(of) / total).unwrap_or_default();
            before += u128::from(*size);
            (first.number % of + share.min(of - 1)) % of
        })
        .collect()
}

/// A number that follows from a name, the same in every version: FNV-1a, then
/// one round of mixing, as its low bits alone say little.
fn seed(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    fn rotation(every: u64, share: &str) -> Rotation {
        let (every, period) = (Duration::from_secs(every), Duration::from_secs(30 * DAY));
        Rotation { every, share: share.parse().unwrap(), period }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_run_is_due_once_per_interval_and_not_before_there_is_something() {
        let daily = rotation(DAY, "5%");
        let now = at(1_763_700_000);
        let due = daily.due("wallet/primary", Some(at(0)), now).unwrap();
        assert!(due <= now && now.duration_since(due).as_secs() < 86_400);
        let next = daily.next("wallet/primary", now).unwrap();
        assert_eq!(daily.due("wallet/primary", Some(at(0)), next - SignedDuration::from_secs(1)), Some(due));
        assert!(daily.due("wallet/primary", Some(at(0)), next + SignedDuration::from_secs(1)).unwrap() > due);
        assert_eq!(daily.due("wallet/primary", None, now), None);
        assert_eq!(daily.due("wallet/primary", Some(now), now), None, "taken after it was due");
        assert_ne!(daily.due("ledger/primary", Some(at(0)), now), Some(due), "not all at once");
    }

    #[test]
    fn the_first_run_after_a_backup_reads_its_first_share() {
        let first = Turn { number: 4711, of: 20 };
        let places = places_in_backup(first, &[10; 100]);
        let read: Vec<usize> = (0..100).filter(|nth| first.takes(places[*nth])).collect();
        assert_eq!(read, [0, 1, 2, 3, 4]);
        assert!(places_in_backup(first, &[0, 0]).iter().all(|place| first.takes(*place)), "of no size, still read");
    }

    proptest! {
        #[test]
        fn one_period_reads_everything_and_each_run_its_share_of_bytes(
            sizes in prop::collection::vec(0_u64..300_000_000, 1..400),
            share in prop::sample::select(vec!["5%", "3.34%", "10%", "25%", "50%", "100%"]),
            start in 1_600_000_000_i64..2_000_000_000,
            taken in 0_i64..40,
        ) {
            let rotation = rotation(DAY, share);
            prop_assert!(rotation.takes() <= rotation.period);
            let first = rotation.turn("wallet", at(start - taken * 86_400));
            let places = places_in_backup(first, &sizes);
            let (total, largest) = (sizes.iter().sum::<u64>(), *sizes.iter().max().unwrap());
            let mut read = vec![false; sizes.len()];
            for run in 0..i64::try_from(first.of).unwrap() {
                // Each runs at some instant of its own interval.
                let due = rotation.due("wallet", Some(at(0)), at(start + run * 86_400)).unwrap();
                let turn = rotation.turn("wallet", due);
                let mut bytes = 0;
                for (nth, size) in sizes.iter().enumerate().filter(|(nth, _)| turn.takes(places[*nth])) {
                    read[nth] = true;
                    bytes += size;
                }
                prop_assert!(bytes <= total / first.of + largest + 1, "{bytes} of {total}");
                prop_assert!(bytes + largest + 1 >= total / first.of, "{bytes} of {total}");
            }
            prop_assert!(read.iter().all(|read| *read));
        }

        #[test]
        fn a_growing_sequence_is_read_evenly_wherever_it_begins(
            first in 0_u64..1_000_000, count in 1_u64..2_000, turn in 0_u64..1_000_000, of in 1_u64..60,
        ) {
            let turns = (turn..turn + of).map(|number| Turn { number, of });
            let mut all = 0;
            for turn in turns {
                let takes = |number: &u64| turn.takes(place_in_sequence("wallet/wal", *number, of));
                let read = u64::try_from((first..first + count).filter(takes).count()).unwrap();
                prop_assert!((count / of..=count / of + 1).contains(&read));
                all += read;
            }
            prop_assert_eq!(all, count, "each exactly once");
        }

        #[test]
        fn a_name_has_one_turn_in_every_round(name in "[a-z0-9/.-]{1,80}", turn in 0_u64..1_000_000, of in 1_u64..60) {
            let taken = (turn..turn + of).filter(|number| Turn { number: *number, of }.takes(place_of(&name, of)));
            prop_assert_eq!(taken.count(), 1);
        }
    }
}
