//! `lifeboat vault copy [DB] [--from V] [--to V]`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::super::{Invocation, UsageError, open, progress, restore::chosen_vault, who};
use crate::{
    app::{App, Role},
    domain::{ByteSize, DatabaseName, RunId, VaultName},
    flow::NewRun,
    flows::{
        Database,
        copy::{self, NAME, Params},
    },
};

#[derive(Debug, Args)]
pub struct Options {
    /// All databases when none is named.
    database: Option<DatabaseName>,
    /// From this vault alone; from every other one of the schedule when absent.
    #[arg(long, value_name = "VAULT")]
    from: Option<VaultName>,
    /// To this vault; to every further one of the schedule when absent.
    #[arg(long, value_name = "VAULT")]
    to: Option<VaultName>,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    if options.from.is_some() && options.from == options.to {
        return Err(UsageError("`--from` and `--to` name the same vault; name two".to_owned()).into());
    }
    let app = open(invocation, Role::WithoutDns).await?;
    let mut routes = Vec::new();
    for database in app.chosen(options.database.as_ref())? {
        for to in targets(&database, &options)? {
            routes.push((database.name.clone(), to));
        }
    }
    if routes.is_empty() {
        let what = "nothing can be copied: no schedule names two vaults; name a further one under `vaults`";
        return Err(UsageError(what.to_owned()).into());
    }
    let (mut copied, mut code) = (Vec::new(), 0);
    for (database, to) in routes {
        let (ended, worse) = driven(&app, &database, options.from.clone(), to, &app.stamp()).await?;
        copied.push(ended);
        code = code.max(worse);
    }
    invocation.print(&copied, |copied| copied.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    Ok(code)
}

fn targets(database: &Database, options: &Options) -> Result<Vec<VaultName>, UsageError> {
    if let Some(from) = &options.from {
        chosen_vault(database, from)?;
    }
    if let Some(to) = &options.to {
        chosen_vault(database, to)?;
        return Ok(vec![to.clone()]);
    }
    // The first one gets the backups; it is a target only when another one is the source.
    let names = database.vaults.iter().map(|vault| vault.store.place().vault.clone());
    let first = usize::from(options.from.is_none());
    Ok(names.skip(first).filter(|name| options.from.as_ref() != Some(name)).collect())
}

/// Copies to one vault; answers the run's figures and the exit code of its verdict.
/// `what` ends the run's id.
pub(in crate::cli) async fn driven(
    app: &App,
    database: &DatabaseName,
    from: Option<VaultName>,
    to: VaultName,
    what: &str,
) -> Result<(Value, u8)> {
    let id = RunId::new(NAME, database.as_str(), to.as_str(), what);
    let params = Params { database: database.clone(), from, to: to.clone(), due_at: None };
    let placement = app.database(database)?.placement([&to]);
    let run = NewRun::new(id, copy::subject(database, &to), &params, who())?.placed(placement);
    let summary = progress::drive(app, run).await?;
    let Some(conclusion) = summary.conclusion else {
        anyhow::bail!("{} goes on elsewhere; see `lifeboat runs {}`", summary.run_id, summary.run_id);
    };
    Ok((conclusion.output, conclusion.verdict.exit_code()))
}

/// One run for people.
fn line(copied: &Value) -> String {
    let text = |name: &str| copied.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| copied.get(name).and_then(Value::as_u64).unwrap_or_default();
    let empty = json!([]);
    let list = |name: &str| copied.get(name).unwrap_or(&empty).as_array().cloned().unwrap_or_default();
    let mut line = format!(
        "{} {}: {} objects ({}), {} backups and {} pieces of WAL, {}",
        text("database"),
        text("verdict"),
        number("copied_objects"),
        ByteSize::from_bytes(number("copied_bytes")),
        list("backups").len(),
        number("copied_wal"),
        text("route"),
    );
    for finding in list("findings") {
        line = format!("{line}\n  {}", finding.as_str().unwrap_or_default());
    }
    line
}
