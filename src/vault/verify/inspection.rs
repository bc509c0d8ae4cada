//! A look at the members of a backup's parts, by the code that restores them,
//! into nothing. Notes what of them contradicts the manifest.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::{
    domain::{Lsn, Timeline, VaultName},
    vault::{Manifest, VaultError, part::Part, unpack},
};

/// No label of a backup is longer.
const LABEL_MAX: usize = 64 << 10;
/// The system id, which `pg_control` begins with.
const CONTROL_HEAD: usize = 8;

/// What was seen in the parts of one backup.
#[derive(Debug, Default)]
pub(in crate::vault) struct Inspection(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Hashes of the names of all files, to find one that comes twice.
    files: HashSet<u64>,
    label: Option<Vec<u8>>,
    control: Option<Vec<u8>>,
    /// What of the manifest is not true.
    lies: Vec<String>,
}

impl Inspection {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks through one sealed object: all of them are tars.
    pub(in crate::vault) fn look(&self, vault: &VaultName, part: &Part, plain: impl Read) -> Result<(), VaultError> {
        let sha256 = part.record.plain_sha256.as_ref().map(|_| Sha256::new());
        let mut plain = Digested { inner: plain, sha256, size: 0 };
        let mut look = Look { part, names: HashSet::new(), label: None, control: None, keeping: None };
        unpack::unpack(&part.key, &mut plain, &part.stop, part.damaged(vault), &mut look)?;
        let mut seen = self.seen();
        if part.record.is_part() {
            seen.label = look.label.or(seen.label.take());
            seen.control = look.control.or(seen.control.take());
            if !look.names.iter().all(|name| seen.files.insert(*name)) {
                let (key, member) = (part.key.clone(), "a file of another part".to_owned());
                return Err(VaultError::Member { key, member, what: "it is in the backup twice" });
            }
        }
        let record = &part.record;
        if plain.size != record.plain_size {
            seen.lies.push(format!(
                "it says that `{}` is {} bytes before compression, and it is {}",
                record.name, record.plain_size, plain.size
            ));
        }
        if let (Some(said), Some(found)) =
            (&record.plain_sha256, plain.sha256.map(|sha256| hex::encode(sha256.finalize())))
            && *said != found
        {
            seen.lies.push(format!(
                "it says that `{}` has the SHA-256 {said} before compression, and it is {found}",
                record.name
            ));
        }
        Ok(())
    }

    /// What the manifest says that the content of its backup does not.
    pub(super) fn contradictions(&self, manifest: &Manifest) -> Vec<String> {
        let mut seen = self.seen();
        let mut lies = std::mem::take(&mut seen.lies);
        if let Some(label) = &seen.label {
            lies.extend(against_label(manifest, &String::from_utf8_lossy(label)));
        }
        let control = seen.control.as_deref().and_then(|control| control.try_into().ok()).map(u64::from_le_bytes);
        if let Some(found) = control
            && found.to_string() != manifest.system_id
        {
            lies.push(format!("it says system id {}, and `global/pg_control` says {found}", manifest.system_id));
        }
        lies
    }
}

/// `backup_label` says where replay starts and on which timeline.
fn against_label(manifest: &Manifest, label: &str) -> Vec<String> {
    let value = |name: &str| label.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let start: Option<Lsn> =
        value("START WAL LOCATION:").and_then(|text| text.split_whitespace().next()).and_then(|lsn| lsn.parse().ok());
    let timeline = value("START TIMELINE:").and_then(|text| text.parse().ok()).map(Timeline);
    let mut lies = Vec::new();
    if let Some(start) = start.filter(|start| *start != manifest.start_lsn) {
        lies.push(format!("it says that replay starts at {}, and `backup_label` says {start}", manifest.start_lsn));
    }
    if let Some(timeline) = timeline.filter(|timeline| *timeline != manifest.timeline) {
        lies.push(format!("it says timeline {}, and `backup_label` says {timeline}", manifest.timeline));
    }
    lies
}

/// Plain bytes on their way, counted and digested.
struct Digested<R> {
    inner: R,
    /// None where nobody says what it should be.
    sha256: Option<Sha256>,
    size: u64,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(buffer.get(..count).unwrap_or_default());
        }
        self.size += count as u64;
        Ok(count)
    }
}

/// A file whose beginning is kept.
#[derive(Clone, Copy)]
enum Keeping {
    Label,
    Control,
}

/// Keeps nothing of the members but two small files.
struct Look<'a> {
    part: &'a Part,
    names: HashSet<u64>,
    label: Option<Vec<u8>>,
    control: Option<Vec<u8>>,
    keeping: Option<Keeping>,
}

impl unpack::Sink for Look<'_> {
    fn folder(&mut self, _: &Path, _: u32) -> Result<(), VaultError> {
        Ok(())
    }

    fn link(&mut self, _: &Path, _: &Path) -> Result<(), VaultError> {
        Ok(())
    }

    fn file(&mut self, name: &Path, _: u32) -> Result<(), VaultError> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        if !self.names.insert(hasher.finish()) {
            let (key, member) = (self.part.key.clone(), name.display().to_string());
            return Err(VaultError::Member { key, member, what: "it is in the backup twice" });
        }
        self.keeping = match name.to_str() {
            Some("backup_label") => Some(Keeping::Label),
            Some("global/pg_control") => Some(Keeping::Control),
            _ => None,
        };
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        let (kept, most) = match self.keeping {
            Some(Keeping::Label) => (self.label.get_or_insert_default(), LABEL_MAX),
            Some(Keeping::Control) => (self.control.get_or_insert_default(), CONTROL_HEAD),
            None => return Ok(()),
        };
        kept.extend(bytes.iter().take(most.saturating_sub(kept.len())));
        Ok(())
    }
}
