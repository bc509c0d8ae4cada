//! `lifeboat drill RUNBOOK --live`.

use anyhow::Result;
use clap::Args;

use super::{Invocation, UsageError, open, progress, who};
use crate::{
    app::Role,
    decide::lever,
    domain::{RunId, RunbookName},
    flow::NewRun,
    flows::drill,
};

#[derive(Debug, Args)]
pub struct Options {
    /// The runbook, as its file names it.
    runbook: RunbookName,
    /// Really do it: fence, promote, switch.
    #[arg(long)]
    live: bool,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    if !options.live {
        return Err(UsageError(format!(
            "a drill moves the primary of a real database: say so with `lifeboat drill {} --live`",
            options.runbook
        ))
        .into());
    }
    let app = open(invocation, Role::Everything).await?;
    let runbook = app.runbook(&options.runbook)?;
    if let Some(why) = lever::refusal(&app.lever().await?, drill::NAME) {
        return Err(UsageError(why).into());
    }
    let params = drill::DrillParams::manual(runbook, app.jurisdiction(&runbook.config.database));
    let id = RunId::new(drill::NAME, options.runbook.as_str(), "manual", &app.stamp());
    let placement = app.database(&runbook.config.database)?.placement([]);
    let run = NewRun::new(id, &runbook.config.database, &params, who())?.placed(placement);
    let summary = progress::drive(&app, run).await?;
    super::runs::print_conclusion(invocation, &summary)
}
