//! The story that the demo tells, stage by stage.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Achieved, Narrator, Shown,
    estate::{self, Estate},
    peak_memory_bytes,
    workload::{self, Acknowledged, Client},
};
use crate::{
    app::{App, Role},
    clock::Clock,
    config,
    config::daemon::DnsConfig,
    domain::{BackupKind, ByteSize, DatabaseName, RunId, Verdict},
    evidence,
    flow::{NewRun, RunSummary},
    flows::{backup, drill, restore_test},
    process::Tasks,
    report,
};

/// How long WAL streaming may take to catch up at first.
const CATCH_UP: Duration = Duration::from_secs(120);
const REQUESTER: &str = "demo";

/// Tells the whole story; the app goes on protecting the estate until `tasks` end.
pub async fn tell(
    estate: &Estate,
    tasks: &Tasks,
    narrator: &mut Narrator,
    report_file: &Path,
) -> Result<(Arc<App>, Shown)> {
    let (app, client, acknowledged) = set_up(estate, tasks, narrator).await?;
    let wallet: DatabaseName = "wallet".parse()?;
    take_backup(&app, &wallet, narrator).await?;
    await_streaming(&app, &wallet, narrator).await?;
    let test = test_restore(&app, &wallet, narrator).await?;
    let drilled = switch_over(&app, narrator).await?;
    // The new primary must be protected like the old one was.
    await_streaming(&app, &wallet, narrator).await?;
    // Counted in this order: what was acknowledged by now must be there then.
    let before = acknowledged.bets();
    let held = count(&client).await?;
    let held = held.saturating_sub(estate::SEEDED_BETS);
    narrator.begin("writing the report");
    let html = report::html(&app.report(None).await?)?;
    std::fs::write(report_file, html).with_context(|| format!("write {}", report_file.display()))?;
    narrator.done("report", &report_file.display().to_string());
    let verified = verify(&app, narrator).await?;

    let mut objectives = vec![];
    let figure = |output: &Value, name: &str| output.get(name).and_then(Value::as_f64);
    let seconds = |value: Option<f64>| value.map_or("not measured".to_owned(), |value| format!("{value:.1} s"));
    let lost = |output: &Value| {
        output
            .get("lost_commits")
            .and_then(Value::as_u64)
            .map_or(String::new(), |lost| format!(", {lost} commits lost"))
    };
    objectives.push(Achieved {
        objective: "RPO, disaster at a random instant".to_owned(),
        promised: estate::RPO.to_owned(),
        achieved: format!("{} \u{b1} 1 s{}", seconds(figure(&test, "rpo_seconds")), lost(&test)),
        verdict: verdict(&test),
    });
    objectives.push(Achieved {
        objective: "restore duration (no RTO: excludes detection, decision, traffic)".to_owned(),
        promised: "\u{2013}".to_owned(),
        achieved: seconds(figure(&test, "restore_seconds")),
        verdict: None,
    });
    objectives.push(Achieved {
        objective: "RTO, switchover drill".to_owned(),
        promised: estate::RTO.to_owned(),
        achieved: seconds(figure(&drilled, "rto_seconds")),
        verdict: verdict(&drilled),
    });
    objectives.push(Achieved {
        objective: "RPO, switchover drill".to_owned(),
        promised: "0s".to_owned(),
        achieved: format!("{}{}", seconds(figure(&drilled, "rpo_seconds")), lost(&drilled)),
        verdict: verdict(&drilled),
    });
    objectives.push(Achieved {
        objective: "acknowledged bets still there".to_owned(),
        promised: before.to_string(),
        achieved: held.to_string(),
        verdict: Some(if held >= before { Verdict::Pass } else { Verdict::Fail }),
    });
    let overall = Verdict::worst(objectives.iter().filter_map(|row| row.verdict).chain([verified]));
    let shown = Shown {
        verdict: overall,
        objectives,
        phases: narrator.phases.clone(),
        report: report_file.to_owned(),
        bets_acknowledged: before,
        bets_held: held,
        peak_memory_bytes: peak_memory_bytes(),
    };
    Ok((app, shown))
}

/// Starts servers and application, and everything of ours that protects them.
async fn set_up(
    estate: &Estate,
    tasks: &Tasks,
    narrator: &mut Narrator,
) -> Result<(Arc<App>, Client, Arc<Acknowledged>)> {
    narrator.begin("making keys, a primary and a standby");
    estate.password()?;
    estate.write_files()?;
    estate.start_servers().await?;
    let written = config::load(&estate.config_file())?;
    let dns: SocketAddr = written
        .daemon
        .dns
        .values()
        .map(|DnsConfig::Embedded(embedded)| embedded.listen)
        .next()
        .context("the demo's files name a DNS server")?;
    let app = App::open(written, Clock::system(), Role::Everything).await?;
    crate::tasks::protect(&app, tasks);
    // An interrupt drops the story in the middle of a run: nothing may drive it on.
    let (runner, stop) = (Arc::clone(&app.runner), tasks.stop().clone());
    tasks.spawn(async move {
        stop.cancelled().await;
        runner.shut_down().await;
    });
    let client = Client { dns, port: estate.port, password: estate.password()? };
    let acknowledged = Arc::new(Acknowledged::default());
    tasks.spawn(workload::run(client.clone(), Arc::clone(&acknowledged), tasks.stop().clone()));
    narrator.done(
        "estate",
        &format!("primary {}, standby {}, DNS, vault, two age recipients", estate::SITES[0], estate::SITES[1]),
    );
    Ok((app, client, acknowledged))
}

/// Runs a flow to its end and answers its figures; anything but PASS is told as it is.
async fn drive(app: &App, run: NewRun, narrator: &Narrator) -> Result<Value> {
    let id = run.id.clone();
    app.runner.submit(run).await?;
    let mut progress = app.runner.progress();
    let driving = app.runner.drive(&id);
    tokio::pin!(driving);
    let summary: RunSummary = loop {
        tokio::select! {
            summary = &mut driving => break summary?,
            said = progress.recv() => if let Ok(said) = said {
                narrator.say(format!("{}: {}", said.step.replace('_', " "), said.message));
            },
        }
    };
    let error = summary.error.clone().unwrap_or_default();
    let conclusion = summary.conclusion.with_context(|| format!("{id} came to no conclusion: {error}"))?;
    ensure!(conclusion.verdict != Verdict::Error, "{id} failed in step {}: {error}", summary.step.unwrap_or_default());
    Ok(conclusion.output)
}

fn verdict(output: &Value) -> Option<Verdict> {
    output.get("verdict").and_then(|verdict| serde_json::from_value(verdict.clone()).ok())
}

async fn take_backup(app: &App, wallet: &DatabaseName, narrator: &mut Narrator) -> Result<()> {
    narrator.begin("full backup");
    let params = backup::Params {
        database: wallet.clone(),
        kind: BackupKind::Full,
        standalone: false,
        manner: backup::Manner::default(),
        due_at: None,
    };
    let id = RunId::new(backup::NAME, wallet.as_str(), "manual", &app.stamp());
    let taken = drive(app, NewRun::new(id, wallet, &params, REQUESTER)?, narrator).await?;
    let size = |name: &str| ByteSize::from_bytes(taken.get(name).and_then(Value::as_u64).unwrap_or_default());
    narrator.done(
        "full backup",
        &format!("{} read, {} stored, encrypted, signed manifest last", size("size_bytes"), size("stored_bytes")),
    );
    Ok(())
}

/// The bets that the new primary holds, as soon as it answers.
async fn count(client: &Client) -> Result<u64> {
    let begun = std::time::Instant::now();
    loop {
        if let Some(held) = workload::count(client).await {
            return Ok(held);
        }
        ensure!(begun.elapsed() < CATCH_UP, "the bets on the new primary cannot be counted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn await_streaming(app: &App, wallet: &DatabaseName, narrator: &mut Narrator) -> Result<()> {
    narrator.begin("WAL streaming: waiting until acknowledged commits are in the vault");
    let database = app.database(wallet)?;
    let begun = std::time::Instant::now();
    let exposure = loop {
        let status = app.status().await?;
        let of_wallet = status.databases.iter().find(|status| status.database == *wallet);
        match of_wallet.and_then(|status| status.exposure.first()?.seconds) {
            Some(seconds) if seconds < 5.0 => break seconds,
            _ => {
                ensure!(begun.elapsed() < CATCH_UP, "WAL streaming did not catch up: {:?}", database.streaming.error());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let what = if exposure == 0.0 {
        "every acknowledged commit is in the vault".to_owned()
    } else {
        format!("the oldest commit that the vault lacks is {exposure:.1} s old")
    };
    narrator.done("WAL streaming", &what);
    Ok(())
}

async fn test_restore(app: &App, wallet: &DatabaseName, narrator: &mut Narrator) -> Result<Value> {
    narrator.begin("restore test: drawing a disaster instant");
    let params = restore_test::Params { database: wallet.clone(), point: restore_test::Point::Scheduled, due_at: None };
    let id = RunId::new(restore_test::NAME, wallet.as_str(), "manual", &app.stamp());
    let test = drive(app, NewRun::new(id, wallet, &params, REQUESTER)?, narrator).await?;
    let passed = |list: &str| {
        let items = test.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let passed = items.iter().filter(|item| verdict(item) == Some(Verdict::Pass)).count();
        format!("{passed} of {}", items.len())
    };
    narrator.done(
        "restore test",
        &format!(
            "isolated instance recovered; {} isolation probes, {} checks pass",
            passed("isolation"),
            passed("checks")
        ),
    );
    Ok(test)
}

async fn switch_over(app: &App, narrator: &mut Narrator) -> Result<Value> {
    narrator.begin("switchover drill");
    let runbook = app.runbook(&"wallet-switchover".parse()?)?;
    let id = RunId::new(drill::NAME, "wallet-switchover", "manual", &app.stamp());
    let params = drill::DrillParams::manual(runbook, app.jurisdiction(&runbook.config.database));
    let drilled = drive(app, NewRun::new(id, &runbook.config.database, &params, REQUESTER)?, narrator).await?;
    narrator.done(
        "switchover drill",
        &format!(
            "{} fenced, {} promoted, DNS switched and observed, {} rejoined",
            estate::SITES[0],
            estate::SITES[1],
            estate::SITES[0]
        ),
    );
    Ok(drilled)
}

async fn verify(app: &App, narrator: &mut Narrator) -> Result<Verdict> {
    narrator.begin("verifying the evidence");
    let entries = evidence::from_db(&app.resources.db).await?;
    let (checkpoints, unread) = app.resources.evidence.checkpoints().await;
    ensure!(unread.is_empty(), "a vault could not be read: {unread:?}");
    let report = evidence::verify(&entries, &checkpoints, &app.signer.verifier());
    narrator.done(
        "evidence",
        &format!("{} records, {} checkpoints: {}", report.size, report.checkpoints, report.verdict()),
    );
    ensure!(report.problems.is_empty(), "{}", report.problems.join("; "));
    Ok(report.verdict())
}
