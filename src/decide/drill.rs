//! What a drill decides: may it begin, which of its steps can be taken back,
//! how long recovery took, what was lost, and whether it passed. What observers
//! saw of the traffic is judged in `traffic`.
//!
//! A drill never passes because something was not looked at: an unknown lag
//! refuses, a missing instant is no recovery time, an empty set is no PASS.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{Beat, Check, Lsn, Objectives, Phase, Verdict};

pub mod traffic;

#[cfg(test)]
mod tests;

/// How far a standby is behind, in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    Known(Duration),
    /// The reason why nobody can tell.
    Unknown(&'static str),
}

/// Newest acknowledged heartbeat minus newest replayed one, by our clock.
///
/// `recent` are acknowledged heartbeats, in any order. When the newest of them
/// is older than `silence`, the heartbeat itself has stopped and the lag is
/// unknown, however little the standby seems to be behind.
pub fn replica_lag(recent: &[Beat], replayed: Lsn, now: Timestamp, silence: Duration) -> Lag {
    let Some(newest) = recent.iter().max_by_key(|beat| beat.seq) else {
        return Lag::Unknown("no heartbeat was acknowledged lately");
    };
    if between(newest.acknowledged_at, now) > silence {
        return Lag::Unknown("the heartbeat has been silent for too long");
    }
    recent
        .iter()
        .filter(|beat| beat.commit_lsn <= replayed)
        .map(|beat| beat.acknowledged_at)
        .max()
        .map_or(Lag::Unknown("the standby has replayed none of the recent heartbeats"), |replayed_at| {
            Lag::Known(between(replayed_at, newest.acknowledged_at))
        })
}

/// The guard on replica lag: unknown refuses.
pub fn guard_lag(lag: Lag, limit: Duration) -> Check {
    let expected = format!("at most {} s behind", limit.as_secs_f64());
    match lag {
        Lag::Known(lag) => {
            Check::judge("replica_lag", expected, format!("{:.3} s behind", lag.as_secs_f64()), lag <= limit)
        }
        Lag::Unknown(why) => Check::judge("replica_lag", expected, format!("unknown: {why}"), false),
    }
}

/// Why the guards refuse, none when all of them hold. No guard at all refuses.
pub fn refusal(guards: &[Check]) -> Option<String> {
    if guards.is_empty() {
        return Some("no guard was evaluated".to_owned());
    }
    let failed: Vec<String> = guards
        .iter()
        .filter(|guard| guard.verdict != Verdict::Pass)
        .map(|guard| format!("{}: expected {}, found {}", guard.name, guard.expected, guard.actual))
        .collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

/// What a step does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    Approve,
    Guards,
    Fence,
    Promote,
    Dns,
    Observe,
    Rejoin,
    Steady,
}

impl StepKind {
    /// Whether it changes something that an unwinding takes back.
    pub const fn is_reversible(self) -> bool {
        matches!(self, Self::Fence | Self::Dns)
    }

    /// Whether nothing before it is taken back once it has begun.
    pub const fn is_point_of_no_return(self) -> bool {
        matches!(self, Self::Promote)
    }
}

/// Which of the steps that began an unwinding takes back, newest first: none
/// once the point of no return has begun.
pub fn rollback(began: &[StepKind]) -> Vec<StepKind> {
    if began.iter().any(|step| step.is_point_of_no_return()) {
        return Vec::new();
    }
    began.iter().rev().copied().filter(|step| step.is_reversible()).collect()
}

/// Why these steps are not a drill that can be carried out safely.
pub fn refuse_order(steps: &[StepKind]) -> Option<String> {
    let place = |kind: StepKind| steps.iter().position(|step| *step == kind);
    let twice = steps.iter().find(|kind| steps.iter().filter(|step| step == kind).count() > 1);
    if let Some(kind) = twice {
        return Some(format!("step `{kind:?}` stands more than once; write it once"));
    }
    [
        (StepKind::Promote, StepKind::Fence, "two primaries would take writes"),
        (StepKind::Dns, StepKind::Promote, "clients would be sent to a standby"),
        (StepKind::Observe, StepKind::Dns, "there is no change to observe"),
        (StepKind::Rejoin, StepKind::Promote, "there is no new primary to follow"),
    ]
    .into_iter()
    .find(|(step, needs, _)| place(*step).is_some_and(|at| place(*needs).is_none_or(|before| before > at)))
    .map(|(step, needs, why)| format!("step `{step:?}` needs `{needs:?}` before it, or {why}"))
    .or_else(|| place(StepKind::Fence).is_none().then(|| "a switchover needs a fence step".to_owned()))
}

/// The instants of a recovery, as `docs/measurement.md` defines them. In a
/// planned drill T1 and T2 are simulated and equal T0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instants {
    /// The fence begins.
    pub t0: Option<Timestamp>,
    /// First recovery action.
    pub t3: Option<Timestamp>,
    /// The engine accepts connections and writes.
    pub t4: Option<Timestamp>,
    /// Recovery point and data checks pass.
    pub t5: Option<Timestamp>,
    /// The application's read and write pass.
    pub t6: Option<Timestamp>,
    /// Traffic has shifted.
    pub t7: Option<Timestamp>,
    /// The start of the healthy period that held.
    pub t8: Option<Timestamp>,
}

impl Instants {
    /// Achieved RTO in seconds: T8 − T0; none when either is missing.
    pub fn rto_seconds(&self) -> Option<f64> {
        Some(between(self.t0?, self.t8?).as_secs_f64())
    }

    /// The stretches between known instants, in order. An instant that precedes
    /// the one before it gives a stretch of no length.
    pub fn phases(&self) -> Vec<Phase> {
        let Some(t0) = self.t0 else { return Vec::new() };
        let named = [
            ("T0-T1 detection (simulated)", Some(t0)),
            ("T1-T2 decision (simulated)", Some(t0)),
            ("T2-T3 fencing", self.t3),
            ("T3-T4 promotion", self.t4),
            ("T4-T5 recovery point checks", self.t5),
            ("T5-T6 application probe", self.t6),
            ("T6-T7 traffic shift", self.t7),
            ("T7-T8 users healthy", self.t8),
        ];
        let mut last = t0;
        let mut phases = Vec::new();
        for (name, end) in named {
            let Some(end) = end else { break };
            phases.push(Phase { name: name.to_owned(), seconds: between(last, end).as_secs_f64() });
            last = last.max(end);
        }
        phases
    }
}

/// The recovery time against its objective. Not measured is not met.
pub fn judge_rto(instants: &Instants, objectives: &Objectives) -> Verdict {
    match instants.rto_seconds() {
        Some(seconds) if seconds <= objectives.rto.as_secs_f64() => Verdict::Pass,
        _ => Verdict::Fail,
    }
}

/// What the new primary lacks of what the old one had acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Acknowledged heartbeats up to the fence that were looked for.
    pub expected: u64,
    /// Those of them that the new primary lacks.
    pub lost_commits: u64,
    /// One is missing below one that is present: corruption, not loss.
    pub has_gap: bool,
    /// Acknowledgement of the newest heartbeat that survived.
    pub newest_kept_at: Option<Timestamp>,
}

impl Loss {
    /// Compares what was acknowledged up to the fence with what is present.
    pub fn count(acknowledged: &[Beat], present: &[i64]) -> Self {
        let present: BTreeSet<i64> = present.iter().copied().collect();
        let newest_kept = acknowledged.iter().filter(|beat| present.contains(&beat.seq)).max_by_key(|beat| beat.seq);
        let lost: BTreeSet<i64> =
            acknowledged.iter().map(|beat| beat.seq).filter(|seq| !present.contains(seq)).collect();
        Self {
            expected: acknowledged.iter().map(|beat| beat.seq).collect::<BTreeSet<_>>().len() as u64,
            lost_commits: lost.len() as u64,
            has_gap: newest_kept.is_some_and(|kept| lost.iter().any(|seq| *seq < kept.seq)),
            newest_kept_at: newest_kept.map(|beat| beat.acknowledged_at),
        }
    }

    /// 0 when nothing was lost, else the age of the newest survivor at the
    /// fence; none when nothing survived or nothing was there to be compared.
    pub fn rpo_seconds(&self, fenced_at: Timestamp) -> Option<f64> {
        match (self.expected, self.lost_commits) {
            (0, _) => None,
            (_, 0) => Some(0.0),
            _ => self.newest_kept_at.map(|kept| between(kept, fenced_at).as_secs_f64()),
        }
    }

    /// In a switchover nothing may be lost, whatever the objective allows; with
    /// no heartbeat to compare nothing is proven.
    pub fn judge(&self) -> Verdict {
        match (self.expected, self.lost_commits, self.has_gap) {
            (0, _, _) => Verdict::Inconclusive,
            (_, 0, false) => Verdict::Pass,
            _ => Verdict::Fail,
        }
    }
}

/// How the steps of a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every step succeeded.
    Completed,
    /// A guard refused or nobody approved; nothing had been changed.
    Refused,
    /// A person ended it and everything was taken back.
    Aborted,
    /// A step failed and everything was taken back.
    Failed,
    /// Something could not be taken back.
    Stuck,
}

/// What the verdict of a drill is made of. Empty checks are nothing proven.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub outcome: Outcome,
    pub objectives: &'a Objectives,
    pub instants: &'a Instants,
    pub loss: Option<&'a Loss>,
    pub traffic: &'a [Check],
    /// The old primary follows again; or, unwound, it takes writes again.
    pub cleanup: &'a [Check],
    pub steady_state: &'a [Check],
}

/// One verdict per objective or duty. A drill that changed nothing has only the
/// verdict `drill`.
pub fn verdicts(facts: &Facts<'_>) -> BTreeMap<String, Verdict> {
    let of = |checks: &[Check]| Verdict::worst(checks.iter().map(|check| check.verdict));
    let mut verdicts = BTreeMap::new();
    let mut put = |name: &str, verdict| verdicts.insert(name.to_owned(), verdict);
    put(
        "drill",
        match facts.outcome {
            Outcome::Completed => Verdict::Pass,
            Outcome::Refused | Outcome::Aborted => Verdict::Aborted,
            Outcome::Failed | Outcome::Stuck => Verdict::Fail,
        },
    );
    match facts.outcome {
        Outcome::Refused => return verdicts,
        Outcome::Completed => {
            put("rto", judge_rto(facts.instants, facts.objectives));
            put("rpo", facts.loss.map_or(Verdict::Inconclusive, Loss::judge));
            put("traffic", of(facts.traffic));
            put("cleanup", of(facts.cleanup));
        }
        Outcome::Aborted | Outcome::Failed => {
            put("cleanup", of(facts.cleanup));
        }
        Outcome::Stuck => {
            put("cleanup", Verdict::Fail);
        }
    }
    put("steady_state", of(facts.steady_state));
    verdicts
}

/// The time from one instant to a later one; none is negative.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}
