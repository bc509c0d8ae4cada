//! `lifeboat restore-test DB`: restore into an isolated instance, check,
//! measure, tear down; prints the evidence record's figures.

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{Invocation, UsageError, open, progress, restore::TargetOptions, who};
use crate::{
    app::Role,
    domain::{DatabaseName, RecoveryAlgorithm, RunId},
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
    /// As this algorithm chooses, whatever the schedule says.
    #[arg(
        long,
        value_name = "ALGORITHM",
        value_parser = algorithm(),
        conflicts_with_all = ["at", "lsn", "xid", "name", "immediate", "latest", "exclusive", "timeline"],
        help_heading = "Recovery point (as the schedule says when none is named)"
    )]
    point: Option<RecoveryAlgorithm>,
}

/// By the words of the schedule.
fn algorithm() -> impl TypedValueParser<Value = RecoveryAlgorithm> {
    PossibleValuesParser::new(RecoveryAlgorithm::ALL.map(RecoveryAlgorithm::as_str)).try_map(|text| text.parse())
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let point = match (options.target.asked()?, options.point) {
        (None, None) => Point::Scheduled,
        (None, Some(algorithm)) => Point::By(algorithm),
        (Some((target, None)), _) => Point::Asked(target),
        (Some((target, Some(timeline))), _) => Point::Along(target, timeline),
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
    if point == Point::By(RecoveryAlgorithm::OtherVault) && database.vaults.len() < 2 {
        return Err(UsageError(restore_test::no_further_vault(&database.name)).into());
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
    let placement = restore_test::placement(database, &point);
    let params = restore_test::Params { database: database.name.clone(), point, due_at: None };
    let run = NewRun::new(id, &database.name, &params, who())?.placed(placement);
    let summary = progress::drive(&app, run).await?;
    super::runs::print_conclusion(invocation, &summary)
}
