//! Builds every name of `docs/format.md`. No other place puts names together.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ObjectKey, VaultError};
use crate::domain::{BackupId, BeatRange, DatabaseName, RunId, Segment, SegmentSize, Timeline};

/// The prefix of one unbroken history of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layout {
    database: DatabaseName,
    system_id: String,
    incarnation: u32,
}

impl Layout {
    /// `system_id` in decimal, as `pg_controldata` prints it.
    pub fn new(database: DatabaseName, system_id: &str, incarnation: u32) -> Result<Self, VaultError> {
        let sound = (1..=20).contains(&system_id.len()) && system_id.bytes().all(|b| b.is_ascii_digit());
        if sound {
            Ok(Self { database, system_id: system_id.to_owned(), incarnation })
        } else {
            Err(VaultError::BadName { name: system_id.to_owned(), what: "system id: decimal digits are expected" })
        }
    }

    /// The history that an object of a database is of; none for other names.
    pub fn of(database: &DatabaseName, key: &ObjectKey) -> Option<Self> {
        let mut parts = key.as_str().strip_prefix(database.as_str())?.strip_prefix('/')?.split('/');
        let (system_id, incarnation) = (parts.next()?, parts.next()?.parse().ok()?);
        let layout = Self::new(database.clone(), system_id, incarnation).ok()?;
        key.as_str().starts_with(&layout.prefix()).then_some(layout)
    }

    pub fn database(&self) -> &DatabaseName {
        &self.database
    }

    pub fn system_id(&self) -> &str {
        &self.system_id
    }

    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The incarnation after this one.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { incarnation: self.incarnation + 1, ..self.clone() }
    }

    /// Why this incarnation was opened.
    pub fn incarnation_document(&self) -> ObjectKey {
        self.key(super::incarnation::NAME)
    }

    /// Ends with `/`.
    pub fn prefix(&self) -> String {
        format!("{}/{}/{}/", self.database, self.system_id, self.incarnation)
    }

    fn key(&self, rest: impl std::fmt::Display) -> ObjectKey {
        ObjectKey(format!("{}{rest}", self.prefix()))
    }

    /// Ends with `/`.
    pub fn backup_prefix(&self, backup: &BackupId) -> String {
        format!("{}backups/{backup}/", self.prefix())
    }

    /// An object of a backup by its name in the manifest; refuses climbing names.
    pub fn backup_object(&self, backup: &BackupId, name: &str) -> Result<ObjectKey, VaultError> {
        Ok(ObjectKey::new(format!("{}{name}", self.backup_prefix(backup)))?)
    }

    /// The backup that an object of this name belongs to; none for other names.
    pub fn parse_backup(&self, key: &ObjectKey) -> Option<BackupId> {
        let (backup, _) = key.as_str().strip_prefix(&self.prefix())?.strip_prefix("backups/")?.split_once('/')?;
        backup.parse().ok()
    }

    pub fn manifest(&self, backup: &BackupId) -> ObjectKey {
        self.key(format_args!("backups/{backup}/manifest.json"))
    }

    pub fn segment(&self, segment: Segment, size: SegmentSize) -> ObjectKey {
        self.key(format_args!("wal/{:08X}/{}.zst.age", segment.timeline.0, segment.file_name(size)))
    }

    /// A piece of an open segment: offsets in the segment, `to` exclusive.
    pub fn tail(&self, segment: Segment, size: SegmentSize, from: u64, to: u64) -> ObjectKey {
        let name = segment.file_name(size);
        self.key(format_args!("wal/{:08X}/{name}.{from:08X}-{to:08X}.tail.zst.age", segment.timeline.0))
    }

    pub fn history(&self, timeline: Timeline) -> ObjectKey {
        self.key(format_args!("wal/{}", timeline.history_file()))
    }

    /// Ends with `/`.
    pub fn wal_keys_prefix(&self) -> String {
        format!("{}wal/keys/", self.prefix())
    }

    pub fn wal_key(&self, first: Segment, size: SegmentSize, number: u32) -> ObjectKey {
        self.key(format_args!("wal/keys/{}/{number}.age", first.file_name(size)))
    }

    /// The stretch and the number of a WAL key's name; none for other names.
    pub fn parse_wal_key(&self, key: &ObjectKey, size: SegmentSize) -> Option<(Segment, u32)> {
        let (first, file) = key.as_str().strip_prefix(&self.wal_keys_prefix())?.split_once('/')?;
        Some((Segment::parse(first, size).ok()?, file.strip_suffix(".age")?.parse().ok()?))
    }

    /// Whether it is read to find out which backups there are, and how their WAL hangs together.
    pub fn is_document(&self, key: &ObjectKey) -> bool {
        let Some(name) = key.as_str().strip_prefix(&self.prefix()) else { return false };
        let signed = name.strip_suffix(".sig").unwrap_or(name);
        match signed.split_once('/') {
            Some(("backups", rest)) => rest.split_once('/').is_some_and(|(_, name)| name == "manifest.json"),
            Some(("wal", name)) => name.rsplit_once('.').is_some_and(|(_, kind)| kind == "history"),
            Some((folder, _)) => folder == "proofs" || folder == "verifications",
            None => false,
        }
    }

    /// Ends with `/`.
    pub fn heartbeats_prefix(&self) -> String {
        format!("{}heartbeats/", self.prefix())
    }

    pub fn heartbeats(&self, range: BeatRange) -> ObjectKey {
        self.key(format_args!("heartbeats/{}", range.file_name()))
    }

    /// The heartbeats that an object of this name holds; none for other names.
    pub fn parse_heartbeats(&self, key: &ObjectKey) -> Option<BeatRange> {
        BeatRange::parse(key.as_str().strip_prefix(&self.heartbeats_prefix())?)
    }

    /// Ends with `/`.
    pub fn all_proofs_prefix(&self) -> String {
        format!("{}proofs/", self.prefix())
    }

    /// Ends with `/`.
    pub fn proofs_prefix(&self, backup: &BackupId) -> String {
        format!("{}{backup}/", self.all_proofs_prefix())
    }

    pub fn proof(&self, backup: &BackupId, run: &RunId) -> Result<ObjectKey, VaultError> {
        let run = run.as_str().replace(['/', ':'], "_");
        Ok(ObjectKey::new(format!("{}{run}.json", self.proofs_prefix(backup)))?)
    }

    /// Ends with `/`.
    pub fn verifications_prefix(&self, backup: &BackupId) -> String {
        format!("{}verifications/{backup}/", self.prefix())
    }

    /// The backup that a verification is about.
    pub fn parse_verification(&self, key: &ObjectKey) -> Option<BackupId> {
        let rest = key.as_str().strip_prefix(&self.prefix())?.strip_prefix("verifications/")?;
        rest.split_once('/')?.0.parse().ok()
    }

    pub fn verification(&self, backup: &BackupId, run: &RunId, at: Timestamp) -> Result<ObjectKey, VaultError> {
        let (at, run) = (at.strftime("%Y%m%dt%H%M%S%.9fz"), run.as_str().replace(['/', ':'], "_"));
        Ok(ObjectKey::new(format!("{}{at}-{run}.json", self.verifications_prefix(backup)))?)
    }
}

/// How the names of a segment's tails begin, and that of the segment itself.
pub(super) fn tails_prefix(whole: &ObjectKey) -> String {
    format!("{}.", whole.as_str().strip_suffix(".zst.age").unwrap_or(whole.as_str()))
}

/// The name of the signature that stands beside an object.
pub fn signature_of(key: &ObjectKey) -> ObjectKey {
    ObjectKey(format!("{key}.sig"))
}

/// A name under `wal/`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalName {
    Whole(Segment),
    Tail { segment: Segment, from: u64, to: u64 },
    History(Timeline),
}

impl WalName {
    /// None for anything that is not WAL, its keys included.
    pub fn parse(layout: &Layout, key: &ObjectKey, size: SegmentSize) -> Option<Self> {
        let name = key.as_str().strip_prefix(&layout.prefix())?.strip_prefix("wal/")?;
        if let Some(timeline) = name.strip_suffix(".history") {
            return (timeline.len() == 8)
                .then(|| u32::from_str_radix(timeline, 16).ok())
                .flatten()
                .map(|timeline| Self::History(Timeline(timeline)));
        }
        let (folder, file) = name.split_once('/')?;
        let file = file.strip_suffix(".zst.age")?;
        let (segment, range) = match file.strip_suffix(".tail") {
            Some(tail) => tail.split_once('.').map(|(segment, range)| (segment, Some(range)))?,
            None => (file, None),
        };
        let segment = Segment::parse(segment, size).ok()?;
        if folder != format!("{:08X}", segment.timeline.0) {
            return None;
        }
        let Some(range) = range else { return Some(Self::Whole(segment)) };
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        (from < to && to <= size.bytes()).then_some(Self::Tail { segment, from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Lsn;

    #[test]
    fn wal_names_are_read_as_they_are_written() {
        let layout = Layout::new("wallet".parse().unwrap(), "7412345678901234567", 1).unwrap();
        let size = SegmentSize::DEFAULT;
        let segment = Segment::holding(Timeline(2), Lsn(0x1_0300_0148), size);
        let whole = layout.segment(segment, size);
        assert_eq!(whole.as_str(), "wallet/7412345678901234567/1/wal/00000002/000000020000000100000003.zst.age");
        assert_eq!(WalName::parse(&layout, &whole, size), Some(WalName::Whole(segment)));
        let tail = layout.tail(segment, size, 0x100, 0x1000);
        assert!(tail.as_str().ends_with("000000020000000100000003.00000100-00001000.tail.zst.age"));
        assert_eq!(WalName::parse(&layout, &tail, size), Some(WalName::Tail { segment, from: 0x100, to: 0x1000 }));
        assert_eq!(WalName::parse(&layout, &layout.history(Timeline(2)), size), Some(WalName::History(Timeline(2))));
        let key = layout.wal_key(segment, size, 3);
        assert_eq!(WalName::parse(&layout, &key, size), None);
        assert_eq!(layout.parse_wal_key(&key, size), Some((segment, 3)));
        assert_eq!(layout.parse_wal_key(&whole, size), None);
        assert_eq!(layout.parse_backup(&whole), None);
        let backup: BackupId = "b".parse().unwrap();
        assert_eq!(layout.parse_backup(&layout.manifest(&backup)), Some(backup));
        let beats = BeatRange { first: 1, last: 10 };
        let key = layout.heartbeats(beats);
        assert!(key.as_str().ends_with("/1/heartbeats/0000000000000001-0000000000000010.jsonl.zst.age"), "{key}");
        assert_eq!((layout.parse_heartbeats(&key), layout.parse_heartbeats(&whole)), (Some(beats), None));
    }

    #[test]
    fn documents_are_told_from_content() {
        let layout = Layout::new("wallet".parse().unwrap(), "7", 1).unwrap();
        for (name, expected) in [
            ("backups/b/manifest.json", true),
            ("backups/b/manifest.json.sig", true),
            ("backups/b/backup_manifest", false),
            ("backups/b/data/00000.tar.zst.age", false),
            ("backups/b/keys/0.age", false),
            ("proofs/b/run.json", true),
            ("verifications/b/run.json.sig", true),
            ("wal/00000002.history", true),
            ("wal/00000002/000000020000000100000003.zst.age", false),
            ("wal/keys/000000020000000100000003/0.age", false),
            ("heartbeats/1-2.jsonl.zst.age", false),
        ] {
            assert_eq!(layout.is_document(&layout.key(name)), expected, "{name}");
        }
        assert!(!layout.is_document(&ObjectKey::new("wallet/8/1/wal/00000002.history").unwrap()));
    }

    #[test]
    fn an_object_tells_its_history() {
        let database = "wallet".parse().unwrap();
        let of = |name: &str| Layout::of(&database, &ObjectKey::new(name).unwrap()).map(|layout| layout.prefix());
        assert_eq!(of("wallet/7/1/wal/keys/S/0.age").as_deref(), Some("wallet/7/1/"));
        for other in ["wallet/7/1", "wallet/7/01/x", "wallet/x/1/y", "wallets/7/1/x", "wallet/notes", "other/7/1/x"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_system_id_that_could_climb_is_refused() {
        for bad in ["", "..", "1/2", "x", "123456789012345678901"] {
            assert!(Layout::new("wallet".parse().unwrap(), bad, 1).is_err(), "{bad}");
        }
    }
}
