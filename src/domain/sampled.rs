//! What a source answered at one instant of its life, kept so that a copy can be
//! held against the source as it was. Digests and counts, and never a value that
//! a query gave.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Lsn, RecoveryPoint, Timeline};

/// What a source is asked on a schedule, and a copy of it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A query about what was before `:as_of`: the server's now less `settle`.
    Witness { dbname: String, sql: String, settle: Duration },
    /// What the cluster is made of beside its data.
    Parts,
}

/// When it was, by the source itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The instant that was asked about, by the server's clock.
    pub as_of: Timestamp,
    /// Which cluster answered.
    pub system_id: String,
    pub timeline: Timeline,
    /// A position at or before the snapshot.
    pub from: Lsn,
    /// A position at or behind every commit that the snapshot shows.
    pub to: Lsn,
}

/// A whole answer in one form, whatever the order of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDigest {
    pub rows: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// What a cluster is made of beside its data, by what each part is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterParts {
    /// What each part is; where it may hold a secret, a digest.
    pub parts: BTreeMap<String, String>,
    /// What could not be seen, and why.
    pub unseen: Vec<String>,
    /// The names of parts that it has, and whose state cannot be told from here.
    #[serde(default)]
    pub hidden: BTreeSet<String>,
    /// How many settings it has from files that are no part of a copy's data folder.
    #[serde(default)]
    pub outside: usize,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Answer(AnswerDigest),
    Parts(ClusterParts),
}

/// One answer of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// By our clock.
    pub taken_at: Timestamp,
    pub moment: Moment,
    pub told: Told,
}

/// Where a copy came from: the history that leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    pub system_id: String,
    pub reached: RecoveryPoint,
    /// Timelines with where each was left, oldest first; the last one is where recovery ended.
    pub history: Vec<(Timeline, Lsn)>,
}
