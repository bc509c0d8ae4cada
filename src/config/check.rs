//! What a restore test asks of the copy.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    decide::answer::Expectation,
    domain::{Decimal, Question, Span},
};

/// One check of a restored copy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CheckConfig {
    /// A check that is known by its name.
    Named(NamedCheck),
    /// A query and its answer.
    Sql(SqlCheckConfig),
    /// A query that the source is asked, too.
    Witness(WitnessConfig),
    /// Tables and how many rows each has at least.
    RowCounts(RowCountsConfig),
}

impl CheckConfig {
    /// What the source is asked for this check, and how often; none where it is not asked.
    pub fn question(&self) -> Option<(Question, Span)> {
        match self {
            Self::Witness(witness) => Some((witness.question(), witness.every)),
            Self::Named(NamedCheck::RestoredConfig) => Some((Question::Parts, PARTS_EVERY)),
            Self::Named(_) | Self::Sql(_) | Self::RowCounts(_) => None,
        }
    }
}

/// How often the source is asked what it is made of beside its data.
const PARTS_EVERY: Span = Span::from_secs(3600);

/// A check that is known by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedCheck {
    /// Which acknowledged heartbeats the copy holds.
    Heartbeat,
    /// Holds every B-tree index of every database of the copy against its table, with
    /// PostgreSQL's extension `amcheck`; reads all of both, which counts as restore duration.
    Amcheck,
    /// Verifies the checksum of every page of the copy's files, once it is shut down, with
    /// PostgreSQL's `pg_checksums`; a cluster without data checksums proves nothing.
    PageChecksums,
    /// Reads every database of the copy to its end as `pg_dump` does, and keeps nothing.
    FullRead,
    /// Holds settings, extensions, roles, collations and major version against what they
    /// were at the source, of which the daemon takes a sample every hour.
    RestoredConfig,
}

/// A query and its answer. One of `expect`, `min` and `max`, or `zero_rows` says what
/// the answer is to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlCheckConfig {
    /// The query, or `{file: PATH}` of a file that holds it. The first column of the first
    /// row is its answer.
    pub sql: SqlText,
    /// The database of the cluster it runs in.
    #[schemars(extend("format" = "filled"))]
    pub dbname: String,
    /// The answer, as text.
    pub expect: Option<String>,
    /// The least number that the answer may be.
    pub min: Option<Decimal>,
    /// The greatest number that the answer may be.
    pub max: Option<Decimal>,
    /// There is no row at all, such as of bets without an account.
    #[serde(default)]
    pub zero_rows: bool,
    /// Whether the answer may stand in evidence, which is kept for ever and copied to every
    /// vault. Where it differs from `expect` a digest stands there otherwise.
    #[serde(default)]
    pub public: bool,
}

impl SqlCheckConfig {
    pub fn expectation(&self) -> Expectation {
        match &self.expect {
            Some(text) => Expectation::Exactly(text.clone()),
            None if self.zero_rows => Expectation::NoRow,
            None => Expectation::Within { least: self.min.clone(), most: self.max.clone() },
        }
    }
}

/// A query that the daemon asks the source on a schedule, and a restore test asks the copy:
/// both must answer alike.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// One query with `:as_of` in it, an instant: what it answers of before that instant
    /// never changes any more. Tables outside of the schema `public` are named with theirs.
    #[schemars(extend("format" = "filled"))]
    pub witness: String,
    /// The database of the cluster it runs in.
    #[schemars(extend("format" = "filled"))]
    pub dbname: String,
    /// How often the source is asked, from `1m` on.
    pub every: Span,
    /// How long before now `:as_of` lies: longer than any transaction that writes what the
    /// query reads; `1m` when absent.
    #[serde(default = "one_minute")]
    pub settle: Span,
}

fn one_minute() -> Span {
    Span::from_secs(60)
}

impl WitnessConfig {
    pub fn question(&self) -> Question {
        let (dbname, sql) = (self.dbname.clone(), self.witness.clone());
        Question::Witness { dbname, sql, settle: self.settle.as_duration() }
    }
}

/// A query, or where it is found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SqlText {
    /// The query itself.
    Written(#[schemars(extend("format" = "filled"))] String),
    /// A file that holds it.
    Kept(SqlFile),
}

/// A file that holds a query; read when the check is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlFile {
    /// Relative paths start from the folder of `lifeboat.yaml`.
    pub file: PathBuf,
}

/// Tables and how many rows each has at least.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowCountsConfig {
    /// Tables as SQL names them, `bets` or `ledger.entries`, each with the least number of rows.
    #[schemars(extend("propertyNames" = {"format": "filled"}))]
    pub row_counts: BTreeMap<String, Decimal>,
    /// The database of the cluster they are in.
    #[schemars(extend("format" = "filled"))]
    pub dbname: String,
}
