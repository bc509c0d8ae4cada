//! What the listing alone tells: objects that the signed manifests name and
//! that are not there, or of another size, or that nobody names; what was put
//! or deleted over ours; locks that end too early.

use std::{collections::BTreeSet, sync::Arc};

use futures::StreamExt;
use jiff::Timestamp;

use super::{
    Fault, Known, Verify,
    report::{Defect, Kind, Report},
};
use crate::vault::{Layout, ObjectKey, ObjectVersion, VaultError, WalName, signature_of};

/// Locks asked for at once.
const LOCKS_AT_ONCE: usize = 8;

/// The kind of an object of a backup, by its name in the backup.
pub(super) fn kind_in_backup(name: &str) -> Kind {
    match name.split('/').next().unwrap_or_default() {
        "data" => Kind::Part,
        "keys" => Kind::Key,
        "manifest.json" | "manifest.json.sig" => Kind::Manifest,
        _ => Kind::BackupFile,
    }
}

/// Compares the objects of one backup with its manifest. Answers the names of
/// those that are there and have their size.
pub(super) fn check_backup(
    verify: &Verify<'_>,
    listing: &crate::vault::Listing,
    known: &Known,
    report: &mut Report,
) -> Result<BTreeSet<String>, VaultError> {
    let (layout, manifest) = (verify.layout, &known.manifest);
    let backup = &manifest.backup;
    let mut there = BTreeSet::new();
    let mut named: BTreeSet<ObjectKey> = [layout.manifest(backup), signature_of(&layout.manifest(backup))].into();
    for record in &manifest.objects {
        let key = layout.backup_object(backup, &record.name)?;
        match listing.size_of(&key) {
            None => report.defects.push(Defect::new(&key, Fault::Missing, "it is missing").of(backup)),
            Some(size) if size != record.stored_size => {
                let what = format!("it is {size} bytes instead of {}", record.stored_size);
                report.defects.push(Defect::new(&key, Fault::Size, what).of(backup));
            }
            Some(_) => {
                there.insert(record.name.clone());
            }
        }
        named.insert(key);
    }
    let prefix = layout.backup_prefix(backup);
    for key in listing.under(&prefix) {
        let name = key.as_str().strip_prefix(&prefix).unwrap_or_default();
        report.tally(kind_in_backup(name)).listed += 1;
        if !named.contains(key) && !is_key_object(name) {
            let what = "the backup's signed manifest does not name it";
            report.defects.push(Defect::new(key, Fault::Extra, what).of(backup));
        }
    }
    Ok(there)
}

/// Key objects are added by rotations, and authenticated by what they open.
fn is_key_object(name: &str) -> bool {
    let number = name.strip_prefix("keys/").and_then(|name| name.strip_suffix(".age"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Objects under `wal/` that are not WAL: nobody reads them.
pub(super) fn check_wal(layout: &Layout, key: &ObjectKey, size: crate::domain::SegmentSize, report: &mut Report) {
    if key.as_str().starts_with(&layout.wal_keys_prefix()) {
        report.tally(Kind::Key).listed += 1;
        return;
    }
    match WalName::parse(layout, key, size) {
        Some(WalName::Whole(_)) => report.tally(Kind::Wal).listed += 1,
        Some(WalName::Tail { .. }) => report.tally(Kind::Tail).listed += 1,
        Some(WalName::History(_)) => report.tally(Kind::History).listed += 1,
        None => {
            let what = format!("it is not named like WAL of {} bytes a segment", size.bytes());
            report.defects.push(Defect::new(key, Fault::Extra, what));
        }
    }
}

/// What was put or deleted over an object of ours, which is the first version.
pub(super) fn check_versions(versions: &[ObjectVersion], report: &mut Report) {
    for of_one in versions.chunk_by(|one, next| one.key == next.key) {
        let Some(first) = of_one.first() else { continue };
        let later = of_one.iter().skip(1).filter(|version| !version.is_delete_marker).count();
        let markers = of_one.iter().skip(1).filter(|version| version.is_delete_marker).count();
        if later > 0 {
            let what = format!("{later} later version{} put over it", if later == 1 { " was" } else { "s were" });
            report.defects.push(Defect::new(&first.key, Fault::LaterVersion, what));
        }
        if markers > 0 {
            report.defects.push(Defect::new(&first.key, Fault::DeleteMarker, "a delete marker hides it"));
        }
    }
}

/// Until when an object must be locked at least; none when it need not be.
pub type LockUntil<'a> = dyn Fn(&ObjectKey) -> Option<Timestamp> + Send + Sync + 'a;

/// Asks for the lock of every object that must have one.
pub(super) async fn check_locks(
    verify: &Verify<'_>,
    listing: &crate::vault::Listing,
    report: &mut Report,
) -> Result<(), VaultError> {
    let (Some(_), Some(lock_until)) = (verify.store.locks(), verify.lock_until) else { return Ok(()) };
    report.seen.are_locks_judged = true;
    let wanted: Vec<(ObjectKey, Timestamp)> =
        listing.keys().filter_map(|key| Some((key.clone(), lock_until(key)?))).collect();
    let looks = futures::stream::iter(wanted)
        .map(|(key, wanted)| {
            let store = Arc::clone(verify.store);
            async move {
                let found = match store.locks() {
                    Some(locks) => locks.locked_until(&key).await,
                    None => Ok(None),
                };
                (key, wanted, found)
            }
        })
        .buffer_unordered(LOCKS_AT_ONCE);
    let mut looks = std::pin::pin!(looks);
    while let Some((key, wanted, found)) = looks.next().await {
        if verify.stop.is_cancelled() {
            return Err(VaultError::Stopped);
        }
        let what = match found? {
            Some(until) if until >= wanted => continue,
            Some(until) => format!("it is locked until {until} only, and must be until {wanted}"),
            None => format!("it is not locked, and must be until {wanted}"),
        };
        report.defects.push(Defect::new(key, Fault::Lock, what));
    }
    Ok(())
}
