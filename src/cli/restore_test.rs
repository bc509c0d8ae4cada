//! `lifeboat restore-test DB…`: restore into an isolated instance, check, measure, tear
//! down; prints the evidence record's figures. Several databases are restored to one
//! common instant, one after the other, and judged together.

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Invocation, UsageError, open, progress, restore::TargetOptions, who};
use crate::{
    app::{App, Role},
    config::ScheduleConfig,
    decide::platform::{self, Platform, Reached},
    domain::{DatabaseName, RecoveryAlgorithm, RecoveryTarget, RunId, Verdict},
    flow::{NewRun, RunSummary},
    flows::{
        Database,
        restore::{self, RestoreError},
        restore_test::{self, Point},
    },
    report::words,
};

#[derive(Debug, Args)]
pub struct Options {
    /// The databases, as their schedules name them. Several are restored to one common
    /// instant: that of `--at`, or one that is drawn.
    #[arg(required = true, value_name = "DATABASE")]
    databases: Vec<DatabaseName>,
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
    let asked = options.target.asked()?;
    let app = open(invocation, Role::WithoutDns).await?;
    if let [database] = options.databases.as_slice() {
        let point = match (asked, options.point) {
            (None, None) => Point::Scheduled,
            (None, Some(algorithm)) => Point::By(algorithm),
            (Some((target, None)), _) => Point::Asked(target),
            (Some((target, Some(timeline))), _) => Point::Along(target, timeline),
        };
        look(&app, database, &point).await?;
        let summary = tested(&app, database, point).await?;
        return super::runs::print_conclusion(invocation, &summary);
    }
    refuse_twins(&options.databases)?;
    let instant = match asked {
        _ if options.point.is_some() => {
            let what = "`--point` takes what one vault holds of one database; name one, or leave it out";
            return Err(UsageError(what.to_owned()).into());
        }
        Some((RecoveryTarget::Time(at), None)) => at,
        None => drawn(&app, &options.databases).await?,
        Some(_) => {
            let what = "several databases have one instant in common and nothing else: name it with `--at`, or nothing";
            return Err(UsageError(what.to_owned()).into());
        }
    };
    together(&app, &options.databases, instant, invocation).await
}

/// What can be refused before there is a run, and evidence of it.
async fn look(app: &App, name: &DatabaseName, point: &Point) -> Result<()> {
    if let Some(database) = app.managed(name) {
        refuse_untestable(&database.schedule.config)?;
        return restore_test::refuse_of_vaults(point).map_err(|what| UsageError(what).into());
    }
    let database = testable(app, name)?;
    if *point == Point::By(RecoveryAlgorithm::OtherVault) && database.vaults.len() < 2 {
        return Err(UsageError(restore_test::no_further_vault(&database.name)).into());
    }
    database.keys.identities().await.map_err(RestoreError::from)?;
    if let Some((target, timeline)) = point.asked() {
        let line = progress::Line::start("looking whether the vault reaches that point");
        let say = |message: &str, _: Option<u64>, _: Option<u64>| line.say(message.to_owned());
        let looked = restore::refuse_unreachable(database, target, timeline, &say).await;
        line.clear();
        looked?;
    }
    Ok(())
}

fn testable<'a>(app: &'a App, name: &DatabaseName) -> Result<&'a Database> {
    let database = app.database(name)?;
    refuse_untestable(&database.schedule.config)?;
    Ok(database)
}

fn refuse_untestable(schedule: &ScheduleConfig) -> Result<()> {
    if schedule.restore_test.is_none() {
        let what = format!("`{}` has no `restore_test` in its schedule; add one with its checks", schedule.database);
        return Err(UsageError(what).into());
    }
    Ok(())
}

async fn tested(app: &App, name: &DatabaseName, point: Point) -> Result<RunSummary> {
    let id = RunId::new(restore_test::NAME, name.as_str(), "manual", &app.stamp());
    let placement = match app.managed(name) {
        Some(database) => database.placement(),
        None => restore_test::placement(app.database(name)?, &point),
    };
    let params = restore_test::Params { database: name.clone(), point, due_at: None };
    let run = NewRun::new(id, name, &params, who())?.placed(placement);
    progress::drive(app, run).await
}

fn refuse_twins(names: &[DatabaseName]) -> Result<(), UsageError> {
    let twin = names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|other| other == *name));
    twin.map_or(Ok(()), |(_, name)| Err(UsageError(format!("`{name}` is named twice; name each database once"))))
}

/// An instant at which all of them can be restored.
async fn drawn(app: &App, names: &[DatabaseName]) -> Result<Timestamp> {
    let mut windows = Vec::new();
    for name in names {
        let window = app.restorable_window(testable(app, name)?).await?;
        windows.push(window.ok_or_else(|| UsageError(format!("nothing of `{name}` can be restored from its first vault; back it up, and see that the vault can be reached")))?);
    }
    let window = platform::window(&windows).ok_or_else(|| {
        UsageError("no instant lies behind the oldest backup of each of them; test them one by one".to_owned())
    })?;
    Ok(platform::instant(window, rand::random()))
}

/// Tests all of them, unless somebody ends one; all are looked at before the first.
async fn together(app: &App, names: &[DatabaseName], instant: Timestamp, invocation: &Invocation) -> Result<u8> {
    let point = Point::Asked(RecoveryTarget::Time(instant));
    for name in names {
        look(app, name, &point).await?;
    }
    let (mut reached, mut tests) = (Vec::new(), Vec::new());
    for name in names {
        let summary = tested(app, name, point.clone()).await?;
        let Some(conclusion) = summary.conclusion else {
            anyhow::bail!("{} goes on elsewhere; see `lifeboat runs {}`", summary.run_id, summary.run_id);
        };
        let commit = conclusion.output.pointer("/recovery_point/last_commit_at").and_then(Value::as_str);
        let last_commit_at = commit.and_then(|text| text.parse().ok());
        reached.push(Reached { database: name.clone(), verdict: conclusion.verdict, last_commit_at });
        tests.push(conclusion.output);
        if conclusion.verdict == Verdict::Aborted {
            break;
        }
    }
    // The platform is all of them, also where a test was ended.
    let untested = names.iter().skip(reached.len()).cloned();
    let untested = untested.map(|database| Reached { database, verdict: Verdict::Aborted, last_commit_at: None });
    reached.extend(untested.collect::<Vec<_>>());
    let platform = platform::judge(instant, &reached);
    let verdict = platform.verdict;
    invocation.print(&Together { platform, tests }, |together| text(&together.platform, &reached))?;
    Ok(verdict.exit_code())
}

/// The platform, and the test of each database.
#[derive(Debug, Serialize)]
struct Together {
    #[serde(flatten)]
    platform: Platform,
    tests: Vec<Value>,
}

fn text(platform: &Platform, reached: &[Reached]) -> String {
    let seconds =
        |value: Option<f64>| value.map_or_else(|| "not known".to_owned(), |seconds| format!("{seconds:.3} s"));
    let mut text = format!("{} to {}: {}", words::count(reached.len(), "database"), platform.instant, platform.verdict);
    for test in reached {
        let to = test.last_commit_at.map_or_else(|| "not known".to_owned(), |at| at.to_string());
        text = format!("{text}\n  {}: {}, last commit {to}", test.database, test.verdict);
    }
    let worst = platform.recovery_point.as_ref();
    let point = worst.map_or_else(String::new, |behind| format!(" ({})", behind.database));
    format!(
        "{text}\n  recovery point: {} before it{point}\n  skew: {}",
        seconds(worst.map(|behind| behind.seconds)),
        seconds(platform.skew_seconds)
    )
}
