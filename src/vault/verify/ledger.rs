//! Opens the heartbeats. They tell which commits were acknowledged, so that WAL
//! which is missing at the very end is noticed too.

use std::sync::atomic::Ordering;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};

use super::{
    Fault, Verify,
    report::{Defect, Kind, Look, Report},
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

/// Reads the heartbeats whose turn it is, and the newest ones, without which
/// nobody knows how far WAL must reach; answers some of each object, its last among them.
pub(super) async fn read(verify: &Verify<'_>, listing: &Listing, report: &mut Report) -> Result<Vec<Beat>, VaultError> {
    let mut keys: Vec<ObjectKey> = listing.under(&verify.layout.heartbeats_prefix()).cloned().collect();
    report.tally(Kind::Heartbeats).listed += keys.len() as u64;
    let Some(turn) = verify.depth.turn() else { return Ok(Vec::new()) };
    let mut heard = Heard { layout: verify.layout.clone(), some: Vec::new(), closed: 0 };
    // Backwards, until one is old enough for its WAL to be there.
    report.seen.is_tip_judged = true;
    while let Some(key) = keys.pop() {
        let opened = open(verify, &key).await;
        match heard.take(&key, opened, listing, report)? {
            Some(beat) if is_settled(&beat, verify.now) => break,
            Some(_) => {}
            None => {
                report.seen.is_tip_judged = false;
                break;
            }
        }
    }
    let chosen = keys.into_iter().filter(|key| turn.takes(sample::place_of(key.as_str(), turn.of)));
    let readings = futures::stream::iter(chosen)
        .map(|key| async move { (open(verify, &key).await, key) })
        .buffer_unordered(AT_ONCE);
    let mut readings = std::pin::pin!(readings);
    while let Some((opened, key)) = readings.next().await {
        heard.take(&key, opened, listing, report)?;
    }
    if heard.closed > 0 {
        let closed = heard.closed;
        report.unchecked.push(format!("{closed} object(s) of heartbeats: no identity at hand opens them"));
    }
    Ok(heard.some)
}

/// What the objects that were read told.
struct Heard {
    layout: Layout,
    some: Vec<Beat>,
    closed: usize,
}

impl Heard {
    /// The last heartbeat of an object; none where it cannot be had.
    fn take(
        &mut self,
        key: &ObjectKey,
        opened: Result<Vec<u8>, VaultError>,
        listing: &Listing,
        report: &mut Report,
    ) -> Result<Option<Beat>, VaultError> {
        if matches!(opened, Err(VaultError::NoIdentity { .. })) {
            self.closed += 1;
            return Ok(None);
        }
        let opened = match opened {
            Err(error) => match report.unless_archived(error) {
                Ok(()) => return Ok(None),
                Err(error) => Err(error),
            },
            opened => opened,
        };
        let opened = opened.map(|lines| parse(key, &self.layout, &lines));
        let found = match opened {
            Ok(Ok(beat)) => Ok(beat),
            Ok(Err(what)) => Err(Defect::new(key, Fault::Heartbeats, what)),
            Err(error) => Err(Defect::from_error(key, error)?),
        };
        report.was_read(Kind::Heartbeats, key, listing.size_of(key).unwrap_or_default(), Look::Opened);
        match found {
            Ok(some) => {
                let last = some.last().copied();
                self.some.extend(some);
                Ok(last)
            }
            Err(defect) => {
                report.defects.push(defect);
                Ok(None)
            }
        }
    }
}

/// Whether WAL up to it must be in the vault by now.
fn is_settled(beat: &Beat, now: Timestamp) -> bool {
    beat.acknowledged_at + GRACE < now
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
    verify: &Verify<'_>,
    report: &mut Report,
) {
    let newest = coverage.timelines().last().copied();
    let Some((timeline, tip)) = newest.and_then(|timeline| Some((timeline, coverage.extent(timeline, size)?))) else {
        return;
    };
    let beyond = beats
        .iter()
        .filter(|beat| beat.timeline == timeline && beat.commit_lsn > tip && is_settled(beat, verify.now))
        .max_by_key(|beat| beat.commit_lsn);
    if let Some(beat) = beyond {
        let what = format!(
            "WAL of timeline {timeline} from {tip} to {} is missing: a commit at {} was acknowledged, and cannot be restored",
            beat.commit_lsn, beat.acknowledged_at
        );
        let segment = crate::domain::Segment::holding(timeline, tip, size);
        report.defects.push(Defect::new(verify.layout.segment(segment, size), Fault::Behind, what));
    }
}
