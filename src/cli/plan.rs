//! `lifeboat plan`: what runs next, and what expires. Starts nothing, and needs
//! no state database: what the vaults alone tell is shown.

use std::{
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;
use serde_json::json;

use super::{print_problems, vault};
use crate::{
    app,
    config::{Estate, load, schedule::ScheduleConfig},
    decide::due::{Schedule, on_the_wall, parse_zone},
    domain::{DatabaseName, Span, VaultName, with_causes},
    flows::{retention, verify},
    report::words,
};

mod missed;

/// One due run.
pub(super) struct Due<'a> {
    at: Timestamp,
    pub(super) local: String,
    pub(super) database: &'a DatabaseName,
    pub(super) flow: &'static str,
    kind: String,
    because: Because<'a>,
}

/// Why a run is due then.
enum Because<'a> {
    Cron {
        cron: &'a str,
        zone: &'a str,
    },
    /// Each vault has its own instants, so that not all are read at once.
    Every(Span),
}

/// Prints the next `next` due runs after `now` over all databases, each in its
/// own zone. Answers the exit code: 0, or 2 when the configuration is wrong.
pub async fn run(
    file: &Path,
    next: usize,
    now: Timestamp,
    json: bool,
    out: &mut (impl Write + Send),
) -> io::Result<u8> {
    let estate = match load(file) {
        Ok(estate) => estate,
        Err(problems) => {
            print_problems(&problems, json, out)?;
            return Ok(2);
        }
    };
    let due = coming(&estate, next, now);
    let (missed, expires) = (missed::missed(&estate, now).await, expires(&estate, now).await);
    if json {
        let runs = due.iter().map(|due| {
            let mut run = json!({
                "due": due.at, "local": due.local, "database": due.database, "flow": due.flow, "kind": due.kind,
            });
            match due.because {
                Because::Cron { cron, zone } => (run["cron"], run["timezone"]) = (cron.into(), zone.into()),
                Because::Every(every) => run["every"] = every.to_string().into(),
            }
            run
        });
        writeln!(out, "{}", json!({"missed": missed, "runs": runs.collect::<Vec<_>>(), "expires": expires}))?;
        return Ok(0);
    }
    for missed in &missed {
        writeln!(
            out,
            "missed: {} ({}) of {}, due {}; `lifeboat serve` starts it at once",
            missed.flow, missed.kind, missed.database, missed.local
        )?;
    }
    let mut table = super::table(["due", "UTC", "database", "run", "because"]);
    for due in &due {
        table.add_row([
            due.local.clone(),
            words::instant(&due.at),
            due.database.to_string(),
            format!("{} ({})", due.flow, due.kind),
            match due.because {
                Because::Cron { cron, zone } => format!("`{cron}` {zone}"),
                Because::Every(every) => format!("every {every}"),
            },
        ]);
    }
    writeln!(out, "{table}")?;
    expires.iter().try_for_each(|expires| writeln!(out, "{}", expires.describe()))?;
    Ok(0)
}

/// What the next prune lets go of one database in one vault.
#[derive(serde::Serialize)]
struct Expires {
    database: DatabaseName,
    vault: VaultName,
    /// None where the vault holds no backup, or cannot be looked at.
    plan: Option<crate::decide::retention::Plan>,
    unknown: Option<String>,
    #[serde(skip)]
    goes: Vec<String>,
}

impl Expires {
    fn describe(&self) -> String {
        let Self { database, vault, plan, unknown, goes } = self;
        let head = format!("expiry of {database} in vault {vault}");
        match (plan, unknown) {
            (_, Some(error)) => format!("{head} is not known: {error}"),
            (None, None) => format!("{head}: no backup yet"),
            (Some(plan), None) if !plan.refusals.is_empty() => {
                let why: Vec<String> = plan.refusals.iter().map(ToString::to_string).collect();
                format!(
                    "{head}: nothing, as far as the vault alone tells: {}; `lifeboat vault prune {database}` looks at the evidence too",
                    why.join("; ")
                )
            }
            (Some(plan), None) => format!("{head}: {} backups stay\n  {}", plan.keep.len(), goes.join("\n  ")),
        }
    }
}

async fn expires(estate: &Estate, now: Timestamp) -> Vec<Expires> {
    let mut all = Vec::new();
    for schedule in &estate.schedules {
        let opened = app::open_for_restore(estate, &schedule.config.database, None).await;
        for vault in &schedule.config.vaults {
            let surveyed = match &opened {
                Ok(database) => match database.vault(Some(vault)) {
                    Some(vault) => {
                        let memory = retention::Memory::default();
                        retention::survey(database, vault, &memory, &[], now).await.map_err(|error| with_causes(&error))
                    }
                    None => Ok(None),
                },
                Err(error) => Err(with_causes(error)),
            };
            let (survey, unknown) = surveyed.map_or_else(|error| (None, Some(error)), |survey| (survey, None));
            all.push(Expires {
                database: schedule.config.database.clone(),
                vault: vault.clone(),
                goes: survey
                    .as_ref()
                    .map_or_else(Vec::new, |survey| vault::prune::expires(&survey.plan.expire, survey.segment_size)),
                plan: survey.map(|survey| survey.plan),
                unknown,
            });
        }
    }
    all
}

/// The next `next` runs over all databases, soonest first.
pub(super) fn coming(estate: &Estate, next: usize, now: Timestamp) -> Vec<Due<'_>> {
    let mut due: Vec<_> = estate.schedules.iter().flat_map(|schedule| of(&schedule.config, next, now)).collect();
    due.sort_by_key(|due| (due.at, due.database.as_str(), due.flow));
    due.truncate(next);
    due
}

/// The next runs of one database: `next` of each line of its schedule, and the
/// next verification of each vault, whose followers would hide all else.
fn of(config: &ScheduleConfig, next: usize, now: Timestamp) -> Vec<Due<'_>> {
    let backups = config.backups.iter().map(|line| ("backup", line.kind.as_str(), line.cron.as_str()));
    let tests = config
        .restore_test
        .iter()
        .map(|test| ("restore_test", test.recovery_point.algorithm.as_str(), test.cron.as_str()));
    let zone = &config.timezone;
    let mut all = Vec::new();
    for (flow, kind, cron) in backups.chain(tests) {
        // What was loaded parses; a line that did not would have been a problem.
        let Ok(schedule) = Schedule::parse(cron, zone) else { continue };
        let instants = std::iter::successors(schedule.next_after(now), |at| schedule.next_after(*at)).take(next);
        all.extend(instants.map(|at| Due {
            at,
            local: schedule.on_the_wall(at),
            database: &config.database,
            flow,
            kind: kind.to_owned(),
            because: Because::Cron { cron, zone },
        }));
    }
    let rotation = verify::rotation(&config.verify);
    for vault in &config.vaults {
        let next = rotation.next(&verify::rotation_name(&config.database, vault), now).filter(|_| next > 0);
        all.extend(next.map(|at| Due {
            at,
            // What was loaded names a zone.
            local: parse_zone(zone).map_or_else(|_| at.to_string(), |zone| on_the_wall(zone, at)),
            database: &config.database,
            flow: verify::NAME,
            kind: format!("{} of vault {vault}", rotation.share),
            because: Because::Every(config.verify.every),
        }));
    }
    all
}
