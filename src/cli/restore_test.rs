//! `lifeboat restore-test DB`: restore into an isolated instance, check,
//! measure, tear down; prints the evidence record's figures.

use anyhow::Result;
use clap::Args;

use super::{Invocation, UsageError, open, progress, restore::TargetOptions, who};
use crate::{
    app::Role,
    domain::{DatabaseName, RunId},
    flow::NewRun,
    flows::{
        restore::{self, RestoreError},
        restore_test::{self, Point},
    },
};

#[derive(Debug, Args)]
pub struct Options {
    /// The database, as its schedule names it.
    database: DatabaseName,
    #[command(flatten, next_help_heading = "Recovery point (as the schedule says when none is named)")]
    target: TargetOptions,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let point = match options.target.asked()? {
        None => Point::Scheduled,
        Some((target, None)) => Point::Asked(target),
        Some((target, Some(timeline))) => Point::Along(target, timeline),
    };
    let app = open(invocation, Role::WithoutDns).await?;
    let database = app.database(&options.database)?;
    if database.schedule.config.restore_test.is_none() {
        return Err(UsageError(format!(
            "`{}` has no `restore_test` in its schedule; add one with its checks",
            options.database
        ))
        .into());
    }
    // Before there is a run, and evidence of it.
    database.keys.identities().await.map_err(RestoreError::from)?;
    if let Some((target, timeline)) = point.asked() {
        let line = progress::Line::start("looking whether the vault reaches that point");
        let say = |message: &str, _: Option<u64>, _: Option<u64>| line.say(message.to_owned());
        let looked = restore::refuse_unreachable(database, target, timeline, &say).await;
        line.clear();
        looked?;
    }
    let id = RunId::new(restore_test::NAME, database.name.as_str(), "manual", &app.stamp());
    let params = restore_test::Params { database: database.name.clone(), point, due_at: None };
    let summary =
        progress::drive(&app, NewRun::new(id, &database.name, &params, who())?.placed(database.placement_at_first()))
            .await?;
    super::runs::print_conclusion(invocation, &summary)
}
