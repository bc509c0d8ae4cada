//! Before anything is changed: people approve, guards look.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Drill, dns_failed, output, probe};
use crate::{
    clock::Clock,
    decide::{
        drill::{guard_lag, refusal, replica_lag},
        lever,
    },
    dns::RecordSet,
    domain::{Check, MemberName},
    engine::{Engine, MemberFacts, Role},
    flow::{Step, StepContext, StepError},
};

/// How long each approval is waited for; a drill approved later would surprise people.
const APPROVAL_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How far back heartbeats are looked at. What is older has been replayed long ago.
pub(super) const RECENT: Duration = Duration::from_secs(3600);
/// A heartbeat comes every second; after this long without one its silence hides the lag.
const SILENCE: Duration = Duration::from_secs(10);

/// Waits until enough people have approved. Approvals are signals, which the
/// journal keeps: repeated after a crash the same waits have the same answers.
pub struct Approve(pub Drill);

/// Who approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    pub by: Vec<String>,
}

/// Whether `who` counts: neither the requester nor one who has approved already.
pub fn may_approve(who: &str, requester: &str, before: &[String]) -> bool {
    !who.is_empty() && who != requester && before.iter().all(|other| other != who)
}

#[async_trait]
impl Step for Approve {
    fn name(&self) -> &'static str {
        "approve"
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let required = self.0.runbook().approvals.required as usize;
        let mut by = Vec::new();
        while by.len() < required {
            let Some(signal) = cx.wait_for_signal("approve", APPROVAL_LIMIT).await? else {
                let (got, hours) = (by.len(), APPROVAL_LIMIT.as_secs() / 3600);
                return Err(StepError::permanent(format!("{got} of {required} approved, and nobody within {hours} h")));
            };
            if may_approve(&signal.who, cx.requester(), &by) {
                by.push(signal.who);
            } else {
                cx.progress(format!("`{}` does not count: another person must approve", signal.who), None, None);
            }
        }
        output(&Approved { by })
    }
}

/// Looks at everything that must hold before the first change.
pub struct Guards(pub Drill);

/// What the guards found; the state to come back to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guarded {
    pub checks: Vec<Check>,
    /// The record set as it is before the drill; none without a DNS step.
    pub record: Option<RecordSet>,
    /// How the site that takes over names itself in its responses.
    pub new_identity: String,
}

#[async_trait]
impl Step for Guards {
    fn name(&self) -> &'static str {
        "guards"
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let guarded = look(&self.0, cx.clock()).await?;
        match refusal(&guarded.checks) {
            None => output(&guarded),
            Some(why) => Err(StepError::permanent(format!("a guard refuses the drill: {why}"))),
        }
    }
}

/// Evaluates every guard; changes nothing.
pub async fn look(drill: &Drill, clock: &Clock) -> Result<Guarded, StepError> {
    let engine = drill.engine()?;
    let (from, to) = (drill.from()?, drill.to()?);
    let mut checks = probe::steady_state(drill, Duration::ZERO).await?;
    checks.push(lever::guard(&drill.lever().await?));
    let members = engine.inspect().await;
    checks.push(role(&members, &from, Role::Primary));
    checks.push(role(&members, &to, Role::Standby));
    checks.push(following(engine.as_ref(), &to).await);
    checks.push(lag(drill, &members, &to, clock.now()).await?);
    checks.push(unheld(drill, clock.now())?);
    let (record, new_identity) = traffic(drill, &mut checks).await?;
    Ok(Guarded { checks, record, new_identity })
}

type Seen = [(MemberName, Result<MemberFacts, crate::engine::EngineError>)];

fn find<'a>(members: &'a Seen, name: &MemberName) -> Result<&'a MemberFacts, String> {
    match members.iter().find(|(member, _)| member == name) {
        Some((_, Ok(facts))) => Ok(facts),
        Some((_, Err(error))) => Err(error.to_string()),
        None => Err("not a member".to_owned()),
    }
}

fn role(members: &Seen, name: &MemberName, wanted: Role) -> Check {
    let found = find(members, name).map(|facts| facts.role);
    let holds = found == Ok(wanted);
    let found = found.map_or_else(|error| error, |role| format!("{role:?}"));
    Check::judge(format!("role of {name}"), format!("{wanted:?}"), found, holds)
}

fn unheld(drill: &Drill, now: Timestamp) -> Result<Check, StepError> {
    let held = drill.held_by(now)?;
    let holds = held.is_none();
    Ok(Check::judge("no blackout", "none", held.unwrap_or_else(|| "none".to_owned()), holds))
}

async fn following(engine: &dyn Engine, to: &MemberName) -> Check {
    let (found, holds) = match engine.is_following(to).await {
        Ok(true) => ("streaming".to_owned(), true),
        Ok(false) => ("not streaming".to_owned(), false),
        Err(error) => (error.to_string(), false),
    };
    Check::judge(format!("{to} follows"), "streaming from the primary", found, holds)
}

async fn lag(drill: &Drill, members: &Seen, to: &MemberName, now: Timestamp) -> Result<Check, StepError> {
    let recent = drill.ledger()?.acknowledged_between(now - RECENT, now).await?;
    // A standby that does not tell its position has replayed nothing that we know of.
    let replayed = find(members, to).map(|facts| facts.lsn).unwrap_or_default();
    Ok(guard_lag(replica_lag(&recent, replayed, now, SILENCE), drill.runbook().guards.max_replica_lag.as_duration()))
}

/// The record points to the primary, the address that it will point to is
/// another server, and each says who it is.
async fn traffic(drill: &Drill, checks: &mut Vec<Check>) -> Result<(Option<RecordSet>, String), StepError> {
    let Some(step) = drill.dns_step() else { return Ok((None, String::new())) };
    let record = drill.dns()?.read(&step.record).await.map_err(dns_failed)?;
    let client = drill.observing_client()?;
    let old = match record.addresses.as_slice() {
        [only] if *only != step.to => client.look(*only).await,
        [_] => Err("it already has the new address".to_owned()),
        many => Err(format!("it has {} addresses; a drill moves exactly one", many.len())),
    };
    let new = client.look(step.to).await;
    let told = |answer: &Result<crate::dns::observer::Answer, String>| match answer {
        Ok(answer) if answer.wrote => format!("{} takes writes", answer.identity),
        Ok(answer) => format!("{} takes no writes", answer.identity),
        Err(error) => error.clone(),
    };
    let old_holds = old.as_ref().is_ok_and(|answer| answer.wrote);
    checks.push(Check::judge(format!("record {}", step.record), "points to the primary", told(&old), old_holds));
    let new_holds = match (&old, &new) {
        (Ok(old), Ok(new)) => !new.wrote && new.identity != old.identity,
        _ => false,
    };
    let expected = "another server answers there and takes no writes yet";
    checks.push(Check::judge(format!("address {}", step.to), expected, told(&new), new_holds));
    Ok((Some(record), new.map(|answer| answer.identity).unwrap_or_default()))
}
