//! How the recovery point of a restore test is chosen, and the account of one
//! choice: enough to see what else could have been chosen, and to choose again.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VaultName;

/// Which recovery point a restore test takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAlgorithm {
    /// The newest state at a disaster instant that was drawn ahead; measures RPO.
    LatestAtDisaster,
    /// A random instant of the past; reports how exactly it was reached.
    RandomWithinWindow,
    /// The oldest backup that is kept, to its own end.
    Oldest,
    /// The longest chain of backups that are built upon each other, the newest of
    /// them; with all WAL up to the next backup, where it is held.
    IncrementChain,
    /// The newest state that a further vault holds at a disaster instant that was
    /// drawn ahead, from that vault alone; measures the RPO of losing the first one.
    /// Several further vaults take turns.
    OtherVault,
    /// The newest state, as if the state database were gone: it is rebuilt from the
    /// vault, and held against the one that is there.
    CatalogLost,
}

impl RecoveryAlgorithm {
    pub const ALL: [Self; 6] = [
        Self::LatestAtDisaster,
        Self::RandomWithinWindow,
        Self::Oldest,
        Self::IncrementChain,
        Self::OtherVault,
        Self::CatalogLost,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LatestAtDisaster => "latest_at_disaster",
            Self::RandomWithinWindow => "random_within_window",
            Self::Oldest => "oldest",
            Self::IncrementChain => "increment_chain",
            Self::OtherVault => "other_vault",
            Self::CatalogLost => "catalog_lost",
        }
    }
}

impl fmt::Display for RecoveryAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no algorithm for a recovery point")]
pub struct UnknownAlgorithm(String);

impl FromStr for RecoveryAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

/// So many candidates are recorded; how many there were is recorded in any case.
pub const CANDIDATES_MAX: usize = 50;

/// The choice of one restore test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub algorithm: RecoveryAlgorithm,
    /// Where several alternate: in the order of their turn, before this test.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// What could have been chosen, the choice first: at most `CANDIDATES_MAX`.
    pub candidates: Vec<String>,
    pub candidates_total: usize,
    /// What a draw was made from, in decimal; none where nothing was drawn. A text, as
    /// many a reader of JSON rounds so large a number.
    pub seed: Option<String>,
    /// None where the test ended before it was made, or there was nothing to choose.
    pub choice: Option<String>,
    /// What it is restored from; none where a provider keeps the backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultName>,
}

impl Selection {
    /// Nothing chosen yet.
    pub fn of(algorithm: RecoveryAlgorithm, turns: Vec<Turn>, vault: Option<VaultName>) -> Self {
        Self { algorithm, turns, candidates: Vec::new(), candidates_total: 0, seed: None, choice: None, vault }
    }

    /// With what could be chosen, as far as it is recorded.
    #[must_use]
    pub fn among(self, candidates: Vec<String>) -> Self {
        let candidates_total = candidates.len();
        let candidates = candidates.into_iter().take(CANDIDATES_MAX).collect();
        Self { candidates, candidates_total, ..self }
    }
}

/// One of those that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub algorithm: RecoveryAlgorithm,
    /// When a test that took it ended last, unless somebody aborted it.
    pub last_at: Option<Timestamp>,
    /// When one last passed.
    pub last_passed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_written_as_it_is_read() {
        for one in RecoveryAlgorithm::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
            assert_eq!(serde_json::to_value(one).unwrap(), one.as_str());
        }
        assert!("rotate".parse::<RecoveryAlgorithm>().is_err());
    }

    #[test]
    fn a_record_stays_small_and_tells_how_many_there_were() {
        let vault: Option<VaultName> = Some("primary".parse().unwrap());
        let all = (0..400).map(|nth| nth.to_string()).collect();
        let selection = Selection::of(RecoveryAlgorithm::Oldest, Vec::new(), vault).among(all);
        assert_eq!((selection.candidates.len(), selection.candidates_total), (CANDIDATES_MAX, 400));
        assert_eq!(selection.candidates.first().map(String::as_str), Some("0"));
    }
}
