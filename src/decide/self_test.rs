//! Whether the verifier sees: of each fault that a self-test plants into a restore test,
//! what has to turn red, what did, and what it means where nothing did.
//!
//! What must never happen: a fault that counts as seen because the restore test failed for
//! another reason, or because the fault was not there to be seen.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::{Beat, Check, DatabaseName, Lsn, Span, Timeline, Verdict, record::kind};

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A page of the restored copy has another byte.
    FlippedPage,
    /// The vault lacks a segment that the backup needs.
    MissingSegment,
    /// Another identity than one that the backup is encrypted to.
    WrongKey,
    /// Heartbeats of longer than the objective were acknowledged and are not in the copy.
    StaleHeartbeat,
    /// A query whose answer is not the expected one.
    FailingSql,
}

impl Fault {
    pub const ALL: [Self; 5] =
        [Self::FlippedPage, Self::MissingSegment, Self::WrongKey, Self::StaleHeartbeat, Self::FailingSql];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FlippedPage => "flipped_page",
            Self::MissingSegment => "missing_segment",
            Self::WrongKey => "wrong_key",
            Self::StaleHeartbeat => "stale_heartbeat",
            Self::FailingSql => "failing_sql",
        }
    }

    /// What of a restore test has to turn red.
    pub const fn red(self) -> &'static str {
        match self {
            Self::FlippedPage => "RED: the check `page_checksums` fails",
            Self::MissingSegment => "RED: the restore is refused and names the segment",
            Self::WrongKey => "RED: decryption is refused",
            Self::StaleHeartbeat => "RED: the check `heartbeat` fails, commits are lost",
            Self::FailingSql => "RED: the SQL check fails",
        }
    }

    /// What no restore test proves while this is not seen.
    const fn unproven(self) -> &'static str {
        match self {
            Self::FlippedPage => "that the pages of the copy were sound",
            Self::MissingSegment => "that the vault held all the WAL",
            Self::WrongKey => "that the backup can be opened with the identity, and with nothing else",
            Self::StaleHeartbeat => "how many commits would have been lost",
            Self::FailingSql => "that the answers of its SQL checks were right",
        }
    }
}

/// What became of a planted fault, with what was found in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "came_out", content = "found")]
pub enum Sight {
    /// It was seen.
    Red(String),
    /// It was not: the verifier is blind to it.
    Green(String),
    /// It could not be planted, or what should see it could not be asked.
    Unknown(String),
}

/// A fault that was planted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub fault: Fault,
    pub sight: Sight,
}

impl Outcome {
    /// PASS where it turned red: that is what was expected.
    pub fn check(&self) -> Check {
        let (verdict, actual) = match &self.sight {
            Sight::Red(found) => (Verdict::Pass, format!("RED: {found}")),
            Sight::Green(found) => (Verdict::Fail, format!("GREEN: {found}")),
            Sight::Unknown(why) => (Verdict::Inconclusive, format!("not known: {why}")),
        };
        Check::new(self.fault.as_str(), verdict, self.fault.red(), actual)
    }
}

/// What a restore test with one planted fault says of it: the check that has to see it,
/// and the verdict of the test.
pub fn sight(check: Option<&Check>, verdict: Verdict) -> Sight {
    let Some(check) = check else {
        return Sight::Green(format!("the check was not made at all, and the test's verdict is {verdict}"));
    };
    let found = format!("`{}` gave {} ({}); the test's verdict is {verdict}", check.name, check.verdict, check.actual);
    match (check.verdict, verdict) {
        (Verdict::Fail, Verdict::Fail) => Sight::Red(found),
        // What could not be asked has seen nothing, and says so.
        (Verdict::Inconclusive, verdict) if verdict != Verdict::Pass => Sight::Unknown(found),
        _ => Sight::Green(found),
    }
}

/// How a self-test is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concluded {
    /// Of its record. What was not seen is the gravest there is, however the run ended.
    pub verdict: Verdict,
    /// Whether it could be made; none where somebody ended it.
    pub is_made: Option<bool>,
}

/// `ended` is the verdict by how its steps ended, `seen` that of the faults.
pub fn conclude(ended: Verdict, seen: Verdict) -> Concluded {
    let is_made = match ended {
        Verdict::Error => Some(false),
        Verdict::Aborted => None,
        Verdict::Pass | Verdict::Inconclusive | Verdict::Fail => Some(true),
    };
    Concluded { verdict: ended.max(seen), is_made }
}

/// How long before a planted disaster nothing more arrived, beyond the objective.
const STALE: SignedDuration = SignedDuration::from_secs(60);

/// A disaster before which heartbeats were acknowledged, one a second, that are in no copy
/// of what the vault holds now. `known` are those that were acknowledged in truth, or are
/// in the copy.
pub fn stale(
    objective: Span,
    known: impl Iterator<Item = i64>,
    newest: Option<Beat>,
    now: Timestamp,
) -> (Timestamp, Vec<Beat>) {
    let objective = SignedDuration::try_from(objective.as_duration()).unwrap_or(SignedDuration::MAX);
    let disaster_at = now.checked_add(objective.saturating_add(STALE)).unwrap_or(Timestamp::MAX);
    let (timeline, commit_lsn) = newest.map_or((Timeline(1), Lsn(0)), |beat| (beat.timeline, beat.commit_lsn));
    let after = known.max().unwrap_or(0);
    let beats = (1..STALE.as_secs()).filter_map(|nth| {
        let acknowledged_at = now.checked_add(SignedDuration::from_secs(nth)).ok()?;
        Some(Beat { seq: after.checked_add(nth)?, acknowledged_at, commit_lsn, timeline })
    });
    (disaster_at, beats.collect())
}

/// The id of the finding that a fault was not seen.
pub fn finding_id(database: &DatabaseName, fault: Fault) -> String {
    format!("{}/{database}/{}", kind::SELF_TEST, fault.as_str())
}

/// The fault whose finding this is, in which database.
pub fn unseen(finding_id: &str) -> Option<(&str, Fault)> {
    let (database, fault) = finding_id.strip_prefix(kind::SELF_TEST)?.strip_prefix('/')?.split_once('/')?;
    Some((database, Fault::ALL.into_iter().find(|known| known.as_str() == fault)?))
}

/// What a person is told of a fault that was not seen: which, what it means, since when,
/// and what to do. `seen` is the last self-test that did see it.
pub fn told(database: &DatabaseName, outcome: &Outcome, run: &str, seen: Option<(&str, Timestamp)>) -> String {
    let Outcome { fault, sight } = outcome;
    let (Sight::Red(found) | Sight::Green(found) | Sight::Unknown(found)) = sight;
    let since = seen.map_or_else(
        || "no self-test has ever seen it, so no restore test".to_owned(),
        |(run, at)| format!("the last self-test that saw it is {run} of {at}, and no restore test since"),
    );
    format!(
        "restore tests are blind: the planted fault `{}` came out green: {found}; {since} proves {}. Do not rely on \
         them: restore by hand and look for yourself; find out why (`lifeboat evidence show {run}`). A later \
         `lifeboat self-test {database}` in which it turns red closes this",
        fault.as_str(),
        fault.unproven()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::rpo::{self, DisasterFacts};

    #[test]
    fn red_is_what_the_check_and_the_verdict_say() {
        use Verdict::{Aborted, Error, Fail, Inconclusive, Pass};
        let came_out = |check: Option<Verdict>, verdict| {
            let check = check.map(|verdict| Check::new("page_checksums", verdict, "sound", "block 1"));
            let outcome = Outcome { fault: Fault::FlippedPage, sight: sight(check.as_ref(), verdict) };
            outcome.check().verdict
        };
        for (check, verdict, expected) in [
            (Some(Fail), Fail, Pass),
            // Seen, and the verdict does not count it.
            (Some(Fail), Pass, Fail),
            (Some(Fail), Inconclusive, Fail),
            (Some(Pass), Pass, Fail),
            // The test failed for another reason.
            (Some(Pass), Fail, Fail),
            (Some(Inconclusive), Inconclusive, Inconclusive),
            (Some(Inconclusive), Fail, Inconclusive),
            // Not asked, and passed all the same.
            (Some(Inconclusive), Pass, Fail),
            (Some(Error), Error, Fail),
            (Some(Aborted), Aborted, Fail),
            (None, Pass, Fail),
            (None, Fail, Fail),
        ] {
            assert_eq!(came_out(check, verdict), expected, "{check:?} {verdict}");
        }
    }

    #[test]
    fn one_that_could_not_be_made_is_told_whatever_it_has_seen() {
        use Verdict::{Aborted, Error, Fail, Inconclusive, Pass};
        for (ended, seen, verdict, is_made) in [
            (Pass, Pass, Pass, Some(true)),
            (Inconclusive, Inconclusive, Inconclusive, Some(true)),
            (Fail, Fail, Fail, Some(true)),
            (Error, Inconclusive, Error, Some(false)),
            (Error, Fail, Fail, Some(false)),
            (Aborted, Pass, Aborted, None),
            (Aborted, Fail, Fail, None),
        ] {
            assert_eq!(conclude(ended, seen), Concluded { verdict, is_made }, "{ended} {seen}");
        }
    }

    #[test]
    fn planted_heartbeats_are_lost_whatever_the_copy_holds() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let beat = |seq, seconds| Beat {
            seq,
            acknowledged_at: now - SignedDuration::from_secs(seconds),
            commit_lsn: Lsn(100),
            timeline: Timeline(2),
        };
        for (acknowledged, present) in
            [(vec![beat(7, 3), beat(8, 2), beat(9, 0)], vec![7, 8, 9]), (vec![beat(9, 1)], vec![]), (vec![], vec![])]
        {
            for objective in [0, 15, 900, 86_400].map(Span::from_secs) {
                let known = acknowledged.iter().map(|beat| beat.seq).chain(present.iter().copied());
                let (disaster_at, planted) = stale(objective, known, acknowledged.last().copied(), now);
                let acknowledged: Vec<Beat> = acknowledged.iter().chain(&planted).copied().collect();
                let interval = Span::from_secs(1);
                let judged = rpo::judge(DisasterFacts {
                    disaster_at,
                    acknowledged: &acknowledged,
                    present: &present,
                    interval,
                    objective,
                });
                assert_eq!(judged.verdict, Verdict::Fail, "{objective}: {judged:?}");
                assert!(judged.lost_commits >= Some(59) && judged.missing_below.is_empty(), "{objective}: {judged:?}");
            }
        }
    }

    #[test]
    fn the_finding_names_fault_meaning_and_remedy() {
        let database: DatabaseName = "wallet".parse().unwrap();
        for fault in Fault::ALL {
            let id = finding_id(&database, fault);
            assert_eq!(unseen(&id), Some(("wallet", fault)));
            let outcome = Outcome { fault, sight: Sight::Green("it passed".to_owned()) };
            let at = "2026-11-22T01:00:00Z".parse().unwrap();
            let told_after = told(&database, &outcome, "self_test/wallet/2", Some(("self_test/wallet/1", at)));
            for word in [fault.as_str(), fault.unproven(), "self_test/wallet/1 of 2026-11-22T01:00:00Z", "blind"] {
                assert!(told_after.contains(word), "{word}: {told_after}");
            }
            assert!(told(&database, &outcome, "r", None).contains("no self-test has ever seen it"));
        }
        for id in ["self_test/wallet", "restore_test/wallet", "self_test/wallet/other", "self_testing/wallet/wrong_key"]
        {
            assert_eq!(unseen(id), None, "{id}");
        }
    }
}
