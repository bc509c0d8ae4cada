//! Starts what is due. tokio-cron-scheduler is the ticker; what is due is read
//! from the schedules each time, so that no tick that is missed loses a run
//! (it fires late or not at all under load). A run's id holds its due time:
//! starting it twice runs it once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    config::schedule::BackupScheduleConfig,
    decide::due::Schedule,
    domain::{DatabaseName, RunId, with_causes},
    flow::NewRun,
    flows::{Database, backup, restore_test},
};

/// How far back a daemon that was down looks for a due time that it missed: a
/// monthly test is found again after a month.
pub const CATCH_UP: SignedDuration = SignedDuration::from_hours(35 * 24);

/// What a restore test is called in the id of its run.
pub const TEST: &str = "local";

/// What a backup of this line is called in the id of its run. Two lines that fall
/// due together are two runs where one stands alone.
pub fn kind(line: &BackupScheduleConfig) -> &'static str {
    if line.standalone { "standalone" } else { line.kind.as_str() }
}

/// Ticks once a second until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) -> Result<(), JobSchedulerError> {
    let tick = Arc::new(Notify::new());
    let mut ticker = JobScheduler::new().await?;
    let woken = Arc::clone(&tick);
    ticker.add(Job::new_repeated(Duration::from_secs(1), move |_, _| woken.notify_one())?).await?;
    ticker.start().await?;
    // Per database, moved on only when all that was due is stored.
    let begun = app.clock.now() - CATCH_UP;
    let mut since: BTreeMap<&DatabaseName, Timestamp> =
        app.resources.databases.keys().map(|name| (name, begun)).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tick.notified() => {}
        }
        let now = app.clock.now();
        for (name, since) in &mut since {
            let Some(database) = app.resources.databases.get(*name) else { continue };
            match start_due(&app, database, *since, now).await {
                Ok(()) => *since = now,
                Err(error) => {
                    tracing::error!(database = %name, error, "a due run could not be stored; trying again");
                }
            }
        }
    }
    ticker.shutdown().await
}

/// Starts the latest due run of each schedule of a database in `(since, now]`.
/// Earlier ones it overtook are not run: the latest stands for them. A restore
/// test that was due before there was a backup has nothing to test.
async fn start_due(app: &App, database: &Database, since: Timestamp, now: Timestamp) -> Result<(), String> {
    let schedule = &database.schedule.config;
    let due = |cron: &str| Schedule::parse(cron, &schedule.timezone).ok()?.latest_due(since, now);
    for entry in &schedule.backups {
        if let Some(due_at) = due(&entry.cron) {
            let params = backup::Params {
                database: database.name.clone(),
                kind: entry.kind,
                standalone: entry.standalone,
                manner: backup::Manner { from: entry.backup_from, rate_max: entry.backup_rate_max },
                due_at: Some(due_at),
            };
            submit(app, backup::NAME, database, kind(entry), due_at, &params).await?;
        }
    }
    if let Some(test) = &schedule.restore_test
        && let Some(due_at) = due(&test.cron)
        && has_backup_before(database, due_at).await?
    {
        let params = restore_test::Params {
            database: database.name.clone(),
            point: restore_test::Point::Scheduled,
            due_at: Some(due_at),
        };
        submit(app, restore_test::NAME, database, TEST, due_at, &params).await?;
    }
    Ok(())
}

/// Whether the first vault holds one that was complete then.
pub async fn has_backup_before(database: &Database, due_at: Timestamp) -> Result<bool, String> {
    let Some(vault) = database.vault(None) else { return Ok(false) };
    let histories = database.histories(vault).await.map_err(|error| with_causes(&error))?;
    Ok(histories.iter().flat_map(|held| &held.catalog.entries).any(|entry| entry.manifest.finished_at <= due_at))
}

async fn submit(
    app: &App,
    flow: &str,
    database: &Database,
    kind: &str,
    due_at: Timestamp,
    params: &impl serde::Serialize,
) -> Result<(), String> {
    let id = RunId::new(flow, database.name.as_str(), kind, &due_at.to_string());
    let run = NewRun::new(id, &database.name, params, "schedule").map_err(|error| with_causes(&error))?;
    let run = run.placed(database.placement_at_first());
    app.runner.submit(run).await.map(drop).map_err(|error| with_causes(&error))
}
