//! Which backup a restore test takes that is to prove an old one or a chain, and
//! how far it is recovered. `restorable` names the backups whose own WAL is there,
//! as the catalog says. What is chosen here is named outright when it is restored:
//! no other backup ever takes its place.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Candidate, Facts};
use crate::domain::{BackupId, Lsn, RecoveryTarget};

/// What can be taken, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    pub candidates: Vec<Choice>,
    /// What stands before the first of them and cannot be restored here.
    pub passed_over: Vec<BackupId>,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub backup: BackupId,
    /// How many backups make it.
    pub length: usize,
    pub target: RecoveryTarget,
}

/// Those of `kept`, oldest first, that can be restored; each to its own end.
pub fn oldest(facts: &Facts, kept: &[BackupId], restorable: &BTreeSet<BackupId>) -> Choices {
    let mut choices = Choices { candidates: Vec::new(), passed_over: Vec::new() };
    for id in kept {
        match facts.backups.iter().find(|one| one.id == *id).and_then(|one| length(facts, one, restorable)) {
            Some(length) => {
                let target = RecoveryTarget::Immediate;
                choices.candidates.push(Choice { backup: id.clone(), length, target });
            }
            None if choices.candidates.is_empty() => choices.passed_over.push(id.clone()),
            None => {}
        }
    }
    choices
}

/// The backups that are built upon others: the longest chain first, and of the
/// longest the newest. None where there is no such backup.
pub fn increment_chain(facts: &Facts, restorable: &BTreeSet<BackupId>) -> Choices {
    let mut chains: Vec<(&Candidate, usize)> = facts
        .backups
        .iter()
        .filter(|one| one.parent.is_some())
        .filter_map(|one| Some((one, length(facts, one, restorable)?)))
        .collect();
    chains.sort_by_key(|(one, length)| Reverse((*length, one.timeline, one.stop_lsn, &one.id)));
    let choice = |(one, length): (&Candidate, usize)| Choice {
        backup: one.id.clone(),
        length,
        target: as_far_as_held(facts, one),
    };
    Choices { candidates: chains.into_iter().map(choice).collect(), passed_over: Vec::new() }
}

/// None where something that makes it is not there.
fn length(facts: &Facts, candidate: &Candidate, restorable: &BTreeSet<BackupId>) -> Option<usize> {
    let chain = facts.chain(candidate).ok()?;
    restorable.contains(&candidate.id).then_some(chain.len())
}

/// With the WAL behind it: all of it where it is the newest backup, else up to
/// where the next one begins; its own end where that WAL is kept no more.
fn as_far_as_held(facts: &Facts, candidate: &Candidate) -> RecoveryTarget {
    if facts.newest_restorable().is_some_and(|newest| newest.id == candidate.id) {
        return RecoveryTarget::Latest;
    }
    let behind =
        facts.backups.iter().filter(|one| one.timeline == candidate.timeline && one.start_lsn >= candidate.stop_lsn);
    // A backup begins at a checkpoint, whose record can be stopped at for certain.
    let next = behind.map(|one| one.start_lsn).min();
    let is_held =
        |lsn: &Lsn| facts.coverage.covers(candidate.timeline, facts.segment_size, candidate.start_lsn, lsn.forward(1));
    next.filter(is_held).map_or(RecoveryTarget::Immediate, RecoveryTarget::BeforeLsn)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        decide::recovery::Coverage,
        domain::{Segment, SegmentSize, Timeline},
    };

    const MIB: u64 = 1 << 20;

    /// `a<b` is built upon `b`. Each backup takes a segment of its own, with one in between.
    fn facts(backups: &[&str], held: std::ops::Range<u64>) -> Facts {
        let size = SegmentSize::try_from(MIB).unwrap();
        let mut coverage = Coverage::default();
        for number in held {
            coverage.add_whole(Segment { timeline: Timeline(1), number });
        }
        let candidate = |(nth, text): (usize, &&str)| {
            let (id, parent) = text.split_once('<').map_or((*text, None), |(id, parent)| (id, Some(parent)));
            let start = (2 * nth as u64 + 1) * MIB;
            Candidate {
                id: id.parse().unwrap(),
                timeline: Timeline(1),
                start_lsn: Lsn(start + 40),
                stop_lsn: Lsn(start + 300),
                finished_at: jiff::Timestamp::UNIX_EPOCH,
                parent: parent.map(|parent| parent.parse().unwrap()),
            }
        };
        let backups = backups.iter().enumerate().map(candidate).collect();
        Facts { backups, coverage, histories: BTreeMap::new(), segment_size: size, not_after: None }
    }

    fn all(facts: &Facts) -> BTreeSet<BackupId> {
        facts.backups.iter().map(|one| one.id.clone()).collect()
    }

    fn ids(choices: &Choices) -> Vec<&str> {
        choices.candidates.iter().map(|choice| choice.backup.as_str()).collect()
    }

    fn named(ids: &[&str]) -> Vec<BackupId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn the_oldest_is_the_first_kept_that_can_be_restored() {
        let facts = facts(&["a", "b<gone", "c", "d<c"], 0..9);
        let choices = oldest(&facts, &named(&["a", "b", "c", "d"]), &all(&facts));
        assert_eq!((ids(&choices), choices.passed_over.len()), (vec!["a", "c", "d"], 0));
        assert!(choices.candidates.iter().all(|choice| choice.target == RecoveryTarget::Immediate));
        // What expires is no promise any more; what lacks its parent or its WAL is told.
        let mut restorable = all(&facts);
        restorable.remove(&"c".parse().unwrap());
        let choices = oldest(&facts, &named(&["b", "c", "d"]), &restorable);
        assert_eq!(ids(&choices), ["d"]);
        assert_eq!(choices.passed_over, named(&["b", "c"]));
        assert_eq!(oldest(&facts, &[], &all(&facts)).candidates, []);
    }

    #[test]
    fn the_longest_chain_goes_first_and_of_the_longest_the_newest() {
        let facts = facts(&["f", "i1<f", "i2<i1", "g", "j1<g", "j2<j1", "k<gone"], 0..20);
        let choices = increment_chain(&facts, &all(&facts));
        assert_eq!(ids(&choices), ["j2", "i2", "j1", "i1"]);
        assert_eq!(choices.candidates.iter().map(|choice| choice.length).collect::<Vec<_>>(), [3, 3, 2, 2]);
    }

    #[test]
    fn full_backups_alone_are_no_chain() {
        let facts = facts(&["f", "g"], 0..20);
        assert_eq!(increment_chain(&facts, &all(&facts)).candidates, []);
    }

    #[test]
    fn a_chain_is_recovered_as_far_as_its_wal_is_held() {
        let target = |backups: &[&str], held| {
            let facts = facts(backups, held);
            increment_chain(&facts, &all(&facts)).candidates.remove(0).target
        };
        assert_eq!(target(&["f", "i<f"], 0..9), RecoveryTarget::Latest);
        // `g` begins in segment 5, at byte 40.
        assert_eq!(target(&["f", "i<f", "g"], 0..9), RecoveryTarget::BeforeLsn(Lsn(5 * MIB + 40)));
        assert_eq!(target(&["f", "i<f", "g"], 3..4), RecoveryTarget::Immediate);
    }
}
