//! What becomes of our replication slot on a standby, so that it still has what
//! the vaults lack when it is promoted, and keeps no more than that for long.
//!
//! What must never happen: a slot lets go of WAL that is not durable in all
//! vaults that count, or of a history that is not the one that is streamed.

use std::time::Duration;

use crate::domain::{Lsn, Timeline};

/// How often a standby's slot is told what is durable. How far it is behind is of no
/// matter; how long a new standby has none is.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Up to where the vaults have everything, of which timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// A standby, and its slot where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standby {
    pub timeline: Timeline,
    /// Beyond it a slot cannot be advanced.
    pub replayed: Lsn,
    pub slot: Option<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// From where on it keeps WAL; none where it keeps none.
    pub kept_from: Option<Lsn>,
    /// It lost WAL and keeps none any more.
    pub is_lost: bool,
    /// Somebody streams through it.
    pub is_active: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create,
    /// Drop it and create it again.
    Renew,
    Advance(Lsn),
    Nothing,
}

/// `durable` is none where this process does not know: then nothing is let go.
pub fn next(standby: Standby, durable: Option<Durable>) -> Step {
    let Some(slot) = standby.slot else { return Step::Create };
    if slot.is_active {
        return Step::Nothing;
    }
    let Some(kept_from) = slot.kept_from.filter(|_| !slot.is_lost) else { return Step::Renew };
    // One that is still on the timeline before, or beyond, may have another history.
    let durable = durable.filter(|durable| durable.timeline == standby.timeline);
    match durable.map(|durable| durable.lsn.min(standby.replayed)) {
        Some(to) if to > kept_from => Step::Advance(to),
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_there_and_lets_go_of_what_is_durable_only() {
        let slot = |kept_from: u64| Slot { kept_from: Some(Lsn(kept_from)), is_lost: false, is_active: false };
        let standby = |replayed, slot| Standby { timeline: Timeline(2), replayed: Lsn(replayed), slot };
        let durable = |timeline, lsn| Some(Durable { timeline: Timeline(timeline), lsn: Lsn(lsn) });
        let lost = Slot { is_lost: true, ..slot(10) };
        let empty = Slot { kept_from: None, ..slot(10) };
        let active = Slot { is_active: true, ..lost };
        for (standby, durable, expected, why) in [
            (standby(50, None), None, Step::Create, "it has none"),
            (standby(50, Some(lost)), durable(2, 40), Step::Renew, "it lost WAL"),
            (standby(50, Some(empty)), durable(2, 40), Step::Renew, "it keeps nothing"),
            (standby(50, Some(active)), durable(2, 40), Step::Nothing, "it is in use"),
            (standby(50, Some(slot(10))), durable(2, 40), Step::Advance(Lsn(40)), "up to what is durable"),
            (standby(30, Some(slot(10))), durable(2, 40), Step::Advance(Lsn(30)), "up to what is replayed"),
            (standby(50, Some(slot(10))), None, Step::Nothing, "nobody knows what is durable"),
            (standby(50, Some(slot(40))), durable(2, 40), Step::Nothing, "it is there already"),
            (standby(50, Some(slot(45))), durable(2, 40), Step::Nothing, "it is never set back"),
            (standby(50, Some(slot(10))), durable(3, 40), Step::Nothing, "it does not follow yet"),
            (standby(50, Some(slot(10))), durable(1, 40), Step::Nothing, "it is beyond what is streamed"),
        ] {
            assert_eq!(next(standby, durable), expected, "{why}");
        }
    }
}
