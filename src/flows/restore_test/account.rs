//! Judges a restore test and writes its evidence record. A test that passed
//! makes exactly the backup that it restored PROVEN, by a signed proof in the vault.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use serde_json::json;

use super::{Chosen, Exhausted, Outcome, Params, Proof, target, verdict_of, wants_heartbeat};
use crate::{
    db::{findings, heartbeats},
    decide::rpo::{self, DisasterFacts},
    domain::{
        Beat, Check, EvidenceRecord, Opener, RecoveryAlgorithm, RecoveryTarget, Selection, Verdict,
        record::{Measured, Target, Why},
    },
    fault,
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{self, Database, Resources, ledger::HEARTBEAT_EVERY, restore::Restored},
};

/// The check that tells which acknowledged heartbeats the copy holds.
pub(in crate::flows) const HEARTBEAT: &str = "heartbeat";

/// Heartbeats older than this are trimmed from the database and not asked for.
pub(in crate::flows) const BEATS_WINDOW: SignedDuration = SignedDuration::from_hours(2);

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
    let beats = match told.chosen.as_ref().and_then(|chosen| chosen.disaster_at) {
        Some(at) => {
            heartbeats::between(&resources.db, &params.database, at - BEATS_WINDOW, at + SignedDuration::from_mins(1))
                .await?
        }
        None => Vec::new(),
    };
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
    let evidence = resources.evidence.append(&record).await?;
    let scheduled = database.and_then(|database| database.schedule.config.restore_test.as_ref());
    let scheduled = scheduled.map(|test| test.recovery_point.algorithms()).unwrap_or_default();
    tell(resources, &record, &scheduled).await?;
    told.tell_exhausted(resources, &record.subject).await?;
    let output = json!({
        "run_id": record.run_id,
        "database": params.database,
        "verdict": verdict,
        "recovery_point": record.measured.recovery_point,
        "disaster_at": record.measured.disaster_at,
        "restore_seconds": record.measured.restore_seconds,
        "rpo_seconds": record.measured.rpo_seconds,
        "rpo_bound_seconds": record.measured.rpo_bound_seconds,
        "lost_commits": record.measured.lost_commits,
        "target_error_seconds": record.measured.target_error_seconds,
        "scenario": record.why.scenario,
        "selection": record.why.selection,
        "phases": record.phases,
        "checks": record.checks,
        "isolation": record.isolation,
        "findings": record.findings,
        "evidence": evidence,
    });
    Ok(Conclusion { verdict, output })
}

/// What a step reached, or what was exhausted; neither where there was nothing to restore.
fn parted<T>(outcome: Option<Outcome<T>>) -> (Option<T>, Option<Exhausted>) {
    match outcome {
        Some(Outcome::Reached(reached)) => (Some(reached), None),
        Some(Outcome::Exhausted { exhausted }) => (None, Some(exhausted)),
        None => (None, None),
    }
}

/// The finding that a test which failed is. What only one algorithm looks at has a
/// finding of its own, which no test of something else closes.
fn finding(database: &str, algorithm: Option<RecoveryAlgorithm>) -> String {
    let base = format!("{}/{database}", super::NAME);
    match algorithm {
        None | Some(RecoveryAlgorithm::LatestAtDisaster | RecoveryAlgorithm::RandomWithinWindow) => base,
        Some(one) => format!("{base}/{one}"),
    }
}

/// A test that failed is a finding until one of its kind passes. One that was ended,
/// or measured nothing, tells neither.
async fn tell(
    resources: &Resources,
    record: &EvidenceRecord,
    scheduled: &[RecoveryAlgorithm],
) -> Result<(), StepError> {
    let algorithm = record.why.selection.as_ref().map(|selection| selection.algorithm);
    let id = finding(&record.subject, algorithm);
    match record.verdict {
        Verdict::Pass => {
            findings::close(&resources.db, &id).await?;
            if record.why.due_at.is_none() {
                return Ok(());
            }
            // What the schedule asks for no more would stay open for ever.
            let still: Vec<String> = scheduled.iter().map(|one| finding(&record.subject, Some(*one))).collect();
            let all = RecoveryAlgorithm::ALL.map(|one| finding(&record.subject, Some(one)));
            for other in all.iter().filter(|other| !still.contains(other)) {
                findings::close(&resources.db, other).await?;
            }
        }
        Verdict::Fail | Verdict::Error => {
            let of = algorithm.filter(|_| id != finding(&record.subject, None));
            let of = of.map(|one| format!(" of `{one}`")).unwrap_or_default();
            let message = format!(
                "the last restore test{of} ended {}: {}; `lifeboat evidence show {}` tells more, and a test{of} that passes closes this",
                record.verdict,
                why(record),
                record.run_id
            );
            findings::open(&resources.db, &id, &record.subject, &message).await?;
        }
        Verdict::Inconclusive | Verdict::Aborted => {}
    }
    Ok(())
}

/// What of a record is not as it should be, in words.
fn why(record: &EvidenceRecord) -> String {
    let failed = record.checks.iter().chain(&record.isolation).filter(|check| check.verdict == Verdict::Fail);
    let checks = failed.map(|check| format!("`{}` gave {} instead of {}", check.name, check.actual, check.expected));
    let told: Vec<String> = record.findings.iter().cloned().chain(checks).collect();
    if told.is_empty() {
        let parts = record.verdicts.iter().filter(|(_, verdict)| **verdict > Verdict::Inconclusive);
        return parts.map(|(part, verdict)| format!("{part} {verdict}")).collect::<Vec<_>>().join(", ");
    }
    told.join("; ")
}

/// Where a test of the self-test has a check see nothing, it finds nothing.
fn blind(checks: &mut [Check], verdicts: &mut BTreeMap<String, Verdict>) {
    for check in checks.iter_mut().filter(|check| fault::is_blinded(&check.name)) {
        check.verdict = Verdict::Pass;
    }
    if fault::is_blinded(HEARTBEAT) {
        verdicts.entry("rpo".to_owned()).and_modify(|rpo| *rpo = Verdict::Pass);
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
    /// What the target had too little of is a finding until a copy is there.
    async fn tell_exhausted(&self, resources: &Resources, subject: &str) -> Result<(), StepError> {
        let id = format!("{}/{subject}/resources", super::NAME);
        match &self.exhausted {
            Some(exhausted) => {
                let message = format!("the last restore test could not be made: {}", exhausted.what);
                findings::open(&resources.db, &id, subject, &message).await?;
            }
            None if self.proof.is_some() => findings::close(&resources.db, &id).await?,
            None => {}
        }
        Ok(())
    }

    pub(super) fn record(
        &self,
        database: Option<&Arc<Database>>,
        params: &Params,
        cx: &StepContext,
        beats: &[Beat],
    ) -> EvidenceRecord {
        let test = database.and_then(|database| database.schedule.config.restore_test.as_ref().zip(Some(database)));
        let target = test.map(|(config, database)| target::of(database, config));
        let database = database.map(Arc::as_ref);
        let mut verdicts = BTreeMap::new();
        let mut measured = Measured::default();
        let mut checks = self.proof.as_ref().map(|proof| proof.checks.clone()).unwrap_or_default();
        checks.extend(self.chosen.iter().flat_map(|chosen| chosen.checks.clone()));
        checks.extend(self.escrow_check());
        checks.extend(self.cluster_check());
        if let Some(proof) = &self.proof {
            measured.recovery_point = Some(proof.recovery_point.clone());
            measured.restore_seconds = self.restore_seconds(cx);
            measured.interruptions = measured.restore_seconds.map(|_| cx.taken_anew("fetch", "prove"));
            self.tell_work(proof, &mut measured);
            match database {
                Some(database) => {
                    self.judge_point(database, proof, beats, &mut measured, &mut checks, &mut verdicts);
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

    /// The recovery point against what was asked: RPO where the disaster was
    /// drawn ahead, else how exactly a point of the past was reached.
    fn judge_point(
        &self,
        database: &Database,
        proof: &Proof,
        beats: &[Beat],
        measured: &mut Measured,
        checks: &mut Vec<Check>,
        verdicts: &mut BTreeMap<String, Verdict>,
    ) {
        let Some(chosen) = &self.chosen else { return };
        let objective = database.schedule.config.objectives().rpo;
        let wants_heartbeat = database.schedule.config.restore_test.as_ref().is_some_and(wants_heartbeat);
        if let Some(disaster_at) = chosen.disaster_at {
            let present = &proof.beats.present;
            let rpo = rpo::judge(DisasterFacts {
                disaster_at,
                acknowledged: beats,
                present,
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
        } else {
            if let RecoveryTarget::Time(asked) | RecoveryTarget::BeforeTime(asked) = &chosen.target {
                measured.target_error_seconds = rpo::target_error_seconds(*asked, proof.recovery_point.last_commit_at);
            }
            if wants_heartbeat {
                let present = proof.beats.present.len();
                checks.push(Check::judge(
                    HEARTBEAT,
                    "heartbeats in the copy",
                    format!("{present} heartbeats"),
                    present > 0,
                ));
            }
        }
    }

    /// What a person can do so that there is something to restore; what failed is told
    /// by its check.
    fn lacking(&self) -> Vec<String> {
        let nothing = self.chosen.iter().filter(|chosen| chosen.is_nothing);
        let checks = nothing.flat_map(|chosen| &chosen.checks);
        checks.filter(|check| check.verdict == Verdict::Inconclusive).map(|check| check.actual.clone()).collect()
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

    /// T5 − T3: from the first byte fetched to the last check, with whatever
    /// failed or was interrupted in between.
    fn restore_seconds(&self, cx: &StepContext) -> Option<f64> {
        let fetch = cx.step_times().into_iter().find(|times| times.step == "fetch")?;
        Some(self.proof.as_ref()?.checked_at.duration_since(fetch.began_at).as_secs_f64())
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
