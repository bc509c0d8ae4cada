//! Reads the objects of backups: every stored byte against the signed manifest,
//! and what is sealed through the code that restores it. One that is read is
//! never in memory as a whole, unless it is small.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use age::x25519::Identity;
use futures::StreamExt;

use super::{
    Inspection, Known, Verify, names,
    report::{Defect, Kind, Report},
    truth,
};
use crate::vault::{
    ObjectKey, ObjectRecord, VaultError,
    fetch::key_objects,
    keys,
    part::{Destination, Part},
    seal,
};

/// What the key objects under a prefix gave.
pub(super) struct Opened {
    pub(super) identities: Vec<Identity>,
    /// Whether none of them is damaged or closed to the identities at hand.
    pub(super) is_complete: bool,
    /// Names of those that were opened.
    pub(super) sound: BTreeSet<ObjectKey>,
}

impl Opened {
    /// Where nothing is to be opened.
    pub(super) const fn none() -> Self {
        Self { identities: Vec::new(), is_complete: true, sound: BTreeSet::new() }
    }
}

/// Opens every key object under a prefix on its own; what is damaged is told.
pub(super) async fn open_keys(verify: &Verify<'_>, prefix: &str, report: &mut Report) -> Result<Opened, VaultError> {
    let mut opened = Opened::none();
    for key in key_objects(std::slice::from_ref(verify.store), prefix).await? {
        if verify.stop.is_cancelled() {
            return Err(VaultError::Stopped);
        }
        let read = match seal::read_all(verify.store.as_ref(), &key).await {
            Ok(stored) => {
                report.was_read(Kind::Key, &key, stored.len() as u64);
                seal::open(&verify.store.place().vault, &key, stored, false, verify.identities).await
            }
            Err(error) => Err(error),
        };
        match read.and_then(|text| keys::identities_from(&String::from_utf8_lossy(&text))) {
            Ok(identities) => {
                opened.identities.extend(identities);
                opened.sound.insert(key);
            }
            Err(error) => {
                opened.is_complete = false;
                match Defect::from_error(&key, error) {
                    Ok(defect) => report.defects.push(defect),
                    Err(error) if verify.identities.is_empty() => drop(error),
                    Err(error) => report.unchecked.push(error.to_string()),
                }
            }
        }
    }
    Ok(opened)
}

/// Reads what this run reads of all backups.
pub(super) async fn read(verify: &Verify<'_>, known: &mut [Known], report: &mut Report) -> Result<(), VaultError> {
    let Some(turn) = verify.depth.turn() else { return Ok(()) };
    let mut work = Vec::new();
    for (nth, of) in known.iter_mut().enumerate() {
        let backup = of.manifest.backup.clone();
        let before = report.defects.len();
        let opened = open_keys(verify, &format!("{}keys/", verify.layout.backup_prefix(&backup)), report).await?;
        let prefix = verify.layout.backup_prefix(&backup);
        for defect in report.defects.iter_mut().skip(before) {
            defect.backup = Some(backup.clone());
            of.damaged.extend(defect.object.strip_prefix(&prefix).map(str::to_owned));
        }
        let identities = Arc::new(opened.identities);
        let inspection = Arc::new(Inspection::default());
        let mut closed = 0;
        for (record, place) in of.manifest.objects.iter().zip(&of.places) {
            let is_key = names::kind_in_backup(&record.name) == Kind::Key;
            if !of.there.contains(&record.name) || !(is_key || turn.takes(*place)) {
                continue;
            }
            let key = verify.layout.backup_object(&backup, &record.name)?;
            if is_key && !opened.sound.contains(&key) {
                continue;
            }
            let is_closed = record.is_sealed() && !is_key && identities.is_empty();
            closed += usize::from(is_closed);
            let into = if record.is_sealed() && !is_key && !is_closed {
                Destination::Inspection(Arc::clone(&inspection))
            } else {
                Destination::Digest
            };
            let part = Part {
                key,
                record: record.clone(),
                identities: Arc::clone(&identities),
                into,
                done: Arc::clone(&verify.done),
                stop: verify.stop.clone(),
            };
            work.push(Work { nth, part, is_closed });
        }
        if closed > 0 {
            report.unchecked.push(format!(
                "{closed} object(s) of backup `{backup}` were compared by their digests and not opened: no key of theirs can be opened with what is at hand"
            ));
        }
        of.inspection = inspection;
    }
    take(verify, work, known, report).await?;
    for of in known.iter_mut() {
        of.lies.extend(of.inspection.contradictions(&of.manifest));
    }
    Ok(())
}

/// One object to be read.
struct Work {
    nth: usize,
    part: Part,
    is_closed: bool,
}

/// Reads as many at once as there are cores. After the first error that ends the
/// run all that began is awaited.
async fn take(
    verify: &Verify<'_>,
    work: Vec<Work>,
    known: &mut [Known],
    report: &mut Report,
) -> Result<(), VaultError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let readings = futures::stream::iter(work)
        .map(|work| async move {
            let shown =
                if verify.stop.is_cancelled() { Err(VaultError::Stopped) } else { work.part.shown(verify.store).await };
            verify.done.fetch_add(work.part.record.stored_size, Ordering::Relaxed);
            (work, shown)
        })
        .buffer_unordered(cores);
    let mut readings = std::pin::pin!(readings);
    let mut ended = None;
    while let Some((Work { nth, part, is_closed }, shown)) = readings.next().await {
        let Some(of) = known.get_mut(nth) else { continue };
        let ObjectRecord { name, stored_size, .. } = &part.record;
        match shown {
            Ok(()) => {
                let kind = names::kind_in_backup(name);
                if kind != Kind::Key {
                    report.was_read(kind, &part.key, *stored_size);
                }
                if name == "backup_manifest" {
                    against_server(verify, of, &part.key).await?;
                }
                if !is_closed {
                    of.sound.insert(name.clone());
                }
            }
            Err(error @ (VaultError::Stopped | VaultError::Pipeline)) => ended = Some(error),
            Err(error @ VaultError::NoIdentity { .. }) => report.unchecked.push(error.to_string()),
            Err(error) => {
                let mut defect = Defect::from_error(&part.key, error)?.of(&of.manifest.backup);
                if part.is_kept(verify.store).await.unwrap_or(false) {
                    defect.what.push_str(" (another version of it is sound, and a restore takes that)");
                }
                report.was_read(names::kind_in_backup(name), &part.key, *stored_size);
                report.defects.push(defect);
                of.damaged.insert(name.clone());
            }
        }
    }
    ended.map_or(Ok(()), Err)
}

/// PostgreSQL's own manifest, whose digest is right, against ours.
async fn against_server(verify: &Verify<'_>, of: &mut Known, key: &ObjectKey) -> Result<(), VaultError> {
    let json = seal::read_all(verify.store.as_ref(), key).await?;
    match truth::against_server(&of.manifest, &json) {
        Ok(lies) => of.lies.extend(lies),
        Err(error) => of.lies.push(format!("the `backup_manifest` that it names cannot be read: {error}")),
    }
    Ok(())
}
