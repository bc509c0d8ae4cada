//! What the rules keep, doubts and locks aside. It measures what is locked anew
//! and what one vault brings another: were a lock or a doubt a reason for that,
//! nothing would ever expire, and what one vault let go another would bring back.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Expiry, Facts, KeptWal, Policy, Ruled, WalKey, beats, rules, start_of, wal};
use crate::domain::{BackupId, BeatRange, Segment, Timeline};

/// What some rule keeps of one history.
#[derive(Debug, Clone)]
pub struct Needs {
    backups: BTreeSet<BackupId>,
    /// None where it is not known which lines of history there are: all is needed.
    wal: Option<Vec<KeptWal>>,
    unneeded: Expiry,
    old_beats: BTreeSet<BeatRange>,
}

/// Decides. The same facts and instant have the same needs.
pub fn needs(facts: &Facts, policy: &Policy, now: Timestamp) -> Needs {
    let Ruled { reasons, window } = rules(facts, policy, start_of(policy, now));
    let wal = window.ok().map(|window| wal::all(facts, window, &reasons));
    let unneeded = wal.as_ref().map(|wal| wal::unneeded(facts, wal, &reasons.timelines(facts)));
    let old_beats = beats::expired(&facts.heartbeats, policy.heartbeats).into_iter().collect();
    Needs { backups: reasons.0.into_keys().collect(), wal, unneeded: unneeded.unwrap_or_default(), old_beats }
}

impl Needs {
    pub fn backup(&self, backup: &BackupId) -> bool {
        self.backups.contains(backup)
    }

    pub fn wal(&self, segment: Segment) -> bool {
        self.wal.as_ref().is_none_or(|wal| wal.iter().any(|kept| kept.covers(segment)))
    }

    pub fn history(&self, timeline: Timeline) -> bool {
        !self.unneeded.histories.contains(&timeline)
    }

    /// Whether an object of the ledger holds what somebody may still ask for.
    pub fn heartbeats(&self, range: BeatRange) -> bool {
        !self.old_beats.contains(&range)
    }

    pub fn wal_key(&self, key: WalKey) -> bool {
        !self.unneeded.wal_keys.contains(&key)
    }
}

impl Facts {
    /// What two vaults hold together of one history: a backup is as sound as where
    /// it is sounder. For `needs` alone; no plan is made of it.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for theirs in other.backups {
            match self.backups.iter_mut().find(|ours| ours.id == theirs.id) {
                Some(ours) => {
                    let is_proven = ours.is_proven || theirs.is_proven;
                    if (!theirs.is_damaged, theirs.state) > (!ours.is_damaged, ours.state) {
                        *ours = theirs;
                    }
                    ours.is_proven = is_proven;
                }
                None => self.backups.push(theirs),
            }
        }
        for segment in other.coverage.wholes() {
            self.coverage.add_whole(segment);
        }
        for (segment, from, to) in other.coverage.tails() {
            self.coverage.add_tail(segment, from, to);
        }
        self.histories.extend(other.histories);
        self.wal_keys.extend(other.wal_keys);
        self.wal_keys.sort_unstable();
        self.wal_keys.dedup();
        self.heartbeats.extend(other.heartbeats);
        self
    }
}
