//! Judges a log by its bytes and one public key: no network, no database, no
//! clock. Every way to tamper that is listed in the tests is named in plain
//! words, with the entry it concerns.
//!
//! What bytes alone cannot show is a tail that was cut off; for that there are
//! checkpoints, which must come from elsewhere than the log.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    Checkpoint, StoredCheckpoint, StoredEntry,
    checkpoint::{self, origin},
    entry::{self, Body, NO_PREVIOUS},
};
use crate::{
    domain::Verdict,
    vault::signature::{SignatureError, Verifier},
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Number of entries.
    pub size: u64,
    /// Leaf hash of the last entry; none when there is no entry.
    pub head: Option<String>,
    /// Number of checkpoints that were looked at.
    pub checkpoints: usize,
    /// Fingerprint of the trusted key.
    pub key: String,
    /// Everything that is wrong, in the order of the log.
    pub problems: Vec<String>,
}

impl VerifyReport {
    /// FAIL with any problem. INCONCLUSIVE where nothing was there to check, or
    /// no checkpoint that could tell of a tail that was cut off.
    pub fn verdict(&self) -> Verdict {
        if !self.problems.is_empty() {
            Verdict::Fail
        } else if self.size == 0 || self.checkpoints == 0 {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }
}

/// Checks all entries, in the order of the place they were found in, and every
/// checkpoint against them.
pub fn verify(entries: &[StoredEntry], checkpoints: &[StoredCheckpoint], verifier: &Verifier) -> VerifyReport {
    let mut chain = Chain::new(verifier);
    for stored in entries {
        chain.entry(stored);
    }
    for stored in checkpoints {
        chain.checkpoint(stored);
    }
    chain.conclude();
    VerifyReport {
        size: entries.len() as u64,
        head: entries.last().map(|stored| entry::leaf_hash(stored.text.as_bytes())),
        checkpoints: checkpoints.len(),
        key: verifier.fingerprint(),
        problems: chain.problems,
    }
}

struct Chain<'a> {
    verifier: &'a Verifier,
    /// The index that the next entry must have.
    expected: u64,
    /// The leaf hash that the next entry must name.
    previous: String,
    /// Leaf hashes of the entries so far, by index.
    heads: BTreeMap<u64, String>,
    /// First entry of each run.
    runs: BTreeMap<String, u64>,
    problems: Vec<String>,
    /// Checkpoints that knew more entries, and those that knew another one: size and problem.
    cut: Vec<(u64, String)>,
    anew: Vec<(u64, String)>,
}

impl<'a> Chain<'a> {
    fn new(verifier: &'a Verifier) -> Self {
        Self {
            verifier,
            expected: 0,
            previous: NO_PREVIOUS.to_owned(),
            heads: BTreeMap::new(),
            runs: BTreeMap::new(),
            problems: Vec::new(),
            cut: Vec::new(),
            anew: Vec::new(),
        }
    }

    fn entry(&mut self, stored: &StoredEntry) {
        let index = stored.index;
        let hash = entry::leaf_hash(stored.text.as_bytes());
        self.position(index);
        if stored.leaf_hash.as_ref().is_some_and(|kept| *kept != hash) {
            self.problems.push(format!("entry {index}: its leaf hash does not fit its bytes: one of them was edited"));
        }
        self.signature(&format!("entry {index}"), entry::NAMESPACE, &stored.text, &stored.signature);
        match serde_json::from_str::<Body<Value>>(&stored.text) {
            Ok(body) => self.body(stored, &body),
            Err(error) => self.problems.push(format!("entry {index}: cannot be read: {error}")),
        }
        self.previous.clone_from(&hash);
        self.heads.entry(index).or_insert(hash);
        self.expected = index.saturating_add(1);
    }

    fn position(&mut self, index: u64) {
        let expected = self.expected;
        if index > expected {
            let missing = if index - expected == 1 {
                format!("entry {expected} is missing: it was deleted")
            } else {
                format!("entries {expected} to {} are missing: they were deleted", index - 1)
            };
            self.problems.push(missing);
        } else if index < expected {
            self.problems.push(format!("entry {index}: stands after entry {}: reordered or inserted", expected - 1));
        }
    }

    fn body(&mut self, stored: &StoredEntry, body: &Body<Value>) {
        let index = stored.index;
        // Behind a gap no entry can follow the one before it: that is told already.
        let is_behind_gap = index > self.expected;
        if body.index != index {
            self.problems
                .push(format!("entry {index}: was signed as entry {}: reordered, inserted or copied", body.index));
        }
        if body.previous != self.previous && !is_behind_gap {
            self.problems.push(format!(
                "entry {index}: does not follow the entry before it: one before it was edited, deleted, inserted or reordered"
            ));
        }
        let Some(run_id) = body.record.get("run_id").and_then(Value::as_str) else {
            self.problems.push(format!("entry {index}: its record names no run"));
            return;
        };
        if stored.run_id.as_ref().is_some_and(|filed| filed != run_id) {
            self.problems
                .push(format!("entry {index}: is filed under another run than `{run_id}`: the row was edited"));
        }
        if let Some(first) = self.runs.get(run_id) {
            self.problems.push(format!("entry {index}: run `{run_id}` has entry {first} already: inserted twice"));
        } else {
            self.runs.insert(run_id.to_owned(), index);
        }
    }

    fn signature(&mut self, subject: &str, namespace: &str, text: &str, signature: &str) {
        let problem = match self.verifier.verify(namespace, subject, text.as_bytes(), signature) {
            Ok(()) => return,
            Err(_) if signature.trim().is_empty() => format!("{subject}: has no signature"),
            Err(SignatureError::Unreadable { .. }) => format!("{subject}: its signature was edited or cut"),
            Err(SignatureError::Foreign { found, expected, .. }) => {
                format!("{subject}: is signed by the foreign key {found}, not by {expected}")
            }
            Err(_) => format!("{subject}: does not fit its signature: one of them was edited"),
        };
        self.problems.push(problem);
    }

    fn checkpoint(&mut self, stored: &StoredCheckpoint) {
        let before = self.problems.len();
        let subject = format!("checkpoint {}", stored.place);
        self.signature(&subject, checkpoint::NAMESPACE, &stored.text, &stored.signature);
        if self.problems.len() > before {
            return;
        }
        let found = match serde_json::from_str::<Checkpoint>(&stored.text) {
            Ok(found) => found,
            Err(error) => {
                self.problems.push(format!("{subject}: cannot be read: {error}"));
                return;
            }
        };
        let size = self.heads.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        if found.origin != origin(&self.verifier.fingerprint()) {
            self.problems.push(format!("{subject}: belongs to another log, {}", found.origin));
        } else if found.size > size {
            let what = format!(
                "{subject}: knew {} entries at {}, the log has {size}: its tail was cut off, or an old copy of the log was put back",
                found.size, found.at
            );
            self.cut.push((found.size, what));
        } else if !self.had(&found) {
            let what = format!(
                "{subject}: entry {} was another one at {}: the log was cut off and written anew",
                found.size.saturating_sub(1),
                found.at
            );
            self.anew.push((found.size, what));
        }
    }

    /// Whether the log's last entry at a checkpoint is the one that it knew. One
    /// that is missing now is told as that.
    fn had(&self, checkpoint: &Checkpoint) -> bool {
        let Some(last) = checkpoint.size.checked_sub(1) else { return false };
        self.heads.get(&last).is_none_or(|head| *head == checkpoint.head)
    }

    /// Where the log ends too early or is another one, every checkpoint from
    /// there on says so: the one that says most is told.
    fn conclude(&mut self) {
        let cut = self.cut.iter().max_by_key(|(size, _)| *size).map(|(_, what)| (what, self.cut.len()));
        let anew = self.anew.iter().min_by_key(|(size, _)| *size).map(|(_, what)| (what, self.anew.len()));
        self.problems.extend([cut, anew].into_iter().flatten().map(|(what, checkpoints)| match checkpoints {
            1 => what.clone(),
            several => format!("{what} ({} more checkpoints disagree, too)", several - 1),
        }));
    }
}
