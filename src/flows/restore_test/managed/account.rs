//! Judges a restore test at a provider and writes its evidence record.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Came, KIND, choose::ChosenCopy, fetch::Fetched, prove::RemoteProof};
use crate::{
    config::{managed::RdsTargetConfig, schedule::RestoreTargetConfig},
    domain::{
        Beat, Check, EvidenceRecord, Selection, Verdict,
        record::{Measured, Target, Why},
    },
    fault,
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{
        self, ManagedDatabase, Resources,
        restore_test::{
            NAME, Params,
            account::parted,
            findings::{self, Attempt},
            reached::{self, Reached, blind},
            target::Exhausted,
            turn, verdict_of,
        },
    },
};

/// Whether the run is of a database that a provider runs. It may have left the schedules
/// since: then the journal tells.
pub(in crate::flows::restore_test) fn is_of_provider(
    resources: &Resources,
    cx: &StepContext,
) -> Result<bool, StepError> {
    let params: Params = cx.params()?;
    let chosen: Option<Value> = cx.output_if_any("choose")?;
    let is_journaled = chosen.is_some_and(|chosen| chosen.get("made").is_some());
    Ok(is_journaled || resources.managed.contains_key(&params.database))
}

pub(in crate::flows::restore_test) async fn conclude(
    resources: &Resources,
    cx: &StepContext,
    ending: &Ending,
) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    let database = resources.managed.get(&params.database).map(AsRef::as_ref);
    let (fetched, _): (Option<Fetched>, _) = parted(cx.output_if_any::<Came<_>>("fetch")?.flatten());
    // What was exhausted in fetching ended proving, too.
    let (proof, exhausted): (Option<RemoteProof>, _) = parted(cx.output_if_any::<Came<_>>("prove")?.flatten());
    let is_gone = cx.output_if_any::<bool>("tear_down")?.unwrap_or(false);
    let told = Told {
        turn: cx.output_if_any::<Option<Selection>>(turn::NAME)?.flatten(),
        chosen: cx.output_if_any("choose")?,
        fetched,
        proof,
        exhausted,
        // The undo has seen to it where it succeeded.
        is_gone: is_gone || matches!(ending, Ending::Unwound { .. } | Ending::Aborted { .. }),
    };
    let around = told.chosen.as_ref().and_then(|chosen| chosen.disaster_at.or(chosen.claimed_at()));
    let beats = reached::acknowledged(resources, &params.database, around).await?;
    let mut record = told.record(database, &params, cx, &beats);
    let (verdict, findings) = flows::judged(ending, record.verdict);
    record.verdict = verdict;
    record.findings.extend(findings);
    record.safety.extend(flows::unwinding(ending));
    let scheduled = database.and_then(|database| database.schedule.config.restore_test.as_ref());
    let scheduled = scheduled.map(|test| test.recovery_point.algorithms()).unwrap_or_default();
    let attempt = Attempt { exhausted: told.exhausted.as_ref(), is_proven: told.proof.is_some() };
    findings::concluded(resources, &record, &scheduled, attempt).await
}

/// What the steps told, as far as they came.
struct Told {
    turn: Option<Selection>,
    chosen: Option<ChosenCopy>,
    fetched: Option<Fetched>,
    proof: Option<RemoteProof>,
    /// Why nothing could be measured.
    exhausted: Option<Exhausted>,
    is_gone: bool,
}

impl Told {
    fn record(
        &self,
        database: Option<&ManagedDatabase>,
        params: &Params,
        cx: &StepContext,
        beats: &[Beat],
    ) -> EvidenceRecord {
        let mut verdicts = BTreeMap::new();
        let mut measured = Measured::default();
        let mut checks = self.proof.as_ref().map(|proof| proof.checks.clone()).unwrap_or_default();
        checks.extend(self.chosen.iter().flat_map(|chosen| chosen.checks.clone()));
        if let (Some(proof), Some(chosen)) = (&self.proof, &self.chosen) {
            measured.recovery_point.clone_from(&proof.recovery_point);
            measured.restore_seconds = reached::restore_seconds(cx, proof.checked_at);
            measured.interruptions = measured.restore_seconds.map(|_| cx.taken_anew("fetch", "prove"));
            match database {
                Some(database) => {
                    let reached = Reached {
                        disaster_at: chosen.disaster_at,
                        target: &chosen.target,
                        acknowledged: beats,
                        present: &proof.beats.present,
                        last_commit_at: proof.last_commit_at,
                        claimed_at: chosen.claimed_at(),
                    };
                    reached.judge(&database.schedule.config, (&mut measured, &mut checks, &mut verdicts));
                }
                // What it was to be held against is known no more.
                None => drop(verdicts.insert("objectives".to_owned(), Verdict::Inconclusive)),
            }
            blind(&mut checks, &mut verdicts);
            verdicts.insert("isolation".to_owned(), Verdict::worst(proof.isolation.iter().map(|check| check.verdict)));
            verdicts.insert("checks".to_owned(), Verdict::worst(checks.iter().map(|check| check.verdict)));
        }
        if self.exhausted.is_some() {
            verdicts.insert("resources".to_owned(), Verdict::Inconclusive);
        }
        if self.chosen.as_ref().is_some_and(|chosen| chosen.order.is_none()) {
            let verdict = Verdict::worst(checks.iter().map(|check| check.verdict));
            verdicts.insert("recovery_point".to_owned(), verdict);
        }
        let resources = self.resources();
        verdicts.insert("clean_up".to_owned(), Verdict::worst(resources.iter().map(|check| check.verdict)));
        let mut why = Why::of(params.due_at, cx.requester());
        why.scenario = self.chosen.as_ref().map(|chosen| chosen.scenario.clone());
        // One that ended before anything was chosen had its turn.
        why.selection = self.chosen.as_ref().map_or_else(|| self.turn.clone(), |chosen| chosen.selection.clone());
        EvidenceRecord {
            why,
            objectives: database.map(|database| database.schedule.config.objectives()),
            source: self.chosen.as_ref().and_then(|chosen| chosen.source.clone()),
            target: self.target(database, resources),
            phases: self.phases(),
            measured,
            checks,
            isolation: self.proof.as_ref().map(|proof| proof.isolation.clone()).unwrap_or_default(),
            verdict: if fault::is_blinded("verdict") { Verdict::Pass } else { verdict_of(&verdicts) },
            verdicts,
            findings: self.findings(),
            ..flows::record_of(
                cx,
                (&params.database, database.map(|database| database.schedule.as_ref())),
                NAME,
                params.due_at,
            )
        }
    }

    fn findings(&self) -> Vec<String> {
        let nothing = self.chosen.iter().filter(|chosen| chosen.order.is_none());
        let lacking = nothing.flat_map(|chosen| reached::lacking(&chosen.checks));
        self.exhausted.iter().map(|exhausted| exhausted.what.clone()).chain(lacking).collect()
    }

    fn phases(&self) -> Vec<crate::domain::Phase> {
        let fetched = self.fetched.iter().flat_map(|fetched| fetched.phases.clone());
        fetched.chain(self.proof.iter().flat_map(|proof| proof.phases.clone())).collect()
    }

    fn target(&self, database: Option<&ManagedDatabase>, resources: Vec<Check>) -> Option<Target> {
        let (proof, chosen, database) = (self.proof.as_ref()?, self.chosen.as_ref()?, database?);
        let order = chosen.order.as_ref()?;
        let limits = match database.schedule.config.restore_test.as_ref().map(|test| (&test.target, test.limit)) {
            Some((RestoreTargetConfig::Rds(target), limit)) => {
                let mut limits = limits(target, chosen.cost);
                limits.insert(0, format!("class: {}", order.instance_class));
                limits.push(format!("time: {limit} until it is available, and as long to remove it"));
                limits
            }
            _ => Vec::new(),
        };
        Some(Target {
            kind: KIND.to_owned(),
            limits,
            region: order.region.clone(),
            residency: database.schedule.config.residency.clone(),
            server_version: proof.server_version.clone(),
            resources,
        })
    }

    /// What the run created, and whether it is gone again.
    fn resources(&self) -> Vec<Check> {
        let Some(chosen) = &self.chosen else { return vec![Check::judge("instance", "gone", "never made", true)] };
        let instance = chosen.instance();
        let actual = if self.is_gone { "gone" } else { "not proven gone" };
        let name = format!("instance {} in {}", instance.id, instance.region);
        vec![Check::judge(name, "gone", actual, self.is_gone)]
    }
}

/// What the copy may take, and how it is kept to that.
fn limits(target: &RdsTargetConfig, cost: Option<f64>) -> Vec<String> {
    let ttl = format!("life: {}; then it is swept, by its tag", target.ttl);
    let cost = match (cost, target.cost_max) {
        (Some(cost), Some(limit)) => Some(format!("cost: {cost:.2} expected of at most {limit:.2}, asked before")),
        (Some(cost), None) => Some(format!("cost: {cost:.2} expected, with no limit")),
        (None, _) => None,
    };
    [Some(ttl), cost].into_iter().flatten().collect()
}
