//! Timeline history files: where each timeline branched off from its parent.

use bytes::Bytes;

use super::super::wire::{Connection, reply::nonsense};
use crate::{
    domain::{Lsn, SegmentSize, Timeline},
    engine::EngineError,
};

/// The history file of `timeline` as the server has it.
pub(super) async fn fetch(connection: &mut Connection, timeline: Timeline) -> Result<Bytes, EngineError> {
    const ACTION: &str = "the reading of the timeline's history";
    let rows = connection.query(ACTION, &format!("TIMELINE_HISTORY {timeline}")).await?;
    let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
    content.ok_or_else(|| connection.broken(ACTION, nonsense("an answer without the file")))
}

/// The timeline under whose name the segment at `segment_start` must be asked
/// for. The segment in which a timeline branched off exists under the name of
/// the new one and holds what went before.
pub(super) fn timeline_of(history: &[u8], newest: Timeline, segment_start: Lsn, size: SegmentSize) -> Timeline {
    let mut timeline = newest;
    let mut ancestors: Vec<(Timeline, Lsn)> = String::from_utf8_lossy(history).lines().filter_map(ancestor).collect();
    ancestors.sort_unstable();
    for (parent, branched_at) in ancestors.into_iter().rev() {
        if segment_start >= size.floor(branched_at) {
            break;
        }
        timeline = parent;
    }
    timeline
}

/// A line of a history file: timeline, end of it, reason. Comments have no such form.
fn ancestor(line: &str) -> Option<(Timeline, Lsn)> {
    let mut fields = line.split_whitespace();
    Some((Timeline(fields.next()?.parse().ok()?), fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_belongs_to_the_newest_timeline_that_holds_it() {
        let history = b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000060\tno recovery target specified\n";
        let of = |start| timeline_of(history, Timeline(3), Lsn(start), SegmentSize::DEFAULT);
        assert_eq!(of(0x0600_0000), Timeline(3));
        assert_eq!(of(0x0500_0000), Timeline(3));
        assert_eq!(of(0x0400_0000), Timeline(2));
        assert_eq!(of(0x0300_0000), Timeline(2));
        assert_eq!(of(0x0200_0000), Timeline(1));
        assert_eq!(timeline_of(b"", Timeline(1), Lsn(0), SegmentSize::DEFAULT), Timeline(1));
    }
}
