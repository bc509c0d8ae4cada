//! Restore tests that have not begun: a finding while there is still time, and
//! until one has begun. Whoever promised a test each month hears of it before
//! the auditor does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{super::finding::Finding, Table};
use crate::{
    app::App,
    db::runs,
    decide::agenda::Due,
    domain::{DatabaseName, with_causes},
    flows::restore_test,
};

/// How often is looked whether one has begun of which a finding tells, or would.
const AGAIN: SignedDuration = SignedDuration::from_secs(10);
/// How often is looked in any case, as a clock may jump.
const AT_LEAST: SignedDuration = SignedDuration::from_hours(1);
/// Databases that are looked at in one go: the scheduler waits as long.
const AT_ONCE: usize = 200;

/// What is known of the tests of all databases.
#[derive(Default)]
pub(super) struct LateTests {
    /// When each table is looked at next; none before the first look.
    queue: Option<BinaryHeap<Reverse<(Timestamp, usize)>>>,
    /// Due times whose test has begun, or had nothing to test.
    settled: BTreeMap<DatabaseName, Timestamp>,
    findings: BTreeMap<DatabaseName, Finding>,
}

impl LateTests {
    pub(super) async fn look(&mut self, app: &Arc<App>, tables: &[Table], now: Timestamp) {
        for _ in 0..AT_ONCE {
            let all = || (0..tables.len()).map(|place| Reverse((now, place))).collect();
            let queue = self.queue.get_or_insert_with(all);
            if queue.peek().is_none_or(|Reverse((at, _))| *at > now) {
                return;
            }
            let Some(Reverse((_, place))) = queue.pop() else { return };
            let Some(table) = tables.get(place) else { continue };
            let again_at = self.look_at(app, table, now).await.min(now + AT_LEAST);
            self.queue.get_or_insert_default().push(Reverse((again_at, place)));
        }
    }

    /// Looks at one database, and answers when to look again.
    async fn look_at(&mut self, app: &Arc<App>, table: &Table, now: Timestamp) -> Timestamp {
        let name = table.database.name();
        let next = || table.agenda.worrying_next(restore_test::NAME, now).unwrap_or(Timestamp::MAX);
        let worrying = table.agenda.worrying(restore_test::NAME, now);
        let Some(due) = worrying.filter(|due| self.settled.get(name) != Some(&due.due_at)) else { return next() };
        match is_settled(app, table, &due).await {
            Ok(true) => {
                self.settled.insert(name.clone(), due.due_at);
                self.finding(app, name).close().await;
                return next();
            }
            Ok(false) => self.finding(app, name).open(&told(name, &due, now)).await,
            Err(error) => tracing::warn!(database = %name, error, "whether the restore test began is not known"),
        }
        now + AGAIN
    }

    fn finding(&mut self, app: &Arc<App>, name: &DatabaseName) -> &mut Finding {
        self.findings.entry(name.clone()).or_insert_with(|| Finding::new("restore_test", app, name))
    }
}

/// Whether a test has begun since, whoever asked for it, or there was nothing to test.
async fn is_settled(app: &App, table: &Table, due: &Due<'_>) -> Result<bool, String> {
    let (db, name) = (&app.resources.db, table.database.name());
    let begun = runs::has_begun_since(db, restore_test::NAME, name.as_str(), due.due_at.as_millisecond()).await;
    if begun.map_err(|error| with_causes(&error))? {
        return Ok(true);
    }
    Ok(!table.database.has_backup_before(due.due_at).await?)
}

fn told(name: &DatabaseName, due: &Due<'_>, now: Timestamp) -> String {
    let head = format!("the restore test due {} has not begun", due.due_at);
    let holds: Vec<String> = due.held_by.iter().map(|hold| hold.in_words()).collect();
    let why = if holds.is_empty() { String::new() } else { format!(", held by {}", holds.join(" and ")) };
    if due.closes_at <= now || due.begins().is_none() {
        return format!("{head} within its window{why}; run `lifeboat restore-test {name}` to make up for it");
    }
    format!(
        "{head}{why}; its window ends {}: see that a node of its region is free, or run `lifeboat restore-test {name}`",
        due.closes_at
    )
}
