//! A look at the members of a backup's parts, by the code that restores them,
//! into nothing. Each is held against PostgreSQL's own manifest, by name, size
//! and checksum. Notes what of them contradicts ours.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::{
    domain::{BackupKind, Lsn, Timeline, VaultName},
    vault::{
        Manifest, VaultError,
        part::Part,
        server::{Coming, ServerFiles},
        unpack,
    },
};

/// No label of a backup is longer.
const LABEL_MAX: usize = 64 << 10;
/// The system id, which `pg_control` begins with.
const CONTROL_HEAD: usize = 8;

/// Files that no part holds, of which so many are named.
const NAMED_MAX: usize = 3;

/// What was seen in the parts of one backup.
#[derive(Debug)]
pub(in crate::vault) struct Inspection {
    /// None where PostgreSQL's own manifest cannot be had.
    files: Option<ServerFiles>,
    /// Of a differential those of the backup that it is laid over, where they can be had.
    base: Option<ServerFiles>,
    seen: Mutex<Seen>,
}

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
    pub(super) fn new(files: Option<ServerFiles>, base: Option<ServerFiles>) -> Self {
        Self { files, base, seen: Mutex::default() }
    }

    /// Whether parts are held against PostgreSQL's own manifest.
    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks through one sealed object: all of them are tars.
    pub(in crate::vault) fn look(&self, vault: &VaultName, part: &Part, plain: impl Read) -> Result<(), VaultError> {
        let sha256 = part.record.plain_sha256.as_ref().map(|_| Sha256::new());
        let mut plain = Digested { inner: plain, sha256, size: 0 };
        let files = self.files.as_ref().filter(|_| part.record.is_part());
        let mut look =
            Look { part, files, names: HashSet::new(), file: None, label: None, control: None, keeping: None };
        unpack::unpack(&part.key, &mut plain, &part.stop, part.damaged(vault), &mut look)?;
        look.end_file()?;
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

    /// What PostgreSQL sent and neither one of the parts nor the base holds; to be
    /// asked when all of them were looked through.
    pub(super) fn left_out(&self) -> Option<String> {
        let (seen, own) = (self.seen(), self.files.as_ref()?);
        let is_in_base = |member: &Path| {
            let below = self.base.as_ref().and_then(|base| base.get(member));
            below.zip(own.get(member)).is_some_and(|(below, own)| below.is_same_content(own))
        };
        let files = own.members().filter(|member| !seen.files.contains(&hash_of(member)) && !is_in_base(member));
        let mut files: Vec<String> = files.map(|member| format!("`{}`", member.display())).collect();
        files.sort();
        let count = files.len();
        files.truncate(NAMED_MAX);
        let named = files.join(", ");
        let holds = if self.base.is_some() { "neither a part nor the full backup holds" } else { "no part holds" };
        (count > 0).then(|| format!("`backup_manifest` names {count} file(s) that {holds}: {named}"))
    }

    /// What the manifest says that the content of its backup does not. `parent_start`
    /// is where the backup starts that it builds upon, if that is known.
    pub(super) fn contradictions(&self, manifest: &Manifest, parent_start: Option<Lsn>) -> Vec<String> {
        let mut seen = self.seen();
        let mut lies = std::mem::take(&mut seen.lies);
        if let Some(label) = &seen.label {
            lies.extend(against_label(manifest, parent_start, &String::from_utf8_lossy(label)));
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

/// `backup_label` says where replay starts and on which timeline, and where the
/// backup started that it builds upon.
fn against_label(manifest: &Manifest, parent_start: Option<Lsn>, label: &str) -> Vec<String> {
    let value = |name: &str| label.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let lsn = |name: &str| -> Option<Lsn> { value(name)?.split_whitespace().next()?.parse().ok() };
    let start = lsn("START WAL LOCATION:");
    let timeline = value("START TIMELINE:").and_then(|text| text.parse().ok()).map(Timeline);
    let mut lies = Vec::new();
    if let Some(start) = start.filter(|start| *start != manifest.start_lsn) {
        lies.push(format!("it says that replay starts at {}, and `backup_label` says {start}", manifest.start_lsn));
    }
    if let Some(timeline) = timeline.filter(|timeline| *timeline != manifest.timeline) {
        lies.push(format!("it says timeline {}, and `backup_label` says {timeline}", manifest.timeline));
    }
    // A differential is one of ours: to the server it is a full backup.
    let parent = manifest.parent.as_ref().filter(|_| manifest.kind != BackupKind::Differential);
    match (parent, lsn("INCREMENTAL FROM LSN:")) {
        (None, Some(from)) => {
            lies.push(format!("it names no parent, and `backup_label` says that it builds upon the backup of {from}"));
        }
        (Some(parent), None) => {
            lies.push(format!("it says that it builds upon `{parent}`, and `backup_label` says that it is whole"));
        }
        (Some(parent), Some(from)) if parent_start.is_some_and(|start| start != from) => {
            lies.push(format!("it says that it builds upon `{parent}`, and `backup_label` names the backup of {from}"));
        }
        _ => {}
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

fn hash_of(name: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Keeps nothing of the members but two small files.
struct Look<'a> {
    part: &'a Part,
    files: Option<&'a ServerFiles>,
    names: HashSet<u64>,
    /// The file that comes just now.
    file: Option<(PathBuf, Coming)>,
    label: Option<Vec<u8>>,
    control: Option<Vec<u8>>,
    keeping: Option<Keeping>,
}

impl Look<'_> {
    fn refuse(&self, name: &Path, what: &'static str) -> VaultError {
        VaultError::Member { key: self.part.key.clone(), member: name.display().to_string(), what }
    }

    /// The file that came is what PostgreSQL sent.
    fn end_file(&mut self) -> Result<(), VaultError> {
        let Some((name, coming)) = self.file.take() else { return Ok(()) };
        coming.end().map_err(|what| self.refuse(&name, what))
    }
}

impl unpack::Sink for Look<'_> {
    fn folder(&mut self, _: &Path, _: u32) -> Result<(), VaultError> {
        self.end_file()
    }

    fn link(&mut self, _: &Path, _: &Path) -> Result<(), VaultError> {
        self.end_file()
    }

    fn file(&mut self, name: &Path, _: u32) -> Result<(), VaultError> {
        self.end_file()?;
        if !self.names.insert(hash_of(name)) {
            return Err(self.refuse(name, "it is in the backup twice"));
        }
        if let Some(files) = self.files {
            let wanted = files.get(name).ok_or_else(|| self.refuse(name, "`backup_manifest` does not name it"))?;
            self.file = Some((name.to_owned(), Coming::new(wanted)));
        }
        self.keeping = match name.to_str() {
            Some("backup_label") => Some(Keeping::Label),
            Some("global/pg_control") => Some(Keeping::Control),
            _ => None,
        };
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        if let Some((_, coming)) = &mut self.file {
            coming.update(bytes);
        }
        let (kept, most) = match self.keeping {
            Some(Keeping::Label) => (self.label.get_or_insert_default(), LABEL_MAX),
            Some(Keeping::Control) => (self.control.get_or_insert_default(), CONTROL_HEAD),
            None => return Ok(()),
        };
        kept.extend(bytes.iter().take(most.saturating_sub(kept.len())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_tells_upon_what_an_increment_is_built() {
        let of_kind = |kind: &str, parent: Option<&str>| -> Manifest {
            serde_json::from_value(serde_json::json!({
                "format": 1, "backup": "b", "database": "wallet", "kind": kind, "system_id": "7", "incarnation": 1,
                "timeline": 1, "segment_size": 16_777_216, "start_lsn": "0/2000028", "stop_lsn": "0/2000100",
                "server_version": "18.4", "started_at": "2026-11-21T05:00:00Z", "finished_at": "2026-11-21T05:01:00Z",
                "size_bytes": 0, "stored_bytes": 0, "damaged": false, "parent": parent, "recipients": [],
                "lifeboat_version": "0.1.0", "required_settings": {}, "objects": [],
            }))
            .unwrap()
        };
        let manifest = |parent| of_kind("incremental", parent);
        let full = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n";
        let increment = format!("{full}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        let lies = |parent, start: Option<u64>, label: &str| against_label(&manifest(parent), start.map(Lsn), label);
        assert_eq!(lies(None, None, full), [""; 0]);
        assert_eq!(lies(Some("a"), Some(0x0100_0028), &increment), [""; 0]);
        assert_eq!(lies(Some("a"), None, &increment), [""; 0], "that the parent is not here is told elsewhere");
        let differential = of_kind("differential", Some("a"));
        assert_eq!(against_label(&differential, Some(Lsn(0x0100_0028)), full), [""; 0]);
        assert_eq!(against_label(&differential, Some(Lsn(0x0100_0028)), &increment).len(), 1);
        for (parent, start, label, told) in [
            (None, None, increment.as_str(), "names no parent"),
            (Some("a"), Some(0x0100_0028), full, "that it is whole"),
            (Some("a"), Some(0x0100_0029), &increment, "names the backup of 0/1000028"),
        ] {
            let found = lies(parent, start, label);
            assert!(matches!(found.as_slice(), [lie] if lie.contains(told)), "{found:?}");
        }
    }
}
