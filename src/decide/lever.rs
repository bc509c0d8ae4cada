//! What the safety lever does while it is on: no drill begins, and those that
//! run are asked to stop. What is asked is an abort: before the point of no
//! return the run unwinds; after it the run itself refuses, and goes forward or
//! holds. Restores, restore tests, backups and unwindings are never touched.

use crate::domain::{Check, Lever, record::kind};

/// How far a run is, as its listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Pending,
    Running,
    /// For a person, before or after the point of no return.
    Waiting,
    /// Past the point of no return.
    Holding,
    Unwinding,
    Ended,
}

/// Whether the lever is about runs of this flow.
pub fn concerns(flow: &str) -> bool {
    flow == kind::DRILL
}

/// Whether a run is asked to stop. One that holds is past its point of no return,
/// and one that unwinds has stopped.
pub fn stops(lever: &Lever, flow: &str, stage: Stage) -> bool {
    lever.on && concerns(flow) && matches!(stage, Stage::Pending | Stage::Running | Stage::Waiting)
}

/// Why a new run of this flow is refused; none where it may begin.
pub fn refusal(lever: &Lever, flow: &str) -> Option<String> {
    (lever.on && concerns(flow))
        .then(|| format!("the safety lever is {lever}; no {flow} begins before `lifeboat lever off --reason WHY`"))
}

/// The guard of a drill.
pub fn guard(lever: &Lever) -> Check {
    Check::judge("safety lever", "off", lever.to_string(), !lever.on)
}

#[cfg(test)]
mod tests {
    use super::{Stage, guard, refusal, stops};
    use crate::domain::{Lever, Verdict};

    fn lever(on: bool) -> Lever {
        Lever {
            on,
            who: Some("ann".to_owned()),
            reason: Some("a match".to_owned()),
            since: Some("2026-11-28T20:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn only_drills_that_can_still_stop_are_asked_to() {
        for (stage, asked) in [
            (Stage::Pending, true),
            (Stage::Running, true),
            (Stage::Waiting, true),
            (Stage::Holding, false),
            (Stage::Unwinding, false),
            (Stage::Ended, false),
        ] {
            assert_eq!(stops(&lever(true), "drill", stage), asked, "{stage:?}");
            assert!(!stops(&lever(false), "drill", stage), "off: {stage:?}");
            for flow in ["backup", "restore", "restore_test", "failover", "prune", "copy", "verify", "missed"] {
                assert!(!stops(&lever(true), flow, stage), "{flow}: {stage:?}");
            }
        }
    }

    #[test]
    fn a_new_drill_is_refused_with_who_and_why_and_the_way_out() {
        let why = refusal(&lever(true), "drill").unwrap();
        for word in ["ann", "a match", "2026-11-28T20:00:00Z", "lifeboat lever off --reason"] {
            assert!(why.contains(word), "{word} is not in {why}");
        }
        assert_eq!(refusal(&lever(false), "drill"), None);
        assert_eq!(refusal(&Lever::default(), "drill"), None);
        for flow in ["restore", "restore_test", "failover", "backup"] {
            assert_eq!(refusal(&lever(true), flow), None, "{flow}");
        }
        let (on, off) = (guard(&lever(true)), guard(&lever(false)));
        assert_eq!((on.verdict, off.verdict), (Verdict::Fail, Verdict::Pass));
        assert!(on.actual.contains("ann: a match"), "{}", on.actual);
    }
}
