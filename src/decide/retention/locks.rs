//! Until when what is kept is locked. A lock reaches over the next renewals and
//! no further, so that what expires can be deleted soon after, and a task that
//! fails for a week leaves nothing unlocked.

use jiff::{SignedDuration, Timestamp};

/// How often locks are looked at.
pub const RENEWED_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// Days that a lock reaches beyond the next look.
const MARGIN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Locks end at multiples of this, so that an object is locked anew once in a
/// week and not each day.
const STEP_SECONDS: i64 = 7 * 24 * 3600;

/// The end of a lock that is set at `now`: at least the margin after the next
/// look, at most a week more.
pub fn until(now: Timestamp) -> Timestamp {
    let least = (now.as_second()).saturating_add((RENEWED_EVERY + MARGIN).as_secs());
    let end = least.saturating_add(STEP_SECONDS - 1).div_euclid(STEP_SECONDS).saturating_mul(STEP_SECONDS);
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

/// Until when what is kept must be locked at least: a lock that ends sooner was
/// not renewed for a week.
pub fn least(now: Timestamp) -> Timestamp {
    now.saturating_add(MARGIN - SignedDuration::from_secs(STEP_SECONDS)).unwrap_or(Timestamp::MAX)
}

/// Whether an object that is locked so long needs a longer lock.
pub fn is_due(locked_until: Option<Timestamp>, now: Timestamp) -> bool {
    locked_until.is_none_or(|locked| locked < until(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Renewed at every look, it never ends before the look after the next
        /// six; and it is set anew at most once a week.
        #[test]
        fn a_lock_outlasts_missed_looks_and_not_much_more(start in 0_i64..4_000_000_000) {
            let at = |day: i64| Timestamp::from_second(start + day * 86_400).unwrap();
            let mut locked = None;
            let mut renewals = 0;
            for day in 0..70 {
                if is_due(locked, at(day)) {
                    locked = Some(until(at(day)));
                    renewals += 1;
                }
                let left = locked.unwrap().duration_since(at(day)).as_hours() / 24;
                prop_assert!((15..=22).contains(&left), "{} days are left", left);
            }
            prop_assert!(renewals <= 11);
        }
    }
}
