//! What fell due while no daemon ran: the daemon makes up for it as soon as it starts.

use std::path::Path;

use jiff::Timestamp;

use crate::{
    app,
    config::Estate,
    db::{Db, DbError, runs},
    decide::due::Schedule,
    domain::{DatabaseName, RunId, with_causes},
    flows::{backup, restore_test},
    tasks::schedule,
};

/// A run that the daemon would start now.
#[derive(serde::Serialize)]
pub(super) struct Missed<'a> {
    due: Timestamp,
    pub(super) local: String,
    pub(super) database: &'a DatabaseName,
    pub(super) flow: &'static str,
    pub(super) kind: &'static str,
    cron: &'a str,
    timezone: &'a str,
}

/// By what the state database knows of runs. Where there is none yet, nothing has
/// run; one that cannot be asked tells nothing.
pub(super) async fn missed(estate: &Estate, now: Timestamp) -> Vec<Missed<'_>> {
    let url = &estate.daemon.state.url;
    let is_there = url.strip_prefix("sqlite:").is_none_or(|path| Path::new(path).exists());
    let found = async {
        let db = if is_there { Some(Db::open(url).await?) } else { None };
        unstarted(estate, db.as_ref(), now).await
    };
    found.await.unwrap_or_else(|error| {
        tracing::warn!(error = %with_causes(&error), "what was missed is not known");
        Vec::new()
    })
}

async fn unstarted<'a>(estate: &'a Estate, db: Option<&Db>, now: Timestamp) -> Result<Vec<Missed<'a>>, DbError> {
    let mut all = Vec::new();
    for config in estate.schedules.iter().map(|schedule| &schedule.config) {
        let backups = config
            .backups
            .iter()
            .map(|line| (backup::NAME, line.kind.as_str(), line.cron.as_str(), schedule::kind(line)));
        let tests = config.restore_test.iter().map(|test| {
            (restore_test::NAME, test.recovery_point.algorithm.as_str(), test.cron.as_str(), schedule::TEST)
        });
        for (flow, kind, cron, in_id) in backups.chain(tests) {
            let Ok(line) = Schedule::parse(cron, &config.timezone) else { continue };
            let Some(due) = line.latest_due(now - schedule::CATCH_UP, now) else { continue };
            let id = RunId::new(flow, config.database.as_str(), in_id, &due.to_string());
            let is_known = match db {
                Some(db) => runs::get(db, id.as_str()).await?.is_some(),
                None => false,
            };
            // A test that was due before there was a backup has nothing to test.
            if is_known || (flow == restore_test::NAME && !has_backup_before(estate, &config.database, due).await) {
                continue;
            }
            let (database, timezone) = (&config.database, config.timezone.as_str());
            all.push(Missed { due, local: line.on_the_wall(due), database, flow, kind, cron, timezone });
        }
    }
    all.sort_by_key(|missed| (missed.due, missed.database.as_str(), missed.flow));
    Ok(all)
}

async fn has_backup_before(estate: &Estate, database: &DatabaseName, due: Timestamp) -> bool {
    match app::open_for_restore(estate, database, None).await {
        Ok(database) => schedule::has_backup_before(&database, due).await.unwrap_or(false),
        Err(_) => false,
    }
}
