//! What of a provider's snapshots stays: (snapshots, lines of the schedule) -> plan. They
//! have neither a chain nor WAL: each is restored by itself. A snapshot and its copies in
//! other regions stay and go together; counted are periods that have one, as everywhere.
//!
//! What must never happen: one expires that somebody else made, the last one that was
//! proven, the newest that can be restored, or any where the picture is unclear.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Reason, calendar};
use crate::{
    decide::sample,
    domain::{KeepPeriod, Region, RunId, Snapshot, SnapshotOrigin, SnapshotState},
};

/// What the ids of copies in the database's own region end with.
pub const COPY: &str = "-copy";
/// What a provider takes as the id of a cluster's snapshot, without the suffix of a copy.
const ID_LEN_MAX: usize = 63 - COPY.len();

/// The provider's id for the snapshot of a run, and for its copies in other regions: the
/// same however often the run is taken anew. `made_at` lets people sort them.
pub fn id(prefix: &str, database: &str, run: &RunId, made_at: Timestamp) -> String {
    // Letters, digits and single hyphens: nothing else is taken.
    let plain = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
    };
    // Runs that began within one second are told apart.
    let end = format!("-{}-{:08x}", made_at.strftime("%Y%m%dt%H%M%Sz"), sample::place_of(run.as_str(), 1 << 32));
    let mut database = plain(database);
    database.truncate(ID_LEN_MAX.saturating_sub(prefix.len() + end.len()));
    format!("{prefix}{}{end}", database.trim_end_matches('-'))
}

/// The id of its copy in this region.
pub fn copy_id(id: &str, home: &Region, region: &Region) -> String {
    if home == region { format!("{id}{COPY}") } else { id.to_owned() }
}

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Of all regions where there may be any.
    pub snapshots: Vec<Snapshot>,
    /// ARNs of those that a restore test has proven, copies among them.
    pub proven: BTreeSet<String>,
    /// Another run that works with the database now.
    pub busy: Option<RunId>,
}

/// What the schedule says.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `keep` of each line; none where nothing of it expires.
    pub lines: Vec<Option<BTreeMap<KeepPeriod, u32>>>,
    pub zone: chrono_tz::Tz,
}

/// A snapshot and its copies, which stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub id: String,
    pub regions: Vec<Region>,
    pub reasons: Vec<Reason>,
}

/// What is recorded before anything is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Ours that stay, oldest first.
    pub keep: Vec<Kept>,
    /// Copies come before what they were made of.
    pub expire: Vec<Snapshot>,
    /// Those of others, which stay as long as they want.
    pub foreign: usize,
    /// The run that may need any of them: nothing expires before it has ended.
    pub busy: Option<RunId>,
}

impl Plan {
    /// Of what the recorded plan lets go, that which this fresh one lets go too.
    #[must_use]
    pub fn allows(&self, recorded: &Self) -> Vec<Snapshot> {
        let is_allowed = |old: &&Snapshot| self.expire.iter().any(|new| new.arn == old.arn);
        recorded.expire.iter().filter(is_allowed).cloned().collect()
    }
}

/// A snapshot of ours with its copies.
#[derive(Debug)]
struct Family<'a> {
    id: &'a str,
    members: Vec<&'a Snapshot>,
    /// None where no member can be restored from.
    taken_at: Option<Timestamp>,
    is_being_made: bool,
}

pub fn plan(facts: &Facts, policy: &Policy) -> Plan {
    let mut families = families(facts);
    families.sort_by_key(|family| Reverse((family.taken_at, family.id)));
    let mut reasons: BTreeMap<&str, Vec<Reason>> = BTreeMap::new();
    let restorable = || families.iter().filter_map(|family| Some((family.id, family.taken_at?)));
    for keep in &policy.lines {
        count(restorable(), keep.as_ref(), policy.zone, &mut reasons);
    }
    if policy.lines.is_empty() {
        count(restorable(), None, policy.zone, &mut reasons);
    }
    let last = restorable().map(|(id, _)| id).next();
    let is_proven = |family: &&Family<'_>| family.members.iter().any(|one| facts.proven.contains(&one.arn));
    let last_proven =
        families.iter().filter(|family| family.taken_at.is_some()).find(is_proven).map(|family| family.id);
    for (id, reason) in
        last.map(|id| (id, Reason::Last)).into_iter().chain(last_proven.map(|id| (id, Reason::LastProven)))
    {
        reasons.entry(id).or_default().push(reason);
    }
    let newest = restorable().map(|(_, at)| at).next();
    let mut plan = Plan {
        foreign: facts.snapshots.iter().filter(|one| one.origin != SnapshotOrigin::Ours).count(),
        busy: facts.busy.clone(),
        ..Plan::default()
    };
    for family in families.into_iter().rev() {
        let of_family = reasons.remove(family.id).unwrap_or_default();
        // One that failed is of use to nobody once another is there.
        let is_needed = !of_family.is_empty() || family.is_being_made || newest.is_none();
        if is_needed {
            let regions = family.members.iter().map(|one| one.region.clone()).collect();
            plan.keep.push(Kept { id: family.id.to_owned(), regions, reasons: of_family });
        } else {
            let mut members = family.members;
            members.retain(|_| facts.busy.is_none());
            members.sort_by_key(|one| one.copy_of.is_none());
            plan.expire.extend(members.into_iter().cloned());
        }
    }
    plan
}

fn families(facts: &Facts) -> Vec<Family<'_>> {
    let mut families: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in facts.snapshots.iter().filter(|one| one.origin == SnapshotOrigin::Ours) {
        families.entry(snapshot.id.strip_suffix(COPY).unwrap_or(&snapshot.id)).or_default().push(snapshot);
    }
    families.into_iter().map(|(id, members)| Family::of(id, members)).collect()
}

impl<'a> Family<'a> {
    fn of(id: &'a str, members: Vec<&'a Snapshot>) -> Self {
        let is_making = |one: &&Snapshot| one.state == SnapshotState::Creating;
        let is_being_made = members.iter().any(is_making);
        let usable = members.iter().filter(|one| one.state == SnapshotState::Available);
        let taken_at = usable.filter_map(|one| one.taken_at).min();
        Self { id, members, taken_at, is_being_made }
    }
}

/// The newest of each of the newest periods; newest first.
fn count<'a>(
    newest_first: impl Iterator<Item = (&'a str, Timestamp)>,
    keep: Option<&BTreeMap<KeepPeriod, u32>>,
    zone: chrono_tz::Tz,
    reasons: &mut BTreeMap<&'a str, Vec<Reason>>,
) {
    let mut counted: BTreeMap<KeepPeriod, (u32, Option<String>)> = BTreeMap::new();
    for (id, at) in newest_first {
        let Some(keep) = keep else {
            reasons.entry(id).or_default().push(Reason::NoLimit);
            continue;
        };
        for (period, most) in keep {
            let (count, last) = counted.entry(*period).or_default();
            let Some(of) = calendar::name(*period, at, zone) else {
                reasons.entry(id).or_default().push(Reason::NoLimit);
                continue;
            };
            if *count < *most && last.as_ref() != Some(&of) {
                *count += 1;
                reasons.entry(id).or_default().push(Reason::Newest { period: *period, of: of.clone() });
                *last = Some(of);
            }
        }
    }
}

#[cfg(test)]
mod tests;
