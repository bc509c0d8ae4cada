//! Where a stretch of WAL begins, and where each vault stands then.
//!
//! What must never happen: a required vault lacks what the server is not asked
//! for; a vault is said to hold what its listing does not prove; a server that
//! was set back to an earlier state goes on under the names of the later one.

use std::ops::Range;

use super::recovery::Coverage;
use crate::domain::{Lsn, Segment, SegmentSize, Timeline};

/// What the listing of one vault shows.
#[derive(Debug, Clone)]
pub struct Held {
    /// Whether the stretch must bring the vault everything it lacks.
    pub is_required: bool,
    pub coverage: Coverage,
}

/// What is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub timeline: Timeline,
    pub segment_size: SegmentSize,
    /// From where on a vault wants it that holds nothing.
    pub wanted: Lsn,
    /// How far the server has written the timeline; none for one that it left,
    /// of which a vault may hold more than what the server's history has of it.
    pub written: Option<Lsn>,
    /// Where the timeline branched off, where that is known.
    pub fork: Option<Lsn>,
    /// The server has nothing before the segment of this position any more.
    pub oldest: Option<Lsn>,
}

/// Where one vault stands when the stretch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Everything from the start of the stretch to here is held.
    pub stored: Lsn,
    /// What it lacks before that and another one has, the last of it.
    pub hole: Option<Range<Lsn>>,
    /// The object in which `stored` lies, as segment and offsets: what the server
    /// sends must be the same. None where `stored` is where the stretch begins.
    pub last: Option<(Segment, Range<u64>)>,
}

/// Where the stretch begins, and the vaults in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The start of a segment.
    pub start: Lsn,
    /// None for a vault whose listing is not known.
    pub vaults: Vec<Option<Standing>>,
}

/// A vault holds more of the timeline than the server that writes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forked {
    /// Which of the vaults.
    pub vault: usize,
    pub held: Lsn,
    pub written: Lsn,
}

/// The stretch begins with the segment in which the WAL of the timeline ends in
/// the vault that is furthest behind, of the required ones where there are any.
/// Where none holds any of it, the segment of its fork, of the older timeline's
/// end, or of `wanted` is the first. What the server has lost is passed over.
pub fn begin(vaults: &[Option<Held>], source: &Source) -> Result<Beginning, Forked> {
    let Source { timeline, segment_size: size, .. } = *source;
    let known = || vaults.iter().enumerate().filter_map(|(nth, held)| Some((nth, held.as_ref()?)));
    if let Some(written) = source.written {
        // A server sends only what it has flushed, and finds all of that again
        // after a crash: it is never behind a vault that it has written to.
        let beyond = known().filter_map(|(vault, held)| Some((vault, held.coverage.tip(timeline, size)?)));
        if let Some((vault, held)) = beyond.filter(|(_, held)| *held > written).max_by_key(|(_, held)| *held) {
            return Err(Forked { vault, held, written });
        }
    }
    let any_required = known().any(|(_, held)| held.is_required);
    let relevant = || known().map(|(_, held)| held).filter(|held| held.is_required || !any_required);
    let older = |coverage: &Coverage| {
        coverage.timelines().range(..timeline).next_back().and_then(|older| coverage.tip(*older, size))
    };
    let from = relevant()
        .filter_map(|held| held.coverage.tip(timeline, size))
        .min()
        .or_else(|| {
            // The rest of the older timeline comes first, where a vault lacks it.
            relevant().filter_map(|held| older(&held.coverage)).chain(source.fork).min()
        })
        .map_or(source.wanted, |from| from.min(source.wanted));
    let start = size.floor(source.oldest.map_or(from, |oldest| from.max(oldest)));
    // The end of a hole, as far back as another vault holds it without a gap.
    let others_hold = |vault: usize, hole: Range<Lsn>| {
        let ranges =
            known().filter(|(nth, _)| *nth != vault).flat_map(|(_, held)| held.coverage.ranges(timeline, size));
        let before = ranges.filter(|range| range.start < hole.end && hole.end <= range.end);
        before.map(|range| range.start.max(hole.start)..hole.end).min_by_key(|held| held.start)
    };
    let standing = |(nth, held): (usize, &Option<Held>)| {
        let coverage = &held.as_ref()?.coverage;
        Some(stand(coverage, source, start, |hole| others_hold(nth, hole)))
    };
    Ok(Beginning { start, vaults: vaults.iter().enumerate().map(standing).collect() })
}

fn stand(
    coverage: &Coverage,
    source: &Source,
    start: Lsn,
    others_hold: impl Fn(Range<Lsn>) -> Option<Range<Lsn>>,
) -> Standing {
    let Source { timeline, segment_size: size, .. } = *source;
    let ranges = coverage.ranges(timeline, size);
    let around = ranges.iter().find(|range| range.start <= start && start <= range.end);
    let stored = around.map_or(start, |range| range.end);
    let begins = around.map_or(start, |range| range.start);
    let before = ranges.iter().rev().find(|range| range.end < begins);
    // A hole that nobody can fill is the server's lost WAL, and no vault's.
    let hole = before.and_then(|range| others_hold(range.end..begins));
    let last = (stored > start).then(|| last_piece(coverage, timeline, size, stored)).flatten();
    Standing { stored, hole, last }
}

/// The object that ends at `end`.
fn last_piece(coverage: &Coverage, timeline: Timeline, size: SegmentSize, end: Lsn) -> Option<(Segment, Range<u64>)> {
    let segment = Segment::holding(timeline, Lsn(end.0.saturating_sub(1)), size);
    if coverage.has_whole(segment) {
        return Some((segment, 0..size.bytes()));
    }
    let (from, to) = coverage.tails_of(segment).0.last().copied()?;
    Some((segment, from..to))
}

#[cfg(test)]
mod tests;
