//! Which recovery points of a rotation were proven, and when.

use jiff::Timestamp;
use serde::Serialize;

use super::words;
use crate::{
    decide::recovery_turn::Standing,
    domain::{RecoveryAlgorithm, Verdict},
};

/// One of the recovery points that restore tests take by turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestedPoint {
    pub algorithm: RecoveryAlgorithm,
    /// When a test of it ended last, and how; none when none did.
    pub last_at: Option<Timestamp>,
    pub last_verdict: Option<Verdict>,
    /// When one last passed.
    pub proven_at: Option<Timestamp>,
}

impl From<Standing<RecoveryAlgorithm>> for TestedPoint {
    fn from(standing: Standing<RecoveryAlgorithm>) -> Self {
        let Standing { of, last_at, last_verdict, last_passed_at } = standing;
        Self { algorithm: of, last_at, last_verdict, proven_at: last_passed_at }
    }
}

impl TestedPoint {
    /// Whether the last test of it failed.
    pub fn failed(&self) -> bool {
        self.last_verdict.is_some_and(|verdict| verdict > Verdict::Inconclusive)
    }

    /// Whether the last test of it proved nothing.
    pub fn is_in_doubt(&self) -> bool {
        self.last_verdict == Some(Verdict::Inconclusive)
    }

    /// For people: when it was proven, and how a test ended since.
    pub fn in_words(&self) -> String {
        let proven = self.proven_at.map_or_else(|| "never".to_owned(), |at| words::date(&at));
        match (self.last_verdict, self.last_at) {
            (Some(verdict), Some(at)) if verdict != Verdict::Pass => {
                format!("{} {proven} ({verdict} {})", self.algorithm, words::date(&at))
            }
            _ => format!("{} {proven}", self.algorithm),
        }
    }
}

/// All of them in one line, the next one last told; none where there is no rotation.
pub fn in_words(points: &[TestedPoint]) -> Option<String> {
    let next = points.first()?.algorithm;
    let all: Vec<String> = points.iter().rev().map(TestedPoint::in_words).collect();
    Some(format!("recovery points last proven: {}; next: {next}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_was_proven_and_what_is_next() {
        let at: Timestamp = "2026-10-01T05:03:00Z".parse().unwrap();
        let point = |algorithm, last: Option<Verdict>, proven_at| TestedPoint {
            algorithm,
            last_at: last.map(|_| at),
            last_verdict: last,
            proven_at,
        };
        let points = [
            point(RecoveryAlgorithm::CatalogLost, None, None),
            point(RecoveryAlgorithm::OtherVault, Some(Verdict::Fail), None),
            point(RecoveryAlgorithm::Oldest, Some(Verdict::Pass), Some(at)),
        ];
        assert_eq!(points.iter().map(TestedPoint::failed).collect::<Vec<_>>(), [false, true, false]);
        let date = words::date(&at);
        assert_eq!(
            in_words(&points).unwrap(),
            format!(
                "recovery points last proven: oldest {date}, other_vault never (FAIL {date}), catalog_lost never; next: catalog_lost"
            )
        );
        assert_eq!(in_words(&[]), None);
    }
}
