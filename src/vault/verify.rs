//! Verifies what a vault holds of one database: names against the signed
//! manifests, stored bytes against their digests, content by the code that
//! restores it, and WAL without a gap from each backup's start to the newest
//! position. It reads and never writes; what it could not look at it says.
//!
//! Evidence is verified by `lifeboat evidence verify`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use age::x25519::Identity;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Found, Layout, Listing, Manifest, ObjectKey, ObjectRecord, SharedStore, VaultError, WalName, catalog,
    signature::Verifier, signature_of, stat, verification,
};
use crate::{
    decide::{
        recovery::{Candidate, Facts, gaps},
        sample::{self, Rotation, Turn},
    },
    domain::{BackupId, Lsn, Segment},
};

mod content;
mod documents;
mod fault;
mod gap;
mod history;
mod inspection;
mod ledger;
mod names;
mod page;
mod report;
mod truth;
mod wal;

pub use fault::Fault;
pub(super) use inspection::Inspection;
pub use names::LockUntil;
pub use report::{Defect, Kind, Look, Report, Tally};

/// Whether a segment of WAL that no backup needs for itself must be there.
pub type Retained<'a> = dyn Fn(Segment) -> gaps::Need + Send + Sync + 'a;

/// How much is read.
#[derive(Debug, Clone)]
pub enum Depth {
    /// Names, sizes, versions, locks, manifests and other signed documents.
    Quick,
    /// That, and the share of the content whose turn it is. `name` is what the
    /// rotation belongs to, `at` when the run was due.
    Sample { rotation: Rotation, name: String, at: Timestamp },
    /// Everything.
    Full,
}

impl Depth {
    /// The turn of this run; none where no content is read.
    fn turn(&self) -> Option<Turn> {
        match self {
            Self::Quick => None,
            Self::Sample { rotation, name, at } => Some(rotation.turn(name, *at)),
            Self::Full => Some(Turn::ALL),
        }
    }

    /// The turn that reads the first share of a backup that ended then.
    fn first_turn(&self, finished_at: Timestamp) -> Turn {
        match self {
            Self::Sample { rotation, name, .. } => {
                let turn = rotation.turn(name, finished_at);
                Turn { number: turn.number + 1, ..turn }
            }
            Self::Quick | Self::Full => Turn::ALL,
        }
    }
}

/// What is verified, with what.
pub struct Verify<'a> {
    pub store: &'a SharedStore,
    pub layout: &'a Layout,
    pub verifier: &'a Verifier,
    /// Without any, digests are compared and nothing is opened.
    pub identities: &'a [Identity],
    pub depth: Depth,
    /// Other vaults, whose history files must be the same.
    pub others: &'a [SharedStore],
    /// Until when objects must be locked, where the store locks.
    pub lock_until: Option<&'a LockUntil<'a>>,
    /// What retention keeps: of WAL that is missing and may have expired is told,
    /// and it is no defect.
    pub retained: &'a Retained<'a>,
    pub now: Timestamp,
    pub stop: &'a CancellationToken,
    /// Stored bytes read so far, for progress.
    pub done: Arc<AtomicU64>,
}

/// Tells how far it is: what, bytes done, bytes in all.
pub type Say<'a> = dyn Fn(&str, Option<u64>, Option<u64>) + Send + Sync + 'a;

/// A backup with a valid signature, on its way through the verification.
struct Known {
    manifest: Manifest,
    /// Of the signed bytes.
    sha256: String,
    /// Objects that are there with their size.
    there: BTreeSet<String>,
    /// Each object's place in the rotation.
    places: Vec<u64>,
    sound: BTreeSet<String>,
    damaged: BTreeSet<String>,
    /// What of its manifest is not true.
    lies: Vec<String>,
    /// The backup that it builds upon; none where that is not here.
    parent: Option<Parent>,
}

/// What a backup is held against of the one that it builds upon.
#[derive(Clone)]
struct Parent {
    backup: BackupId,
    start: Lsn,
    /// Its `backup_manifest`.
    own: Option<ObjectRecord>,
}

/// Verifies one history. Errors are those that end it: the listing cannot be
/// had, or it was stopped; everything else is in the report.
pub async fn verify(verify: &Verify<'_>, say: &Say<'_>) -> Result<Report, VaultError> {
    say("listing", None, None);
    let prefix = verify.layout.prefix();
    let versions = verify.store.versions(&prefix).await?;
    let listing = Listing::settled(&versions, Listing::take(verify.store.as_ref(), verify.layout).await?);
    let mut report = Report {
        database: verify.layout.database().clone(),
        vault: verify.store.place().vault.clone(),
        system_id: verify.layout.system_id().to_owned(),
        incarnation: verify.layout.incarnation(),
        objects: BTreeMap::new(),
        backups: Vec::new(),
        defects: Vec::new(),
        unchecked: Vec::new(),
        notes: Vec::new(),
        histories: BTreeMap::new(),
        read: BTreeMap::new(),
        seen: report::Seen::default(),
        archived: BTreeMap::new(),
    };
    let mut known = backups(verify, &listing, &mut report).await?;
    names::check_versions(&versions, &mut report);
    names::check_locks(verify, &listing, &mut report).await?;
    let remembered = documents::check(verify, &listing, &known, &mut report).await?;
    if verify.identities.is_empty() && verify.depth.turn().is_some() {
        report.unchecked.push("no age identity is at hand, so nothing was decrypted".to_owned());
    }
    let total = verify.depth.turn().map(|turn| listing.stored_bytes() / turn.of.max(1));
    {
        let mut reading = std::pin::pin!(read_all(verify, &listing, &remembered, &mut known, &mut report));
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                read = &mut reading => break read?,
                _ = ticks.tick() => say("read", Some(verify.done.load(Ordering::Relaxed)), total),
            }
        }
    }
    forgive_vanished(verify, &listing, &known, &mut report).await?;
    conclude(verify, known, &mut report);
    Ok(report)
}

/// Reads every manifest and checks what it names against the listing.
async fn backups(verify: &Verify<'_>, listing: &Listing, report: &mut Report) -> Result<Vec<Known>, VaultError> {
    let prefix = format!("{}backups/", verify.layout.prefix());
    let mut ids: Vec<BackupId> = listing
        .under(&prefix)
        .filter_map(|key| key.as_str().strip_prefix(&prefix)?.split('/').next()?.parse().ok())
        .collect();
    ids.dedup();
    report.seen.backups.extend(ids.iter().cloned());
    let mut known = Vec::new();
    for backup in ids {
        let key = verify.layout.manifest(&backup);
        if !listing.holds(&key) {
            // An upload that goes on, or was left; but its signature is written last but one.
            let is_signed = listing.holds(&signature_of(&key));
            if is_signed && stat(verify.store.as_ref(), &key).await?.is_none() {
                report.defects.push(Defect::new(&key, Fault::Missing, "it is missing").of(&backup));
            }
            continue;
        }
        if !listing.holds(&signature_of(&key)) {
            report.defects.push(Defect::new(signature_of(&key), Fault::Missing, "it is missing").of(&backup));
            continue;
        }
        match catalog::signed_manifest(verify.layout, verify.store.as_ref(), verify.verifier, &backup).await {
            Ok((manifest, sha256)) => {
                for key in [&key, &signature_of(&key)] {
                    report.was_read(Kind::Manifest, key, listing.size_of(key).unwrap_or_default(), Look::Compared);
                }
                let sizes: Vec<u64> = manifest.objects.iter().map(|object| object.stored_size).collect();
                let places = sample::places_in_backup(verify.depth.first_turn(manifest.finished_at), &sizes);
                let mut one = Known {
                    lies: truth::contradictions(&manifest),
                    manifest,
                    sha256,
                    there: BTreeSet::new(),
                    places,
                    sound: BTreeSet::new(),
                    damaged: BTreeSet::new(),
                    parent: None,
                };
                one.there = names::check_backup(verify, listing, &one, report)?;
                let names = one.manifest.objects.iter().map(|object| object.name.clone());
                one.damaged = names.filter(|name| !one.there.contains(name)).collect();
                known.push(one);
            }
            Err(VaultError::Damaged { what, .. }) => {
                report.defects.push(Defect::new(&key, Fault::LyingManifest, what).of(&backup));
            }
            Err(error @ VaultError::Format { .. }) => report.unchecked.push(error.to_string()),
            Err(error) => {
                if let Err(error) = report.unless_archived(error) {
                    report.defects.push(Defect::from_error(&key, error)?.of(&backup));
                }
            }
        }
    }
    find_parents(verify, &mut known, report);
    Ok(known)
}

/// A backup whose parent is not here cannot be restored from here.
fn find_parents(verify: &Verify<'_>, known: &mut [Known], report: &mut Report) {
    let parent_of = |of: &Known| {
        let Manifest { backup, start_lsn, .. } = &of.manifest;
        Parent { backup: backup.clone(), start: *start_lsn, own: of.manifest.server_manifest().cloned() }
    };
    let parents: BTreeMap<BackupId, Parent> =
        known.iter().map(|of| (of.manifest.backup.clone(), parent_of(of))).collect();
    for of in known {
        let Some(parent) = &of.manifest.parent else { continue };
        of.parent = parents.get(parent).cloned();
        if of.parent.is_none() {
            let what = format!("it builds upon backup `{parent}`, which is no sound backup here");
            let key = verify.layout.manifest(&of.manifest.backup);
            report.defects.push(Defect::new(key, Fault::Missing, what).of(&of.manifest.backup));
        }
    }
}

/// Reads content, history files and heartbeats, and accounts for the WAL.
async fn read_all(
    verify: &Verify<'_>,
    listing: &Listing,
    remembered: &documents::Remembered,
    known: &mut [Known],
    report: &mut Report,
) -> Result<(), VaultError> {
    content::read(verify, known, report).await?;
    let beats = ledger::read(verify, listing, report).await?;
    let Some(size) = known.last().map(|of| of.manifest.segment_size) else {
        report.unchecked.push("no backup tells how long WAL segments are, so WAL was not looked at".to_owned());
        return Ok(());
    };
    for key in listing.under(&format!("{}wal/", verify.layout.prefix())) {
        names::check_wal(verify.layout, key, size, report);
    }
    let coverage = listing.coverage_by_name(size);
    let mut histories = history::Histories::read(verify, listing, report).await?;
    let chosen = wal::chosen(verify, wal::segments(verify.layout, listing, size), &coverage);
    let keys = if chosen.is_empty() {
        content::Opened::none()
    } else {
        content::open_keys(verify, &verify.layout.wal_keys_prefix(), report).await?
    };
    let keys = (keys.identities.as_slice(), keys.is_complete);
    let mut looked = wal::read(verify, chosen, size, &histories.known, &coverage, keys, report).await?;
    histories.check_wal(&coverage, size, &looked.branches);
    histories.check_others(verify).await?;
    histories.check_remembered(remembered);
    histories.tell_judged(&coverage, &looked.branches, report);
    report.histories = histories.believed();
    let believed = histories.settle(verify, &coverage, size, report);
    wal::check_timelines(&mut looked, size, &believed, &coverage, report);
    note_wal(known, &looked);
    ledger::check_tip(&beats, &coverage, size, verify, report);
    let backups = known.iter().filter(|of| of.lies.is_empty()).map(candidate).collect();
    let facts = Facts { backups, coverage, histories: believed, segment_size: size, not_after: None };
    gap::account(verify, &facts, &beats, report);
    report.seen.is_wal_accounted = true;
    Ok(())
}

fn candidate(of: &Known) -> Candidate {
    let manifest = &of.manifest;
    Candidate {
        id: manifest.backup.clone(),
        timeline: manifest.timeline,
        start_lsn: manifest.start_lsn,
        stop_lsn: manifest.stop_lsn,
        finished_at: manifest.finished_at,
        parent: manifest.parent.clone(),
    }
}

/// Notes which of the WAL that each backup needs was read.
fn note_wal(known: &mut [Known], looked: &wal::Looked) {
    for of in known {
        let size = of.manifest.segment_size;
        let is_needed = |segment: &&Segment| {
            segment.timeline == of.manifest.timeline
                && segment.start(size) < of.manifest.stop_lsn
                && segment.end(size) > of.manifest.start_lsn
        };
        let name = |segment: &Segment| verification::wal_name(*segment, &of.manifest);
        let sound: Vec<String> = looked.sound.iter().filter(is_needed).map(name).collect();
        let damaged: Vec<String> = looked.damaged.iter().filter(is_needed).map(name).collect();
        of.sound.extend(sound);
        of.damaged.extend(damaged);
    }
}

/// What was listed and is gone now may have been expired or superseded while we
/// read: that is no defect.
async fn forgive_vanished(
    verify: &Verify<'_>,
    listing: &Listing,
    known: &[Known],
    report: &mut Report,
) -> Result<(), VaultError> {
    let was_listed = |defect: &Defect| {
        defect.fault == Fault::Missing && ObjectKey::new(defect.object.clone()).is_ok_and(|key| listing.holds(&key))
    };
    if !report.defects.iter().any(was_listed) {
        return Ok(());
    }
    let now = Listing::take(verify.store.as_ref(), verify.layout).await?;
    let kept: Vec<&Known> = known.iter().filter(|of| now.holds(&verify.layout.manifest(&of.manifest.backup))).collect();
    let Some(size) = known.last().map(|of| of.manifest.segment_size) else { return Ok(()) };
    let oldest = kept.iter().map(|of| size.floor(of.manifest.start_lsn)).min();
    report.defects.retain(|defect| {
        if !was_listed(defect) {
            return true;
        }
        let Ok(key) = ObjectKey::new(defect.object.clone()) else { return true };
        let wal = WalName::parse(verify.layout, &key, size);
        match (wal, &defect.backup) {
            (Some(WalName::Tail { segment, .. }), _) => !now.holds(&verify.layout.segment(segment, size)),
            (Some(WalName::Whole(segment)), _) => oldest.is_some_and(|oldest| segment.end(size) > oldest),
            (_, Some(backup)) => kept.iter().any(|of| of.manifest.backup == *backup),
            (_, None) => !key.as_str().starts_with(&verify.layout.heartbeats_prefix()),
        }
    });
    Ok(())
}

/// One defect per manifest that is not true, what was found of each backup, and order.
fn conclude(verify: &Verify<'_>, known: Vec<Known>, report: &mut Report) {
    for of in known {
        let Known { manifest, sha256, mut sound, mut damaged, lies, .. } = of;
        if !lies.is_empty() {
            let what = format!("it is validly signed and not true: {}", lies.join("; "));
            let key = verify.layout.manifest(&manifest.backup);
            report.defects.push(Defect::new(key, Fault::LyingManifest, what).of(&manifest.backup));
            damaged.insert("manifest.json".to_owned());
        } else if manifest.objects.iter().all(|object| sound.contains(&object.name)) {
            // Only then is nothing left that could contradict it.
            report.looked_at(&verify.layout.manifest(&manifest.backup), Look::Opened);
            sound.insert("manifest.json".to_owned());
        }
        sound.retain(|name| !damaged.contains(name));
        let histories = report.histories.clone();
        let needed_wal = verification::needed_wal(&manifest).collect();
        let (backup, manifest_sha256) = (manifest.backup, sha256);
        let is_wal_read_back = false;
        report.backups.push(Found { backup, manifest_sha256, sound, damaged, histories, needed_wal, is_wal_read_back });
    }
    report.tell_archived();
    report.defects.sort();
    report.defects.dedup();
    report.unchecked.dedup();
}
