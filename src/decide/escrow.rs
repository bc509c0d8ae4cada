//! Whose identity opens the backup in a restore test. The node's own, month by
//! month; once in each quarter the one that is kept elsewhere, because the day
//! it is needed is the day the node is gone.

use jiff::{Timestamp, tz::TimeZone};

use crate::domain::Opener;

/// `last_escrow`: when a test last passed that was opened with the escrow
/// identity alone; `has_escrow`: whether one is configured.
pub fn whose_turn(now: Timestamp, last_escrow: Option<Timestamp>, has_escrow: bool) -> Opener {
    let is_due = last_escrow.is_none_or(|last| quarter(last) < quarter(now));
    if has_escrow && is_due { Opener::Escrow } else { Opener::Node }
}

/// Year and quarter, in UTC.
fn quarter(at: Timestamp) -> (i16, i8) {
    let date = at.to_zoned(TimeZone::UTC).date();
    (date.year(), (date.month() - 1) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_test_of_a_quarter_is_the_escrows() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-21T00:00:00Z");
        for (last, expected) in [
            (None, Opener::Escrow),
            (Some("2026-09-30T23:59:59Z"), Opener::Escrow),
            (Some("2025-11-21T00:00:00Z"), Opener::Escrow),
            (Some("2026-10-01T00:00:00Z"), Opener::Node),
            // A clock that went back proves nothing anew.
            (Some("2027-01-01T00:00:00Z"), Opener::Node),
        ] {
            assert_eq!(whose_turn(now, last.map(at), true), expected, "{last:?}");
            assert_eq!(whose_turn(now, last.map(at), false), Opener::Node);
        }
    }
}
