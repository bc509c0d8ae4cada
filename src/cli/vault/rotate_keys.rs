//! `lifeboat vault rotate-keys [DB]`.

use anyhow::Result;
use clap::Args;

use crate::{
    app::Role,
    cli::{Invocation, open, progress, runs, who},
    domain::{DatabaseName, RunId},
    flow::NewRun,
    flows::{restore::RestoreError, rotate_keys},
};

#[derive(Debug, Args)]
pub struct Options {
    /// All databases when none is named.
    database: Option<DatabaseName>,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let mut code = 0;
    for database in app.chosen(options.database.as_ref())? {
        // Before there is a run, and evidence of it.
        database.keys.identities().await.map_err(RestoreError::from)?;
        let id = RunId::new(rotate_keys::NAME, database.name.as_str(), "manual", &app.stamp());
        let params = rotate_keys::Params { database: database.name.clone(), due_at: None };
        let placement = database.placement(&database.schedule.config.vaults);
        let run = NewRun::new(id, &database.name, &params, who())?.placed(placement);
        let summary = progress::drive(&app, run).await?;
        code = code.max(runs::print_conclusion(invocation, &summary)?);
    }
    Ok(code)
}
