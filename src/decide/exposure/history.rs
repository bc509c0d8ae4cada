//! A look at exposure becomes what it adds to the history. A look speaks for the time
//! since the look before it, whoever took that, as long as this is short; what was
//! longer ago was not measured.
//!
//! What must never happen: time that counts as measured although nobody looked, and
//! time that counts twice because two nodes did.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::exposure::{Bucket, Width};

/// Three looks of a daemon.
pub const LOOKS_APART_MAX: SignedDuration = SignedDuration::from_secs(30);

/// What somebody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// By the clock of the state database, which all nodes share.
    pub at: Timestamp,
    pub exposure: Duration,
    pub objective: Duration,
}

/// What a look adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Up to here the history tells what was measured.
    pub through: Timestamp,
    pub buckets: Vec<Bucket>,
}

/// What `look` adds to a history that goes up to `before`. Exposure counts as what it
/// was seen to be at the end of the stretch.
pub fn add(before: Option<Timestamp>, look: &Look) -> Added {
    let since = before.map(|before| look.at.duration_since(before));
    // Another node has looked since: only what this one saw is new.
    let is_late = since.is_some_and(|since| since.is_negative() && since.abs() <= LOOKS_APART_MAX);
    let is_next = since.is_some_and(|since| since.is_positive() && since <= LOOKS_APART_MAX);
    let from = before.filter(|_| is_next).unwrap_or(look.at);
    let buckets = Width::ALL.into_iter().flat_map(|width| spread(width, from, look)).collect();
    Added { through: before.filter(|_| is_late).unwrap_or(look.at), buckets }
}

/// The stretch from `from` to the look, cut where buckets end.
fn spread(width: Width, from: Timestamp, look: &Look) -> Vec<Bucket> {
    let (mut buckets, mut from) = (Vec::new(), from);
    loop {
        let (begins, ends) = bounds(width, from);
        let measured = look.at.min(ends).duration_since(from);
        let measured = Duration::try_from(measured).unwrap_or_default();
        let over = if look.exposure > look.objective { measured } else { Duration::ZERO };
        buckets.push(Bucket { width, begins, max: look.exposure, over, measured });
        if look.at <= ends {
            return buckets;
        }
        from = ends;
    }
}

/// Where the bucket of an instant begins and ends.
fn bounds(width: Width, at: Timestamp) -> (Timestamp, Timestamp) {
    let begins = at.as_second().div_euclid(width.as_secs()) * width.as_secs();
    let bound = |second| Timestamp::from_second(second).unwrap_or(at);
    (bound(begins), bound(begins + width.as_secs()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn look(second: i64, exposure: u64) -> Look {
        Look { at: at(second * 1000), exposure: Duration::from_secs(exposure), objective: Duration::from_secs(60) }
    }

    /// Begin, seconds over, seconds measured of the buckets of a width.
    fn told(added: &Added, width: Width) -> Vec<(i64, u64, u64)> {
        let of_width = added.buckets.iter().filter(|bucket| bucket.width == width);
        of_width.map(|one| (one.begins.as_second(), one.over.as_secs(), one.measured.as_secs())).collect()
    }

    #[test]
    fn a_look_speaks_for_the_time_since_the_one_before_and_for_no_silence() {
        // The look before, now, the exposure; what five minutes get; up to where.
        for (before, now, exposure, expected, through) in [
            (Some(1000), 1010, 5, vec![(900, 0, 10)], 1010),
            (Some(1000), 1010, 61, vec![(900, 10, 10)], 1010),
            // At the objective is not over it.
            (Some(1000), 1010, 60, vec![(900, 0, 10)], 1010),
            (Some(1195), 1205, 61, vec![(900, 5, 5), (1200, 5, 5)], 1205),
            (Some(1190), 1200, 5, vec![(900, 0, 10)], 1200),
            (None, 1010, 61, vec![(900, 0, 0)], 1010),
            (Some(1000), 1030, 5, vec![(900, 0, 30)], 1030),
            (Some(1000), 1031, 61, vec![(900, 0, 0)], 1031),
            // Another node has looked a moment ago, by the same clock; or the clock was set back.
            (Some(1012), 1010, 61, vec![(900, 0, 0)], 1012),
            (Some(5000), 1010, 61, vec![(900, 0, 0)], 1010),
        ] {
            let added = add(before.map(|second| at(second * 1000)), &look(now, exposure));
            assert_eq!(told(&added, Width::FiveMinutes), expected, "{before:?} {now}");
            assert_eq!(added.through, at(through * 1000), "{before:?} {now}");
            assert!(added.buckets.iter().all(|bucket| bucket.max == Duration::from_secs(exposure)));
        }
        let midnight = add(Some(at(86_395_000)), &look(86_405, 61));
        assert_eq!(told(&midnight, Width::Day), [(0, 5, 5), (86_400, 5, 5)]);
    }

    proptest! {
        /// However many look, and whenever: what is measured is never more than the time
        /// that passed, never more than a bucket holds, and all of it where looks are close.
        #[test]
        fn no_time_counts_twice_or_unseen(
            gaps in prop::collection::vec(0_i64..45_000, 1..60),
            start in 0_i64..10_000_000_000,
        ) {
            let (mut now, mut through, mut measured, mut seen) = (start, None, [0_i64; 2], 0);
            for gap in gaps {
                now += gap;
                let look = Look { at: at(now), exposure: Duration::from_secs(100), objective: Duration::from_secs(1) };
                let added = add(through, &look);
                if through.is_some() && SignedDuration::from_millis(gap) <= LOOKS_APART_MAX {
                    seen += gap;
                }
                for bucket in &added.buckets {
                    prop_assert_eq!(bucket.begins.as_second() % bucket.width.as_secs(), 0);
                    prop_assert!(bucket.measured <= Duration::from_secs(bucket.width.as_secs().unsigned_abs()));
                    prop_assert_eq!(bucket.over, bucket.measured);
                    let nth = usize::from(bucket.width == Width::Day);
                    measured[nth] += i64::try_from(bucket.measured.as_millis()).unwrap();
                }
                through = Some(added.through);
            }
            prop_assert_eq!(measured, [seen; 2]);
        }
    }
}
