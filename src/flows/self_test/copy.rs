//! *copy*: one copy with three faults, each of which is judged as if it were the only one:
//! a flipped page, heartbeats that are not in it, and a query with another answer than
//! expected.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::Value;

use super::{LIMIT, Tried, folder_of, planned, plant};
use crate::{
    config::{
        check::{CheckConfig, NamedCheck, SqlCheckConfig, SqlText},
        schedule::RestoreTestConfig,
    },
    db::heartbeats,
    decide::self_test::{self, Fault, Outcome, Sight},
    domain::{Check, RecoveryTarget},
    engine::DamagedPage,
    flow::{Policy, Step, StepContext, StepError, read},
    flows::{
        Database, Resources, output,
        restore_test::{BEATS_WINDOW, Disaster, HEARTBEAT, Told, Trial, tear_down},
    },
};

/// The check of the pages, as restore tests name it.
const PAGES: &str = "page_checksums";
/// A query that any database answers, with `seen`.
const SQL: &str = "select 'seen'";

/// A copy with three faults.
pub(super) struct Copied {
    pub(super) resources: Arc<Resources>,
    pub(super) database: Arc<Database>,
    pub(super) config: RestoreTestConfig,
}

#[async_trait]
impl Step for Copied {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn policy(&self) -> Policy {
        Policy { limit: LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        output(&folder_of(&self.database, self.name(), cx)).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let folder = planned(cx)?;
        let config = self.checked();
        let keys = plant::keys(&self.database);
        let database = plant::with(&self.database, &config, (self.database.vaults.clone(), keys));
        let place = (folder.clone(), RecoveryTarget::Latest, None);
        let trial = Trial::begin((database, Arc::clone(&self.resources)), config, place, cx).await?;
        let restored = trial.fetch(cx).await??;
        cx.progress("flipping a page of the copy", None, None);
        let page = self.database.engine.damage_page(&trial.data()).await?;
        let told = trial.prove(restored, cx).await?;
        let pages = pages(&trial, &told, page.as_ref(), cx)?;
        tear_down(&self.database, &self.config, &folder).await?;
        let outcomes = vec![
            Outcome { fault: Fault::FlippedPage, sight: pages },
            Outcome { fault: Fault::StaleHeartbeat, sight: self.stale(&trial, &told, cx).await? },
            Outcome { fault: Fault::FailingSql, sight: of_check(&trial, &told, SQL, cx) },
        ];
        let is_gone = !folder.exists();
        output(&Tried { outcomes, folder, is_gone })
    }

    async fn undo(&self, _cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        tear_down(&self.database, &self.config, &read::<PathBuf>("folder", plan)?).await
    }
}

impl Copied {
    /// What is asked of the copy: what has to see the faults, and no more.
    fn checked(&self) -> RestoreTestConfig {
        let planted = SqlCheckConfig {
            sql: SqlText::Written(SQL.to_owned()),
            dbname: self.database.schedule.config.login.dbname.clone(),
            expect: Some("unseen".to_owned()),
            min: None,
            max: None,
            zero_rows: false,
            public: true,
        };
        // Heartbeats are judged against the planted disaster, and not beside the others.
        plant::checked(&self.config, vec![CheckConfig::Named(NamedCheck::PageChecksums), CheckConfig::Sql(planted)])
    }

    /// The copy against a disaster before which heartbeats were acknowledged for longer
    /// than the objective that are not in it.
    async fn stale(&self, trial: &Trial, told: &Told, cx: &StepContext) -> Result<Sight, StepError> {
        let (db, name, now) = (&self.resources.db, &self.database.name, cx.clock().now());
        let mut acknowledged =
            heartbeats::between(db, name, now - BEATS_WINDOW, now + SignedDuration::from_mins(1)).await?;
        let newest = heartbeats::newest(db, name).await?;
        let known = acknowledged.iter().chain(&newest).map(|beat| beat.seq).chain(told.present().iter().copied());
        let objective = self.database.schedule.config.objectives().rpo;
        let (at, planted) = self_test::stale(objective, known, newest, now);
        acknowledged.extend(planted);
        let record = trial.judge(told, |_| false, Some(Disaster { at, acknowledged: &acknowledged }), cx);
        Ok(self_test::sight(named(&record.checks, HEARTBEAT), record.verdict))
    }
}

/// The page, unless it is sound again.
fn pages(trial: &Trial, told: &Told, page: Option<&DamagedPage>, cx: &StepContext) -> Result<Sight, StepError> {
    let Some(page) = page else {
        return Ok(Sight::Unknown("the copy has no page that nothing else reads".to_owned()));
    };
    let sight = of_check(trial, told, PAGES, cx);
    let is_there = page
        .is_still_there()
        .map_err(|error| StepError::transient(format!("cannot look at {}: {error}", page.file.display())))?;
    Ok(match sight {
        Sight::Green(_) if !is_there => Sight::Unknown("recovery has written the page anew".to_owned()),
        sight => sight,
    })
}

/// What the test says that made this check alone.
fn of_check(trial: &Trial, told: &Told, name: &str, cx: &StepContext) -> Sight {
    let record = trial.judge(told, |check| check.name == name, None, cx);
    self_test::sight(named(&record.checks, name), record.verdict)
}

fn named<'a>(checks: &'a [Check], name: &str) -> Option<&'a Check> {
    checks.iter().find(|check| check.name == name)
}
