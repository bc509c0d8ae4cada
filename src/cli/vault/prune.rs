//! `lifeboat vault prune [DB]`: shows the plan; with `--yes` runs exactly it.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    app::{App, Role},
    cli::{Invocation, UsageError, open, progress, who},
    decide::retention::{Expiry, Plan, Reason},
    domain::{DatabaseName, RunId, SegmentSize, VaultName},
    flow::{NewRun, RunSummary},
    flows::{Database, Vault, prune, retention},
    report::words,
};

#[derive(Debug, Args)]
pub struct Options {
    /// All databases when none is named.
    database: Option<DatabaseName>,
    /// This vault only.
    #[arg(long)]
    vault: Option<VaultName>,
    /// Delete what the plan lets go.
    #[arg(long)]
    yes: bool,
    /// The plan that was shown before, by its digest: another one is not run.
    #[arg(long, requires = "yes", value_name = "DIGEST")]
    plan: Option<String>,
}

/// The plan of one vault, and with `--yes` what became of it.
#[derive(Debug, Serialize)]
struct Shown {
    database: DatabaseName,
    vault: VaultName,
    /// None where the vault holds no backup.
    digest: Option<String>,
    plan: Option<Plan>,
    run: Option<serde_json::Value>,
    #[serde(skip)]
    segment_size: SegmentSize,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let mut shown = Vec::new();
    let mut code = 0;
    for (database, vault) in chosen(&app, &options)? {
        let mut plan = look(&app, &database, &vault).await?;
        if options.yes {
            code = code.max(carry_out(&app, &database, &mut plan, &options).await?);
        }
        shown.push(plan);
    }
    invocation.print(&shown, |shown| shown.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    Ok(code)
}

fn chosen(app: &App, options: &Options) -> Result<Vec<(Arc<Database>, Vault)>> {
    let mut chosen = Vec::new();
    for database in app.chosen(options.database.as_ref())? {
        let is_meant = |vault: &&Vault| options.vault.as_ref().is_none_or(|name| vault.store.place().vault == *name);
        chosen.extend(database.vaults.iter().filter(is_meant).map(|vault| (Arc::clone(&database), vault.clone())));
    }
    if chosen.is_empty() {
        let name = options.vault.as_ref().map_or_else(String::new, ToString::to_string);
        return Err(UsageError(format!(
            "no such database goes to a vault `{name}`; `lifeboat check` names the vaults"
        ))
        .into());
    }
    if options.plan.is_some() && chosen.len() > 1 {
        return Err(UsageError(
            "`--plan` names the plan of one database and vault: name both, with `--vault`".to_owned(),
        )
        .into());
    }
    Ok(chosen)
}

async fn look(app: &App, database: &Database, vault: &Vault) -> Result<Shown> {
    let memory = retention::Memory::read(&app.resources, database, None).await?;
    let survey = retention::survey(database, vault, &memory, &[], app.clock.now()).await?;
    Ok(Shown {
        database: database.name.clone(),
        vault: vault.store.place().vault.clone(),
        digest: survey.as_ref().map(|survey| prune::digest(&survey.plan)).transpose()?,
        segment_size: survey.as_ref().map_or(SegmentSize::DEFAULT, |survey| survey.segment_size),
        plan: survey.map(|survey| survey.plan),
        run: None,
    })
}

/// Runs exactly the plan that is shown. 1 when it is refused, or is another one than was named.
async fn carry_out(app: &App, database: &Database, shown: &mut Shown, options: &Options) -> Result<u8> {
    let (Some(plan), Some(digest)) = (&shown.plan, &shown.digest) else { return Ok(0) };
    if let Some(named) = options.plan.as_ref().filter(|named| *named != digest) {
        anyhow::bail!("the plan changed: it is {digest} and no longer {named}; nothing was deleted, look at it again");
    }
    if !plan.refusals.is_empty() {
        return Ok(1);
    }
    if plan.expire.is_empty() {
        return Ok(0);
    }
    let id = RunId::new(prune::NAME, database.name.as_str(), shown.vault.as_str(), &app.stamp());
    let params = prune::Params {
        database: database.name.clone(),
        vault: shown.vault.clone(),
        due_at: None,
        expected: Some(digest.clone()),
    };
    let run = NewRun::new(id, &database.name, &params, who())?.placed(database.placement([&shown.vault]));
    let summary: RunSummary = progress::drive(app, run).await?;
    let Some(conclusion) = summary.conclusion else {
        anyhow::bail!("{} goes on elsewhere; see `lifeboat runs {}`", summary.run_id, summary.run_id);
    };
    shown.run = Some(conclusion.output);
    Ok(conclusion.verdict.exit_code())
}

fn describe(shown: &Shown) -> String {
    let head = format!("{} in vault {}", shown.database, shown.vault);
    let (Some(plan), Some(digest)) = (&shown.plan, &shown.digest) else { return format!("{head}: no backup yet") };
    let mut table = crate::cli::table(["backup", "stays because"]);
    for kept in &plan.keep {
        table.add_row([kept.backup.to_string(), because(&kept.reasons)]);
    }
    let mut lines = vec![
        format!("{head}: every instant since {} stays restorable", words::instant(&plan.window_start)),
        table.to_string(),
    ];
    lines.extend(plan.refusals.iter().map(|doubt| format!("nothing goes: {doubt}")));
    lines.extend(expires(&plan.expire, shown.segment_size));
    lines.extend(plan.left.iter().map(|left| format!("left alone: {left}")));
    if let Some(run) = &shown.run {
        lines.push(format!("{}: {}", text(run, "run_id"), text(run, "verdict")));
        let findings = run.get("findings").and_then(|findings| findings.as_array()).into_iter().flatten();
        lines.extend(findings.filter_map(|finding| finding.as_str()).map(|finding| format!("  {finding}")));
    } else if !plan.expire.is_empty() {
        lines.push(format!(
            "to let exactly this go: lifeboat vault prune {} --vault {} --yes --plan {digest}",
            shown.database, shown.vault
        ));
    }
    lines.join("\n")
}

/// Why a backup stays. What a doubt alone keeps has no reason of its own; the
/// doubt is told below the table.
fn because(reasons: &[Reason]) -> String {
    if reasons.is_empty() {
        return "nothing goes now".to_owned();
    }
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn text<'a>(run: &'a serde_json::Value, name: &str) -> &'a str {
    run.get(name).and_then(|value| value.as_str()).unwrap_or_default()
}

/// What goes, a line per kind of thing.
pub(in crate::cli) fn expires(expire: &Expiry, size: SegmentSize) -> Vec<String> {
    if expire.is_empty() {
        return vec!["nothing expires".to_owned()];
    }
    let mut lines: Vec<String> = expire.backups.iter().map(|backup| format!("goes: backup {backup}")).collect();
    lines.extend(expire.uploads.iter().map(|upload| format!("goes: what is left of the upload {upload}")));
    lines.extend(expire.segments.iter().map(|run| {
        let name = |number| crate::domain::Segment { timeline: run.timeline, number }.file_name(size);
        format!("goes: WAL {} to {} ({} segments)", name(run.first), name(run.last), run.last - run.first + 1)
    }));
    for (count, what) in
        [(expire.tails.len(), "tails"), (expire.histories.len(), "history files"), (expire.wal_keys.len(), "WAL keys")]
    {
        if count > 0 {
            lines.push(format!("goes: {count} {what}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stays_has_a_reason() {
        assert_eq!(because(&[]), "nothing goes now");
        assert_eq!(because(&[Reason::Last]), Reason::Last.to_string());
    }
}
