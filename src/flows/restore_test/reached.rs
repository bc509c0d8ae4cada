//! The recovery point that a copy reached, and how it is judged: against a disaster that
//! was drawn ahead, or against what was asked for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::wants_heartbeat;
use crate::{
    config::ScheduleConfig,
    db::heartbeats,
    decide::rpo::{self, DisasterFacts},
    domain::{Beat, Check, DatabaseName, RecoveryTarget, Verdict, record::Measured},
    fault,
    flow::{StepContext, StepError},
    flows::{Resources, ledger::HEARTBEAT_EVERY},
};

/// The check that tells which acknowledged heartbeats the copy holds.
pub(in crate::flows) const HEARTBEAT: &str = "heartbeat";

/// Heartbeats older than this are trimmed from the database and not asked for.
pub(in crate::flows) const BEATS_WINDOW: SignedDuration = SignedDuration::from_hours(2);

/// Where the judgement stands.
pub(super) type Judged<'a> = (&'a mut Measured, &'a mut Vec<Check>, &'a mut BTreeMap<String, Verdict>);

/// What a copy was restored to, and what it holds.
pub(super) struct Reached<'a> {
    /// None where no disaster was drawn ahead.
    pub(super) disaster_at: Option<Timestamp>,
    pub(super) target: &'a RecoveryTarget,
    /// What was acknowledged around the disaster, or the instant that was restored.
    pub(super) acknowledged: &'a [Beat],
    /// The heartbeats in the copy.
    pub(super) present: &'a [i64],
    pub(super) last_commit_at: Option<Timestamp>,
    /// Of which instant a provider says that the copy is; none where the server was told
    /// where to stop, and would have failed.
    pub(super) claimed_at: Option<Timestamp>,
}

impl Reached<'_> {
    /// RPO where the disaster was drawn ahead, else how exactly a point of the past was reached.
    pub(super) fn judge(&self, schedule: &ScheduleConfig, (measured, checks, verdicts): Judged<'_>) {
        let objective = schedule.objectives().rpo;
        if let Some(disaster_at) = self.disaster_at {
            let rpo = rpo::judge(DisasterFacts {
                disaster_at,
                acknowledged: self.acknowledged,
                present: self.present,
                interval: HEARTBEAT_EVERY.into(),
                objective,
            });
            measured.disaster_at = Some(disaster_at);
            measured.rpo_seconds = rpo.rpo_seconds;
            measured.rpo_bound_seconds = rpo.rpo_seconds.map(|_| rpo.bound_seconds);
            measured.lost_commits = rpo.lost_commits;
            verdicts.insert("rpo".to_owned(), rpo.verdict);
            let expected = format!("at most {objective} lost, nothing missing in between");
            checks.push(Check::new(HEARTBEAT, rpo.verdict, expected, rpo.reason));
            return;
        }
        if let RecoveryTarget::Time(asked) | RecoveryTarget::BeforeTime(asked) = self.target {
            measured.target_error_seconds = rpo::target_error_seconds(*asked, self.last_commit_at);
        }
        if let Some(at) = self.claimed_at {
            let (verdict, actual) = rpo::at_instant(at, self.acknowledged, self.present);
            checks.push(Check::new("recovery_point", verdict, format!("the state of {at}"), actual));
        }
        if schedule.restore_test.as_ref().is_some_and(wants_heartbeat) {
            let present = self.present.len();
            let actual = format!("{present} heartbeats");
            checks.push(Check::judge(HEARTBEAT, "heartbeats in the copy", actual, present > 0));
        }
    }
}

/// What was acknowledged around an instant, such as that of a disaster; nothing where there is none.
pub(super) async fn acknowledged(
    resources: &Resources,
    database: &DatabaseName,
    at: Option<Timestamp>,
) -> Result<Vec<Beat>, StepError> {
    let Some(at) = at else { return Ok(Vec::new()) };
    let (from, to) = (at - BEATS_WINDOW, at + SignedDuration::from_mins(1));
    Ok(heartbeats::between(&resources.db, database, from, to).await?)
}

/// T5 − T3: from the begin of the fetch to the last check, with whatever failed or was
/// interrupted in between.
pub(super) fn restore_seconds(cx: &StepContext, checked_at: Timestamp) -> Option<f64> {
    let fetch = cx.step_times().into_iter().find(|times| times.step == "fetch")?;
    Some(checked_at.duration_since(fetch.began_at).as_secs_f64())
}

/// What a person can do so that there is something to restore; what failed is told by its check.
pub(super) fn lacking(checks: &[Check]) -> Vec<String> {
    checks.iter().filter(|check| check.verdict == Verdict::Inconclusive).map(|check| check.actual.clone()).collect()
}

/// Where a test of the self-test has a check see nothing, it finds nothing.
pub(super) fn blind(checks: &mut [Check], verdicts: &mut BTreeMap<String, Verdict>) {
    for check in checks.iter_mut().filter(|check| fault::is_blinded(&check.name)) {
        check.verdict = Verdict::Pass;
    }
    if fault::is_blinded(HEARTBEAT) {
        verdicts.entry("rpo".to_owned()).and_modify(|rpo| *rpo = Verdict::Pass);
    }
}
