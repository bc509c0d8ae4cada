//! `lifeboat self-test DB`: plants faults into a restore test and tells of each whether
//! it turned red.

use anyhow::Result;
use clap::Args;

use super::{Invocation, UsageError, open, progress, who};
use crate::{
    app::Role,
    domain::{DatabaseName, RunId},
    flow::NewRun,
    flows::{restore::RestoreError, self_test},
};

#[derive(Debug, Args)]
pub struct Options {
    /// The database, as its schedule names it.
    database: DatabaseName,
}

pub async fn run(options: &Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let database = app.database(&options.database)?;
    if database.schedule.config.restore_test.is_none() {
        return Err(UsageError(format!(
            "`{}` has no `restore_test` in its schedule, and so nothing to plant faults into; add one with its checks",
            options.database
        ))
        .into());
    }
    // Before there is a run, and evidence of it.
    database.keys.identities().await.map_err(RestoreError::from)?;
    let id = RunId::new(self_test::NAME, database.name.as_str(), "manual", &app.stamp());
    let params = self_test::Params { database: database.name.clone(), due_at: None };
    let run = NewRun::new(id, &database.name, &params, who())?.placed(database.placement_at_first());
    super::runs::print_conclusion(invocation, &progress::drive(&app, run).await?)
}
