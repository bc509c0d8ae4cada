//! What fell due while no daemon ran, and what waits: what the daemon will do about
//! it as soon as it starts.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;

use crate::{
    app,
    config::Estate,
    db::{self, Db, DbError},
    decide::agenda::{Agenda, Due, Missed},
    domain::{DatabaseName, with_causes},
    secrets::Secrets,
    tasks::schedule,
};

/// What has been due already.
#[derive(serde::Serialize)]
pub(super) struct Overdue<'a> {
    due: Timestamp,
    database: &'a DatabaseName,
    flow: &'static str,
    kind: String,
    /// What becomes of it.
    then: String,
}

impl Overdue<'_> {
    pub(super) fn in_words(&self) -> String {
        format!("{} ({}) of {}, due {}: {}", self.flow, self.kind, self.database, self.due, self.then)
    }
}

/// By what the state database knows of schedules. Where there is none yet, nothing
/// has run; one that cannot be asked tells nothing.
pub(super) async fn overdue(estate: &Estate, now: Timestamp) -> Vec<Overdue<'_>> {
    let marks = marks(&estate.daemon.state.url).await.unwrap_or_else(|error| {
        tracing::warn!(error = %with_causes(&error), "what was missed is not known");
        None
    });
    let Some(marks) = marks else { return Vec::new() };
    let mut all = Vec::new();
    for config in estate.schedules.iter().map(|schedule| &schedule.config) {
        // What was loaded has an agenda.
        let Ok(agenda) = config.agenda(&estate.daemon) else { continue };
        let look = agenda.look(&agenda.take_up(marks.get(config.database.as_str()), now), now);
        let told = |line: usize, due: Timestamp, then: String| {
            let line = agenda.lines.get(line)?;
            Some(Overdue { due, database: &config.database, flow: line.flow, kind: line.kind.clone(), then })
        };
        for Due { line, due_at, .. } in &look.start {
            if is_to_run(estate, &config.database, &agenda, *line, *due_at).await {
                all.extend(told(*line, *due_at, "`lifeboat serve` starts it at once".to_owned()));
            }
        }
        for Due { line, due_at, starts_at, held_by, .. } in &look.waiting {
            let holds: Vec<String> = held_by.iter().map(|hold| hold.in_words()).collect();
            let until = starts_at.map_or(String::new(), |at| format!("waits until {at}"));
            let why = if holds.is_empty() { String::new() } else { format!(" for {}", holds.join(" and ")) };
            all.extend(told(*line, *due_at, format!("{until}{why}")));
        }
        for Missed { line, why, due } in &look.missed {
            for due_at in due {
                all.extend(told(*line, *due_at, format!("missed ({}), to be recorded", why.as_str())));
            }
        }
    }
    all.sort_by_key(|overdue| (overdue.due, overdue.database.as_str(), overdue.flow));
    all
}

async fn marks(url: &str) -> Result<Option<BTreeMap<String, BTreeMap<String, Timestamp>>>, DbError> {
    let is_there = url.strip_prefix("sqlite:").is_none_or(|path| Path::new(path).exists());
    if is_there { db::agenda::marks(&Db::open(url).await?).await.map(Some) } else { Ok(Some(BTreeMap::new())) }
}

/// A test that was due before there was a backup has nothing to test.
async fn is_to_run(estate: &Estate, database: &DatabaseName, agenda: &Agenda, line: usize, due_at: Timestamp) -> bool {
    if agenda.lines.get(line).is_none_or(|line| line.backup.is_some()) {
        return true;
    }
    if let Ok(database) = app::open_managed(estate, &Secrets::open(&estate.daemon), database) {
        return schedule::has_snapshot_before(&database, due_at).await.unwrap_or(false);
    }
    match app::open_for_restore(estate, database, None).await {
        Ok(database) => schedule::has_backup_before(&database, due_at).await.unwrap_or(false),
        Err(_) => false,
    }
}
