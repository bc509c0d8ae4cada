//! Opens the heartbeats. They tell which commits were acknowledged, so that WAL
//! which is missing at the very end is noticed too.

use std::sync::atomic::Ordering;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};

use super::{
    Verify,
    report::{Defect, Fault, Kind, Report},
};
use crate::{
    decide::{recovery::Coverage, sample},
    domain::{Beat, BeatRange, SegmentSize},
    vault::{Layout, Listing, ObjectKey, VaultError, seal},
};

/// Small objects read at once.
const AT_ONCE: usize = 8;

/// One of so many heartbeats is enough to tell when something happened.
const TOLD_OF: usize = 10;

/// WAL may be that much later in a vault than the commit's acknowledgement.
const GRACE: SignedDuration = SignedDuration::from_mins(15);

/// Reads the heartbeats whose turn it is; answers some of each object, its last among them.
pub(super) async fn read(verify: &Verify<'_>, listing: &Listing, report: &mut Report) -> Result<Vec<Beat>, VaultError> {
    let keys: Vec<ObjectKey> = listing.under(&verify.layout.heartbeats_prefix()).cloned().collect();
    report.tally(Kind::Heartbeats).listed += keys.len() as u64;
    let Some(turn) = verify.depth.turn() else { return Ok(Vec::new()) };
    let chosen = keys.into_iter().filter(|key| turn.takes(sample::place_of(key.as_str(), turn.of)));
    let readings = futures::stream::iter(chosen)
        .map(|key| async move { (open(verify, &key).await, key) })
        .buffer_unordered(AT_ONCE);
    let mut readings = std::pin::pin!(readings);
    let (mut some, mut closed) = (Vec::new(), 0);
    while let Some((opened, key)) = readings.next().await {
        report.was_read(Kind::Heartbeats, &key, listing.size_of(&key).unwrap_or_default());
        match opened {
            Ok(lines) => match parse(&key, verify.layout, &lines) {
                Ok(beats) => some.extend(beats),
                Err(what) => report.defects.push(Defect::new(&key, Fault::Heartbeats, what)),
            },
            Err(VaultError::NoIdentity { .. }) => closed += 1,
            Err(error) => report.defects.push(Defect::from_error(&key, error)?),
        }
    }
    if closed > 0 {
        report.unchecked.push(format!("{closed} object(s) of heartbeats: no identity at hand opens them"));
    }
    Ok(some)
}

async fn open(verify: &Verify<'_>, key: &ObjectKey) -> Result<Vec<u8>, VaultError> {
    if verify.stop.is_cancelled() {
        return Err(VaultError::Stopped);
    }
    let stored = seal::read_all(verify.store.as_ref(), key).await?;
    verify.done.fetch_add(stored.len() as u64, Ordering::Relaxed);
    seal::open(&verify.store.place().vault, key, stored, true, verify.identities).await
}

/// The last of every few heartbeats of an object, which must hold what its name says.
fn parse(key: &ObjectKey, layout: &Layout, lines: &[u8]) -> Result<Vec<Beat>, String> {
    let mut beats: Vec<Beat> = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        beats.push(serde_json::from_slice(line).map_err(|error| format!("it cannot be read as heartbeats: {error}"))?);
    }
    let (Some(first), Some(last)) = (beats.first(), beats.last()) else {
        return Err("it holds no heartbeat".to_owned());
    };
    if !beats.is_sorted_by(|one, next| one.seq < next.seq) {
        return Err("its heartbeats are not in order".to_owned());
    }
    let name = layout.heartbeats(BeatRange { first: first.seq, last: last.seq });
    if *key != name {
        return Err(format!("it holds the heartbeats of `{name}`"));
    }
    Ok(beats.rchunks(TOLD_OF).filter_map(<[Beat]>::last).copied().collect())
}

/// A commit that was acknowledged long ago and whose WAL, on the newest
/// timeline, lies after everything that is held.
pub(super) fn check_tip(
    beats: &[Beat],
    coverage: &Coverage,
    size: SegmentSize,
    now: Timestamp,
    verify: &Verify<'_>,
    report: &mut Report,
) {
    let newest = coverage.timelines().last().copied();
    let Some((timeline, tip)) = newest.and_then(|timeline| Some((timeline, coverage.extent(timeline, size)?))) else {
        return;
    };
    let beyond = beats
        .iter()
        .filter(|beat| beat.timeline == timeline && beat.commit_lsn > tip && beat.acknowledged_at + GRACE < now)
        .max_by_key(|beat| beat.commit_lsn);
    if let Some(beat) = beyond {
        let what = format!(
            "WAL of timeline {timeline} from {tip} to {} is missing: a commit at {} was acknowledged, and cannot be restored",
            beat.commit_lsn, beat.acknowledged_at
        );
        let segment = crate::domain::Segment::holding(timeline, tip, size);
        report.defects.push(Defect::new(verify.layout.segment(segment, size), Fault::Gap, what));
    }
}
