//! `lifeboat check`: is everything that was written right, and does this node
//! have the secrets that it refers to? Starts nothing but the commands that give secrets,
//! and without `--connect` connects to nothing but the stores that keep secrets, and
//! writes nothing.

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
    app::{self, ToLook, notifiers::open_notifiers, secrets},
    clock::Clock,
    config::{Estate, load, vault::VaultConfig},
    decide::{
        announce::Window,
        bucket::{self, Judged},
        headroom,
        tier::{self, Answer},
    },
    domain::{BackupKind, VaultName, WalKept, with_causes},
    engine::{MemberFacts, postgres::cluster::gives_increments},
    flows::{Database, Vault, backup::increment_hindrance, restore},
    secrets::Secrets,
    vault::{StoreError, visit},
};

mod managed;

#[derive(Debug, Args)]
pub struct Options {
    /// Look at servers, vaults and notifiers too, without changing anything but a probe
    /// object or telling anybody; a new vault becomes this estate's.
    #[arg(long)]
    pub connect: bool,
    /// The files alone, as on a machine that holds none of the secrets they refer to.
    #[arg(long, conflicts_with = "connect")]
    pub files: bool,
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
    let sources = Secrets::open(&estate.daemon);
    let mut found = Looked::default();
    found.findings.extend(lacking(&estate, now));
    found.findings.extend(estate.schedules.iter().flat_map(|schedule| managed::notes(&schedule.config)));
    if !options.files {
        secrets::unusable(&estate, &sources, options.connect)
            .await
            .into_iter()
            .for_each(|problem| found.problem(problem));
    }
    found.findings.extend(unannounced(&estate, now));
    if options.connect {
        look_at(&estate, &sources, now, &mut found).await;
    }
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
        match found.problems.len() {
            0 => all_right(&estate, out)?,
            1 => writeln!(out, "1 problem")?,
            several => writeln!(out, "{several} problems")?,
        }
    }
    Ok(if found.problems.is_empty() { 0 } else { 2 })
}

/// What this node, servers and vaults say.
#[derive(Debug, Default)]
struct Looked {
    /// Against being protected, or against restoring here.
    problems: Vec<String>,
    /// What a person should know of a vault, or of what a tier asks for; a vault that
    /// several databases share says it once.
    findings: BTreeSet<String>,
}

impl Looked {
    /// What is wrong for two reasons is told once.
    fn problem(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Maintenance that comes, and nobody is told of.
fn unannounced(estate: &Estate, now: Timestamp) -> impl Iterator<Item = String> {
    let comes = move |window: &Window| window.hold.ends(now).or_else(|| window.hold.next_start(now)).is_some();
    let windows = estate.windows().into_iter().filter(move |window| window.told.is_empty() && comes(window));
    windows.map(|Window { reason, .. }| {
        format!("maintenance `{reason}` is announced to nobody; name notifiers with `notify` in the schedules, or beside its `reason`")
    })
}

async fn look_at(estate: &Estate, sources: &Secrets, now: Timestamp, found: &mut Looked) {
    let notifiers = open_notifiers(estate, sources, &Clock::system());
    let probed = join_all(notifiers.values().map(|notifier| notifier.to.probe())).await;
    for (name, probed) in notifiers.keys().zip(probed) {
        if let Err(error) = probed {
            found.problem(format!("notifier `{name}`: {}", with_causes(&error)));
        }
    }
    for schedule in &estate.schedules {
        if schedule.config.managed().is_some() {
            managed::look_at(estate, sources, &schedule.config, found).await;
            continue;
        }
        let (database, unread) = match app::open_to_look(estate, sources, &schedule.config.database).await {
            Ok(ToLook { database, unread }) => (database, unread),
            Err(error) => {
                found.problem(with_causes(&error));
                continue;
            }
        };
        let probe = async |vault: &Vault| visit(&vault.store.place().vault, vault.store.probe()).await;
        let probed = join_all(database.vaults.iter().map(probe)).await;
        let mut usable = Vec::new();
        for (vault, probed) in database.vaults.iter().zip(probed) {
            if probed.as_ref().map_or_else(StoreError::is_weakness, |_| true) {
                usable.push(vault);
            }
            match probed {
                Ok(findings) => {
                    let vault = &vault.store.place().vault;
                    found.findings.extend(findings.iter().map(|finding| format!("vault `{vault}`: {finding}")));
                }
                Err(error) => found.problem(format!("{}: {}", database.name, with_causes(&error))),
            }
        }
        look_at_buckets(estate, (&database, &usable), now, found).await;
        if let Some(error) = unread {
            found.problem(with_causes(&error));
            continue;
        }
        match database.engine.preflight().await {
            Err(errors) => {
                let told = errors.iter().map(|error| format!("{}: {}", database.name, with_causes(error)));
                told.for_each(|problem| found.problem(problem));
            }
            Ok(primary) => {
                let notes = database.engine.notes().await.unwrap_or_else(|error| vec![with_causes(&error)]);
                found.findings.extend(notes.iter().map(|note| format!("{}: {note}", database.name)));
                if schedule.config.wal.room_on_primary.is_none() {
                    found.findings.extend(unknown_room(&database).await);
                }
                let kinds: BTreeSet<BackupKind> = schedule.config.backups.iter().map(|line| line.kind).collect();
                for kind in kinds {
                    let told = better_kind(&database, &primary, kind).await;
                    found.findings.extend(told.map(|told| format!("{}: {told}", database.name)));
                }
            }
        }
    }
}

/// What those buckets of a database are set to that can be used, and what in them a restore
/// would wait for.
async fn look_at_buckets(
    estate: &Estate,
    (database, usable): (&Database, &[&Vault]),
    now: Timestamp,
    found: &mut Looked,
) {
    let residency = database.schedule.config.residency.as_ref();
    for vault in usable {
        let (Some(bucket), name) = (&vault.bucket, &vault.store.place().vault) else { continue };
        let has_key = estate.daemon.vaults.get(name).is_some_and(VaultConfig::has_key);
        match visit(name, bucket.settings()).await {
            Ok(settings) => {
                for judged in bucket::judge(&settings, has_key, residency) {
                    match judged {
                        Judged::Problem(what) => found.problem(format!("{}: vault `{name}`: {what}", database.name)),
                        Judged::Note(what) => drop(found.findings.insert(format!("vault `{name}`: {what}"))),
                    }
                }
            }
            Err(error) => found.problem(format!("{}: {}", database.name, with_causes(&error))),
        }
        match restore::frozen_latest(database, vault, now).await {
            Ok(None) => {}
            Ok(Some(frozen)) => drop(found.findings.insert(format!(
                "{}: vault `{name}`: a restore of the newest state asks for {frozen}; let the bucket move that later, if the RTO does not allow it",
                database.name
            ))),
            Err(error) => found.problem(format!("{}: {}", database.name, with_causes(&error))),
        }
    }
}

/// What a person should know of a kind that the schedule takes.
async fn better_kind(database: &Database, primary: &MemberFacts, kind: BackupKind) -> Option<String> {
    match kind {
        // Without them full backups are taken: no database stays unprotected for it.
        BackupKind::Incremental => {
            let config = &database.schedule.config;
            let line = config.backups.iter().find(|line| line.kind == kind).and_then(|line| line.backup_from);
            let from = line.unwrap_or(config.backup_from);
            let hindrance = increment_hindrance(database, from, primary, None).await;
            let hindrance = hindrance.map_err(|error| with_causes(&error));
            hindrance.unwrap_or_else(Some).map(|why| format!("no increment is possible: {why}"))
        }
        BackupKind::Differential => gives_increments(&primary.server_version).then(|| {
            format!(
                "PostgreSQL {} gives increments, which read and store less than differentials; use `kind: incremental` and `summarize_wal = on`",
                primary.server_version
            )
        }),
        BackupKind::Full | BackupKind::Snapshot | BackupKind::Logical => None,
    }
}

/// What the tiers ask for and the files do not have.
fn lacking(estate: &Estate, now: Timestamp) -> impl Iterator<Item = String> {
    let tiered = estate.schedules.iter().filter_map(move |schedule| estate.tiered(&schedule.config, now));
    tiered.flat_map(move |written| {
        let answers = tier::look(&written, &tier::Seen::default(), now).into_iter();
        answers.filter_map(move |(_, answer)| match answer {
            Answer::Lacks(what) => Some(format!("{}: {what}", written.database)),
            Answer::Met | Answer::Unknown => None,
        })
    })
}

/// Where nobody could tell how long WAL may pile up.
async fn unknown_room(database: &Database) -> Option<String> {
    let seen: Vec<WalKept> = database.engine.wal_kept().await.into_iter().filter_map(|(_, kept)| kept.ok()).collect();
    let kept = headroom::primary(seen.iter())?;
    (kept.free_bytes.is_none() && kept.limit_bytes.is_none()).then(|| {
        format!(
            "{}: nothing limits what slot `{}` keeps while a vault or the daemon is away, and how much room the primary's disk has cannot be seen from here; write `room_on_primary` under `wal` in the schedule, so that `status` tells how long it lasts",
            database.name, kept.slot
        )
    })
}

fn protects(estate: &Estate) -> serde_json::Value {
    let databases = estate.schedules.iter().map(|schedule| {
        json!({
            "database": schedule.config.database,
            "file": schedule.file,
            "sha256": schedule.sha256,
            "vaults": schedule.config.vaults,
            "tier": schedule.config.tier,
            "objectives": schedule.config.objectives(),
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
        if let Some(told) = managed::summary(schedule) {
            writeln!(out, "{told}")?;
            continue;
        }
        let vaults: Vec<&str> = schedule.vaults.iter().map(VaultName::as_str).collect();
        let objectives = schedule.objectives();
        let tier = schedule.tier.map_or_else(String::new, |tier| format!("tier {}, ", tier.as_str()));
        writeln!(
            out,
            "{}: {tier}RTO {}, RPO {}; backups and WAL to {}; verified every {}, {} of the content each time; {}",
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
    Ok(())
}

fn all_right(estate: &Estate, out: &mut impl Write) -> io::Result<()> {
    let (databases, vaults) = (estate.schedules.len(), estate.daemon.vaults.len());
    writeln!(out, "all right: {databases} database(s), {vaults} vault(s), {} runbook(s)", estate.runbooks.len())
}
