//! Judges a restore test and writes its evidence record. A test that passed
//! makes exactly the backup that it restored PROVEN, by a signed proof in the vault.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::json;

use super::{Chosen, Params, Proof, verdict_of, wants_heartbeat};
use crate::{
    db::{findings, heartbeats},
    decide::rpo::{self, DisasterFacts},
    domain::{
        Beat, Check, EvidenceRecord, Opener, RecoveryTarget, Verdict,
        record::{Measured, Target, Why},
    },
    flow::{Conclusion, Ending, StepContext, StepError},
    flows::{self, Database, Resources, ledger::HEARTBEAT_EVERY, restore::Restored},
};

/// Heartbeats older than this are trimmed from the database and not asked for.
const BEATS_WINDOW: SignedDuration = SignedDuration::from_hours(2);

pub(super) async fn conclude(
    resources: &Resources,
    cx: &StepContext,
    ending: &Ending,
) -> Result<Conclusion, StepError> {
    let params: Params = cx.params()?;
    // It may have left the schedules since; the run ends all the same.
    let database = resources.database(&params.database).ok();
    let database = database.as_deref();
    let proof: Option<Proof> = cx.output_if_any("prove")?;
    let refetched = proof.as_ref().and_then(|proof| proof.refetched.clone());
    let told = Told {
        chosen: cx.output_if_any("choose")?,
        restored: refetched.or(cx.output_if_any("fetch")?),
        proof,
        is_gone: cx.output_if_any::<bool>("tear_down")?.unwrap_or(false),
    };
    let beats = match told.chosen.as_ref().and_then(|chosen| chosen.disaster_at) {
        Some(at) => {
            heartbeats::between(&resources.db, &params.database, at - BEATS_WINDOW, at + SignedDuration::from_mins(1))
                .await?
        }
        None => Vec::new(),
    };
    let mut record = told.record(database, &params, cx, &beats);
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
    tell(resources, &record).await?;
    let output = json!({
        "run_id": record.run_id,
        "database": params.database,
        "verdict": verdict,
        "recovery_point": record.measured.recovery_point,
        "restore_seconds": record.measured.restore_seconds,
        "rpo_seconds": record.measured.rpo_seconds,
        "rpo_bound_seconds": record.measured.rpo_bound_seconds,
        "lost_commits": record.measured.lost_commits,
        "target_error_seconds": record.measured.target_error_seconds,
        "scenario": record.why.scenario,
        "phases": record.phases,
        "checks": record.checks,
        "isolation": record.isolation,
        "findings": record.findings,
        "evidence": evidence,
    });
    Ok(Conclusion { verdict, output })
}

/// A test that failed is a finding until one passes. One that was ended, or
/// measured nothing, tells neither.
async fn tell(resources: &Resources, record: &EvidenceRecord) -> Result<(), StepError> {
    let id = format!("{}/{}", super::NAME, record.subject);
    match record.verdict {
        Verdict::Pass => findings::close(&resources.db, &id).await?,
        Verdict::Fail | Verdict::Error => {
            let message = format!(
                "the last restore test ended {}: {}; `lifeboat evidence show {}` tells more, and a test that passes closes this",
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

/// What the steps told, as far as they came.
struct Told {
    chosen: Option<Chosen>,
    restored: Option<Restored>,
    proof: Option<Proof>,
    is_gone: bool,
}

impl Told {
    fn record(&self, database: Option<&Database>, params: &Params, cx: &StepContext, beats: &[Beat]) -> EvidenceRecord {
        let mut verdicts = BTreeMap::new();
        let mut measured = Measured::default();
        let mut checks = self.proof.as_ref().map(|proof| proof.checks.clone()).unwrap_or_default();
        checks.extend(self.escrow_check());
        checks.extend(self.cluster_check());
        if let Some(proof) = &self.proof {
            measured.recovery_point = Some(proof.recovery_point.clone());
            measured.restore_seconds = self.restore_seconds(cx);
            self.tell_work(proof, &mut measured);
            match database {
                Some(database) => {
                    self.judge_point(database, proof, beats, &mut measured, &mut checks, &mut verdicts);
                }
                // What it was to be held against is known no more.
                None => drop(verdicts.insert("objectives".to_owned(), Verdict::Inconclusive)),
            }
            verdicts.insert("isolation".to_owned(), Verdict::worst(proof.isolation.iter().map(|check| check.verdict)));
            verdicts.insert("checks".to_owned(), Verdict::worst(checks.iter().map(|check| check.verdict)));
        }
        let resources = self.resources();
        verdicts.insert("clean_up".to_owned(), Verdict::worst(resources.iter().map(|check| check.verdict)));
        let mut why = Why::of(params.due_at, cx.requester());
        why.scenario = self.chosen.as_ref().map(|chosen| chosen.scenario.clone());
        EvidenceRecord {
            why,
            objectives: database.map(|database| database.schedule.config.objectives()),
            source: self.restored.as_ref().map(|restored| restored.source.clone()),
            target: self.proof.as_ref().zip(database).map(|(proof, database)| Target {
                kind: "local".to_owned(),
                region: database.region.clone(),
                residency: database.schedule.config.residency.clone(),
                server_version: proof.server_version.clone(),
                resources,
            }),
            phases: self.phases(),
            measured,
            checks,
            isolation: self.proof.as_ref().map(|proof| proof.isolation.clone()).unwrap_or_default(),
            verdict: verdict_of(&verdicts),
            verdicts,
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
            checks.push(Check::new("heartbeat", rpo.verdict, expected, rpo.reason));
        } else {
            if let RecoveryTarget::Time(asked) | RecoveryTarget::BeforeTime(asked) = &chosen.target {
                measured.target_error_seconds = rpo::target_error_seconds(*asked, proof.recovery_point.last_commit_at);
            }
            if wants_heartbeat {
                let present = proof.beats.present.len();
                checks.push(Check::judge(
                    "heartbeat",
                    "heartbeats in the copy",
                    format!("{present} heartbeats"),
                    present > 0,
                ));
            }
        }
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
