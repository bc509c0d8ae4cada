//! History files say where timelines branched off, and nobody signs them. So
//! each is held against its ancestors', against the WAL, which shows the same
//! to within a page, against the other vaults' copies, and against what they were.

use std::collections::BTreeMap;

use super::{
    Fault, Verify,
    documents::Remembered,
    report::{Defect, Kind, Look, Report},
    wal::Branch,
};
use crate::{
    decide::recovery::{Coverage, History, parse_history},
    domain::{Lsn, SegmentSize, Timeline, VaultName},
    vault::{Listing, ObjectKey, StoreError, VaultError, WalName, seal},
};

/// The history files of a vault, with what is held against them.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// Those that can be read.
    pub(super) known: BTreeMap<Timeline, History>,
    /// Why one is not believed; the first reason counts.
    wrong: BTreeMap<Timeline, String>,
    keys: BTreeMap<Timeline, ObjectKey>,
    texts: BTreeMap<Timeline, Vec<u8>>,
    /// Some other vault did not answer.
    is_alone: bool,
}

impl Histories {
    pub(super) async fn read(verify: &Verify<'_>, listing: &Listing, report: &mut Report) -> Result<Self, VaultError> {
        let mut histories = Self::default();
        for key in listing.under(&format!("{}wal/", verify.layout.prefix())) {
            let Some(WalName::History(timeline)) = WalName::parse(verify.layout, key, SegmentSize::DEFAULT) else {
                continue;
            };
            let text = match seal::read_all(verify.store.as_ref(), key).await {
                Ok(text) => text,
                Err(error) => {
                    match report.unless_archived(error) {
                        // It is there, whatever it says.
                        Ok(()) => drop(histories.keys.insert(timeline, key.clone())),
                        Err(error) => report.defects.push(Defect::from_error(key, error)?),
                    }
                    continue;
                }
            };
            report.was_read(Kind::History, key, text.len() as u64, Look::Compared);
            match std::str::from_utf8(&text).ok().and_then(parse_history) {
                Some(history) => drop(histories.known.insert(timeline, history)),
                None => histories.doubt(timeline, "it is no history file"),
            }
            histories.keys.insert(timeline, key.clone());
            histories.texts.insert(timeline, text);
        }
        histories.check_order();
        Ok(histories)
    }

    fn doubt(&mut self, timeline: Timeline, why: impl Into<String>) {
        self.wrong.entry(timeline).or_insert_with(|| why.into());
    }

    /// Ancestors rise, and a child's history begins with its parent's.
    fn check_order(&mut self) {
        let mut doubts = Vec::new();
        for (timeline, history) in &self.known {
            let rises = history.windows(2).all(|pair| matches!(pair, [one, next] if one.0 < next.0 && one.1 <= next.1));
            let parent = history.last().map(|(parent, _)| *parent);
            if !rises || parent.is_none_or(|parent| parent >= *timeline) {
                doubts.push((*timeline, "its ancestors are not in order".to_owned()));
            } else if let Some((parent, ancestors)) = parent.and_then(|parent| Some((parent, self.known.get(&parent)?)))
                && history.get(..history.len() - 1) != Some(ancestors.as_slice())
            {
                doubts.push((*timeline, format!("it does not go on from the history of timeline {parent}")));
            }
        }
        for (timeline, why) in doubts {
            self.doubt(timeline, why);
        }
    }

    /// Holds the files against the WAL: the listing, and what was read of each
    /// timeline's first segment.
    pub(super) fn check_wal(&mut self, coverage: &Coverage, size: SegmentSize, branches: &BTreeMap<Timeline, Branch>) {
        let mut doubts = Vec::new();
        for (timeline, history) in &self.known {
            let Some((_, fork)) = history.last() else { continue };
            if let Some(first) = coverage.first(*timeline)
                && size.number_of(*fork) > first.number
            {
                let held = first.start(size);
                doubts.push((
                    *timeline,
                    format!("it says that the timeline began at {fork}, and there is WAL of it at {held}"),
                ));
            } else if let Some(why) = branches.get(timeline).and_then(|branch| against_branch(history, *fork, branch)) {
                doubts.push((*timeline, why));
            }
        }
        for (timeline, why) in doubts {
            self.doubt(timeline, why);
        }
    }

    /// Holds the files against other vaults' copies.
    pub(super) async fn check_others(&mut self, verify: &Verify<'_>) -> Result<(), VaultError> {
        let mut doubts = Vec::new();
        for (timeline, text) in &self.texts {
            let key = verify.layout.history(*timeline);
            for other in verify.others {
                match seal::read_all(other.as_ref(), &key).await {
                    Ok(theirs) if theirs != *text => {
                        doubts.push((*timeline, differs(&other.place().vault)));
                    }
                    // What other vaults lack or cannot give is theirs to tell.
                    Ok(_) | Err(VaultError::Store(StoreError::NotFound { .. })) => {}
                    Err(error) => {
                        tracing::warn!(vault = %other.place().vault, %error, "not compared with this vault");
                        self.is_alone = true;
                    }
                }
            }
        }
        for (timeline, why) in doubts {
            self.doubt(timeline, why);
        }
        Ok(())
    }

    /// Holds the files against what they were when they were believed.
    pub(super) fn check_remembered(&mut self, remembered: &Remembered) {
        let mut doubts = Vec::new();
        for (timeline, text) in &self.texts {
            if let Some((_, run)) = remembered.get(timeline).filter(|(sha256, _)| *sha256 != seal::sha256_hex(text)) {
                doubts.push((*timeline, format!("it is not what it was when the run {run} verified it")));
            }
        }
        for (timeline, why) in doubts {
            self.doubt(timeline, why);
        }
    }

    /// Notes the files that were held against all that they must agree with.
    pub(super) fn tell_judged(&self, coverage: &Coverage, branches: &BTreeMap<Timeline, Branch>, report: &mut Report) {
        let is_judged = |timeline: &Timeline| branches.contains_key(timeline) || coverage.first(*timeline).is_none();
        for (_, key) in self.keys.iter().filter(|(timeline, _)| !self.is_alone && is_judged(timeline)) {
            report.looked_at(key, Look::Opened);
        }
    }

    /// The SHA-256 of those that nothing speaks against.
    pub(super) fn believed(&self) -> BTreeMap<Timeline, String> {
        let sound = self.texts.iter().filter(|(timeline, _)| !self.wrong.contains_key(timeline));
        sound.map(|(timeline, text)| (*timeline, seal::sha256_hex(text))).collect()
    }

    /// Reports what is wrong, and answers what is believed: where a file is
    /// missing or wrong, that the timeline branched off the one before it where
    /// its WAL begins.
    pub(super) fn settle(
        self,
        verify: &Verify<'_>,
        coverage: &Coverage,
        size: SegmentSize,
        report: &mut Report,
    ) -> BTreeMap<Timeline, History> {
        let mut believed = self.known;
        for (timeline, why) in self.wrong {
            if let Some(key) = self.keys.get(&timeline) {
                report.defects.push(Defect::new(key, Fault::History, why));
            }
            believed.remove(&timeline);
        }
        for timeline in coverage.timelines().into_iter().filter(|timeline| timeline.0 > 1) {
            if believed.contains_key(&timeline) {
                continue;
            }
            let key = verify.layout.history(timeline);
            if !self.keys.contains_key(&timeline) {
                let what = "it is missing, so where the timeline began is unknown";
                report.defects.push(Defect::new(key, Fault::Missing, what));
            }
            let parent = coverage.timelines().range(..timeline).next_back().copied();
            if let (Some(parent), Some(first)) = (parent, coverage.first(timeline)) {
                let mut history = believed.get(&parent).cloned().unwrap_or_default();
                history.push((parent, first.start(size)));
                believed.insert(timeline, history);
            }
        }
        believed
    }
}

fn differs(vault: &VaultName) -> String {
    format!("it is not the same as in the vault `{vault}`")
}

/// What the pages of a timeline's first segment say otherwise than its history.
fn against_branch(history: &History, fork: Lsn, branch: &Branch) -> Option<String> {
    let Branch { last_before, first_own, begins_at_fork } = branch;
    if let Some((page, found)) = last_before {
        let mut begun = Lsn(0);
        let at = history.iter().find(|(_, end)| {
            let holds = begun <= *page && page < end;
            begun = *end;
            holds
        });
        match at {
            None => return Some(format!("it says that the timeline began at {fork}, and the page at {page} is older")),
            Some((timeline, _)) if timeline != found => {
                return Some(format!("it says that {page} is of timeline {timeline}, and it is of timeline {found}"));
            }
            Some(_) => {}
        }
    }
    if let Some(own) = first_own.filter(|own| *own < fork) {
        return Some(format!("it says that the timeline began at {fork}, and the page at {own} is its own already"));
    }
    (!begins_at_fork).then(|| format!("it says that the timeline began at {fork}, and no timeline begins there"))
}
