//! Reads WAL: each segment, whole or in tails, is opened and must be what its
//! name says: this cluster's, this timeline's, this position's, this size's.
//! One segment is in memory at a time for each that is read at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use age::x25519::Identity;
use futures::StreamExt;

use super::{
    Fault, Verify,
    page::{self, FirstPage},
    report::{Defect, Kind, Look, Report},
};
use crate::{
    decide::{
        recovery::{Coverage, History},
        sample,
    },
    domain::{Lsn, Segment, SegmentSize, Timeline},
    vault::{Layout, Listing, ObjectKey, StoreError, VaultError, WalName, seal},
};

/// Memory that the segments which are read at once may take.
const MEMORY: u64 = 512 << 20;

/// The objects of one segment.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: Option<ObjectKey>,
    /// By offset.
    tails: BTreeMap<(u64, u64), ObjectKey>,
}

/// What a timeline's first segment shows of where it branched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Branch {
    /// The last page that an older timeline began, and which one.
    pub(super) last_before: Option<(Lsn, Timeline)>,
    /// The first page of its own.
    pub(super) first_own: Option<Lsn>,
    /// Whether the record where its history says that it began can be its first.
    pub(super) begins_at_fork: bool,
}

/// What was found in the WAL of a vault.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) branches: BTreeMap<Timeline, Branch>,
    /// First pages, which are judged when the histories are.
    pub(super) pages: BTreeMap<Segment, (ObjectKey, FirstPage)>,
    pub(super) sound: BTreeSet<Segment>,
    pub(super) damaged: BTreeSet<Segment>,
}

/// The WAL that a listing shows, by segment.
pub(super) fn segments(layout: &Layout, listing: &Listing, size: SegmentSize) -> BTreeMap<Segment, Pieces> {
    let mut segments: BTreeMap<Segment, Pieces> = BTreeMap::new();
    for key in listing.under(&format!("{}wal/", layout.prefix())) {
        match WalName::parse(layout, key, size) {
            Some(WalName::Whole(segment)) => segments.entry(segment).or_default().whole = Some(key.clone()),
            Some(WalName::Tail { segment, from, to }) => {
                segments.entry(segment).or_default().tails.insert((from, to), key.clone());
            }
            Some(WalName::History(_)) | None => {}
        }
    }
    segments
}

/// The segments that a run reads: those whose turn it is, and the first of each
/// younger timeline, without which no history file can be judged.
pub(super) fn chosen(
    verify: &Verify<'_>,
    segments: BTreeMap<Segment, Pieces>,
    coverage: &Coverage,
) -> Vec<(Segment, Pieces)> {
    let Some(turn) = verify.depth.turn() else { return Vec::new() };
    let name = format!("{}wal", verify.layout.prefix());
    segments
        .into_iter()
        .filter(|(segment, _)| {
            let is_branch = segment.timeline.0 > 1 && coverage.first(segment.timeline) == Some(*segment);
            is_branch || turn.takes(sample::place_in_sequence(&name, segment.number, turn.of))
        })
        .collect()
}

/// What one segment's objects turned out to be.
#[derive(Default)]
struct Segmented {
    defects: Vec<Defect>,
    read: Vec<(Kind, ObjectKey, u64)>,
    unopened: Vec<ObjectKey>,
    /// Refusals of those that lie in an archive.
    archived: Vec<VaultError>,
    page: Option<(ObjectKey, FirstPage)>,
    branch: Option<Branch>,
}

/// Reads the chosen segments. `identities` are those that the vault's WAL keys
/// hold; `all_keys` tells that none of these keys is damaged or closed to us.
pub(super) async fn read(
    verify: &Verify<'_>,
    chosen: Vec<(Segment, Pieces)>,
    size: SegmentSize,
    histories: &BTreeMap<Timeline, History>,
    coverage: &Coverage,
    (identities, all_keys): (&[Identity], bool),
    report: &mut Report,
) -> Result<Looked, VaultError> {
    let mut looked = Looked::default();
    let mut unopened = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let at_once = usize::try_from(MEMORY / (3 * size.bytes())).unwrap_or(1).clamp(1, cores);
    let readings = futures::stream::iter(chosen)
        .map(|(segment, pieces)| async move {
            let is_branch = segment.timeline.0 > 1 && coverage.first(segment.timeline) == Some(segment);
            let fork = histories.get(&segment.timeline).and_then(|history| history.last()).map(|(_, fork)| *fork);
            let reading = Reading { verify, segment, size, identities };
            (segment, reading.segment(pieces, is_branch, fork).await)
        })
        .buffer_unordered(at_once);
    let mut readings = std::pin::pin!(readings);
    while let Some((segment, found)) = readings.next().await {
        let Segmented { defects, read, unopened: closed, archived, page, branch } = found?;
        if !defects.is_empty() {
            looked.damaged.insert(segment);
        } else if closed.is_empty() && archived.is_empty() {
            looked.sound.insert(segment);
        }
        report.defects.extend(defects);
        // One that could not be opened leaves the others with nothing to agree with.
        let look = if closed.is_empty() && archived.is_empty() { Look::Opened } else { Look::Compared };
        archived.into_iter().try_for_each(|error| report.unless_archived(error))?;
        for (kind, key, bytes) in read {
            report.was_read(kind, &key, bytes, look);
        }
        unopened.extend(closed);
        looked.pages.extend(page.map(|page| (segment, page)));
        looked.branches.extend(branch.map(|branch| (segment.timeline, branch)));
    }
    tell_unopened(unopened, all_keys, report);
    Ok(looked)
}

/// Objects that no opened key fits: the vault lacks their key, unless we lack it.
fn tell_unopened(mut unopened: Vec<ObjectKey>, all_keys: bool, report: &mut Report) {
    unopened.sort();
    let (Some(first), Some(last)) = (unopened.first(), unopened.last()) else { return };
    let count = unopened.len();
    if all_keys {
        let what = if count == 1 {
            "no key object of this vault opens it".to_owned()
        } else {
            format!("no key object of this vault opens it and {} more, up to `{last}`", count - 1)
        };
        report.defects.push(Defect::new(first, Fault::NoKey, what));
    } else {
        report.unchecked.push(format!(
            "{count} object(s) of WAL from `{first}` on: a key of theirs cannot be opened with what is at hand"
        ));
    }
}

/// Reads the objects of one segment.
struct Reading<'a> {
    verify: &'a Verify<'a>,
    segment: Segment,
    size: SegmentSize,
    identities: &'a [Identity],
}

impl Reading<'_> {
    /// `is_branch` where the segment is its timeline's first, `fork` where its
    /// history says that the timeline began.
    async fn segment(&self, pieces: Pieces, is_branch: bool, fork: Option<Lsn>) -> Result<Segmented, VaultError> {
        let mut found = Segmented::default();
        let mut image: Vec<u8> = Vec::new();
        if let Some(key) = &pieces.whole {
            image = self.piece(key, Kind::Wal, self.size.bytes(), &mut found).await?.unwrap_or_default();
            self.first_page(key, &image, &mut found);
            if !found.defects.is_empty() {
                // What is not the segment is nothing to compare its tails with.
                image.clear();
            }
        }
        let is_whole = !image.is_empty();
        for ((from, to), key) in &pieces.tails {
            let Some(piece) = self.piece(key, Kind::Tail, to - from, &mut found).await? else { continue };
            if *from == 0 {
                self.first_page(key, &piece, &mut found);
            }
            let at = usize::try_from(*from).unwrap_or(usize::MAX);
            let held = image.get(at..).unwrap_or_default();
            let overlap = held.len().min(piece.len());
            if held.get(..overlap) != piece.get(..overlap) {
                let with = if is_whole { "the whole segment" } else { "the tail before it" };
                found.defects.push(Defect::new(key, Fault::Disagrees, format!("it does not agree with {with}")));
            } else if at <= image.len() && overlap < piece.len() {
                image.extend_from_slice(piece.get(overlap..).unwrap_or_default());
            }
        }
        if let Some((_, first)) = found.page.as_ref().filter(|_| is_branch) {
            found.branch = Some(self.branch(&image, first, fork));
        }
        Ok(found)
    }

    /// The plain bytes of one object; none when it is not sound or cannot be opened.
    async fn piece(
        &self,
        key: &ObjectKey,
        kind: Kind,
        length: u64,
        found: &mut Segmented,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        if self.verify.stop.is_cancelled() {
            return Err(VaultError::Stopped);
        }
        let store = self.verify.store.as_ref();
        let mut bytes = 0;
        let read = match seal::read_all(store, key).await {
            Ok(stored) => {
                bytes = stored.len() as u64;
                self.verify.done.fetch_add(bytes, Ordering::Relaxed);
                seal::open(&store.place().vault, key, stored, true, self.identities).await
            }
            Err(error) => Err(error),
        };
        if let Err(error @ VaultError::Store(StoreError::Archived { .. })) = read {
            found.archived.push(error);
            return Ok(None);
        }
        // WAL has no signed digest: what was not opened was compared with nothing.
        if !matches!(read, Err(VaultError::NoIdentity { .. })) {
            found.read.push((kind, key.clone(), bytes));
        }
        match read {
            Ok(plain) if plain.len() as u64 == length => Ok(Some(plain)),
            Ok(plain) => {
                let what = format!("it holds {} bytes instead of {length}", plain.len());
                found.defects.push(Defect::new(key, Fault::ForeignWal, what));
                Ok(None)
            }
            Err(VaultError::NoIdentity { .. }) => {
                found.unopened.push(key.clone());
                Ok(None)
            }
            Err(error) => {
                found.defects.push(Defect::from_error(key, error)?);
                Ok(None)
            }
        }
    }

    /// Whose WAL is it, and of where? Its timeline is judged with the histories.
    fn first_page(&self, key: &ObjectKey, bytes: &[u8], found: &mut Segmented) {
        if bytes.is_empty() {
            return;
        }
        let mut foreign = |what: String| found.defects.push(Defect::new(key, Fault::ForeignWal, what));
        let Some(first) = FirstPage::read(bytes) else {
            foreign("it does not begin with a page of WAL".to_owned());
            return;
        };
        let (start, ours) = (self.segment.start(self.size), self.verify.layout.system_id());
        if first.system_id.to_string() != ours {
            foreign(format!("it is WAL of another cluster, with system id {} instead of {ours}", first.system_id));
        } else if u64::from(first.segment_size) != self.size.bytes() {
            let (found, wanted) = (first.segment_size, self.size.bytes());
            foreign(format!("it is of a cluster with segments of {found} bytes, and the manifests say {wanted}"));
        } else if first.address != start {
            foreign(format!("it is the WAL at {}, and its name says {start}", first.address));
        } else if found.page.is_none() {
            found.page = Some((key.clone(), first));
        }
    }

    fn branch(&self, image: &[u8], first: &FirstPage, fork: Option<Lsn>) -> Branch {
        let start = self.segment.start(self.size);
        let page_size = u64::from(first.page_size);
        let (mut last_before, mut first_own) = (None, None);
        for (address, timeline) in page::pages(image, start, usize::try_from(page_size).unwrap_or(usize::MAX)) {
            if timeline == self.segment.timeline {
                first_own = first_own.or(Some(address));
            } else if first_own.is_none() {
                last_before = Some((address, timeline));
            }
        }
        let begins_at_fork = fork.is_none_or(|fork| page::may_begin_timeline(image, start, fork, page_size));
        Branch { last_before, first_own, begins_at_fork }
    }
}

/// Holds the first pages' timelines against the histories that are believed. A
/// segment in which a timeline branched off begins with its parent's page.
pub(super) fn check_timelines(
    looked: &mut Looked,
    size: SegmentSize,
    histories: &BTreeMap<Timeline, History>,
    coverage: &Coverage,
    report: &mut Report,
) {
    for (segment, (key, first)) in &looked.pages {
        if coverage.first(segment.timeline) == Some(*segment) && segment.timeline.0 > 1 {
            continue; // That is how its history was judged.
        }
        let start = segment.start(size);
        let ancestors = histories.get(&segment.timeline).into_iter().flatten();
        let wanted =
            ancestors.into_iter().find(|(_, end)| start < *end).map_or(segment.timeline, |(parent, _)| *parent);
        if first.timeline != wanted {
            let what =
                format!("it begins with a page of timeline {}, and {start} is of timeline {wanted}", first.timeline);
            report.defects.push(Defect::new(key, Fault::ForeignWal, what));
            looked.sound.remove(segment);
            looked.damaged.insert(*segment);
        }
    }
}
