//! `lifeboat runs [RUN]`, and signals to runs: `approve`, `abort`, `resume`.

use std::num::NonZeroUsize;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{Invocation, UsageError, open, who};
use crate::{
    app::{App, Role},
    domain::{Attribution, RunId},
    flow::{RunSummary, runner::FlowError},
    report::words,
};

#[derive(Debug, Args)]
pub struct Options {
    /// One run, whole; the newest ones when absent.
    run: Option<String>,
    /// How many to list.
    #[arg(long, default_value = "20")]
    limit: NonZeroUsize,
}

#[derive(Debug, Args)]
pub struct SignalOptions {
    /// The run's id, as `lifeboat runs` shows it.
    run: String,
    /// Why; kept in the journal.
    #[arg(long, default_value = "")]
    reason: String,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    if let Some(id) = options.run {
        let id = RunId::from(id);
        let summary = found(&app, &id).await?;
        invocation.print(&summary, describe)?;
        return Ok(0);
    }
    let runs = app.runner.list(options.limit.get()).await?;
    invocation.print(&runs, |runs| {
        let mut table = super::table(["run", "state", "verdict", "step", "began"]);
        for run in runs {
            table.add_row([
                run.run_id.to_string(),
                format!("{:?}", run.state).to_lowercase(),
                run.conclusion.as_ref().map_or(String::new(), |conclusion| conclusion.verdict.to_string()),
                run.step.clone().unwrap_or_default(),
                words::instant(&run.created_at),
            ]);
        }
        if runs.is_empty() { "no run yet".to_owned() } else { table.to_string() }
    })?;
    Ok(0)
}

/// The run of this id; an unknown one is the caller's mistake.
async fn found(app: &App, id: &RunId) -> Result<RunSummary> {
    app.runner.get(id).await.map_err(|error| match error {
        FlowError::NoSuchRun(_) => UsageError(error.to_string()).into(),
        error => error.into(),
    })
}

pub async fn signal(name: &str, options: SignalOptions, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let id = RunId::from(options.run);
    if found(&app, &id).await?.state.is_final() {
        return Err(UsageError(format!("run `{id}` has ended; nothing can be sent to it")).into());
    }
    let by = Attribution::new(&who(), &options.reason).map_err(|error| UsageError(error.to_string()))?;
    app.signal(&id, name, &by).await?;
    invocation.print(&serde_json::json!({"run_id": id, "sent": name}), |_| format!("sent `{name}` to {id}"))?;
    Ok(0)
}

/// Prints how a run ended and answers the exit code of its verdict.
pub fn print_conclusion(invocation: &Invocation, summary: &RunSummary) -> Result<u8> {
    let Some(conclusion) = &summary.conclusion else {
        anyhow::bail!("{} goes on elsewhere; see `lifeboat runs {}`", summary.run_id, summary.run_id);
    };
    if invocation.json {
        invocation.print(&conclusion.output, Value::to_string)?;
    } else {
        invocation.print(summary, describe)?;
    }
    Ok(conclusion.verdict.exit_code())
}

/// A run for people: its state, its error, and the figures of its conclusion.
fn describe(summary: &RunSummary) -> String {
    let mut text = format!("{}: {}", summary.run_id, format!("{:?}", summary.state).to_lowercase());
    if let Some(conclusion) = &summary.conclusion {
        text = format!("{}: {}", summary.run_id, conclusion.verdict);
    }
    let figures = summary.conclusion.as_ref().and_then(|conclusion| conclusion.output.as_object());
    let has_findings = figures
        .is_some_and(|figures| figures.get("findings").and_then(Value::as_array).is_some_and(|all| !all.is_empty()));
    // A finding tells it already.
    if let Some(error) = summary.error.as_ref().filter(|_| !has_findings) {
        text = format!("{text}\n  {}: {error}", summary.step.as_deref().unwrap_or("run"));
    }
    for (name, value) in figures.into_iter().flatten() {
        match value {
            Value::Null | Value::Object(_) => {}
            Value::Array(items) => {
                for item in items {
                    text = format!("{text}\n  {name}: {}", item_line(item));
                }
            }
            Value::String(value) => text = format!("{text}\n  {name}: {value}"),
            Value::Bool(_) | Value::Number(_) => text = format!("{text}\n  {name}: {value}"),
        }
    }
    text
}

/// The scalar fields of one phase, check or step.
fn item_line(item: &Value) -> String {
    match item {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null() && !value.is_object() && !value.is_array())
            .map(|(name, value)| match value {
                Value::String(text) if name == "name" || name == "verdict" => text.clone(),
                Value::String(text) => format!("{name} {text}"),
                other => format!("{name} {other}"),
            })
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
