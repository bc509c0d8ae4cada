//! What a vault keeps of one history of a database, and what may go: (facts,
//! policy, now) -> plan. Each thing that is kept has its reasons; what none
//! needs may go, and where the picture is unclear nothing goes.
//!
//! What must never happen: something expires that a kept recovery point needs,
//! its ancestors, keys and WAL included. Counting is therefore by periods that
//! have a backup and not by the clock; only the window of WAL follows the clock,
//! and a clock that jumped expires nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    agenda::Size,
    due::Schedule,
    parent,
    recovery::{Coverage, History},
};
use crate::domain::{
    BackupId, BackupKind, BackupState, BeatRange, KeepPeriod, Lsn, RunId, Segment, SegmentSize, Timeline, Verdict,
};

pub mod beats;
mod calendar;
mod doubt;
pub mod locks;
mod needs;
mod outcome;
pub mod snapshots;
mod sound;
pub mod tails;
mod wal;

pub use doubt::Doubt;
pub use needs::{Needs, needs};
use outcome::runs;
pub use outcome::{Expiry, Kept, KeptWal, Plan, Reason, SegmentRun, Tail};

/// A backup that exists in the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub id: BackupId,
    pub kind: BackupKind,
    pub standalone: bool,
    pub timeline: Timeline,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub size_bytes: u64,
    pub state: BackupState,
    /// Whether a verification of this vault found something of it damaged, and not sound since.
    pub is_damaged: bool,
    /// Whether any vault of the database holds a proof of it.
    pub is_proven: bool,
    pub parent: Option<BackupId>,
    /// The vault refuses to delete it before.
    pub locked_until: Option<Timestamp>,
}

impl Held {
    /// Newest last; no clock takes part.
    fn age(&self) -> (Timeline, Lsn, &BackupId) {
        (self.timeline, self.stop_lsn, &self.id)
    }
}

/// An upload without a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub id: BackupId,
    /// None where its name does not tell.
    pub started_at: Option<Timestamp>,
    /// Whether another vault holds it committed: then it is a copy that is not whole yet.
    pub is_copy: bool,
}

/// The key object of a stretch of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WalKey {
    pub first: Segment,
    pub number: u32,
}

/// All that is known of one history of a database in one vault.
#[derive(Debug, Clone)]
pub struct Facts {
    pub backups: Vec<Held>,
    pub uploads: Vec<Upload>,
    pub coverage: Coverage,
    pub histories: BTreeMap<Timeline, History>,
    pub wal_keys: Vec<WalKey>,
    /// The numbers in each object of the ledger.
    pub heartbeats: Vec<BeatRange>,
    pub segment_size: SegmentSize,
    /// What could not be read or is not what it should be.
    pub problems: Vec<String>,
    /// Instants at which something surely happened, from evidence and heartbeats;
    /// those of the backups need not be among them.
    pub signs: Vec<Timestamp>,
    /// How the newest backup run ended.
    pub last_run: Option<(RunId, Verdict)>,
    /// Another run that works with this vault now.
    pub busy: Option<RunId>,
}

/// One line of the schedule.
#[derive(Debug, Clone)]
pub struct Line {
    pub kind: BackupKind,
    pub standalone: bool,
    pub due: Schedule,
    /// None: nothing of it ever expires.
    pub keep: Option<BTreeMap<KeepPeriod, u32>>,
}

impl Line {
    fn size(&self) -> Size {
        Size { kind: self.kind, standalone: self.standalone }
    }
}

/// What the operator promised.
#[derive(Debug, Clone)]
pub struct Policy {
    pub lines: Vec<Line>,
    /// Periods are those of this zone's calendar.
    pub zone: chrono_tz::Tz,
    /// Every instant of it stays restorable.
    pub window: SignedDuration,
    /// So many of the newest heartbeats stay.
    pub heartbeats: u64,
}

/// Uploads without a manifest are left alone for this long: no upload takes longer.
pub const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Decides. The same facts and instant have the same plan.
pub fn plan(facts: &Facts, policy: &Policy, now: Timestamp) -> Plan {
    let window_start = start_of(policy, now);
    let mut refusals = doubt::doubts(facts, policy, now, window_start);
    let Ruled { mut reasons, window } = rules(facts, policy, window_start);
    keep_locked(facts, now, &mut reasons);
    let window = window.unwrap_or_else(|doubt| {
        refusals.push(doubt);
        Vec::new()
    });
    let wal = wal::all(facts, window, &reasons);
    let is_kept = |backup: &&Held| reasons.0.contains_key(&backup.id);
    let mut left = Vec::new();
    let expire = if refusals.is_empty() {
        let mut gone: Vec<&Held> = facts.backups.iter().filter(|backup| !is_kept(backup)).collect();
        gone.sort_by_key(|backup| std::cmp::Reverse(backup.age()));
        Expiry {
            backups: gone.iter().map(|backup| backup.id.clone()).collect(),
            uploads: orphans(facts, now, &mut left),
            ..wal::unneeded(facts, &wal, &reasons.timelines(facts))
        }
    } else {
        Expiry::default()
    };
    let mut held: Vec<&Held> = facts.backups.iter().collect();
    held.sort_by_key(|backup| backup.age());
    let keep = held.into_iter().filter_map(|backup| {
        let reasons = reasons.0.get(&backup.id).cloned();
        // What is in doubt stays too; then there is a refusal to say why.
        (reasons.is_some() || !refusals.is_empty())
            .then(|| Kept { backup: backup.id.clone(), reasons: reasons.unwrap_or_default() })
    });
    Plan { decided_at: now, window_start, keep: keep.collect(), wal, expire, refusals: refusals.clone(), left }
}

fn start_of(policy: &Policy, now: Timestamp) -> Timestamp {
    now.checked_sub(policy.window).unwrap_or(Timestamp::MIN)
}

/// What the rules keep: no doubt and no lock is among their reasons.
struct Ruled {
    reasons: Reasons,
    /// The WAL of the window; why it is not known.
    window: Result<Vec<KeptWal>, Doubt>,
}

fn rules(facts: &Facts, policy: &Policy, window_start: Timestamp) -> Ruled {
    let mut reasons = Reasons::default();
    keep_standing(facts, policy, &|backup| facts.is_sound(backup), &mut reasons);
    let unsound = || facts.backups.iter().filter(|backup| !facts.is_sound(backup));
    let mut as_if_mended = Reasons::default();
    if unsound().next().is_some() {
        keep_standing(facts, policy, &|backup| facts.may_be_mended(backup), &mut as_if_mended);
    }
    for backup in unsound().filter(|backup| as_if_mended.0.contains_key(&backup.id)) {
        reasons.add(backup, Reason::Broken);
    }
    for backup in unsound().filter(|backup| backup.finished_at > window_start) {
        reasons.add(backup, Reason::Unsound);
    }
    // The one that was proven last stays, whatever became of it since.
    if let Some(proven) = last_proven(facts.backups.iter()) {
        reasons.add(proven, Reason::LastProven);
    }
    let window = wal::window(facts, window_start, &mut reasons);
    keep_ancestors(facts, &mut reasons);
    Ruled { reasons, window }
}

/// What stays of those backups that stand for others.
fn keep_standing(facts: &Facts, policy: &Policy, stands: &dyn Fn(&Held) -> bool, reasons: &mut Reasons) {
    let standing: Vec<&Held> = facts.backups.iter().filter(|backup| stands(backup)).collect();
    calendar::keep(&standing, policy, reasons);
    keep_newest(&standing, reasons);
}

/// Why which backups stay.
#[derive(Default)]
struct Reasons(BTreeMap<BackupId, Vec<Reason>>);

impl Reasons {
    fn add(&mut self, backup: &Held, reason: Reason) {
        let reasons = self.0.entry(backup.id.clone()).or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// The timelines of kept backups.
    fn timelines(&self, facts: &Facts) -> BTreeSet<Timeline> {
        facts.backups.iter().filter(|backup| self.0.contains_key(&backup.id)).map(|backup| backup.timeline).collect()
    }
}

/// The newest backup, the newest full one, the newest that carries an increment, that
/// carries a differential, and the last PROVEN one stay.
fn keep_newest(standing: &[&Held], reasons: &mut Reasons) {
    let newest = |is_meant: &dyn Fn(&Held) -> bool| {
        let meant = standing.iter().copied().filter(|backup| is_meant(backup));
        meant.max_by_key(|backup| backup.age())
    };
    let all = || standing.iter().copied();
    // One may be built upon it just now.
    let carrying = |child| newest(&|backup| parent::carries(backup.kind, backup.standalone, child));
    let full = |backup: &Held| backup.kind == BackupKind::Full;
    let carry = parent::CHILDREN.map(carrying);
    for last in [newest(&|_| true), newest(&full)].into_iter().chain(carry).flatten() {
        reasons.add(last, Reason::Last);
    }
    if let Some(proven) = last_proven(all()) {
        reasons.add(proven, Reason::LastProven);
    }
}

fn last_proven<'a>(backups: impl Iterator<Item = &'a Held>) -> Option<&'a Held> {
    backups.filter(|backup| backup.is_proven).max_by_key(|backup| backup.age())
}

/// What the vault would refuse to delete stays whole, with its parents.
fn keep_locked(facts: &Facts, now: Timestamp, reasons: &mut Reasons) {
    for backup in &facts.backups {
        if let Some(until) = backup.locked_until.filter(|until| *until > now) {
            reasons.add(backup, Reason::Locked(until));
        }
    }
    keep_ancestors(facts, reasons);
}

/// Whatever stays, its parents stay.
fn keep_ancestors(facts: &Facts, reasons: &mut Reasons) {
    let by_id: BTreeMap<&BackupId, &Held> = facts.backups.iter().map(|backup| (&backup.id, backup)).collect();
    let mut open: Vec<BackupId> = reasons.0.keys().cloned().collect();
    while let Some(child) = open.pop() {
        let parent = by_id.get(&child).and_then(|child| by_id.get(child.parent.as_ref()?));
        if let Some(parent) = parent {
            if !reasons.0.contains_key(&parent.id) {
                open.push(parent.id.clone());
            }
            reasons.add(parent, Reason::ParentOf(child));
        }
    }
}

/// Uploads that nobody will finish.
fn orphans(facts: &Facts, now: Timestamp, left: &mut Vec<String>) -> Vec<BackupId> {
    let is_old = |at: Timestamp| now.duration_since(at) > ORPHAN_AGE;
    let mut orphans = Vec::new();
    for Upload { id, started_at, .. } in &facts.uploads {
        match started_at {
            // A younger one is a doubt, and nothing goes.
            Some(at) if is_old(*at) => orphans.push(id.clone()),
            Some(_) => {}
            None => left.push(format!("upload {id}: its name does not tell how old it is; remove it by hand")),
        }
    }
    orphans
}

#[cfg(test)]
mod tests;
