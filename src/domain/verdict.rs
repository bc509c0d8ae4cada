//! Verdicts and the parts they are made of. Rules: `docs/measurement.md`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The judgement of a run or of one objective. Ordered from best to worst, so
/// that the verdict of a run is the maximum over its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every objective met, clean-up and steady state after it proven.
    Pass,
    /// The measurement cannot be trusted; a skipped check is one reason.
    Inconclusive,
    /// A guard, stop condition or person ended it.
    Aborted,
    /// Our fault.
    Error,
    /// An objective or check failed.
    Fail,
}

impl Verdict {
    /// The worst of the parts. Nothing judged is nothing passed: an empty set
    /// is INCONCLUSIVE.
    pub fn worst(parts: impl IntoIterator<Item = Verdict>) -> Verdict {
        parts.into_iter().max().unwrap_or(Verdict::Inconclusive)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Aborted => "ABORTED",
            Self::Error => "ERROR",
            Self::Fail => "FAIL",
        }
    }

    /// The exit code of a command that ends with this verdict: 0 pass,
    /// 3 inconclusive, else 1.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Inconclusive => 3,
            Self::Aborted | Self::Error | Self::Fail => 1,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One check with what was expected and what was found. `actual` is a digest
/// where the value could be personal data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    pub expected: String,
    pub actual: String,
    /// How long it took; absent where that says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Check {
    pub fn new(
        name: impl Into<String>,
        verdict: Verdict,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), verdict, expected: expected.into(), actual: actual.into(), seconds: None }
    }

    /// The same with the time that it took.
    #[must_use]
    pub fn taking(self, duration: Duration) -> Self {
        Self { seconds: Some(duration.as_secs_f64()), ..self }
    }

    /// PASS when `holds`, else FAIL.
    pub fn judge(name: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>, holds: bool) -> Self {
        let verdict = if holds { Verdict::Pass } else { Verdict::Fail };
        Self::new(name, verdict, expected, actual)
    }
}

/// A named stretch of a run, measured on the monotonic clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_wins_and_nothing_judged_is_not_passed() {
        assert_eq!(Verdict::worst([Verdict::Pass, Verdict::Inconclusive]), Verdict::Inconclusive);
        assert_eq!(Verdict::worst([Verdict::Fail, Verdict::Pass, Verdict::Error]), Verdict::Fail);
        assert_eq!(Verdict::worst([]), Verdict::Inconclusive);
    }
}
