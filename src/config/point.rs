//! `restore_test.recovery_point` in `schedules/*.yaml`: which recovery point a test
//! restores. What cannot be had by what else is written is refused by
//! `rules/schedule/point.rs`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::domain::{RecoveryAlgorithm, Span};

/// Which recovery point a test restores.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPointConfig {
    /// How the recovery point is chosen; `rotate` takes those of `of` by turns.
    pub algorithm: RecoveryPointAlgorithm,
    /// For `rotate`: each test takes the one that was tried longest ago.
    #[serde(default)]
    pub of: Vec<RecoveryAlgorithm>,
    /// For `random_within_window`: how far back it may reach; within `wal.window`, which
    /// a rotation goes by where it is absent.
    pub window: Option<Span>,
}

impl RecoveryPointConfig {
    /// Those that a test may take, the first one first where none was tried yet.
    pub fn algorithms(&self) -> Vec<RecoveryAlgorithm> {
        match self.algorithm {
            RecoveryPointAlgorithm::Always(one) => vec![one],
            RecoveryPointAlgorithm::ByTurns(Rotation::Rotate) => self.of.clone(),
        }
    }
}

/// How a test's recovery point is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RecoveryPointAlgorithm {
    Always(RecoveryAlgorithm),
    ByTurns(Rotation),
}

/// Several algorithms alternate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Each test takes the next of `of`.
    Rotate,
}

impl RecoveryPointAlgorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always(one) => one.as_str(),
            Self::ByTurns(Rotation::Rotate) => "rotate",
        }
    }
}
