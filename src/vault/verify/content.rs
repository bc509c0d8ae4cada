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
    report::{Defect, Kind, Look, Report},
    truth,
};
use crate::{
    domain::BackupKind,
    vault::{
        ObjectKey, ObjectRecord, StoreError, VaultError,
        fetch::key_objects,
        keys,
        parent::SERVER_MANIFEST,
        part::{Destination, Part},
        seal,
        server::{ServerFiles, ServerManifest},
    },
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
        let mut bytes = 0;
        let read = match seal::read_all(verify.store.as_ref(), &key).await {
            Ok(stored) => {
                bytes = stored.len() as u64;
                seal::open(&verify.store.place().vault, &key, stored, false, verify.identities).await
            }
            Err(error) => Err(error),
        };
        match read.and_then(|text| keys::identities_from(&String::from_utf8_lossy(&text))) {
            Ok(identities) => {
                report.was_read(Kind::Key, &key, bytes, Look::Opened);
                opened.identities.extend(identities);
                opened.sound.insert(key);
            }
            Err(error) => {
                opened.is_complete = false;
                let Err(error) = report.unless_archived(error) else { continue };
                match Defect::from_error(&key, error) {
                    Ok(defect) => {
                        report.was_read(Kind::Key, &key, bytes, Look::Opened);
                        report.defects.push(defect);
                    }
                    Err(error) if verify.identities.is_empty() => drop(error),
                    Err(error) => report.unchecked.push(error.to_string()),
                }
            }
        }
    }
    Ok(opened)
}

/// Reads what this run reads of all backups, one after another: PostgreSQL's own
/// manifest of one is in memory while its parts are held against it.
pub(super) async fn read(verify: &Verify<'_>, known: &mut [Known], report: &mut Report) -> Result<(), VaultError> {
    let Some(turn) = verify.depth.turn() else { return Ok(()) };
    for of in known {
        let opened = open_backup_keys(verify, of, report).await?;
        let mut chosen = Vec::new();
        for (record, place) in of.manifest.objects.iter().zip(&of.places) {
            let is_key = names::kind_in_backup(&record.name) == Kind::Key;
            if of.there.contains(&record.name) && !of.damaged.contains(&record.name) && (is_key || turn.takes(*place)) {
                chosen.push(record.clone());
            }
        }
        one(verify, of, chosen, opened, report).await?;
    }
    Ok(())
}

/// Opens the keys of a backup.
async fn open_backup_keys(verify: &Verify<'_>, of: &mut Known, report: &mut Report) -> Result<Opened, VaultError> {
    let backup = of.manifest.backup.clone();
    let before = report.defects.len();
    let prefix = verify.layout.backup_prefix(&backup);
    let opened = open_keys(verify, &format!("{prefix}keys/"), report).await?;
    for defect in report.defects.iter_mut().skip(before) {
        defect.backup = Some(backup.clone());
        of.damaged.extend(defect.object.strip_prefix(&prefix).map(str::to_owned));
    }
    Ok(opened)
}

/// Reads the chosen objects of one backup, and PostgreSQL's own manifest where a
/// part is to be held against it.
async fn one(
    verify: &Verify<'_>,
    of: &mut Known,
    mut chosen: Vec<ObjectRecord>,
    mut opened: Opened,
    report: &mut Report,
) -> Result<(), VaultError> {
    let is_own = |record: &ObjectRecord| record.name == SERVER_MANIFEST;
    let has_parts = !opened.identities.is_empty() && chosen.iter().any(ObjectRecord::is_part);
    let own = of.manifest.objects.iter().find(|record| is_own(record) && of.there.contains(&record.name)).cloned();
    let own = own.filter(|own| has_parts || chosen.contains(own));
    chosen.retain(|record| !is_own(record));
    let identities = Arc::new(std::mem::take(&mut opened.identities));
    let mut reading = Reading { verify, opened, identities, inspection: Arc::new(Inspection::new(None, None)) };
    reading.take(own.into_iter().collect(), of, report).await?;
    let files = if of.sound.contains(SERVER_MANIFEST) { server_files(verify, of).await? } else { None };
    if has_parts && files.is_none() {
        report.unchecked.push(format!(
            "the files in the parts of backup `{}` were not held against its `backup_manifest`, which cannot be had",
            of.manifest.backup
        ));
    }
    let base = if files.is_some() { base_files(verify, of).await? } else { None };
    let has_all = base.is_some() || of.manifest.kind != BackupKind::Differential;
    reading.inspection = Arc::new(Inspection::new(files, base));
    reading.take(chosen, of, report).await?;
    of.lies.extend(reading.inspection.contradictions(&of.manifest, of.parent.as_ref().map(|parent| parent.start)));
    if of.manifest.parts().all(|part| of.sound.contains(&part.name)) {
        if has_all {
            of.lies.extend(reading.inspection.left_out());
        } else {
            report.unchecked.push(format!(
                "whether backup `{}` and what it builds upon hold all files was not looked at: the `backup_manifest` of the other cannot be had",
                of.manifest.backup
            ));
        }
    }
    Ok(())
}

/// How the objects of one backup are read.
struct Reading<'a> {
    verify: &'a Verify<'a>,
    opened: Opened,
    identities: Arc<Vec<Identity>>,
    inspection: Arc<Inspection>,
}

impl Reading<'_> {
    /// Reads as many at once as there are cores. After the first error that ends
    /// the run all that began is awaited.
    async fn take(&self, chosen: Vec<ObjectRecord>, of: &mut Known, report: &mut Report) -> Result<(), VaultError> {
        let verify = self.verify;
        let (mut work, mut closed) = (Vec::new(), 0);
        for record in chosen {
            work.push(self.work(of, record)?);
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let readings = futures::stream::iter(work)
            .map(|work| async move {
                let stopped = verify.stop.is_cancelled();
                let shown = if stopped { Err(VaultError::Stopped) } else { work.part.shown(verify.store).await };
                verify.done.fetch_add(work.part.record.stored_size, Ordering::Relaxed);
                (work, shown)
            })
            .buffer_unordered(cores);
        let mut readings = std::pin::pin!(readings);
        let mut ended = None;
        while let Some((work, shown)) = readings.next().await {
            let record = &work.part.record;
            let is_key = names::kind_in_backup(&record.name) == Kind::Key;
            // What lies in an archive was not even compared.
            let is_compared = !matches!(shown, Err(VaultError::Store(StoreError::Archived { .. })));
            closed += usize::from(record.is_sealed() && !is_key && self.identities.is_empty() && is_compared);
            match shown {
                Err(error @ (VaultError::Stopped | VaultError::Pipeline)) => ended = Some(error),
                shown => judge(verify, of, &work, shown, report).await?,
            }
        }
        if closed > 0 {
            let backup = &of.manifest.backup;
            report.unchecked.push(format!(
                "{closed} object(s) of backup `{backup}` were compared by their digests and not opened: no key of theirs can be opened with what is at hand"
            ));
        }
        ended.map_or(Ok(()), Err)
    }

    fn work(&self, of: &Known, record: ObjectRecord) -> Result<Work, VaultError> {
        let key = self.verify.layout.backup_object(&of.manifest.backup, &record.name)?;
        let is_key = names::kind_in_backup(&record.name) == Kind::Key;
        // A key is opened before all else; here its stored bytes are compared.
        let is_closed =
            record.is_sealed() && if is_key { !self.opened.sound.contains(&key) } else { self.identities.is_empty() };
        let is_alone = record.is_part() && !self.inspection.has_files();
        let look = if is_closed || is_alone { Look::Compared } else { Look::Opened };
        let into = if record.is_sealed() && !is_key && !is_closed {
            Destination::Inspection(Arc::clone(&self.inspection))
        } else {
            Destination::Digest
        };
        let part = Part {
            key,
            record,
            identities: Arc::clone(&self.identities),
            into,
            done: Arc::clone(&self.verify.done),
            stop: self.verify.stop.clone(),
        };
        Ok(Work { part, look })
    }
}

/// One object to be read.
struct Work {
    part: Part,
    look: Look,
}

/// Notes what became of one object.
async fn judge(
    verify: &Verify<'_>,
    of: &mut Known,
    Work { part, look }: &Work,
    shown: Result<(), VaultError>,
    report: &mut Report,
) -> Result<(), VaultError> {
    let ObjectRecord { name, stored_size, .. } = &part.record;
    let kind = names::kind_in_backup(name);
    match shown {
        Ok(()) => {
            if kind == Kind::Key && *look == Look::Opened {
                report.looked_at(&part.key, *look);
            } else {
                report.was_read(kind, &part.key, *stored_size, *look);
            }
            if *look == Look::Opened {
                of.sound.insert(name.clone());
            }
        }
        Err(error @ VaultError::NoIdentity { .. }) => report.unchecked.push(error.to_string()),
        Err(error) => {
            let Err(error) = report.unless_archived(error) else { return Ok(()) };
            let mut defect = Defect::from_error(&part.key, error)?.of(&of.manifest.backup);
            if part.is_kept(verify.store).await.unwrap_or(false) {
                defect.what.push_str(" (another version of it is sound, and a restore takes that)");
            }
            report.was_read(kind, &part.key, *stored_size, Look::Opened);
            report.defects.push(defect);
            of.damaged.insert(name.clone());
        }
    }
    Ok(())
}

/// The files that PostgreSQL's own manifest names, whose digest is right; what
/// it says otherwise than ours is noted.
async fn server_files(verify: &Verify<'_>, of: &mut Known) -> Result<Option<ServerFiles>, VaultError> {
    let key = verify.layout.backup_object(&of.manifest.backup, SERVER_MANIFEST)?;
    let json = seal::read_all(verify.store.as_ref(), &key).await?;
    match ServerManifest::read(&json) {
        Ok(server) => {
            of.lies.extend(truth::against_server(&of.manifest, &server));
            Ok(Some(server.files))
        }
        Err(error) => {
            of.lies.push(format!("the `backup_manifest` that it names cannot be believed: {error}"));
            Ok(None)
        }
    }
}

/// Of a differential the files of the backup that it is laid over. What is wrong
/// with that one is told where it is verified itself.
async fn base_files(verify: &Verify<'_>, of: &Known) -> Result<Option<ServerFiles>, VaultError> {
    let Some(parent) = of.parent.as_ref().filter(|_| of.manifest.kind == BackupKind::Differential) else {
        return Ok(None);
    };
    let Some(record) = &parent.own else { return Ok(None) };
    let key = verify.layout.backup_object(&parent.backup, SERVER_MANIFEST)?;
    let json = match seal::read_all(verify.store.as_ref(), &key).await {
        Ok(json) if seal::sha256_hex(&json) == record.stored_sha256 => json,
        Ok(_) | Err(_) => return Ok(None),
    };
    Ok(ServerManifest::read(&json).ok().map(|server| server.files))
}
