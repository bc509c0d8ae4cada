//! Until when what the rules keep is locked. A lock reaches over the next
//! renewals and no further, so that what expires can be deleted soon after, and a
//! task that fails for some days leaves nothing unlocked.

use jiff::{SignedDuration, Timestamp};

/// How often the lock of everything that is kept is looked at.
pub const RENEWED_EVERY: SignedDuration = DAY;
/// How often what is new is locked: WAL above all, which has no lock before.
pub const NEW_LOCKED_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// How far a lock reaches where nobody says it.
pub const DEFAULT_SECONDS: u64 = 15 * 24 * 3600;
/// A lock that was shorter would end before a second renewal.
pub const LEAST_SECONDS: u64 = 2 * 24 * 3600;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const STEP_DAYS_MAX: i64 = 7;

/// How far the locks of a vault reach ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach(SignedDuration);

impl Default for Reach {
    fn default() -> Self {
        Self::seconds(DEFAULT_SECONDS)
    }
}

impl Reach {
    /// At least so long. Less than two days would not outlast a renewal that failed.
    pub fn seconds(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds.max(LEAST_SECONDS)).unwrap_or(i64::MAX);
        Self(SignedDuration::from_secs(seconds))
    }

    /// Locks end at multiples of this: half the reach in whole days, a week at
    /// most. So an object is locked anew once in that time and not each day.
    fn step_seconds(self) -> i64 {
        (self.0.as_secs() / 2 / DAY.as_secs()).clamp(1, STEP_DAYS_MAX).saturating_mul(DAY.as_secs())
    }

    /// The end of a lock that is set at `now`.
    pub fn until(self, now: Timestamp) -> Timestamp {
        let (least, step) = (now.as_second().saturating_add(self.0.as_secs()), self.step_seconds());
        let end = least.saturating_add(step - 1).div_euclid(step).saturating_mul(step);
        Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
    }

    /// Until when what is kept must be locked at least: a lock that ends sooner was
    /// not renewed for half its reach.
    pub fn least(self, now: Timestamp) -> Timestamp {
        let half = SignedDuration::from_secs((self.0 - RENEWED_EVERY).as_secs() / 2);
        now.saturating_add(half).unwrap_or(Timestamp::MAX)
    }

    /// Whether an object that is locked so long needs a longer lock.
    pub fn is_due(self, locked_until: Option<Timestamp>, now: Timestamp) -> bool {
        locked_until.is_none_or(|locked| locked < self.until(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Renewed at every look, it always reaches as far as was asked and at most
        /// a step further; and it is set anew at most once in a step.
        #[test]
        fn a_lock_outlasts_missed_looks_and_not_much_more(start in 0_i64..4_000_000_000, days in 2_u64..100) {
            let reach = Reach::seconds(days * 86_400);
            let (least, step) = (i64::try_from(days).unwrap(), reach.step_seconds() / 86_400);
            prop_assert!((1..=7).contains(&step) && 2 * step <= least, "{step}");
            let at = |day: i64| Timestamp::from_second(start + day * 86_400).unwrap();
            let mut locked = None;
            let mut renewals = 0;
            for day in 0..70 {
                if reach.is_due(locked, at(day)) {
                    locked = Some(reach.until(at(day)));
                    renewals += 1;
                }
                let left = locked.unwrap().duration_since(at(day));
                prop_assert!(left.as_secs() >= least * 86_400 && left.as_secs() < (least + step) * 86_400, "{}", left);
                // What was renewed a day ago is not complained about.
                prop_assert!(locked.unwrap() > reach.least(at(day + 1)));
            }
            prop_assert!(renewals <= 70 / step + 2, "{renewals}");
        }
    }

    #[test]
    fn nobody_says_how_far() {
        let now = "2026-05-01T10:00:00Z".parse().unwrap();
        let (until, least) = (Reach::default().until(now), Reach::default().least(now));
        assert!((15..=22).contains(&(until.duration_since(now).as_hours() / 24)), "{until}");
        assert_eq!(least.duration_since(now).as_hours(), 7 * 24);
    }
}
