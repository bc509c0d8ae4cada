//! What of the state database is old enough to be deleted: runs that are over with
//! their journals, and closed findings. Evidence is never deleted.
//!
//! What must never happen: that a clock which jumped ahead deletes everything at
//! once. So the period counts back from the newest end of a run, too: as long as
//! nothing ends, nothing goes.

use jiff::{SignedDuration, Timestamp};

use crate::domain::Span;

/// What ended before this may go; none where nothing may. `newest_end` is when the last
/// run ended, by the same clock as `now`.
pub fn cut_off(now: Timestamp, newest_end: Option<Timestamp>, keep: Span) -> Option<Timestamp> {
    let from = newest_end?.min(now);
    from.checked_sub(SignedDuration::try_from(keep.as_duration()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_counts_from_the_newest_end_and_never_from_the_future() {
        let at = |text: &str| -> Timestamp { format!("{text}T00:00:00Z").parse().unwrap() };
        let keep: Span = "30d".parse().unwrap();
        for (now, newest, expected) in [
            ("2026-11-30", None, None),
            ("2026-11-30", Some("2026-11-30"), Some("2026-10-31")),
            // Off for years, or a clock that jumped: what ended last counts.
            ("2036-11-30", Some("2026-11-30"), Some("2026-10-31")),
            // The clock was ahead, and is right again.
            ("2026-11-30", Some("2036-11-30"), Some("2026-10-31")),
        ] {
            assert_eq!(cut_off(at(now), newest.map(at), keep), expected.map(at), "{now} {newest:?}");
        }
        assert_eq!(cut_off(at("2026-11-30"), Some(at("2026-11-30")), Span::from_secs(u64::MAX / 2000)), None);
    }
}
