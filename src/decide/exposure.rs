//! What would be lost if the primary vanished now: the age of the oldest
//! acknowledged heartbeat that a vault does not hold yet.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{Beat, Lsn, Timeline};

/// Whether a vault that holds all WAL of `durable.0` up to `durable.1` holds this
/// heartbeat. One of an older timeline counts as held: the newer one branched off
/// after it, or the loss was reported then.
pub fn is_durable(beat: &Beat, durable: Option<(Timeline, Lsn)>) -> bool {
    durable.is_some_and(|(timeline, lsn)| {
        beat.timeline < timeline || (beat.timeline == timeline && beat.commit_lsn <= lsn)
    })
}

/// Exposure at `now` of a vault that holds all WAL of `durable.0` up to
/// `durable.1`. Zero when every acknowledged heartbeat is durable there; none
/// when no heartbeat was ever acknowledged, as then nothing is known.
pub fn exposure(now: Timestamp, beats: &[Beat], durable: Option<(Timeline, Lsn)>) -> Option<Duration> {
    if beats.is_empty() {
        return None;
    }
    let oldest = beats.iter().filter(|beat| !is_durable(beat, durable)).map(|beat| beat.acknowledged_at).min();
    Some(oldest.map_or(Duration::ZERO, |at| now.duration_since(at).try_into().unwrap_or(Duration::ZERO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(seq: i64, second: i64, lsn: u64) -> Beat {
        Beat {
            seq,
            acknowledged_at: Timestamp::from_second(second).unwrap(),
            commit_lsn: Lsn(lsn),
            timeline: Timeline(1),
        }
    }

    #[test]
    fn exposure_is_the_age_of_the_oldest_heartbeat_the_vault_lacks() {
        let now = Timestamp::from_second(110).unwrap();
        let beats = [beat(1, 100, 10), beat(2, 101, 20), beat(3, 102, 30)];
        let at = |lsn| exposure(now, &beats, Some((Timeline(1), Lsn(lsn))));
        assert_eq!(at(30), Some(Duration::ZERO));
        assert_eq!(at(29), Some(Duration::from_secs(8)));
        assert_eq!(at(10), Some(Duration::from_secs(9)));
        assert_eq!(exposure(now, &beats, None), Some(Duration::from_secs(10)));
        assert_eq!(exposure(now, &beats, Some((Timeline(2), Lsn(1)))), Some(Duration::ZERO));
        assert_eq!(exposure(now, &[], None), None);
    }
}
