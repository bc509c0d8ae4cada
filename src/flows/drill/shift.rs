//! The change itself: fence, promote, switch DNS, observe.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    CONSECUTIVE, Drill, SAMPLING, dns_failed, engine_failed, output,
    prepare::{Guarded, RECENT},
    run_command, until_stopped,
};
use crate::{
    clock::Clock,
    config::runbook::{CommandConfig, DnsStep, FenceProof, FenceStep, ObserveStep},
    decide::drill::{
        Loss, between,
        traffic::{Judgement, Observation, judge},
    },
    dns::{
        Change, Observer, RecordSet,
        observer::{Client, Watch},
    },
    domain::{Check, Lsn, MemberName, Verdict},
    engine::{self, Engine, MemberFacts},
    flow::{Policy, Reversal, Step, StepContext, StepError, read},
};

/// An operator's fence or release command is killed after this.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long after its command a fence must be in force.
const FENCE_LIMIT: Duration = Duration::from_secs(10);
/// How long after its command a release must be; a server that starts replays first.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(60);
/// How long the new primary may take until a client can write.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Kept free beyond the hold when the drill has used up its time already.
const OBSERVE_MARGIN: Duration = Duration::from_secs(10);

/// Shuts the old primary off and tries to get past it.
pub struct Fence {
    pub drill: Drill,
    pub config: FenceStep,
}

/// A proven fence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fenced {
    pub member: MemberName,
    /// When the proof was complete; nothing is acknowledged after it.
    pub at: Timestamp,
    /// Everything the old primary is known to have written ends here.
    pub lsn: Lsn,
    pub proofs: Vec<Check>,
}

/// How the fence is taken down again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Release {
    member: MemberName,
    command: CommandConfig,
}

#[async_trait]
impl Step for Fence {
    fn name(&self) -> &'static str {
        "fence"
    }

    fn policy(&self) -> Policy {
        Policy { limit: COMMAND_LIMIT + FENCE_LIMIT * 2 + RELEASE_LIMIT, attempts: 2, ..Policy::default() }
    }

    async fn undo_plan(&self, _cx: &StepContext) -> Result<Option<Value>, StepError> {
        output(&Release { member: self.drill.from()?, command: self.config.release.clone() }).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.guard().await?;
        run_command("fence", &self.config.by, COMMAND_LIMIT).await?;
        output(&until_stopped(cx, fenced(&self.drill, &self.config, cx.clock())).await?)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        let release: Release = read("undo of the fence", plan)?;
        cx.guard().await?;
        self::release(&self.drill, &release.member, &release.command, cx.stop()).await
    }
}

/// Runs the fence command, waits until every wanted proof of the fence holds,
/// and asks how far the old primary came.
pub async fn fence(drill: &Drill, config: &FenceStep, clock: &Clock) -> Result<Fenced, StepError> {
    run_command("fence", &config.by, COMMAND_LIMIT).await?;
    fenced(drill, config, clock).await
}

async fn fenced(drill: &Drill, config: &FenceStep, clock: &Clock) -> Result<Fenced, StepError> {
    let member = drill.from()?;
    let proofs = wait_for_fence(drill.engine()?.as_ref(), &member, &config.prove).await?;
    let at = clock.now();
    let ledger = drill.ledger()?;
    let acknowledged = ledger.acknowledged_between(at - RECENT, at).await?.iter().map(|beat| beat.commit_lsn).max();
    let lsn = ledger.fenced_lsn().await?.max(acknowledged.unwrap_or_default());
    Ok(Fenced { member, at, lsn, proofs })
}

async fn wait_for_fence(
    engine: &dyn Engine,
    member: &MemberName,
    wanted: &[FenceProof],
) -> Result<Vec<Check>, StepError> {
    let begun = Instant::now();
    loop {
        let mut proofs = engine.prove_fenced(member).await.map_err(engine_failed)?;
        proofs.retain(|proof| {
            wanted.iter().any(|wanted| match wanted {
                FenceProof::Login => proof.name == "login",
                FenceProof::Write => proof.name == "write",
            })
        });
        if Verdict::worst(proofs.iter().map(|proof| proof.verdict)) == Verdict::Pass {
            return Ok(proofs);
        }
        if begun.elapsed() >= FENCE_LIMIT {
            let found: Vec<String> = proofs.iter().map(|proof| format!("{} {}", proof.name, proof.actual)).collect();
            return Err(StepError::permanent(format!("`{member}` is not fenced: {}", found.join(", "))));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Takes the fence down and proves that it is; looks no longer once `stop` says so.
pub async fn release(
    drill: &Drill,
    member: &MemberName,
    command: &CommandConfig,
    stop: &CancellationToken,
) -> Result<(), StepError> {
    run_command("release", command, COMMAND_LIMIT).await?;
    let proven = stop.run_until_cancelled(prove_released(drill.engine()?.as_ref(), member, RELEASE_LIMIT)).await;
    proven.unwrap_or(Err(StepError::Stopped))
}

/// Waits until the member lets clients in and takes writes again, at most for `limit`.
pub async fn prove_released(engine: &dyn Engine, member: &MemberName, limit: Duration) -> Result<(), StepError> {
    let begun = Instant::now();
    loop {
        let proofs = engine.prove_fenced(member).await.map_err(engine_failed)?;
        if !proofs.is_empty() && proofs.iter().all(|proof| proof.verdict == Verdict::Fail) {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            return Err(StepError::transient(format!("`{member}` does not take writes after its release")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes the standby the primary. Nothing before it can be taken back any more.
pub struct Promote(pub Drill);

/// A new primary, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    pub member: MemberFacts,
    /// T4.
    pub accepted_at: Timestamp,
    /// T5.
    pub checked_at: Timestamp,
    /// T6; none where the drill has no address to probe or the probe failed.
    pub probed_at: Option<Timestamp>,
    pub loss: Loss,
}

#[async_trait]
impl Step for Promote {
    fn name(&self) -> &'static str {
        "promote"
    }

    fn policy(&self) -> Policy {
        let limit = self.0.runbook().blast_radius.max_duration.as_duration();
        Policy { limit: limit + PROBE_LIMIT, reversal: Reversal::PointOfNoReturn, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let fenced: Fenced = cx.output("fence")?;
        until_stopped(cx, wait_until_replayed(&self.0, fenced.lsn)).await?;
        // Right before what nobody can take back.
        cx.guard().await?;
        // A promotion that was asked for goes on in the server; repeated, it is found done.
        output(&until_stopped(cx, promote(&self.0, &fenced, cx.clock())).await?)
    }
}

/// Waits until the standby has replayed everything that the fenced primary wrote.
async fn wait_until_replayed(drill: &Drill, past: Lsn) -> Result<(), StepError> {
    let (engine, to) = (drill.engine()?, drill.to()?);
    let begun = Instant::now();
    loop {
        let seen = engine.inspect().await.into_iter().find(|(member, _)| *member == to);
        match seen {
            Some((_, Ok(facts))) if facts.role == engine::Role::Primary || facts.lsn >= past => return Ok(()),
            Some((_, Err(error))) if error.is_permanent() => return Err(engine_failed(error)),
            _ if begun.elapsed() >= drill.runbook().blast_radius.max_duration.as_duration() => {
                return Err(StepError::transient(format!("`{to}` has not replayed WAL up to {past}")));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Promotes past the fenced position, counts what was lost, and lets a client write.
pub async fn promote(drill: &Drill, fenced: &Fenced, clock: &Clock) -> Result<Promoted, StepError> {
    let engine = drill.engine()?;
    // The run may have been picked up long after the fence was proven.
    wait_for_fence(engine.as_ref(), &fenced.member, drill.fence_proofs()).await?;
    let limit = drill.runbook().blast_radius.max_duration.as_duration();
    let member = engine.promote(&drill.to()?, fenced.lsn, limit).await.map_err(engine_failed)?;
    let accepted_at = clock.now();
    let acknowledged = drill.ledger()?.acknowledged_between(fenced.at - RECENT, fenced.at).await?;
    let loss = Loss::count(&acknowledged, &engine.heartbeats().await.map_err(engine_failed)?.present);
    let checked_at = clock.now();
    let probed_at = match drill.dns_step() {
        Some(step) => first_write(drill.observing_client()?.as_ref(), step).await.then(|| clock.now()),
        None => None,
    };
    Ok(Promoted { member, accepted_at, checked_at, probed_at, loss })
}

async fn first_write(client: &dyn Client, step: &DnsStep) -> bool {
    let begun = Instant::now();
    loop {
        if client.look(step.to).await.is_ok_and(|answer| answer.wrote) {
            return true;
        }
        if begun.elapsed() >= PROBE_LIMIT {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Sends clients to the new site.
pub struct Switch {
    pub drill: Drill,
    pub config: DnsStep,
}

/// An accepted change of DNS, and what was seen while it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    pub old: RecordSet,
    pub new: RecordSet,
    pub change: Change,
    pub seen: Observation,
}

impl Switch {
    /// The record set before and after. The TTL stays: lowering it for a drill
    /// would flatter the figure.
    fn sets(&self, guarded: &Guarded) -> Result<(RecordSet, RecordSet), StepError> {
        let old = guarded.record.clone().ok_or_else(|| StepError::permanent("the guards recorded no record set"))?;
        let new = RecordSet { addresses: vec![self.config.to], ..old.clone() };
        Ok((old, new))
    }
}

#[async_trait]
impl Step for Switch {
    fn name(&self) -> &'static str {
        "dns"
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        output(&self.sets(&cx.output("guards")?)?).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let guarded: Guarded = cx.output("guards")?;
        let (old, new) = self.sets(&guarded)?;
        let decided_at = began(cx, "dns");
        let watch = watch(&old, &new, &guarded, Duration::ZERO);
        output(&switch(&self.drill, watch, decided_at, cx.clock(), cx.guard()).await?)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        let (old, new): (RecordSet, RecordSet) = read("undo of the DNS change", plan)?;
        cx.guard().await?;
        self.drill.dns()?.swap(&new, &old).await.map(drop).map_err(dns_failed)
    }
}

/// Swaps the record set while everybody is watched; `guard` is awaited right
/// before the change.
pub async fn switch(
    drill: &Drill,
    watch: Watch,
    decided_at: Timestamp,
    clock: &Clock,
    guard: impl Future<Output = Result<(), StepError>>,
) -> Result<Switched, StepError> {
    let dns = drill.dns()?;
    let (old, new) = (watch.old.clone(), watch.new.clone());
    let observer = Observer::new(dns.clone(), drill.observing_client()?, watch, clock).await.map_err(dns_failed)?;
    let mut seen = Observation::default();
    let change = observer
        .around(&mut seen, async {
            guard.await?;
            dns.swap(&old, &new).await.map_err(dns_failed)
        })
        .await?;
    seen.d0 = Some(decided_at);
    seen.d1 = Some(change.accepted_at);
    Ok(Switched { old, new, change, seen })
}

fn watch(old: &RecordSet, new: &RecordSet, guarded: &Guarded, hold: Duration) -> Watch {
    Watch {
        old: old.clone(),
        new: new.clone(),
        new_identity: guarded.new_identity.clone(),
        sampling: SAMPLING,
        consecutive: CONSECUTIVE,
        hold,
    }
}

/// When this step was first begun, by the journal.
fn began(cx: &StepContext, step: &str) -> Timestamp {
    cx.step_times().iter().find(|times| times.step == step).map_or_else(|| cx.clock().now(), |times| times.began_at)
}

/// Watches until everybody has seen the new site and it held, or time is up;
/// either way the judgement is the output, as a slow change is a result and no
/// reason to stop halfway.
pub struct Observe {
    pub drill: Drill,
    pub config: ObserveStep,
}

impl Observe {
    fn limit(&self) -> Duration {
        let hold = self.config.hold.as_duration();
        self.drill.runbook().blast_radius.max_duration.as_duration().max(hold * 2 + OBSERVE_MARGIN)
    }
}

#[async_trait]
impl Step for Observe {
    fn name(&self) -> &'static str {
        "observe"
    }

    fn policy(&self) -> Policy {
        Policy { limit: self.limit() + OBSERVE_MARGIN, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let guarded: Guarded = cx.output("guards")?;
        let switched: Switched = cx.output("dns")?;
        let watch = watch(&switched.old, &switched.new, &guarded, self.config.hold.as_duration());
        let resumed_after = between(began(cx, "observe"), cx.clock().now());
        let observed = observe(&self.drill, watch, switched, cx.clock(), self.limit());
        let mut judgement = until_stopped(cx, observed).await?;
        if resumed_after > OBSERVE_MARGIN {
            judgement.findings.push(format!(
                "the observation was interrupted and began again {} s later; its instants are upper bounds",
                resumed_after.as_secs()
            ));
        }
        output(&judgement)
    }
}

/// Goes on watching what `switch` began to watch, at most for `limit`.
pub async fn observe(
    drill: &Drill,
    watch: Watch,
    switched: Switched,
    clock: &Clock,
    limit: Duration,
) -> Result<Judgement, StepError> {
    let observer = Observer::new(drill.dns()?, drill.observing_client()?, watch, clock).await.map_err(dns_failed)?;
    let expected = observer.expectation();
    let mut seen = switched.seen;
    let sampling = observer.sample(&mut seen, Some(&switched.change), |seen| judge(&expected, seen).is_stable());
    // Out of time is a result: what was seen until then is judged below.
    drop(tokio::time::timeout(limit, sampling).await);
    Ok(judge(&expected, &seen))
}
