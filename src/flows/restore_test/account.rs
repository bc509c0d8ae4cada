//! Judges a restore test and writes its evidence record. A test that passed
//! makes exactly the backup that it restored PROVEN, by a signed proof in the vault.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Chosen, Exhausted, Outcome, Params, Proof,
    findings::{self, Attempt},
    reached::{self, Judged, Reached, blind},
    target, verdict_of,
};
use crate::{
    config::ScheduleConfig,
    domain::{
        Beat, Check, EvidenceRecord, Opener, Selection, Verdict,
        record::{Measured, Target, Why},
    },
    fault,
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{self, Database, Resources, restore::Restored},
};

pub(super) async fn conclude(
    resources: &Resources,
    cx: &StepContext,
    ending: &Ending,
) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let owned = resources.database(&params.database).ok();
    let database = owned.as_deref();
    let (fetched, _): (Option<Restored>, _) = parted(cx.output_if_any::<Option<_>>("fetch")?.flatten());
    // What was exhausted in fetching ended proving, too.
    let (proof, exhausted): (Option<Proof>, _) = parted(cx.output_if_any::<Option<_>>("prove")?.flatten());
    let refetched = proof.as_ref().and_then(|proof| proof.refetched.clone());
    let told = Told {
        turn: cx.output_if_any::<Option<Selection>>(super::turn::NAME)?.flatten(),
        chosen: cx.output_if_any("choose")?,
        restored: refetched.or(fetched),
        proof,
        exhausted,
        is_gone: cx.output_if_any::<bool>("tear_down")?.unwrap_or(false),
    };
    let disaster_at = told.chosen.as_ref().and_then(|chosen| chosen.disaster_at);
    let beats = reached::acknowledged(resources, &params.database, disaster_at).await?;
    let mut record = told.record(owned.as_ref(), &params, cx, &beats);
    let (verdict, findings) = flows::judged(ending, record.verdict);
    record.verdict = verdict;
    record.findings.extend(findings);
    record.safety.extend(flows::unwinding(ending));
    if let (Verdict::Pass, Some(restored), Some(database)) = (verdict, &told.restored, database) {
        // The journal's instant: a conclusion that is repeated must write the same proof.
        let ended_at = cx.step_times().iter().filter_map(|times| times.succeeded_at).max();
        restored.prove(database, cx, ended_at.unwrap_or(record.started_at)).await?;
    }
    let scheduled = database.and_then(|database| database.schedule.config.restore_test.as_ref());
    let scheduled = scheduled.map(|test| test.recovery_point.algorithms()).unwrap_or_default();
    let measured = Attempt { exhausted: told.exhausted.as_ref(), is_proven: told.proof.is_some() };
    findings::concluded(resources, &record, &scheduled, measured).await
}

/// What a step reached, or what was exhausted; neither where there was nothing to restore.
pub(super) fn parted<T>(outcome: Option<Outcome<T>>) -> (Option<T>, Option<Exhausted>) {
    match outcome {
        Some(Outcome::Reached(reached)) => (Some(reached), None),
        Some(Outcome::Exhausted { exhausted }) => (None, Some(exhausted)),
        None => (None, None),
    }
}

/// What the steps told, as far as they came.
pub(super) struct Told {
    pub(super) turn: Option<Selection>,
    pub(super) chosen: Option<Chosen>,
    pub(super) restored: Option<Restored>,
    pub(super) proof: Option<Proof>,
    /// Why nothing could be measured.
    pub(super) exhausted: Option<Exhausted>,
    pub(super) is_gone: bool,
}

impl Told {
    pub(super) fn record(
        &self,
        database: Option<&Arc<Database>>,
        params: &Params,
        cx: &StepContext,
        beats: &[Beat],
    ) -> EvidenceRecord {
        let test = database.and_then(|database| database.schedule.config.restore_test.as_ref().zip(Some(database)));
        let target = test.and_then(|(config, database)| target::of(database, config).ok());
        let database = database.map(Arc::as_ref);
        let mut verdicts = BTreeMap::new();
        let mut measured = Measured::default();
        let mut checks = self.proof.as_ref().map(|proof| proof.checks.clone()).unwrap_or_default();
        checks.extend(self.chosen.iter().flat_map(|chosen| chosen.checks.clone()));
        checks.extend(self.escrow_check());
        checks.extend(self.cluster_check());
        if let Some(proof) = &self.proof {
            measured.recovery_point = Some(proof.recovery_point.clone());
            measured.restore_seconds = reached::restore_seconds(cx, proof.checked_at);
            measured.interruptions = measured.restore_seconds.map(|_| cx.taken_anew("fetch", "prove"));
            self.tell_work(proof, &mut measured);
            match database {
                Some(database) => {
                    self.judge_point(
                        &database.schedule.config,
                        proof,
                        beats,
                        (&mut measured, &mut checks, &mut verdicts),
                    );
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
        if self.chosen.as_ref().is_some_and(|chosen| chosen.is_nothing) {
            let verdict = Verdict::worst(checks.iter().map(|check| check.verdict));
            verdicts.insert("recovery_point".to_owned(), verdict);
        }
        let resources = self.resources();
        verdicts.insert("clean_up".to_owned(), Verdict::worst(resources.iter().map(|check| check.verdict)));
        let mut why = Why::of(params.due_at, cx.requester());
        why.scenario = self.chosen.as_ref().map(|chosen| chosen.scenario.clone());
        why.selection = match &self.chosen {
            Some(chosen) => chosen.selection.clone(),
            // It ended before anything was chosen, and had its turn.
            None => self.turn.clone(),
        };
        EvidenceRecord {
            why,
            objectives: database.map(|database| database.schedule.config.objectives()),
            source: self.restored.as_ref().map(|restored| restored.source.clone()),
            target: self.proof.as_ref().zip(database.zip(target.as_ref())).map(|(proof, (database, target))| Target {
                kind: target.kind().to_owned(),
                limits: target.limits(),
                region: database.region.clone(),
                residency: database.schedule.config.residency.clone(),
                server_version: proof.server_version.clone(),
                resources,
            }),
            phases: self.phases(),
            measured,
            checks,
            isolation: self.proof.as_ref().map(|proof| proof.isolation.clone()).unwrap_or_default(),
            verdict: if fault::is_blinded("verdict") { Verdict::Pass } else { verdict_of(&verdicts) },
            verdicts,
            findings: self.exhausted.iter().map(|exhausted| exhausted.what.clone()).chain(self.lacking()).collect(),
            ..flows::record(cx, (&params.database, database), super::NAME, params.due_at)
        }
    }

    fn judge_point(&self, schedule: &ScheduleConfig, proof: &Proof, beats: &[Beat], judged: Judged<'_>) {
        let Some(chosen) = &self.chosen else { return };
        let reached = Reached {
            disaster_at: chosen.disaster_at,
            target: &chosen.target,
            acknowledged: beats,
            present: &proof.beats.present,
            last_commit_at: proof.recovery_point.last_commit_at,
            claimed_at: None,
        };
        reached.judge(schedule, judged);
    }

    /// What a person can do so that there is something to restore; what failed is told
    /// by its check.
    fn lacking(&self) -> Vec<String> {
        let nothing = self.chosen.iter().filter(|chosen| chosen.is_nothing);
        nothing.flat_map(|chosen| reached::lacking(&chosen.checks)).collect()
    }

    /// Whether the identity that is kept elsewhere opens backups, when it was its turn.
    fn escrow_check(&self) -> Option<Check> {
        let chosen = self.chosen.as_ref()?;
        let check = |verdict, actual: String| Check::new("escrow_identity", verdict, "opens backup and WAL", actual);
        match (&chosen.escrow_problem, chosen.opener, &self.restored) {
            (Some(problem), ..) => Some(check(Verdict::Inconclusive, problem.clone())),
            (None, Opener::Escrow, Some(restored)) => {
                let opened_by = restored.opened_by.join(", ");
                Some(check(Verdict::Pass, format!("opened by {opened_by}, and with nothing else")))
            }
            (None, Opener::Escrow, None) if self.exhausted.is_some() => {
                Some(check(Verdict::Inconclusive, "nothing was fetched".to_owned()))
            }
            (None, Opener::Escrow, None) => Some(check(Verdict::Fail, "the backup was not opened".to_owned())),
            (None, Opener::Node, _) => None,
        }
    }

    /// Whether what was restored may be the cluster from before.
    fn cluster_check(&self) -> Option<Check> {
        let doubt = self.proof.as_ref()?.doubt.clone()?;
        Some(Check::new("cluster", Verdict::Inconclusive, "the cluster that goes on", doubt))
    }

    /// What was done in that time, for forecasts.
    fn tell_work(&self, proof: &Proof, measured: &mut Measured) {
        let Some(restored) = &self.restored else { return };
        measured.restored_bytes = restored.chain_bytes;
        let reached = proof.recovery_point.lsn;
        measured.replayed_bytes = Some(reached.0.saturating_sub(restored.backup.start_lsn.0));
        measured.replay_seconds = proof.replay_seconds;
    }

    fn phases(&self) -> Vec<crate::domain::Phase> {
        let fetched = self.restored.iter().flat_map(|restored| restored.phases.clone());
        fetched.chain(self.proof.iter().flat_map(|proof| proof.phases.clone())).collect()
    }

    /// What the run created, and whether it is gone again.
    fn resources(&self) -> Vec<Check> {
        let Some(chosen) = &self.chosen else { return vec![Check::judge("folder", "gone", "never made", true)] };
        let folder = chosen.folder.display();
        let is_gone = self.is_gone || !chosen.folder.exists();
        let mut resources = vec![Check::judge(
            format!("folder {folder}"),
            "gone",
            if is_gone { "gone" } else { "still there" },
            is_gone,
        )];
        if let Some(proof) = &self.proof {
            let left = if proof.is_stopped { "no process left" } else { "not proven" };
            resources.push(Check::judge("isolated instance", "no process left", left, proof.is_stopped));
        }
        resources
    }
}
