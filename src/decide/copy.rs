//! What a vault lacks of one history that others have, and in which order it is
//! brought there. Names stand below the history's prefix, as `docs/format.md`
//! gives them.
//!
//! What must never happen: a name that the vault has is planned again; anything
//! of a backup that is not committed; a manifest before everything that it names.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::retention::beats::Numbers;
use crate::domain::{BackupId, BeatRange, Lsn, Segment, SegmentSize, Timeline};

/// What one vault holds of the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// All names with their sizes in bytes.
    pub names: BTreeMap<String, u64>,
    /// The backups that exist there: committed, signed, and whole by the listing.
    pub backups: BTreeMap<BackupId, HeldBackup>,
}

/// A backup that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBackup {
    pub manifest_sha256: String,
    pub parent: Option<BackupId>,
    pub finished_at: Timestamp,
    pub timeline: Timeline,
    pub start_lsn: Lsn,
    pub segment_size: SegmentSize,
    /// What its manifest names, relative to the backup.
    pub objects: BTreeSet<String>,
}

/// One object to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    /// In bytes, as the first source stores it.
    pub size: u64,
    /// Which sources hold it, the preferred one first.
    pub sources: Vec<usize>,
}

/// What a group of objects is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// Keys of WAL, and history files.
    WalKeys,
    /// Oldest first.
    Wal,
    /// Keys, data and everything else of a backup but what commits it.
    Backup(BackupId),
    /// The manifest's signature and then the manifest.
    Commit(BackupId),
    /// Heartbeats, and the signatures of what follows.
    Beside,
    /// Signed accounts of backups.
    Accounts,
}

/// Objects that may be copied at the same time; a `Commit` goes in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub of: Of,
    pub items: Vec<Item>,
}

/// The groups in their order; none is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub groups: Vec<Group>,
}

impl Plan {
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.groups.iter().flat_map(|group| &group.items)
    }

    /// Stored bytes of everything.
    pub fn bytes(&self) -> u64 {
        self.items().map(|item| item.size).sum()
    }

    /// Whole segments and pieces of the open one.
    pub fn wal(&self) -> impl Iterator<Item = &Item> {
        self.groups.iter().filter(|group| group.of == Of::Wal).flat_map(|group| &group.items)
    }

    fn push(&mut self, of: Of, items: Vec<Item>) {
        if !items.is_empty() {
            self.groups.push(Group { of, items });
        }
    }
}

/// What the target lacks, and from which of the sources it can come. WAL comes
/// first, because it is the recovery point; then the newest backup with what it
/// builds on, and the older ones.
pub fn plan(sources: &[Holding], target: &Holding) -> Plan {
    let facts = Facts { sources, target };
    let mut plan = Plan::default();
    let is_key = |name: &str| name.starts_with("wal/keys/") || is_history(name);
    let wal: Vec<Item> = facts.lacking(|name| name.starts_with("wal/") && facts.is_wanted_wal(name));
    let (keys, mut wal): (Vec<Item>, Vec<Item>) = wal.into_iter().partition(|item| is_key(&item.name));
    wal.sort_by(|a, b| position(&a.name).cmp(&position(&b.name)).then_with(|| a.name.cmp(&b.name)));
    // A key opens nothing that is not there or on its way.
    plan.push(Of::WalKeys, keys);
    plan.push(Of::Wal, wal);
    for backup in facts.order() {
        facts.backup(backup, &mut plan);
    }
    // Verifications tell of one vault alone, and what we do not know we leave.
    let wanted_beats = facts.wanted_beats();
    let is_beside = |name: &str| {
        let file = name.strip_prefix("heartbeats/").filter(|file| file.strip_suffix(".age").is_some());
        file.is_some_and(|file| BeatRange::parse(file).is_none_or(|range| wanted_beats.contains(&range)))
    };
    let is_proof = |name: &str| {
        let signed = name.strip_suffix(".sig").unwrap_or(name);
        name.starts_with("proofs/") && signed.strip_suffix(".json").is_some()
    };
    let beside = facts.lacking(|name| is_beside(name) || is_proof(name));
    let (accounts, others) = beside.into_iter().partition(|item| item.name.strip_suffix(".json").is_some());
    plan.push(Of::Beside, others);
    plan.push(Of::Accounts, accounts);
    plan
}

/// How far the target is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// When the oldest backup that it lacks was finished.
    pub oldest_backup: Option<Timestamp>,
    pub backups: usize,
    /// Whole segments that it lacks.
    pub segments: usize,
}

/// What the target lacks, counted.
pub fn lag(sources: &[Holding], target: &Holding) -> Lag {
    let facts = Facts { sources, target };
    let lacking: Vec<&HeldBackup> = facts
        .committed()
        .into_iter()
        .filter(|(id, _)| !target.backups.contains_key(*id))
        .map(|(_, held)| held)
        .collect();
    Lag {
        oldest_backup: lacking.iter().map(|held| held.finished_at).min(),
        backups: lacking.len(),
        segments: facts.lacking(|name| whole(name).is_some() && facts.is_wanted_wal(name)).len(),
    }
}

struct Facts<'a> {
    sources: &'a [Holding],
    target: &'a Holding,
}

impl Facts<'_> {
    /// The backups that exist in some source; where two tell different things of
    /// one, the first source is believed.
    fn committed(&self) -> BTreeMap<&BackupId, &HeldBackup> {
        self.sources.iter().rev().flat_map(|source| &source.backups).collect()
    }

    /// What the target lacks of the names that are wanted, sorted.
    fn lacking(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Item> {
        let mut items: BTreeMap<&str, Item> = BTreeMap::new();
        for (at, source) in self.sources.iter().enumerate() {
            for (name, size) in &source.names {
                if !self.target.names.contains_key(name) && is_wanted(name) {
                    let new = || Item { name: name.clone(), size: *size, sources: Vec::new() };
                    items.entry(name).or_insert_with(new).sources.push(at);
                }
            }
        }
        items.into_values().collect()
    }

    /// WAL from the oldest backup on, that the target has or will have; a piece
    /// of a segment only where nobody has it whole.
    fn is_wanted_wal(&self, name: &str) -> bool {
        let Some(position) = position(name) else {
            return is_history(name) || (name.starts_with("wal/keys/") && name.strip_suffix(".age").is_some());
        };
        let first = |held: &HeldBackup| {
            let segment = Segment::holding(held.timeline, held.start_lsn, held.segment_size);
            segment.file_name(held.segment_size).get(8..).map(str::to_owned)
        };
        let all = self.committed().into_values().chain(self.target.backups.values());
        let Some(oldest) = all.filter_map(first).min() else { return false };
        let is_whole = |whole: &str| {
            self.target.names.contains_key(whole) || self.sources.iter().any(|source| source.names.contains_key(whole))
        };
        position >= oldest.as_str() && whole_of_tail(name).is_none_or(|whole| !is_whole(&whole))
    }

    /// The objects of heartbeats of which the target lacks something. Each vault
    /// merges them in its own time: what it holds in other pieces it does not
    /// lack, and of what a source has merged the pieces are not asked for.
    fn wanted_beats(&self) -> BTreeSet<BeatRange> {
        let of = |holding: &Holding| -> Vec<BeatRange> {
            let folder = holding.names.range("heartbeats/".to_owned()..);
            folder.map_while(|(name, _)| name.strip_prefix("heartbeats/")).filter_map(BeatRange::parse).collect()
        };
        let target = Numbers::of(&of(self.target));
        let offered: BTreeSet<BeatRange> = self.sources.iter().flat_map(of).filter(|one| !target.hold(one)).collect();
        let mut reached = None;
        let mut wanted = BTreeSet::new();
        let mut sorted: Vec<BeatRange> = offered.into_iter().collect();
        sorted.sort_unstable_by_key(|range| (range.first, Reverse(range.last)));
        for range in sorted {
            if reached.is_none_or(|last| last < range.last) {
                reached = Some(range.last);
                wanted.insert(range);
            }
        }
        wanted
    }

    /// The newest one first, but what a backup builds on before it.
    fn order(&self) -> Vec<&BackupId> {
        let committed = self.committed();
        let mut ordered: Vec<&BackupId> = Vec::new();
        for (id, held) in committed.iter().rev() {
            let mut chain = vec![*id];
            let mut parent = held.parent.as_ref();
            while let Some(found) = parent.and_then(|parent| committed.get_key_value(parent)) {
                if chain.contains(found.0) {
                    break;
                }
                chain.push(found.0);
                parent = found.1.parent.as_ref();
            }
            for id in chain.into_iter().rev() {
                if !ordered.contains(&id) {
                    ordered.push(id);
                }
            }
        }
        ordered
    }

    fn backup(&self, id: &BackupId, plan: &mut Plan) {
        let Some(held) = self.committed().remove(id) else { return };
        let prefix = format!("backups/{id}/");
        // A source that tells another story of this backup gives none of it.
        let is_same = |at: usize| {
            let told = self.sources.get(at).and_then(|source| source.backups.get(id));
            told.is_none_or(|told| told.manifest_sha256 == held.manifest_sha256)
        };
        let named = |name: &str| name.strip_prefix(&prefix).map(str::to_owned);
        let of_backup = |wanted: &dyn Fn(&str) -> bool| -> Vec<Item> {
            let mut items = self.lacking(|name| named(name).is_some_and(|name| wanted(&name)));
            for item in &mut items {
                item.sources.retain(|at| is_same(*at));
            }
            items.retain(|item| !item.sources.is_empty());
            items
        };
        let is_rotated = |name: &str| name.starts_with("keys/") && name.strip_suffix(".age").is_some();
        let mut objects = of_backup(&|name| held.objects.contains(name) || is_rotated(name));
        objects.sort_by_key(|item| !named(&item.name).is_some_and(|name| name.starts_with("keys/")));
        plan.push(Of::Backup(id.clone()), objects);
        // `manifest.json.sig` sorts behind `manifest.json`.
        let mut commit = of_backup(&|name| name == "manifest.json" || name == "manifest.json.sig");
        commit.reverse();
        plan.push(Of::Commit(id.clone()), commit);
    }
}

fn is_history(name: &str) -> bool {
    name.strip_suffix(".history").is_some()
}

/// Log and segment of a WAL object, 16 hex digits that sort by position,
/// whatever the timeline; none for keys and history files.
fn position(name: &str) -> Option<&str> {
    let (folder, file) = name.strip_prefix("wal/")?.split_once('/')?;
    let is_wal = folder.len() == 8 && file.is_ascii() && file.strip_suffix(".zst.age").is_some();
    is_wal.then(|| file.get(8..24))?
}

/// The segment's file when the object is a whole segment.
fn whole(name: &str) -> Option<&str> {
    let file = name.strip_suffix(".zst.age")?;
    position(name).filter(|_| file.strip_suffix(".tail").is_none())
}

/// The name that the whole segment of a tail would have.
fn whole_of_tail(name: &str) -> Option<String> {
    let tail = name.strip_suffix(".tail.zst.age")?;
    let (segment, _) = tail.rsplit_once('.')?;
    Some(format!("{segment}.zst.age"))
}

#[cfg(test)]
mod tests;
