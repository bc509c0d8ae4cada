//! Tails that a whole segment has superseded. With a flush every second a day
//! makes up to 86,400 of them per database, so they go long before anything
//! expires, but not at once: while the segment is new, its tail is the recovery
//! point of whoever looked a moment ago.
//!
//! What must never happen: the tail of a segment that is not whole goes. Those
//! of a timeline that ended inside a segment are therefore kept as long as any
//! of its WAL. Tails of the open segment are not compacted: when it is whole,
//! all of them go.

use jiff::{SignedDuration, Timestamp};

use super::{Coverage, Tail};
use crate::domain::{Beat, Lsn, SegmentSize, Timeline};

/// How far behind the tip a segment is before its tails go.
pub const LAG: SignedDuration = SignedDuration::from_hours(1);
/// The same in a vault that locks objects, where a tail stands against whoever
/// could make the whole segment unreadable.
pub const LAG_LOCKED: SignedDuration = SignedDuration::from_hours(3 * 24);

/// The tails that may go at `now`. How old a segment is, the acknowledged
/// heartbeats tell: what ends before one that is older than `lag` is older too.
/// Without such a heartbeat nothing goes.
pub fn superseded(
    coverage: &Coverage,
    size: SegmentSize,
    beats: &[Beat],
    now: Timestamp,
    lag: SignedDuration,
) -> Vec<Tail> {
    let old = beats.iter().filter(|beat| now.duration_since(beat.acknowledged_at) >= lag);
    let Some(settled) = old.map(|beat| (beat.timeline, beat.commit_lsn)).max() else { return Vec::new() };
    let is_settled = |timeline: Timeline, end: Lsn| (timeline, end) <= settled;
    let tails = coverage
        .tails()
        .filter(|(segment, ..)| coverage.has_whole(*segment) && is_settled(segment.timeline, segment.end(size)));
    tails.map(|(segment, from, to)| Tail { segment, from, to }).collect()
}
