//! Keeps one vault of a database level with the others: finds what it lacks,
//! whatever the reason (a new backup, a vault that was away, an object that a
//! person removed because it was damaged), and submits runs that copy it. A copy
//! that fell behind is a finding until it caught up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    decide::copy::{self, Of},
    domain::{RunId, VaultName, Verdict},
    flow::{NewRun, RunSummary, StepError, Submitted},
    flows::{
        Database,
        copy::{
            NAME, Params, Route,
            look::{self, History},
        },
    },
};

const EVERY: Duration = Duration::from_secs(10);
/// Pause after a run before another one is asked for.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// The same after one that failed.
const PAUSE_AFTER_ERROR: SignedDuration = SignedDuration::from_mins(10);
/// The same where it found damage, which a person must mend.
const PAUSE_AFTER_DAMAGE: SignedDuration = SignedDuration::from_hours(6);
/// Runs that are looked through for one that is under way.
const RUNS_LOOKED_AT: usize = 100;

/// Looks until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, to: VaultName, stop: CancellationToken) {
    let Some(route) = Route::of(Arc::clone(&database), None, &to) else { return };
    let mut watch = Watch {
        finding: Finding::new(&format!("copy-to-{to}"), &app, &database.name),
        app,
        route,
        to,
        lacking: BTreeSet::new(),
        seen: look::Seen::new(),
    };
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        if let Err(error) = watch.look().await {
            // A vault that is away is a finding of its own.
            tracing::debug!(database = %database.name, vault = %watch.to, error = %error, "copies are not looked at");
        }
    }
}

/// The last part of the id of one more run, which all nodes make of the last
/// one; none while its pause lasts.
fn again(last: Option<&RunSummary>, now: Timestamp) -> Option<String> {
    let Some(ended) = last.and_then(|run| run.finished_at) else { return Some("first".to_owned()) };
    let pause = match last.and_then(|run| run.conclusion.as_ref()).map(|conclusion| conclusion.verdict) {
        Some(Verdict::Pass) => PAUSE,
        Some(Verdict::Fail) => PAUSE_AFTER_DAMAGE,
        _ => PAUSE_AFTER_ERROR,
    };
    (now.duration_since(ended) >= pause).then(|| format!("after-{ended}"))
}

struct Watch {
    app: Arc<App>,
    route: Route,
    to: VaultName,
    /// What was lacking the last time: WAL and heartbeats that are on their way
    /// to all vaults are not there the next time.
    lacking: BTreeSet<String>,
    /// Read every ten seconds otherwise.
    seen: look::Seen,
    finding: Finding,
}

impl Watch {
    async fn look(&mut self) -> Result<(), StepError> {
        let now = self.app.clock.now();
        let histories = look::histories(&self.route, &mut self.seen, now).await?;
        let last = self.last_run().await?;
        self.tell(&histories, last.as_ref(), now).await;
        let is_backup = |of: &Of| matches!(of, Of::Backup(_) | Of::Commit(_));
        let newest = histories.iter().flat_map(|history| &history.plan.groups).find_map(|group| match &group.of {
            Of::Backup(id) | Of::Commit(id) => Some(id.clone()),
            _ => None,
        });
        let others: BTreeSet<String> = histories
            .iter()
            .flat_map(|history| &history.plan.groups)
            .filter(|group| !is_backup(&group.of))
            .flat_map(|group| group.items.iter().map(|item| item.name.clone()))
            .collect();
        let lasts = others.iter().any(|name| self.lacking.contains(name));
        self.lacking = others;
        if last.as_ref().is_some_and(|run| !run.state.is_final()) {
            return Ok(());
        }
        // Nodes that see the same lack submit the same run.
        if let Some(backup) = &newest
            && self.submit(backup.as_str(), now).await? == Submitted::New
        {
            return Ok(());
        }
        let is_unread = histories.iter().any(|history| !history.unread.is_empty());
        if (lasts || newest.is_some() || is_unread)
            && let Some(what) = again(last.as_ref(), now)
        {
            self.submit(&what, now).await?;
        }
        Ok(())
    }

    /// The newest run of this copy.
    async fn last_run(&self) -> Result<Option<RunSummary>, StepError> {
        let subject = crate::flows::copy::subject(&self.route.database.name, &self.to);
        let runs = self.app.runner.list(RUNS_LOOKED_AT).await.map_err(StepError::transient)?;
        Ok(runs.into_iter().find(|run| run.flow == NAME && run.subject == subject))
    }

    async fn submit(&self, what: &str, now: Timestamp) -> Result<Submitted, StepError> {
        let database = &self.route.database.name;
        let id = RunId::new(NAME, database.as_str(), self.to.as_str(), what);
        let params = Params { database: database.clone(), from: None, to: self.to.clone(), due_at: Some(now) };
        let run = NewRun::new(id, crate::flows::copy::subject(database, &self.to), &params, "copy")?;
        let run = run.placed(self.route.database.placement([&self.to]));
        self.app.runner.submit(run).await.map_err(StepError::transient)
    }

    /// Opens or closes the finding.
    async fn tell(&mut self, histories: &[History], last: Option<&RunSummary>, now: Timestamp) {
        let lag_max = self.route.database.schedule.config.copy.lag_max;
        let oldest = histories.iter().filter_map(|history| {
            let sources: Vec<_> = history.sources.iter().map(|(_, holding)| holding.clone()).collect();
            copy::lag(&sources, &history.target).oldest_backup
        });
        let behind = oldest.min().map(|at| now.duration_since(at).as_secs_f64().max(0.0));
        let is_lacking = histories.iter().any(|history| !history.plan.groups.is_empty());
        let refused = last
            .filter(|_| is_lacking)
            .and_then(|run| run.conclusion.as_ref())
            .filter(|conclusion| conclusion.verdict != Verdict::Pass)
            .and_then(|conclusion| conclusion.output.get("findings")?.as_array()?.first()?.as_str());
        match (refused, behind.filter(|behind| *behind > lag_max.as_secs_f64())) {
            (Some(refused), _) => {
                self.finding.open(&format!("vault `{}` cannot be brought level: {refused}", self.to)).await;
            }
            (None, Some(behind)) => {
                let message = format!(
                    "vault `{}` lacks a backup that was finished {behind:.0} s ago, longer than `copy.lag_max` ({lag_max}); see `lifeboat runs`, or copy it with `lifeboat vault copy {}`",
                    self.to, self.route.database.name
                );
                self.finding.open(&message).await;
            }
            (None, None) => self.finding.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Conclusion, RunState};

    fn ended(verdict: Verdict) -> RunSummary {
        RunSummary {
            run_id: RunId::new(NAME, "wallet", "dr", "first"),
            flow: NAME.to_owned(),
            subject: "wallet/dr".to_owned(),
            state: RunState::Done,
            step: None,
            error: None,
            requester: "copy".to_owned(),
            created_at: Timestamp::from_second(90).unwrap(),
            finished_at: Timestamp::from_second(100).ok(),
            conclusion: Some(Conclusion { verdict, output: serde_json::Value::Null }),
        }
    }

    #[test]
    fn nodes_ask_for_the_same_run_and_not_too_often() {
        let at = |second: i64| Timestamp::from_second(100 + second).unwrap();
        assert_eq!(again(None, at(0)).as_deref(), Some("first"));
        for (verdict, pause) in [(Verdict::Pass, 10), (Verdict::Error, 600), (Verdict::Fail, 6 * 3600)] {
            let last = ended(verdict);
            assert_eq!(again(Some(&last), at(pause - 1)), None, "{verdict}");
            let id = again(Some(&last), at(pause)).unwrap();
            assert_eq!(again(Some(&last), at(pause + 5)), Some(id), "whoever looks when, {verdict}");
        }
    }
}
