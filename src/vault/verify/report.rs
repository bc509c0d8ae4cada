//! What a verification found: per kind of object what was looked at, every
//! defect by the object's name with what to do, and what could not be looked at.
//! Not looked at is never found sound.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::{
    domain::{BackupId, DatabaseName, Timeline, VaultName, Verdict, archive::ArchiveClass, with_causes},
    vault::{Found, ObjectKey, StoreError, Unreadable, VaultError, signature::SignatureError},
};

/// The kinds of objects, in the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Manifest,
    Part,
    /// `backup_manifest`, the configuration, and the means to restore.
    BackupFile,
    Key,
    Wal,
    Tail,
    History,
    Heartbeats,
    Proof,
    Verification,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifests",
            Self::Part => "parts",
            Self::BackupFile => "files beside the parts",
            Self::Key => "keys",
            Self::Wal => "WAL segments",
            Self::Tail => "WAL tails",
            Self::History => "history files",
            Self::Heartbeats => "heartbeats",
            Self::Proof => "proofs",
            Self::Verification => "verifications",
        }
    }
}

/// How many objects of a kind there are, and how many were read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub listed: u64,
    pub read: u64,
    /// Stored bytes that were read.
    pub read_bytes: u64,
}

/// One thing that a person must fix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Defect {
    /// Its full name in the vault; for a gap the first segment that is missing.
    pub object: String,
    pub fault: Fault,
    pub what: String,
    pub remedy: String,
    pub backup: Option<BackupId>,
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}; {}", self.object, self.what, self.remedy)
    }
}

impl Defect {
    pub(super) fn new(object: impl std::fmt::Display, fault: Fault, what: impl Into<String>) -> Self {
        Self { object: object.to_string(), fault, what: what.into(), remedy: fault.remedy().to_owned(), backup: None }
    }

    pub(super) fn of(self, backup: &BackupId) -> Self {
        Self { backup: Some(backup.clone()), ..self }
    }

    /// The kind of object that it is about, by its name after database, system id
    /// and incarnation.
    pub fn kind(&self) -> Kind {
        let mut parts = self.object.splitn(4, '/').nth(3).unwrap_or_default().split('/');
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next()) {
            ("backups", _, Some("data")) => Kind::Part,
            ("backups", _, Some("keys")) | ("wal", "keys", _) => Kind::Key,
            ("backups", _, Some("manifest.json" | "manifest.json.sig")) => Kind::Manifest,
            ("backups", ..) => Kind::BackupFile,
            ("heartbeats", ..) => Kind::Heartbeats,
            ("proofs", ..) => Kind::Proof,
            ("verifications", ..) => Kind::Verification,
            (_, name, None) if name.contains(".history") => Kind::History,
            (_, _, Some(name)) if name.contains(".tail.") => Kind::Tail,
            _ => Kind::Wal,
        }
    }

    /// What an error says of an object; none when it says only that the object
    /// cannot be opened with what is at hand.
    pub(super) fn from_error(key: &ObjectKey, error: VaultError) -> Result<Self, VaultError> {
        let (fault, what) = match error {
            VaultError::Missing { .. } | VaultError::Store(StoreError::NotFound { .. }) => {
                (Fault::Missing, "it is missing".to_owned())
            }
            VaultError::Damaged { what, .. } => (Fault::Damaged, format!("it is damaged: {what}")),
            VaultError::Unencrypted { .. } => (Fault::NotEncrypted, "it is not encrypted".to_owned()),
            VaultError::Member { member, what, .. } => (Fault::Structure, format!("it holds `{member}`: {what}")),
            VaultError::Signature(SignatureError::Foreign { found, expected, .. }) => {
                (Fault::ForeignSignature, format!("it is signed by {found}, not by the trusted key {expected}"))
            }
            VaultError::Signature(_) => (Fault::Signature, "it does not fit its signature".to_owned()),
            VaultError::Unreadable { what, source, .. } => {
                (Fault::Damaged, format!("it cannot be read as {what}: {source}"))
            }
            VaultError::Store(error) => (Fault::Unreadable, with_causes(&error)),
            VaultError::BadIdentity { what } => (Fault::Damaged, format!("it holds no key: {what}")),
            other => return Err(other),
        };
        Ok(Self::new(key, fault, what))
    }
}

/// How closely an object was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Its stored bytes are those that were signed, or it is small and was read;
    /// what it says was not held against everything that it must agree with.
    Compared,
    /// That too: what is sealed was opened.
    Opened,
}

/// What was found in one history of a database in one vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub database: DatabaseName,
    pub vault: VaultName,
    pub system_id: String,
    pub incarnation: u32,
    pub objects: BTreeMap<Kind, Tally>,
    /// What was read of each backup that is validly signed.
    pub backups: Vec<Found>,
    /// Sorted by object.
    pub defects: Vec<Defect>,
    /// What was not looked at, and why.
    pub unchecked: Vec<String>,
    /// What is told and is no defect.
    pub notes: Vec<String>,
    /// The SHA-256 of each history file that is believed.
    pub histories: BTreeMap<Timeline, String>,
    /// All objects whose content was looked at.
    #[serde(skip)]
    pub read: BTreeMap<String, Look>,
    #[serde(skip)]
    pub(super) seen: Seen,
    /// What lies in an archive and was not read, by where it lies.
    #[serde(skip)]
    pub(super) archived: BTreeMap<Option<ArchiveClass>, BTreeSet<ObjectKey>>,
}

/// What else was looked at, so that it is known what a run would have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Backups of which anything is listed.
    pub(super) backups: BTreeSet<BackupId>,
    pub(super) is_wal_accounted: bool,
    pub(super) is_tip_judged: bool,
    pub(super) are_locks_judged: bool,
}

impl Report {
    /// FAIL for a defect; INCONCLUSIVE when something could not be looked at, or
    /// there was nothing to look at.
    pub fn verdict(&self) -> Verdict {
        if !self.defects.is_empty() {
            Verdict::Fail
        } else if !self.unchecked.is_empty() || self.backups.is_empty() {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }

    pub(super) fn tally(&mut self, kind: Kind) -> &mut Tally {
        self.objects.entry(kind).or_default()
    }

    /// Notes how many objects of a kind there are; none is not told.
    pub(super) fn tally_of(&mut self, kind: Kind, listed: usize) {
        if listed > 0 {
            self.tally(kind).listed += listed as u64;
        }
    }

    /// Notes an object whose content was looked at.
    pub(super) fn was_read(&mut self, kind: Kind, key: &ObjectKey, bytes: u64, look: Look) {
        let tally = self.tally(kind);
        tally.read += 1;
        tally.read_bytes += bytes;
        self.looked_at(key, look);
    }

    /// Notes an object that lies in an archive: nothing of it was read, and nobody asked
    /// for it, as that costs money. Other errors are given back.
    pub(super) fn unless_archived(&mut self, error: VaultError) -> Result<(), VaultError> {
        let VaultError::Store(StoreError::Archived { key, class, .. }) = error else { return Err(error) };
        self.archived.entry(class).or_default().insert(key);
        Ok(())
    }

    /// One sentence for each archive.
    pub(super) fn tell_archived(&mut self) {
        for (class, keys) in std::mem::take(&mut self.archived) {
            let Some(first) = keys.first() else { continue };
            let (count, place) = (keys.len(), class.map_or("an archive", ArchiveClass::as_str));
            self.unchecked.push(format!("{count} object(s) from `{first}` on lie in {place}: archived, not read"));
        }
    }

    /// The same of an object that is counted already.
    pub(super) fn looked_at(&mut self, key: &ObjectKey, look: Look) {
        let known = self.read.entry(key.to_string()).or_insert(look);
        *known = look.max(*known);
    }

    /// What all names of this history begin with.
    fn prefix(&self) -> String {
        format!("{}/{}/{}/", self.database, self.system_id, self.incarnation)
    }

    /// Whether an object belongs to this history.
    pub fn is_about(&self, object: &str) -> bool {
        object.starts_with(&self.prefix())
    }

    /// The backups of which this run did not find all WAL sound, and nothing damaged.
    pub fn without_wal(&self) -> impl Iterator<Item = &BackupId> {
        let is_open = |found: &&Found| {
            !found.needed_wal.iter().all(|name| found.sound.contains(name))
                && found.needed_wal.iter().all(|name| !found.damaged.contains(name))
        };
        self.backups.iter().filter(is_open).map(|found| &found.backup)
    }

    /// Adds that the WAL of a backup was read back, and what of it did not come.
    pub fn was_read_back(&mut self, backup: &BackupId, unreadable: &[Unreadable]) {
        let Some(found) = self.backups.iter_mut().find(|found| found.backup == *backup) else { return };
        found.is_wal_read_back = unreadable.is_empty();
        found.damaged.extend(unreadable.iter().map(|one| one.name.clone()));
        let defects = unreadable.iter().map(|one| Defect::new(&one.key, Fault::Damaged, one.told()).of(backup));
        self.defects.extend(defects);
        self.defects.sort();
        self.defects.dedup();
    }

    /// Whether this run has looked at all that shows such a fault of this object,
    /// so that one which it did not find is gone.
    pub fn would_show(&self, fault: Fault, object: &str) -> bool {
        let look = self.read.get(object);
        match fault {
            Fault::LaterVersion | Fault::DeleteMarker => true,
            Fault::Lock => self.seen.are_locks_judged,
            Fault::Gap => self.seen.is_wal_accounted,
            Fault::Behind => self.seen.is_wal_accounted && self.seen.is_tip_judged,
            Fault::Missing | Fault::Extra | Fault::Size => self.has_compared_names(object),
            Fault::Damaged | Fault::NotEncrypted | Fault::Unreadable | Fault::Signature | Fault::ForeignSignature => {
                look.is_some()
            }
            Fault::Structure
            | Fault::LyingManifest
            | Fault::ForeignWal
            | Fault::Disagrees
            | Fault::History
            | Fault::Heartbeats
            | Fault::NoKey => look == Some(&Look::Opened),
        }
    }

    /// Whether the names beside this one were held against what they must be.
    fn has_compared_names(&self, object: &str) -> bool {
        let name = object.strip_prefix(&self.prefix()).unwrap_or_default();
        let backup = name.strip_prefix("backups/").and_then(|rest| rest.split('/').next()?.parse::<BackupId>().ok());
        match backup {
            // Without a manifest that can be read nothing tells which names there must
            // be, unless nothing at all is left of the backup.
            Some(backup) => {
                self.backups.iter().any(|found| found.backup == backup) || !self.seen.backups.contains(&backup)
            }
            None => self.seen.is_wal_accounted || !name.starts_with("wal/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_knows_its_kind_by_the_name_of_its_object() {
        for (name, kind) in [
            ("backups/b/data/00000.tar.zst.age", Kind::Part),
            ("backups/b/keys/0.age", Kind::Key),
            ("backups/b/manifest.json.sig", Kind::Manifest),
            ("backups/b/restore.sh", Kind::BackupFile),
            ("wal/keys/000000010000000000000002/0.age", Kind::Key),
            ("wal/00000001/000000010000000000000002.zst.age", Kind::Wal),
            ("wal/00000001/000000010000000000000002.00000000-00000010.tail.zst.age", Kind::Tail),
            ("wal/00000002.history", Kind::History),
            ("heartbeats/0000000000000001-0000000000000002.jsonl.zst.age", Kind::Heartbeats),
            ("proofs/b/run.json", Kind::Proof),
            ("verifications/b/run.json.sig", Kind::Verification),
        ] {
            let defect = Defect::new(format_args!("wallet/7412345678901234567/1/{name}"), Fault::Damaged, "");
            assert_eq!(defect.kind(), kind, "{name}");
        }
    }

    fn report(sound: &[&str]) -> Report {
        let found = |backup: &&str| Found {
            backup: backup.parse().unwrap(),
            manifest_sha256: String::new(),
            sound: BTreeSet::new(),
            damaged: BTreeSet::new(),
            histories: BTreeMap::new(),
            needed_wal: BTreeSet::new(),
            is_wal_read_back: false,
        };
        Report {
            database: "wallet".parse().unwrap(),
            vault: "primary".parse().unwrap(),
            system_id: "7".to_owned(),
            incarnation: 1,
            objects: BTreeMap::new(),
            backups: sound.iter().map(found).collect(),
            defects: Vec::new(),
            unchecked: Vec::new(),
            notes: Vec::new(),
            histories: BTreeMap::new(),
            read: BTreeMap::new(),
            archived: BTreeMap::new(),
            seen: Seen { backups: ["a", "b"].map(|id| id.parse().unwrap()).into(), ..Seen::default() },
        }
    }

    #[test]
    fn only_what_was_looked_at_closely_enough_is_found_mended() {
        let mut report = report(&["a"]);
        let name = |name: &str| format!("wallet/7/1/{name}");
        let part = name("backups/a/data/00000.tar.zst.age");
        assert!(report.is_about(&part) && !report.is_about("wallet/7/11/x") && !report.is_about("wallet/71/1/x"));
        assert!(!report.would_show(Fault::Damaged, &part), "not read");
        report.looked_at(&ObjectKey::new(part.clone()).unwrap(), Look::Compared);
        assert!(report.would_show(Fault::Damaged, &part) && !report.would_show(Fault::Structure, &part));
        report.looked_at(&ObjectKey::new(part.clone()).unwrap(), Look::Opened);
        report.looked_at(&ObjectKey::new(part.clone()).unwrap(), Look::Compared);
        assert!(report.would_show(Fault::Structure, &part));
        assert!(report.would_show(Fault::Missing, &part), "its manifest was read");
        assert!(!report.would_show(Fault::Missing, &name("backups/b/restore.sh")), "its manifest was not");
        assert!(report.would_show(Fault::Missing, &name("backups/c/restore.sh")), "nothing is left of it");
        for (fault, object) in
            [(Fault::Gap, "wal/1/1.zst.age"), (Fault::Missing, "wal/1.history"), (Fault::Behind, "wal/1/2.zst.age")]
        {
            assert!(!report.would_show(fault, &name(object)), "{fault:?}");
        }
        (report.seen.is_wal_accounted, report.seen.is_tip_judged) = (true, true);
        for (fault, object) in
            [(Fault::Gap, "wal/1/1.zst.age"), (Fault::Missing, "wal/1.history"), (Fault::Behind, "wal/1/2.zst.age")]
        {
            assert!(report.would_show(fault, &name(object)), "{fault:?}");
        }
        assert!(!report.would_show(Fault::Lock, &part));
    }
}
