//! Several databases restored to one common instant: which one is drawn, and what the
//! platform that they make up together reached. Its recovery point is the worst of theirs.
//!
//! What must never happen: a platform that looks consistent because one of its databases
//! did not tell what it reached.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::domain::{DatabaseName, Verdict};

/// What the restore test of one database came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    pub database: DatabaseName,
    pub verdict: Verdict,
    /// Of the last commit in its copy.
    pub last_commit_at: Option<Timestamp>,
}

/// How far a database stayed behind the instant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Behind {
    pub database: DatabaseName,
    pub last_commit_at: Timestamp,
    /// The instant minus that.
    pub seconds: f64,
}

/// What the platform reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Platform {
    pub instant: Timestamp,
    /// The worst of the tests; INCONCLUSIVE at best where one did not tell what it reached.
    pub verdict: Verdict,
    /// The newest last commit minus the oldest; none where one did not tell.
    pub skew_seconds: Option<f64>,
    /// Of the database that is furthest behind: the platform's recovery point.
    pub recovery_point: Option<Behind>,
}

/// The platform's recovery point, skew and verdict.
pub fn judge(instant: Timestamp, tests: &[Reached]) -> Platform {
    let told: Vec<Behind> = tests
        .iter()
        .filter_map(|test| {
            let last_commit_at = test.last_commit_at?;
            let seconds = instant.duration_since(last_commit_at).as_secs_f64();
            Some(Behind { database: test.database.clone(), last_commit_at, seconds })
        })
        .collect();
    let is_whole = !tests.is_empty() && told.len() == tests.len();
    let doubt = if is_whole { Verdict::Pass } else { Verdict::Inconclusive };
    let worst = told.iter().min_by_key(|behind| behind.last_commit_at).cloned();
    let newest = told.iter().map(|behind| behind.last_commit_at).max();
    let skew = newest.zip(worst.as_ref()).map(|(newest, worst)| newest.duration_since(worst.last_commit_at));
    Platform {
        instant,
        verdict: Verdict::worst(tests.iter().map(|test| test.verdict)).max(doubt),
        skew_seconds: skew.filter(|_| is_whole).map(|skew| skew.as_secs_f64()),
        recovery_point: worst.filter(|_| is_whole),
    }
}

/// The stretch of instants that all of these windows hold; none where there is none.
pub fn window(windows: &[(Timestamp, Timestamp)]) -> Option<(Timestamp, Timestamp)> {
    let from = windows.iter().map(|(from, _)| *from).max()?;
    let to = windows.iter().map(|(_, to)| *to).min()?;
    (from < to).then_some((from, to))
}

/// An instant of a window; `share` from 0 to 1 is what was drawn.
pub fn instant((from, to): (Timestamp, Timestamp), share: f64) -> Timestamp {
    let length = to.duration_since(from).as_secs_f64() * share.clamp(0.0, 1.0);
    SignedDuration::try_from_secs_f64(length).map_or(from, |after| from + after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn reached(database: &str, verdict: Verdict, second: Option<i64>) -> Reached {
        Reached { database: database.parse().unwrap(), verdict, last_commit_at: second.map(at) }
    }

    #[test]
    fn the_platform_is_as_far_as_the_one_that_is_furthest_behind() {
        use Verdict::{Fail, Inconclusive, Pass};
        // Verdict and last commit of each; what they come to.
        for (tests, verdict, skew, point) in [
            (vec![(Pass, Some(90)), (Pass, Some(98)), (Pass, Some(95))], Pass, Some(8.0), Some((0, 10.0))),
            (vec![(Pass, Some(95)), (Fail, Some(95))], Fail, Some(0.0), Some((0, 5.0))),
            // One did not tell: nobody knows how far the platform is.
            (vec![(Pass, Some(95)), (Pass, None)], Inconclusive, None, None),
            (vec![(Pass, Some(95)), (Fail, None)], Fail, None, None),
            (vec![], Inconclusive, None, None),
        ] {
            let reached: Vec<Reached> = tests
                .iter()
                .enumerate()
                .map(|(nth, (verdict, second))| reached(&format!("db{nth}"), *verdict, *second))
                .collect();
            let platform = judge(at(100), &reached);
            assert_eq!((platform.verdict, platform.skew_seconds), (verdict, skew), "{tests:?}");
            let behind = platform.recovery_point.map(|behind| (behind.database.to_string(), behind.seconds));
            assert_eq!(behind, point.map(|(nth, seconds)| (format!("db{nth}"), seconds)), "{tests:?}");
        }
    }

    #[test]
    fn an_instant_is_drawn_where_all_can_be_restored() {
        let windows = |all: &[(i64, i64)]| all.iter().map(|(from, to)| (at(*from), at(*to))).collect::<Vec<_>>();
        let common = window(&windows(&[(10, 100), (40, 90), (20, 80)]));
        assert_eq!(common, Some((at(40), at(80))));
        assert_eq!(window(&windows(&[(10, 50), (50, 90)])), None);
        assert_eq!(window(&[]), None);
        for (share, second) in [(0.0, 40), (0.5, 60), (1.0, 80), (7.0, 80)] {
            assert_eq!(instant((at(40), at(80)), share), at(second), "{share}");
        }
    }
}
