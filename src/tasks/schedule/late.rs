//! Restore tests that have not begun: a finding while there is still time, and
//! until one has begun. Whoever promised a test each month hears of it before
//! the auditor does.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{super::finding::Finding, Table, has_backup_before};
use crate::{
    app::App,
    db::runs,
    decide::agenda::Due,
    domain::{DatabaseName, with_causes},
    flows::restore_test,
};

const EVERY: SignedDuration = SignedDuration::from_secs(10);

/// What is known of the tests of all databases.
#[derive(Default)]
pub(super) struct LateTests {
    looked_at: Option<Timestamp>,
    /// Due times whose test has begun, or had nothing to test.
    settled: BTreeMap<DatabaseName, Timestamp>,
    findings: BTreeMap<DatabaseName, Finding>,
}

impl LateTests {
    pub(super) async fn look(&mut self, app: &Arc<App>, tables: &[Table], now: Timestamp) {
        if self.looked_at.is_some_and(|looked_at| now < looked_at + EVERY && now >= looked_at) {
            return;
        }
        self.looked_at = Some(now);
        for table in tables {
            let name = &table.database.name;
            let Some(due) = table
                .agenda
                .worrying(restore_test::NAME, now)
                .filter(|due| self.settled.get(name) != Some(&due.due_at))
            else {
                continue;
            };
            match is_settled(app, table, &due).await {
                Ok(true) => {
                    self.settled.insert(name.clone(), due.due_at);
                    self.finding(app, name).close().await;
                }
                Ok(false) => self.finding(app, name).open(&told(name, &due, now)).await,
                Err(error) => tracing::warn!(database = %name, error, "whether the restore test began is not known"),
            }
        }
    }

    fn finding(&mut self, app: &Arc<App>, name: &DatabaseName) -> &mut Finding {
        self.findings.entry(name.clone()).or_insert_with(|| Finding::new("restore_test", app, name))
    }
}

/// Whether a test has begun since, whoever asked for it, or there was nothing to test.
async fn is_settled(app: &App, table: &Table, due: &Due<'_>) -> Result<bool, String> {
    let (db, name) = (&app.resources.db, &table.database.name);
    let begun = runs::has_begun_since(db, restore_test::NAME, name.as_str(), due.due_at.as_millisecond()).await;
    if begun.map_err(|error| with_causes(&error))? {
        return Ok(true);
    }
    Ok(!has_backup_before(&table.database, due.due_at).await?)
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
