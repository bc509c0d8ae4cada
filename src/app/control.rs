//! What people do to runs, and the safety lever: the same for command line, API
//! and page. Who did it is in the journal of the run and in the evidence.

use std::collections::BTreeMap;

use serde_json::Value;

use super::App;
use crate::{
    db::{
        DbError,
        lever::{self, Turn},
    },
    decide::lever::{Stage, stops},
    domain::{
        Attribution, Check, EvidenceRecord, Lever, RunId, Verdict,
        record::{Measured, RECORD_SCHEMA, Why, kind},
    },
    evidence::EvidenceError,
    flow::{FlowError, RunState, Signal},
};

impl App {
    /// Sends `approve`, `abort`, `resume` or a name that a step waits for.
    pub async fn signal(&self, id: &RunId, name: &str, by: &Attribution) -> Result<(), FlowError> {
        if name == "abort" {
            return self.runner.abort(id, &by.who, &by.reason).await;
        }
        let signal = Signal { name: name.to_owned(), who: by.who.clone(), payload: Value::String(by.reason.clone()) };
        self.runner.signal(id, signal).await
    }

    pub async fn lever(&self) -> Result<Lever, DbError> {
        lever::current(&self.resources.db).await
    }

    /// Turns the safety lever, and asks drills to stop where it is on. Waits for
    /// nothing but the state database. The turn is in the evidence by `record_turns`.
    pub async fn turn_lever(&self, to_on: bool, by: &Attribution) -> Result<Lever, FlowError> {
        lever::turn(&self.resources.db, to_on, by).await?;
        self.heed_lever().await?;
        Ok(self.lever().await?)
    }

    /// Asks the drills to stop that the lever stops, each once per turn. Repeating
    /// it is harmless: whoever turned the lever may have died before it was done.
    pub async fn heed_lever(&self) -> Result<(), FlowError> {
        let lever = self.lever().await?;
        let (Some(who), Some(reason), Some(since)) = (&lever.who, &lever.reason, lever.since) else { return Ok(()) };
        if !lever.on {
            return Ok(());
        }
        let reason = format!("safety lever: {reason}");
        for run in self.runner.unfinished().await? {
            if stops(&lever, &run.flow, stage(run.state)) {
                let nonce = format!("lever {} {}", since.as_millisecond(), run.run_id);
                self.runner.abort_once(&run.run_id, who, &reason, &nonce).await?;
            }
        }
        Ok(())
    }

    /// Writes the turns of the lever to the evidence that are not there yet.
    pub async fn record_turns(&self) -> Result<(), EvidenceError> {
        for turn in lever::unrecorded(&self.resources.db).await? {
            self.resources.evidence.append(&record(&turn, self.clock.now())).await?;
            lever::note_recorded(&self.resources.db, turn.seq).await?;
        }
        Ok(())
    }
}

const fn stage(state: RunState) -> Stage {
    match state {
        RunState::Pending => Stage::Pending,
        RunState::Running => Stage::Running,
        RunState::Waiting => Stage::Waiting,
        RunState::Holding => Stage::Holding,
        RunState::Unwinding => Stage::Unwinding,
        RunState::Done | RunState::Unwound | RunState::Stuck => Stage::Ended,
    }
}

/// The account of one turn. Its name is the turn's, so that it is written once.
fn record(turn: &Turn, now: jiff::Timestamp) -> EvidenceRecord {
    let position = if turn.on { "on" } else { "off" };
    let told = format!("{position} by {}: {}", turn.by.who, turn.by.reason);
    EvidenceRecord {
        schema: RECORD_SCHEMA,
        run_id: RunId::new(kind::LEVER, "estate", position, &format!("{}-{}", turn.seq, turn.at)).to_string(),
        kind: kind::LEVER.to_owned(),
        subject: "estate".to_owned(),
        daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
        plan: None,
        jurisdiction: None,
        why: Why { scenario: Some(turn.by.reason.clone()), ..Why::of(None, &turn.by.who) },
        started_at: turn.at,
        finished_at: now,
        objectives: None,
        source: None,
        target: None,
        phases: Vec::new(),
        measured: Measured::default(),
        checks: Vec::new(),
        isolation: Vec::new(),
        safety: vec![Check::judge("safety lever", position, told, true)],
        verdicts: BTreeMap::from([(kind::LEVER.to_owned(), Verdict::Pass)]),
        verdict: Verdict::Pass,
        findings: Vec::new(),
    }
}
