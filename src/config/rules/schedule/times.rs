//! Rules of when runs begin: lines that never do, and holds that are none.

use jiff::{SignedDuration, Timestamp};

use super::{Report, Spot};
use crate::{
    config::schedule::{HeldFlow, drills_and_tests},
    decide::{
        agenda::{Agenda, CatchUp, Line, Size},
        due::Schedule,
        hold::{Cause, Edge, Hold},
    },
    domain::{BackupKind, Span, record::kind},
};

/// How many due times in a row tell that a line never begins, and from when on:
/// any year will do, as what comes back comes back every week.
const LOOKED_AT: usize = 60;
const FROM: Timestamp = Timestamp::constant(1_767_225_600, 0);

pub(super) fn check(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    let test = schedule.get("restore_test");
    let tests = [test, test.get("self_test")].into_iter().filter(|line| line.exists());
    schedule.get("backups").items().chain(tests).for_each(|line| spans(line, report));
    let zone = schedule.get("timezone").text().unwrap_or("UTC");
    let mut holds = Vec::new();
    for blackout in schedule.get("blackouts").items() {
        let list = blackout.get("holds");
        if list.exists() && list.is_empty() {
            report.add(list.place, "this blackout holds nothing", "name what it holds, or remove `holds`");
        }
        let known = [HeldFlow::Backup, HeldFlow::Drill, HeldFlow::RestoreTest];
        let is_named = |flow: &HeldFlow| list.items().any(|named| named.text() == Some(flow.as_str()));
        let named: Vec<HeldFlow> = known.into_iter().filter(is_named).collect();
        let held = if list.is_empty() || !list.exists() { drills_and_tests().to_vec() } else { named };
        let flows = held.into_iter().flat_map(HeldFlow::flows).collect();
        holds.extend(hold(Cause::Blackout, blackout, zone, flows, report));
    }
    let name = schedule.get("database").text();
    for maintenance in daemon.get("maintenance").items() {
        let databases: Vec<&str> = maintenance.get("databases").items().filter_map(Spot::text).collect();
        if databases.is_empty() || name.is_some_and(|name| databases.contains(&name)) {
            let zone = maintenance.get("timezone").text().unwrap_or("UTC");
            // Its own problems are those of lifeboat.yaml.
            holds.extend(
                edges(maintenance)
                    .and_then(|(start, end)| Hold::new(Cause::Maintenance, (&start, &end), zone, Vec::new()).ok()),
            );
        }
    }
    never(schedule, zone, holds, report);
}

/// The holds of `lifeboat.yaml`.
pub(in crate::config::rules) fn maintenance(daemon: Spot<'_>, report: &mut Report<'_>) {
    for maintenance in daemon.get("maintenance").items() {
        let zone = maintenance.get("timezone").text().unwrap_or("UTC");
        hold(Cause::Maintenance, maintenance, zone, Vec::new(), report);
    }
}

fn spans(line: Spot<'_>, report: &mut Report<'_>) {
    report.refuse_zero(line, "start_window", "write how long after it is due a run may begin, such as `6h`");
    let (jitter, window) = (line.get("jitter"), line.get("start_window"));
    if let (Some(drawn), Some(open)) = (jitter.parsed::<Span>(), window.parsed::<Span>())
        && drawn >= open
        && open > Span::from_secs(0)
    {
        let what = format!("with up to {drawn} of jitter a run may begin after its start window of {open}");
        report.add(jitter.place, what, "make `jitter` shorter than `start_window`");
    }
}

fn edges(hold: Spot<'_>) -> Option<(Edge, Edge)> {
    Some((hold.get("start").text()?.parse().ok()?, hold.get("end").text()?.parse().ok()?))
}

fn hold(cause: Cause, spot: Spot<'_>, zone: &str, flows: Vec<String>, report: &mut Report<'_>) -> Option<Hold> {
    let (start, end) = edges(spot)?;
    match Hold::new(cause, (&start, &end), zone, flows) {
        Ok(hold) => Some(hold),
        Err(error) => {
            let message = error.to_string();
            let (what, remedy) = message.split_once(": ").unwrap_or((&message, "correct it"));
            report.add(spot.get("end").place, format!("`{start}` to `{end}` is no such time: {what}"), remedy);
            None
        }
    }
}

/// Lines of which no run ever begins.
fn never(schedule: Spot<'_>, zone: &str, holds: Vec<Hold>, report: &mut Report<'_>) {
    let (mut agenda, mut places) = (Agenda { lines: Vec::new(), holds }, Vec::new());
    for line in schedule.get("backups").items() {
        let kind = line.get("kind").text();
        let kind = [BackupKind::Full, BackupKind::Differential, BackupKind::Incremental, BackupKind::Snapshot]
            .into_iter()
            .find(|known| kind == Some(known.as_str()));
        let Some(kind) = kind else { continue };
        let size = Size { kind, standalone: line.get("standalone").text() == Some("true") };
        places.extend(push(&mut agenda, HeldFlow::Backup.as_str(), Some(size), line, zone));
    }
    let test = schedule.get("restore_test");
    places.extend(push(&mut agenda, HeldFlow::RestoreTest.as_str(), None, test, zone));
    places.extend(push(&mut agenda, kind::SELF_TEST, None, test.get("self_test"), zone));
    for (line, spot) in places.into_iter().enumerate() {
        let mut counted = 0;
        let mut due = agenda.coming(line, FROM).take(LOOKED_AT).peekable();
        if due.peek().is_none()
            || due.any(|due| {
                counted += usize::from(due.counted_by.is_some());
                due.begins().is_some()
            })
        {
            continue;
        }
        if counted == 0 {
            report.add(
                spot.place,
                "a blackout or maintenance holds every run of this line until its start window has passed",
                "choose another time, or make `start_window` longer than what holds it",
            );
        } else {
            report.add(
                spot.place,
                "no run of this line ever begins: a larger backup, or an equal one, due at the same time counts for each",
                "choose another time, or remove the line",
            );
        }
    }
}

/// Adds a line, and answers where its times are written; none where they are not right.
fn push<'a>(
    agenda: &mut Agenda,
    flow: &'static str,
    backup: Option<Size>,
    line: Spot<'a>,
    zone: &str,
) -> Option<Spot<'a>> {
    let due = Schedule::parse(line.get("cron").text()?, zone).ok()?;
    agenda.lines.push(Line {
        name: String::new(),
        flow,
        kind: String::new(),
        backup,
        due,
        jitter: SignedDuration::ZERO,
        start_window: line.get("start_window").parsed::<Span>().and_then(|span| span.as_duration().try_into().ok()),
        catch_up: CatchUp::default(),
    });
    Some(line.get("cron"))
}
