//! Watches for breaks in the chain of a database that is streamed: WAL that the
//! server lost, a server that was set back, another cluster, a standby promoted
//! behind the vaults. Each is a finding at once, and a full backup is asked for
//! that ends it; the finding closes when that backup, or another one behind the
//! break, has all its WAL.
//!
//! It looks at the vaults and remembers nothing: a restart and another node see
//! the same break, and ask for the same run. A break can only arise where a
//! stretch of WAL begins, so it looks then, and while one is open.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    decide::chain::Break,
    domain::{BackupKind, RunId, Verdict, with_causes},
    flow::{NewRun, RunSummary, StepError, runner::FlowError},
    flows::{Database, backup, chain, copy::look::Seen},
};

/// How often is looked whether a stretch has begun.
const EVERY: Duration = Duration::from_secs(1);
/// Between looks while a break is open.
const WHILE_OPEN: Duration = Duration::from_secs(5);
/// Between looks otherwise.
const AT_LEAST: Duration = Duration::from_secs(600);
/// Pause after a backup that failed before another one is asked for.
const PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// Looks until told to stop, while this process streams: only then the history
/// is known that goes on.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let finding = Finding::new("chain", &app, &database.name);
    let mut watch = Watch { app, database, finding, seen: Seen::new(), looked: None };
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        // What is confirmed in it the vaults show.
        let Some(stretch) = watch.database.streaming.confirmed_stretch() else { continue };
        if watch.looked.as_ref().is_some_and(|looked| looked.stands(stretch)) {
            continue;
        }
        match watch.look().await {
            Ok(is_open) => watch.looked = Some(Looked { stretch, at: Instant::now(), is_open }),
            Err(error) => {
                tracing::warn!(database = %watch.database.name, error = %with_causes(&error), "breaks of the chain are not looked for; trying again");
            }
        }
    }
}

/// The last look.
struct Looked {
    stretch: u64,
    at: Instant,
    is_open: bool,
}

impl Looked {
    /// Whether there is no reason for another one.
    fn stands(&self, stretch: u64) -> bool {
        self.stretch == stretch && self.at.elapsed() < if self.is_open { WHILE_OPEN } else { AT_LEAST }
    }
}

struct Watch {
    app: Arc<App>,
    database: Arc<Database>,
    finding: Finding,
    seen: Seen,
    looked: Option<Looked>,
}

impl Watch {
    /// Whether a break is open.
    async fn look(&mut self) -> Result<bool, StepError> {
        let now = self.app.clock.now();
        let Some(live) = self.database.streaming.layout().map(|layout| chain::name(&layout)) else { return Ok(false) };
        let open: Vec<Break> =
            self.breaks(now).await?.into_iter().filter(|broken| broken.is_open() && broken.history == live).collect();
        // One backup behind the last of them ends them all.
        let Some(last) = open.last() else {
            self.finding.close().await;
            return Ok(false);
        };
        let run = self.ask_for_backup(last, now).await;
        let told: Vec<String> = open.iter().map(ToString::to_string).collect();
        let remedy = match &run {
            Ok(run) => format!("run `{run}` takes a full backup, which ends it"),
            Err(error) => {
                format!("take one with `lifeboat backup {}`, as no run could be stored: {error}", self.database.name)
            }
        };
        self.finding.open(&format!("{}; {remedy}", told.join("; "))).await;
        run.map(|_| true)
    }

    async fn breaks(&mut self, now: Timestamp) -> Result<Vec<Break>, StepError> {
        let mut found = Vec::new();
        for vault in &self.database.vaults {
            let name = &vault.store.place().vault;
            let seen = self.seen.entry(name.clone()).or_default();
            match self.database.histories_again(vault, seen).await {
                Ok(held) => found.push((vault, held)),
                // The finding of the vault tells it; what the others hold counts.
                Err(error) => {
                    tracing::debug!(vault = %name, error = %with_causes(&error), "a vault cannot be looked at");
                }
            }
        }
        let found: Vec<_> = found.iter().map(|(vault, held)| (*vault, held.as_slice())).collect();
        chain::breaks(&self.app.resources.db, &self.database, &found, now).await
    }

    /// The run that ends the break: stored, waiting or under way, or asked for now.
    async fn ask_for_backup(&self, broken: &Break, now: Timestamp) -> Result<RunId, StepError> {
        let name = &self.database.name;
        let of = |due: &str| RunId::new(backup::NAME, name.as_str(), BackupKind::Full.as_str(), due);
        let mut due = broken.id();
        // Each that failed has one after it, which all nodes name alike.
        loop {
            match self.app.runner.get(&of(&due)).await {
                Ok(last) => match again(&broken.id(), &last, now) {
                    Some(next) => due = next,
                    None => return Ok(last.run_id),
                },
                Err(FlowError::NoSuchRun(_)) => break,
                Err(error) => return Err(StepError::transient(with_causes(&error))),
            }
        }
        let params = backup::Params {
            database: name.clone(),
            kind: BackupKind::Full,
            standalone: false,
            manner: backup::Manner::default(),
            due_at: Some(now),
        };
        let run = NewRun::new(of(&due), name, &params, "chain")?.placed(self.database.placement_at_first());
        self.app.runner.submit(run).await.map_err(StepError::transient)?;
        Ok(of(&due))
    }
}

/// The last part of the id of the run after one that failed, once its pause is
/// over; none while it has not ended, or where it was a success.
fn again(broken: &str, last: &RunSummary, now: Timestamp) -> Option<String> {
    let ended = last.finished_at?;
    let failed = last.conclusion.as_ref().is_none_or(|conclusion| conclusion.verdict != Verdict::Pass);
    (failed && now.duration_since(ended) >= PAUSE).then(|| format!("{broken}-after-{ended}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Conclusion, RunState};

    #[test]
    fn nodes_ask_for_the_same_run_once_per_break_and_again_after_one_that_failed() {
        let at = |second: i64| Timestamp::from_second(100 + second).unwrap();
        let ended = |verdict, finished_at| RunSummary {
            run_id: RunId::new(backup::NAME, "wallet", "full", "broken"),
            flow: backup::NAME.to_owned(),
            subject: "wallet".to_owned(),
            state: RunState::Done,
            step: None,
            error: None,
            requester: "chain".to_owned(),
            created_at: at(-10),
            finished_at,
            conclusion: Some(Conclusion { verdict, output: serde_json::Value::Null }),
        };
        assert_eq!(again("broken", &ended(Verdict::Error, None), at(9999)), None, "it has not ended");
        assert_eq!(again("broken", &ended(Verdict::Pass, Some(at(0))), at(9999)), None);
        for verdict in [Verdict::Error, Verdict::Fail, Verdict::Aborted] {
            let failed = ended(verdict, Some(at(0)));
            assert_eq!(again("broken", &failed, at(599)), None);
            let id = again("broken", &failed, at(600)).unwrap();
            assert_eq!(again("broken", &failed, at(700)), Some(id), "whoever looks when");
        }
    }
}
