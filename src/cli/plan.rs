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
    config::{DaemonConfig, Estate, load, schedule::ScheduleConfig},
    decide::{
        agenda::{self, Agenda, Line},
        due::{on_the_wall, parse_zone},
    },
    domain::{DatabaseName, Span, VaultName, with_causes},
    flows::{retention, verify},
    report::words,
};

mod overdue;

/// One due run.
pub(super) struct Due<'a> {
    at: Timestamp,
    pub(super) local: String,
    pub(super) database: &'a DatabaseName,
    pub(super) flow: &'static str,
    kind: String,
    because: Because<'a>,
    then: Then,
    /// What of it is not as the expression alone says, for people.
    pub(super) note: Option<String>,
}

/// What becomes of a due time.
#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Then {
    /// It begins, later than due where something shifts it.
    Runs { starts: Timestamp },
    /// A larger backup due at the same time counts for it.
    Counted,
    /// It is held until its start window has passed.
    Held,
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
    let (overdue, expires) = (overdue::overdue(&estate, now).await, expires(&estate, now).await);
    if json {
        let runs = due.iter().map(|due| {
            let mut run = json!({
                "due": due.at, "local": due.local, "database": due.database, "flow": due.flow, "kind": due.kind,
            });
            match due.then {
                Then::Runs { starts } => (run["then"], run["starts"]) = ("runs".into(), json!(starts)),
                Then::Counted => run["then"] = "counted".into(),
                Then::Held => run["then"] = "held".into(),
            }
            if let Some(note) = &due.note {
                run["note"] = note.as_str().into();
            }
            match due.because {
                Because::Cron { cron, zone } => (run["cron"], run["timezone"]) = (cron.into(), zone.into()),
                Because::Every(every) => run["every"] = every.to_string().into(),
            }
            run
        });
        writeln!(out, "{}", json!({"overdue": overdue, "runs": runs.collect::<Vec<_>>(), "expires": expires}))?;
        return Ok(0);
    }
    overdue.iter().try_for_each(|overdue| writeln!(out, "overdue: {}", overdue.in_words()))?;
    let mut table = super::table(["due", "UTC", "database", "run", "because"]);
    for due in &due {
        table.add_row([
            due.local.clone(),
            words::instant(&due.at),
            due.database.to_string(),
            format!("{} ({})", due.flow, due.kind),
            due.because(),
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
    let mut due: Vec<_> =
        estate.schedules.iter().flat_map(|schedule| of(&estate.daemon, &schedule.config, next, now)).collect();
    due.sort_by_key(|due| (due.at, due.database.as_str(), due.flow));
    due.truncate(next);
    due
}

/// The next runs of one database: `next` of each line of its schedule, and the
/// next verification of each vault, whose followers would hide all else.
fn of<'a>(daemon: &DaemonConfig, config: &'a ScheduleConfig, next: usize, now: Timestamp) -> Vec<Due<'a>> {
    let zone = &config.timezone;
    let mut all = Vec::new();
    // What was loaded has an agenda.
    let agenda = config.agenda(daemon).unwrap_or_default();
    let backups = config.backups.iter().map(|line| (line.kind.as_str(), line.cron.as_str()));
    let tests = config.restore_test.iter().flat_map(|test| {
        let planted = ("planted faults", test.self_test.cron.as_str());
        [(test.recovery_point.algorithm.as_str(), test.cron.as_str()), planted]
    });
    for (place, (kind, cron)) in backups.chain(tests).enumerate() {
        let Some(line) = agenda.lines.get(place) else { continue };
        all.extend(agenda.coming(place, now).take(next).map(|due| Due {
            at: due.due_at,
            local: line.due.on_the_wall(due.due_at),
            database: &config.database,
            flow: line.flow,
            kind: kind.to_owned(),
            because: Because::Cron { cron, zone },
            then: then(&due),
            note: note(&agenda, line, &due),
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
            then: Then::Runs { starts: at },
            note: None,
        }));
    }
    all
}

fn then(due: &agenda::Due<'_>) -> Then {
    match due.begins() {
        Some(starts) => Then::Runs { starts },
        None if due.counted_by.is_some() => Then::Counted,
        None => Then::Held,
    }
}

/// Why a due time is skipped or shifted; none where it runs when it is due.
fn note(agenda: &Agenda, line: &Line, due: &agenda::Due<'_>) -> Option<String> {
    if let Some(larger) = due.counted_by.and_then(|by| agenda.lines.get(by)) {
        return Some(format!("skipped: the {} backup due at the same time counts for it", larger.kind));
    }
    let holds: Vec<String> = due.held_by.iter().map(|hold| hold.in_words()).collect();
    let holds = holds.join(" and ");
    match due.begins() {
        None => Some(format!(
            "missed: held by {holds} beyond its start window, which ends {}",
            line.due.on_the_wall(due.closes_at)
        )),
        Some(starts) if !holds.is_empty() => Some(format!("shifted to {} by {holds}", line.due.on_the_wall(starts))),
        Some(starts) if starts != due.due_at => Some(format!("begins {} s later by its jitter", line.jitter.as_secs())),
        Some(_) => None,
    }
}

impl Due<'_> {
    /// Why it is due then, and what becomes of it.
    fn because(&self) -> String {
        let because = match self.because {
            Because::Cron { cron, zone } => format!("`{cron}` {zone}"),
            Because::Every(every) => format!("every {every}"),
        };
        match &self.note {
            Some(note) => format!("{because}; {note}"),
            None => because,
        }
    }
}
