//! Looks after the databases that a provider runs: what is not set up as their schedule
//! says is a finding, and what expires is let go by a run, once a day and after each new
//! snapshot. It looks first: where nothing expires, there is no run and no evidence of one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{civil::Date, tz::TimeZone};
use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    decide::retention::snapshots::Plan,
    domain::{DatabaseName, RunId},
    flow::{NewRun, StepError},
    flows::{ManagedDatabase, prune_snapshots},
};

/// Between looks at how they are set up.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between looks whether something expires.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// Those whose provider may be asked from where this node stands.
pub(super) fn near(app: &App) -> impl Iterator<Item = &Arc<ManagedDatabase>> {
    let region = &app.estate.daemon.node.region;
    app.resources.managed.values().filter(|database| database.placement().allows(region))
}

/// Holds how each is set up against its schedule until told to stop.
pub async fn watch(app: Arc<App>, stop: CancellationToken) {
    let finding = |what: &str, name: &DatabaseName| Finding::new(what, &app, name);
    let names = || near(&app).map(|database| &database.name);
    let mut kept: BTreeMap<DatabaseName, (Finding, Finding)> =
        names().map(|name| (name.clone(), (finding("setup", name), finding("provider", name)))).collect();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !kept.is_empty() {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        for database in near(&app) {
            let name = &database.name;
            let Some((setup, provider)) = kept.get_mut(name) else { continue };
            let Some(look) = stop.run_until_cancelled(app.looks.at(database, &app.clock)).await else { return };
            match &look.source {
                Ok(facts) => {
                    provider.close().await;
                    let found = database.misset(facts);
                    if found.is_empty() {
                        setup.close().await;
                    } else {
                        setup.open(&format!("`{name}` is not set up as it should be: {}", found.join("; also "))).await;
                    }
                }
                Err(error) => provider.open(&format!("the provider does not tell of `{name}`: {error}")).await,
            }
        }
    }
}

/// Has snapshots expire until told to stop.
pub async fn prune(app: Arc<App>, stop: CancellationToken) {
    let mut pruner = Pruner::new(&app);
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + PRUNE_EVERY, PRUNE_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        if stop.run_until_cancelled(pruner.look_at_all()).await.is_none() {
            break;
        }
    }
}

/// What was looked at last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    day: Date,
    newest: Option<String>,
}

/// Looks at all databases of providers.
struct Pruner {
    app: Arc<App>,
    seen: BTreeMap<DatabaseName, Seen>,
    findings: BTreeMap<DatabaseName, Finding>,
}

impl Pruner {
    fn new(app: &Arc<App>) -> Self {
        let finding = |name: &DatabaseName| (name.clone(), Finding::new("expiry", app, name));
        let findings = near(app).map(|database| finding(&database.name)).collect();
        Self { app: Arc::clone(app), seen: BTreeMap::new(), findings }
    }

    /// Submits runs where something expires.
    async fn look_at_all(&mut self) {
        let app = Arc::clone(&self.app);
        for database in near(&app) {
            let looked = self.look_at(database).await;
            let Some(finding) = self.findings.get_mut(&database.name) else { continue };
            match looked {
                Ok(()) => finding.close().await,
                Err(error) => finding.open(&format!("no snapshot expires: {error}")).await,
            }
        }
    }

    async fn look_at(&mut self, database: &ManagedDatabase) -> Result<(), StepError> {
        let now = self.app.clock.now();
        let plan: Plan = prune_snapshots::survey(&self.app.resources, database, None).await?;
        if plan.busy.is_some() {
            return Ok(());
        }
        let newest = plan.keep.last().map(|kept| kept.id.clone());
        let seen = Seen { day: now.to_zoned(TimeZone::UTC).date(), newest };
        let before = self.seen.get(&database.name);
        if before == Some(&seen) {
            return Ok(());
        }
        if !plan.expire.is_empty() {
            let is_new_day = before.is_none_or(|before| before.day != seen.day);
            let due = match &seen.newest {
                Some(newest) if !is_new_day => newest.clone(),
                _ => seen.day.to_string(),
            };
            let id = RunId::new(prune_snapshots::NAME, database.name.as_str(), "snapshot", &due);
            let params = prune_snapshots::Params { database: database.name.clone(), due_at: Some(now) };
            let run = NewRun::new(id, &database.name, &params, "schedule")?.placed(database.placement());
            self.app.runner.submit(run).await.map_err(|error| StepError::from_error(error, false))?;
        }
        self.seen.insert(database.name.clone(), seen);
        Ok(())
    }
}
