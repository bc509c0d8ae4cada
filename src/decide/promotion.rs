//! Whether what a provider replicates may take the place of its primary.
//!
//! What must never happen: a promotion of what nobody measured, or that loses more than
//! somebody who has a name agreed to.

use jiff::Timestamp;

/// A measured lag says nothing for longer than this: the replica may have stood still since.
const FRESH_SECONDS: i64 = 60;

/// How far a replica was behind, and when that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    pub seconds: u64,
    pub measured_at: Timestamp,
}

/// A loss of data that somebody agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// How much of the newest data may be lost.
    pub lag_seconds_max: u64,
    pub reason: String,
    pub approver: String,
}

/// Why a replica may not be promoted; none where it may. It counts as behind by what was
/// measured and by all that passed since.
pub fn refusal(lag: Option<Lag>, lag_seconds_max: u64, now: Timestamp) -> Option<String> {
    let Some(lag) = lag else {
        return Some("nobody knows how far it is behind: measure its lag first".to_owned());
    };
    let age_seconds = now.as_second().saturating_sub(lag.measured_at.as_second());
    let Some(age) = u64::try_from(age_seconds).ok().filter(|_| age_seconds <= FRESH_SECONDS) else {
        return Some(format!(
            "its lag was measured at {}, and it is {now}: measure it again, with clocks that agree",
            lag.measured_at
        ));
    };
    let behind = lag.seconds.saturating_add(age);
    (behind > lag_seconds_max).then(|| {
        format!("it may be {behind} seconds behind, and {lag_seconds_max} may be lost: wait, or have more agreed to")
    })
}

/// Why data may not be lost on purpose; none where it may.
pub fn loss_refusal(loss: &AcceptedLoss, lag: Option<Lag>, now: Timestamp) -> Option<String> {
    for (what, text) in [("who approves", &loss.approver), ("why", &loss.reason)] {
        if text.trim().is_empty() {
            return Some(format!("data would be lost, and nobody says {what}: name it"));
        }
    }
    refusal(lag, loss.lag_seconds_max, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_near_is_promoted() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let lag = |seconds, measured: &str| Some(Lag { seconds, measured_at: measured.parse().unwrap() });
        for (lag, max, wanted) in [
            (None, 3600, Some("measure its lag first")),
            (lag(0, "2026-11-29T12:00:00Z"), 0, None),
            (lag(1, "2026-11-29T12:00:00Z"), 0, Some("1 seconds behind")),
            (lag(5, "2026-11-29T12:00:00Z"), 5, None),
            (lag(5, "2026-11-29T11:59:50Z"), 15, None),
            (lag(5, "2026-11-29T11:59:50Z"), 14, Some("15 seconds behind")),
            (lag(0, "2026-11-29T11:59:00Z"), 60, None),
            (lag(0, "2026-11-29T11:58:59Z"), 3600, Some("measure it again")),
            (lag(0, "2026-11-29T12:00:01Z"), 3600, Some("clocks that agree")),
            (lag(u64::MAX, "2026-11-29T11:59:50Z"), u64::MAX - 1, Some("behind")),
        ] {
            let found = refusal(lag, max, now);
            assert_eq!(found.is_some(), wanted.is_some(), "{lag:?} {max}: {found:?}");
            assert!(found.unwrap_or_default().contains(wanted.unwrap_or_default()), "{lag:?} {max}");
        }
    }

    #[test]
    fn a_loss_has_a_name_and_a_reason() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let loss = |approver: &str, reason: &str| AcceptedLoss {
            lag_seconds_max: 10,
            reason: reason.to_owned(),
            approver: approver.to_owned(),
        };
        for (loss, seconds, wanted) in [
            (loss("Ada", "the region is gone"), 10, None),
            (loss("Ada", "the region is gone"), 11, Some("11 seconds behind")),
            (loss(" ", "the region is gone"), 0, Some("who approves")),
            (loss("Ada", ""), 0, Some("nobody says why")),
        ] {
            let found = loss_refusal(&loss, Some(Lag { seconds, measured_at: now }), now);
            assert_eq!(found.is_some(), wanted.is_some(), "{loss:?}: {found:?}");
            assert!(found.unwrap_or_default().contains(wanted.unwrap_or_default()), "{loss:?}");
            assert!(loss_refusal(&loss, None, now).is_some());
        }
    }
}
