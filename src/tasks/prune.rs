//! Has runs let expire what each vault need not keep: once a day, and after each
//! new backup that has its WAL. It looks first: where nothing expires, there is
//! no run and no evidence of one; where something stands in the way, there is a
//! finding. A run's id holds the day or the backup, so that two nodes run it once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{civil::Date, tz::TimeZone};
use tokio_util::sync::CancellationToken;

use super::finding::Finding;
use crate::{
    app::App,
    decide::retention::{Doubt, Plan},
    domain::{BackupId, DatabaseName, RunId, VaultName},
    flow::{NewRun, StepError},
    flows::{Database, Vault, prune, retention},
};

/// Between looks; the first one is so long after the start.
const EVERY: Duration = Duration::from_secs(600);

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut pruner = Pruner::new(&app);
    let mut ticker = tokio::time::interval_at((Instant::now() + EVERY).into(), EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        pruner.look_at_all().await;
    }
}

/// What was looked at last, per database and vault.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    day: Date,
    newest: Option<BackupId>,
}

/// Looks at all vaults of all databases.
pub struct Pruner {
    app: Arc<App>,
    seen: BTreeMap<(DatabaseName, VaultName), Seen>,
    findings: BTreeMap<DatabaseName, Finding>,
}

impl Pruner {
    pub fn new(app: &Arc<App>) -> Self {
        let finding = |name: &DatabaseName| (name.clone(), Finding::new("expiry", app, name));
        let findings = app.resources.databases.keys().map(finding).collect();
        Self { app: Arc::clone(app), seen: BTreeMap::new(), findings }
    }

    /// Submits runs where something expires.
    pub async fn look_at_all(&mut self) {
        let app = Arc::clone(&self.app);
        for (name, database) in &app.resources.databases {
            let mut troubles = Vec::new();
            for vault in &database.vaults {
                match self.look_at(database, vault).await {
                    Ok(trouble) => troubles.extend(trouble),
                    Err(error) => troubles.push(format!("vault `{}`: {error}", vault.store.place().vault)),
                }
            }
            let Some(finding) = self.findings.get_mut(name) else { continue };
            if troubles.is_empty() {
                finding.close().await;
            } else {
                finding.open(&format!("nothing expires: {}", troubles.join("; "))).await;
            }
        }
    }

    /// What a person must fix before anything expires in this vault.
    async fn look_at(&mut self, database: &Arc<Database>, vault: &Vault) -> Result<Vec<String>, StepError> {
        let now = self.app.clock.now();
        let memory = retention::Memory::read(&self.app.resources, database, None).await?;
        let Some(survey) = retention::survey(database, vault, &memory, &[], now).await? else { return Ok(Vec::new()) };
        let plan = survey.plan;
        if !plan.refusals.is_empty() {
            return Ok(lasting(&plan, &vault.store.place().vault));
        }
        let newest = plan.keep.last().map(|kept| kept.backup.clone());
        let seen = Seen { day: now.to_zoned(TimeZone::UTC).date(), newest };
        let key = (database.name.clone(), vault.store.place().vault.clone());
        let before = self.seen.get(&key);
        if before == Some(&seen) {
            return Ok(Vec::new());
        }
        if !plan.expire.is_empty() {
            let is_new_day = before.is_none_or(|before| before.day != seen.day);
            let due = match &seen.newest {
                Some(newest) if !is_new_day => newest.to_string(),
                _ => seen.day.to_string(),
            };
            let id = RunId::new(prune::NAME, key.0.as_str(), key.1.as_str(), &due);
            let params =
                prune::Params { database: key.0.clone(), vault: key.1.clone(), due_at: Some(now), expected: None };
            let run = NewRun::new(id, &key.0, &params, "schedule")?.placed(database.placement([&key.1]));
            self.app.runner.submit(run).await.map_err(|error| StepError::from_error(error, false))?;
        }
        self.seen.insert(key, seen);
        Ok(Vec::new())
    }
}

/// The doubts that do not pass by themselves in a moment.
fn lasting(plan: &Plan, vault: &VaultName) -> Vec<String> {
    let passes = |doubt: &&Doubt| matches!(doubt, Doubt::Busy { .. } | Doubt::Uploading { .. } | Doubt::NoBackup);
    plan.refusals.iter().filter(|doubt| !passes(doubt)).map(|doubt| format!("vault `{vault}`: {doubt}")).collect()
}
