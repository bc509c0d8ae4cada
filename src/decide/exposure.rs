//! What would be lost if the primary vanished now: the age of the oldest
//! acknowledged heartbeat that a vault does not hold yet. Where heartbeats are
//! silent nobody measures, and all that was committed since the last instant
//! that the vault is known to hold counts as lost.
//!
//! What must never happen: zero, because nobody looked.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::{Beat, Lsn, Timeline};

pub mod history;

/// Without an acknowledged heartbeat for so long, which is ten of them, nobody is
/// known to stream.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Three heartbeats that did not come.
const LATE_AFTER: Duration = Duration::from_secs(3);

/// Up to where a vault can restore the latest state, behind no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub timeline: Timeline,
    pub lsn: Lsn,
    /// When the backup ended that this state is restored from.
    pub backup_ended_at: Timestamp,
}

/// Whether a vault with this tip holds this heartbeat. One of an older timeline
/// counts as held: the newer one branched off after it, or the loss was reported
/// then.
fn is_durable(beat: &Beat, tip: Option<&Tip>) -> bool {
    tip.is_some_and(|tip| beat.timeline < tip.timeline || (beat.timeline == tip.timeline && beat.commit_lsn <= tip.lsn))
}

/// Whether the newest acknowledged heartbeat is older than a running daemon leaves it.
pub fn is_silent(now: Timestamp, newest: Option<Timestamp>) -> bool {
    newest.is_none_or(|newest| age(now, newest) > SILENT_AFTER)
}

/// Whether nobody is known to stream. A slot in which nobody streams shows it sooner
/// than heartbeats alone, which a busy server may hold up.
pub fn is_unattended(now: Timestamp, newest: Option<Timestamp>, is_slot_active: Option<bool>) -> bool {
    let is_late = newest.is_none_or(|newest| age(now, newest) > LATE_AFTER);
    is_silent(now, newest) || (is_slot_active == Some(false) && is_late)
}

/// The newest instant of which it is known that the vault holds everything that
/// was committed before; none when it holds nothing that can be restored.
pub fn held_until(beats: &[Beat], tip: Option<&Tip>) -> Option<Timestamp> {
    let held = beats.iter().filter(|beat| is_durable(beat, tip)).map(|beat| beat.acknowledged_at);
    held.chain(tip.map(|tip| tip.backup_ended_at)).max()
}

/// Exposure at `now` of a vault with this tip. `beats` holds the newest
/// acknowledged heartbeat, if there ever was one. Zero only when heartbeats are
/// not silent and every one is durable there; none when neither a heartbeat nor
/// a backup tells anything.
pub fn exposure(now: Timestamp, beats: &[Beat], tip: Option<&Tip>) -> Option<Duration> {
    if let Some(lacks) = beats.iter().filter(|beat| !is_durable(beat, tip)).map(|beat| beat.acknowledged_at).min() {
        return Some(age(now, lacks));
    }
    let newest = beats.iter().map(|beat| beat.acknowledged_at).max();
    if is_silent(now, newest) { held_until(beats, tip).map(|held| age(now, held)) } else { Some(Duration::ZERO) }
}

/// Zero for what lies ahead of us: another node's clock.
fn age(now: Timestamp, at: Timestamp) -> Duration {
    now.duration_since(at).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_empty_slot_shows_sooner_that_nobody_streams_and_alone_shows_nothing() {
        for (beat_age, slot, expected) in [
            (2, Some(false), false),
            (4, Some(false), true),
            (4, Some(true), false),
            (4, None, false),
            (11, Some(true), true),
            (11, None, true),
        ] {
            assert_eq!(is_unattended(at(100), Some(at(100 - beat_age)), slot), expected, "{beat_age} {slot:?}");
        }
        assert!(is_unattended(at(100), None, Some(false)) && is_unattended(at(100), None, None));
    }

    fn beat(seq: i64, second: i64, lsn: u64) -> Beat {
        Beat { seq, acknowledged_at: at(second), commit_lsn: Lsn(lsn), timeline: Timeline(1) }
    }

    fn tip(timeline: u32, lsn: u64) -> Tip {
        Tip { timeline: Timeline(timeline), lsn: Lsn(lsn), backup_ended_at: at(90) }
    }

    #[test]
    fn exposure_is_the_age_of_the_oldest_heartbeat_the_vault_lacks() {
        let now = at(110);
        let beats = [beat(1, 100, 10), beat(2, 101, 20), beat(3, 102, 30)];
        let of = |lsn| exposure(now, &beats, Some(&tip(1, lsn)));
        assert_eq!(of(30), Some(Duration::ZERO));
        assert_eq!(of(29), Some(Duration::from_secs(8)));
        assert_eq!(of(10), Some(Duration::from_secs(9)));
        assert_eq!(exposure(now, &beats, None), Some(Duration::from_secs(10)));
        assert_eq!(exposure(now, &beats, Some(&tip(2, 1))), Some(Duration::ZERO));
        assert_eq!(exposure(now, &[], None), None);
    }

    #[test]
    fn without_a_daemon_exposure_grows_from_what_the_vault_is_known_to_hold() {
        let beats = [beat(1, 100, 10), beat(2, 101, 20)];
        let seconds = |now, beats: &[Beat], tip: &Tip| exposure(at(now), beats, Some(tip)).unwrap().as_secs();
        assert_eq!(seconds(111, &beats, &tip(1, 20)), 0, "ten heartbeats are no silence yet");
        assert_eq!(seconds(112, &beats, &tip(1, 20)), 11);
        assert_eq!(seconds(3700, &beats, &tip(1, 20)), 3599);
        // A later backup holds what was committed before it ended.
        let later = Tip { backup_ended_at: at(3000), ..tip(1, 500) };
        assert_eq!(seconds(3700, &beats, &later), 700);
        assert_eq!(held_until(&beats, Some(&later)), Some(at(3000)));
        // No heartbeat was ever acknowledged.
        assert_eq!(seconds(3700, &[], &later), 700);
        assert_eq!(held_until(&beats, Some(&tip(1, 15))), Some(at(100)));
        assert_eq!(held_until(&beats, None), None);
    }

    proptest! {
        /// Nothing counts as safe that was committed after the last instant that is
        /// known to be held, unless a heartbeat was acknowledged just now.
        #[test]
        fn silence_is_never_safety(
            seconds in prop::collection::btree_set(0_i64..200, 0..8),
            held in 0_u64..220,
            ended in 0_i64..200,
            has_tip: bool,
            now in 200_i64..400,
        ) {
            let beats: Vec<Beat> = seconds.iter().map(|second| beat(*second, *second, second.unsigned_abs())).collect();
            let tip = has_tip.then_some(Tip { backup_ended_at: at(ended), ..tip(1, held) });
            let exposure = exposure(at(now), &beats, tip.as_ref());
            let newest = beats.iter().map(|beat| beat.acknowledged_at).max();
            match held_until(&beats, tip.as_ref()) {
                Some(held) if is_silent(at(now), newest) => {
                    // Between two heartbeats nothing is known to be lacking.
                    let lacks = beats.iter().map(|beat| beat.acknowledged_at).find(|at| *at > held).unwrap_or(held);
                    prop_assert!(exposure >= Some(age(at(now), lacks)), "{exposure:?}");
                    prop_assert!(exposure > Some(Duration::ZERO) || lacks == at(now));
                }
                Some(_) => prop_assert!(exposure.is_some()),
                None => prop_assert_eq!(exposure.is_some(), !beats.is_empty()),
            }
        }
    }
}
