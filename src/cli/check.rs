//! `lifeboat check`: is everything that was written right? Starts nothing, and
//! without `--connect` connects nowhere and writes nothing.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::Args;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::json;

use super::{Invocation, plan, print_problems};
use crate::{
    app,
    config::{Estate, load},
    domain::{VaultName, with_causes},
    flows::Vault,
    vault::visit,
};

#[derive(Debug, Args)]
pub struct Options {
    /// Look at servers and vaults too, without changing anything but a probe object; a
    /// new vault becomes this estate's.
    #[arg(long)]
    pub connect: bool,
}

/// Prints what is protected, or everything that is wrong, and answers the exit
/// code: 0 when all is right, 2 when not. `now` is what the next runs follow.
pub async fn run(
    options: &Options,
    invocation: &Invocation,
    now: Timestamp,
    out: &mut (impl Write + Send),
) -> anyhow::Result<u8> {
    let estate = match load(&invocation.config) {
        Ok(estate) => estate,
        Err(problems) => {
            print_problems(&problems, invocation.json, out)?;
            return Ok(2);
        }
    };
    let found = if options.connect { looked_at(&estate).await? } else { Looked::default() };
    if invocation.json {
        let document = json!({"problems": found.problems, "findings": found.findings, "protects": protects(&estate)});
        writeln!(out, "{document}")?;
    } else {
        summary(&estate, now, out)?;
        for finding in &found.findings {
            writeln!(out, "note: {finding}")?;
        }
        for problem in &found.problems {
            writeln!(out, "{problem}")?;
        }
    }
    Ok(if found.problems.is_empty() { 0 } else { 2 })
}

/// What servers and vaults say.
#[derive(Debug, Default)]
struct Looked {
    /// Against being protected.
    problems: Vec<String>,
    /// What a person should know of a vault; one that several databases share says it once.
    findings: BTreeSet<String>,
}

async fn looked_at(estate: &Estate) -> anyhow::Result<Looked> {
    let mut found = Looked::default();
    for schedule in &estate.schedules {
        let database = app::open_to_look(estate, &schedule.config.database).await?;
        let probe = async |vault: &Vault| visit(&vault.store.place().vault, vault.store.probe()).await;
        let probed = join_all(database.vaults.iter().map(probe)).await;
        for (vault, probed) in database.vaults.iter().zip(probed) {
            match probed {
                Ok(findings) => {
                    let vault = &vault.store.place().vault;
                    found.findings.extend(findings.iter().map(|finding| format!("vault `{vault}`: {finding}")));
                }
                Err(error) => found.problems.push(format!("{}: {}", database.name, with_causes(&error))),
            }
        }
        if let Err(errors) = database.engine.preflight().await {
            found.problems.extend(errors.iter().map(|error| format!("{}: {}", database.name, with_causes(error))));
        }
    }
    Ok(found)
}

fn protects(estate: &Estate) -> serde_json::Value {
    let databases = estate.schedules.iter().map(|schedule| {
        json!({
            "database": schedule.config.database,
            "file": schedule.file,
            "sha256": schedule.sha256,
            "vaults": schedule.config.vaults,
            "objectives": schedule.config.objectives,
            "restore_test": schedule.config.restore_test.is_some(),
        })
    });
    let runbooks = estate
        .runbooks
        .iter()
        .map(|runbook| json!({"runbook": runbook.config.runbook, "file": runbook.file, "sha256": runbook.sha256}));
    json!({
        "node": estate.daemon.node.name,
        "databases": databases.collect::<Vec<_>>(),
        "runbooks": runbooks.collect::<Vec<_>>(),
        "vaults": estate.daemon.vaults.keys().collect::<Vec<_>>(),
    })
}

/// Enough to see that the zone is the one that was meant.
const NEXT_RUNS: usize = 3;

fn summary(estate: &Estate, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    for schedule in estate.schedules.iter().map(|schedule| &schedule.config) {
        let vaults: Vec<&str> = schedule.vaults.iter().map(VaultName::as_str).collect();
        let objectives = schedule.objectives;
        writeln!(
            out,
            "{}: RTO {}, RPO {}; backups and WAL to {}; verified every {}, {} of the content each time; {}",
            schedule.database,
            objectives.rto,
            objectives.rpo,
            vaults.join(", "),
            schedule.verify.every,
            schedule.verify.sample,
            match &schedule.restore_test {
                Some(test) => format!("restore test at `{}` {}", test.cron, schedule.timezone),
                None => "no restore test: its backups stay unproven".to_owned(),
            }
        )?;
    }
    for runbook in estate.runbooks.iter().map(|runbook| &runbook.config) {
        writeln!(out, "{}: {} from {} to {}", runbook.runbook, runbook.database, runbook.from, runbook.to)?;
    }
    for due in plan::coming(estate, NEXT_RUNS, now) {
        writeln!(out, "next: {} of {} on {}", due.flow, due.database, due.local)?;
    }
    let (databases, vaults) = (estate.schedules.len(), estate.daemon.vaults.len());
    writeln!(out, "all right: {databases} database(s), {vaults} vault(s), {} runbook(s)", estate.runbooks.len())
}
