//! What a vault brings back of a state database that is gone, held against the
//! one that is there: (living, rebuilt) -> differences in plain words, none where
//! it is the same.
//!
//! The evidence is compared byte for byte. What was recorded within the last
//! minute may still be on its way to the vault, and what the vault has got since
//! the living one was read is no difference either.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::domain::{BackupId, RunId};

/// An entry takes seconds to the vault; one that takes longer is missing there.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_mins(1);

/// An entry of the evidence log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub text: &'a str,
    pub run_id: &'a str,
    pub at: Timestamp,
}

/// How the log that came back differs from the living one, which was read after
/// the vault was. `now` is from before the vault was read.
pub fn evidence(living: &[Entry<'_>], rebuilt: &[Entry<'_>], now: Timestamp) -> Vec<String> {
    let edited = living.iter().zip(rebuilt).enumerate().filter(|(_, (one, other))| one.text != other.text);
    let mut told: Vec<String> = edited
        .map(|(index, (one, _))| format!("evidence entry {index} ({}) came back with other bytes", one.run_id))
        .collect();
    let lacking = living.iter().enumerate().skip(rebuilt.len());
    let lacking = lacking.filter(|(_, entry)| now.duration_since(entry.at) > ON_ITS_WAY);
    told.extend(lacking.map(|(index, entry)| format!("evidence entry {index} ({}) did not come back", entry.run_id)));
    let surplus = rebuilt.iter().enumerate().skip(living.len());
    told.extend(surplus.map(|(index, entry)| {
        format!("evidence entry {index} ({}) came back and is not in the state database", entry.run_id)
    }));
    told
}

/// A backup in this vault, by the living evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub backup: BackupId,
    pub manifest_sha256: String,
    /// The run that made it, or that proved it.
    pub run: RunId,
    pub proves: bool,
}

/// A backup that the vault shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub manifest_sha256: String,
    /// The runs whose proofs lie there.
    pub proofs: BTreeSet<RunId>,
    /// Whether one of them is validly signed and speaks of this manifest.
    pub is_proven: bool,
}

/// How the backups in the vault differ from what the evidence tells of them, less
/// those that were `pruned`.
pub fn backups(recorded: &[Recorded], held: &BTreeMap<BackupId, Held>, pruned: &BTreeSet<BackupId>) -> Vec<String> {
    let told = |recorded: &Recorded| {
        let Recorded { backup, run, .. } = recorded;
        match held.get(backup) {
            None if pruned.contains(backup) || recorded.proves => None,
            None => Some(format!("backup {backup} of {run} is no sound backup here, and no prune removed it")),
            Some(held) if held.manifest_sha256 != recorded.manifest_sha256 => {
                Some(format!("backup {backup} has another manifest than {run} recorded"))
            }
            Some(_) if !recorded.proves => None,
            Some(held) if !held.proofs.contains(run) => Some(format!("the proof of backup {backup} by {run} is gone")),
            Some(held) if !held.is_proven => Some(format!("no proof of backup {backup} is valid; {run} passed")),
            Some(_) => None,
        }
    };
    recorded.iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T12:00:00Z";

    fn log(texts: &'static str) -> Vec<Entry<'static>> {
        let old: Timestamp = "2026-11-21T11:00:00Z".parse().unwrap();
        let new: Timestamp = "2026-11-21T11:59:30Z".parse().unwrap();
        let entry = |text: &'static str| Entry { text, run_id: text, at: if text == "new" { new } else { old } };
        texts.split_whitespace().map(entry).collect()
    }

    #[test]
    fn a_log_is_the_same_or_the_entry_is_named() {
        for (name, living, rebuilt, expected) in [
            ("the same", "a b c", "a b c", &[][..]),
            ("edited", "a b c", "a X c", &["entry 1 (b) came back with other bytes"]),
            ("cut off", "a b c", "a b", &["entry 2 (c) did not come back"]),
            ("nothing came back", "a b", "", &["entry 0 (a) did not", "entry 1 (b) did not"]),
            ("on its way", "a b new", "a b", &[]),
            ("an old state database", "a", "a b", &["entry 1 (b) came back and is not"]),
        ] {
            let told = evidence(&log(living), &log(rebuilt), NOW.parse().unwrap());
            assert_eq!(told.len(), expected.len(), "{name}: {told:?}");
            assert!(told.iter().zip(expected).all(|(told, words)| told.contains(words)), "{name}: {told:?}");
        }
    }

    fn recorded(backup: &str, sha: &str, run: &str) -> Recorded {
        Recorded {
            backup: backup.parse().unwrap(),
            manifest_sha256: sha.to_owned(),
            run: RunId::from(run.to_owned()),
            proves: run.starts_with("test"),
        }
    }

    #[test]
    fn a_backup_or_proof_that_is_not_there_is_named() {
        let held = |sha: &str, proofs: &[&str], is_proven| Held {
            manifest_sha256: sha.to_owned(),
            proofs: proofs.iter().map(|run| RunId::from((*run).to_owned())).collect(),
            is_proven,
        };
        let vault = BTreeMap::from([
            ("one".parse().unwrap(), held("s1", &["test/1"], true)),
            ("two".parse().unwrap(), held("s2", &["test/2"], false)),
        ]);
        let pruned = BTreeSet::from(["old".parse().unwrap()]);
        for (name, recorded, expected) in [
            ("as recorded", recorded("one", "s1", "backup/1"), None),
            ("proven", recorded("one", "s1", "test/1"), None),
            ("gone", recorded("three", "s3", "backup/3"), Some("backup three of backup/3")),
            ("pruned", recorded("old", "s0", "backup/0"), None),
            ("a test of what is gone tells nothing more", recorded("three", "s3", "test/3"), None),
            ("another manifest", recorded("one", "s9", "backup/1"), Some("another manifest")),
            ("a proof is gone", recorded("one", "s1", "test/9"), Some("by test/9 is gone")),
            ("a proof is no proof", recorded("two", "s2", "test/2"), Some("no proof of backup two is valid")),
        ] {
            let told = backups(&[recorded], &vault, &pruned);
            assert_eq!(told.len(), usize::from(expected.is_some()), "{name}: {told:?}");
            assert!(told.iter().zip(expected).all(|(told, words)| told.contains(words)), "{name}: {told:?}");
        }
    }
}
