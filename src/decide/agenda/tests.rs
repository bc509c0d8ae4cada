use proptest::prelude::*;

use super::*;
use crate::decide::hold::Edge;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn backup(kind: BackupKind, cron: &str) -> Line {
    Line {
        name: format!("backup/{} {cron}", kind.as_str()),
        flow: "backup",
        kind: kind.as_str().to_owned(),
        backup: Some(Size { kind, standalone: false }),
        due: Schedule::parse(cron, "UTC").unwrap(),
        jitter: SignedDuration::ZERO,
        start_window: None,
        catch_up: CatchUp::RunOnce,
    }
}

fn restore_test(cron: &str) -> Line {
    Line { flow: "restore_test", kind: "local".to_owned(), backup: None, ..backup(BackupKind::Full, cron) }
}

fn hold(cause: Cause, start: &str, end: &str) -> Hold {
    let edge = |text: &str| text.parse::<Edge>().unwrap();
    Hold::new(cause, (&edge(start), &edge(end)), "UTC", vec!["restore_test".to_owned()]).unwrap()
}

fn since(text: &str) -> Mark {
    Mark { through: at(text), is_promised: true }
}

/// What a look says, short: begins, missed, waits, marks.
fn told(agenda: &Agenda, marks: &[Mark], now: &str) -> Vec<String> {
    let look = agenda.look(marks, at(now));
    let name = |line: usize| agenda.lines[line].kind.clone();
    let start = look.start.iter().map(|due| format!("start {} {}", name(due.line), due.due_at));
    let missed = look.missed.iter().map(|missed| {
        let (first, count) = (missed.due[0], missed.due.len());
        format!("missed {} {first} x{count} {}", name(missed.line), missed.why.as_str())
    });
    let waiting = look.waiting.iter().map(|due| format!("wait {} until {}", name(due.line), due.starts_at.unwrap()));
    start.chain(missed).chain(waiting).collect()
}

#[test]
fn what_is_due_begins_once_and_what_was_slept_through_is_recorded() {
    let agenda = Agenda { lines: vec![backup(BackupKind::Full, "0 2 * * *")], holds: Vec::new() };
    let marks = [since("2026-11-20T02:00:00Z")];
    assert_eq!(told(&agenda, &marks, "2026-11-21T01:59:59Z"), [""; 0]);
    assert_eq!(told(&agenda, &marks, "2026-11-21T02:00:00Z"), ["start full 2026-11-21T02:00:00Z"]);
    // Down for three days and a half: one run stands for all, and three are missed.
    assert_eq!(
        told(&agenda, &marks, "2026-11-24T13:00:00Z"),
        ["start full 2026-11-24T02:00:00Z", "missed full 2026-11-21T02:00:00Z x3 down"]
    );
    // What was dealt with is not looked at again, whatever the clock does.
    let dealt = agenda.look(&marks, at("2026-11-24T13:00:00Z")).through[0];
    let marks = [Mark { through: dealt, is_promised: true }];
    assert_eq!(told(&agenda, &marks, "2026-11-24T13:00:01Z"), [""; 0]);
    assert_eq!(told(&agenda, &marks, "2026-11-22T13:00:00Z"), [""; 0]);
}

#[test]
fn a_line_that_skips_runs_nothing_late() {
    let mut line = backup(BackupKind::Full, "0 2 * * *");
    line.catch_up = CatchUp::Skip;
    let agenda = Agenda { lines: vec![line], holds: Vec::new() };
    let marks = [since("2026-11-20T02:00:00Z")];
    assert_eq!(told(&agenda, &marks, "2026-11-21T02:01:00Z"), ["start full 2026-11-21T02:00:00Z"]);
    assert_eq!(told(&agenda, &marks, "2026-11-21T02:01:01Z"), ["missed full 2026-11-21T02:00:00Z x1 down"]);
}

#[test]
fn marks_are_taken_up_by_name() {
    let agenda =
        Agenda { lines: vec![backup(BackupKind::Full, "0 2 * * *"), restore_test("0 5 1 * *")], holds: Vec::new() };
    let now = at("2026-11-24T13:00:00Z");
    let new = agenda.take_up(None, now);
    assert!(new.iter().all(|mark| !mark.is_promised && mark.through == now - CATCH_UP), "{new:?}");
    let stored = BTreeMap::from([(agenda.lines[0].name.clone(), at("2026-11-20T02:00:00Z"))]);
    let known = agenda.take_up(Some(&stored), now);
    assert_eq!(known, [since("2026-11-20T02:00:00Z"), Mark { through: now, is_promised: true }]);
}

#[test]
fn nothing_of_a_new_line_is_missed() {
    let agenda = Agenda { lines: vec![backup(BackupKind::Full, "0 2 * * *")], holds: Vec::new() };
    let marks = [Mark { through: at("2026-10-20T00:00:00Z"), is_promised: false }];
    assert_eq!(told(&agenda, &marks, "2026-11-24T13:00:00Z"), ["start full 2026-11-24T02:00:00Z"]);
}

#[test]
fn a_larger_kind_counts_for_smaller_ones_due_together() {
    let mut standalone = backup(BackupKind::Full, "0 4 * * *");
    standalone.backup = Some(Size { kind: BackupKind::Full, standalone: true });
    standalone.kind = "standalone".to_owned();
    let lines = vec![
        backup(BackupKind::Incremental, "0 * * * *"),
        backup(BackupKind::Full, "0 2 * * *"),
        standalone,
        backup(BackupKind::Differential, "0 2,3 * * *"),
        backup(BackupKind::Incremental, "0 3,5 * * *"),
    ];
    let agenda = Agenda { lines, holds: Vec::new() };
    let begun = |hour: u8| {
        let marks = vec![since(&format!("2026-11-20T{:02}:30:00Z", hour - 1)); 5];
        told(&agenda, &marks, &format!("2026-11-20T{hour:02}:00:00Z"))
    };
    assert_eq!(begun(1), ["start incremental 2026-11-20T01:00:00Z"]);
    assert_eq!(begun(2), ["start full 2026-11-20T02:00:00Z"]);
    assert_eq!(begun(3), ["start differential 2026-11-20T03:00:00Z"]);
    assert_eq!(begun(4), ["start standalone 2026-11-20T04:00:00Z"]);
    // Two that are alike are one.
    assert_eq!(begun(5), ["start incremental 2026-11-20T05:00:00Z"]);
    // One that stands alone counts for no other full backup, nor the other way round.
    let mut lines = agenda.lines;
    lines.push(backup(BackupKind::Full, "0 4 * * *"));
    let agenda = Agenda { lines, holds: Vec::new() };
    let marks = vec![since("2026-11-20T03:30:00Z"); 6];
    assert_eq!(
        told(&agenda, &marks, "2026-11-20T04:00:00Z"),
        ["start standalone 2026-11-20T04:00:00Z", "start full 2026-11-20T04:00:00Z"]
    );
}

#[test]
fn a_blackout_shifts_a_test_inside_its_window_and_one_beyond_it_is_missed() {
    // 2026-11-28 is a Saturday.
    let mut test = restore_test("0 13 28 * *");
    let weekend = vec![hold(Cause::Blackout, "Sat 12:00", "Sun 23:59")];
    let agenda = Agenda { lines: vec![test.clone()], holds: weekend.clone() };
    let marks = [since("2026-10-28T13:00:00Z")];
    assert_eq!(told(&agenda, &marks, "2026-11-28T13:00:00Z"), ["wait local until 2026-11-29T23:59:00Z"]);
    assert_eq!(agenda.look(&marks, at("2026-11-28T13:00:00Z")).through[0], marks[0].through);
    assert_eq!(told(&agenda, &marks, "2026-11-29T23:59:00Z"), ["start local 2026-11-28T13:00:00Z"]);
    test.start_window = Some(SignedDuration::from_hours(24));
    let agenda = Agenda { lines: vec![test], holds: weekend };
    assert_eq!(told(&agenda, &marks, "2026-11-28T13:00:00Z"), ["missed local 2026-11-28T13:00:00Z x1 blackout"]);
    let due = agenda.at(0, at("2026-11-28T13:00:00Z")).unwrap();
    assert_eq!((due.begins(), due.worrying_from()), (None, at("2026-11-29T01:00:00Z")));
}

#[test]
fn whoever_waits_for_a_run_is_told_halfway_or_at_once_where_it_cannot_begin() {
    let mut test = restore_test("0 13 28 * *");
    test.start_window = Some(SignedDuration::from_hours(48));
    let worries = |holds: Vec<Hold>, now: &str| {
        let agenda = Agenda { lines: vec![backup(BackupKind::Full, "0 2 * * *"), test.clone()], holds };
        agenda.worrying("restore_test", at(now)).map(|due| due.due_at)
    };
    let due = Some(at("2026-11-28T13:00:00Z"));
    assert_eq!(worries(Vec::new(), "2026-11-29T12:59:59Z"), None);
    assert_eq!(worries(Vec::new(), "2026-11-29T13:00:00Z"), due);
    let long = hold(Cause::Blackout, "2026-11-28 12:00", "2026-12-05 12:00");
    assert_eq!(worries(vec![long.clone()], "2026-11-28T13:00:00Z"), due, "it cannot begin within its window");
    let next = |holds: Vec<Hold>, now: &str| {
        let agenda = Agenda { lines: vec![test.clone()], holds };
        agenda.worrying_next("restore_test", at(now)).unwrap().to_string()
    };
    for (now, then) in [
        ("2026-11-28T12:59:59Z", "2026-11-29T13:00:00Z"),
        ("2026-11-28T13:00:00Z", "2026-11-29T13:00:00Z"),
        ("2026-11-29T13:00:00Z", "2026-12-29T13:00:00Z"),
    ] {
        assert_eq!(next(Vec::new(), now), then, "{now}");
    }
    assert_eq!(next(vec![long], "2026-11-28T12:59:59Z"), "2026-11-28T13:00:00Z", "at once where it cannot begin");
}

#[test]
fn maintenance_is_told_apart() {
    let mut test = restore_test("0 13 * * *");
    test.start_window = Some(SignedDuration::from_hours(1));
    let holds = vec![
        hold(Cause::Blackout, "Sat 12:00", "Sun 23:59"),
        hold(Cause::Maintenance, "2026-11-28 12:00", "2026-11-28 18:00"),
    ];
    let agenda = Agenda { lines: vec![test], holds };
    let marks = [since("2026-11-27T13:00:00Z")];
    assert_eq!(told(&agenda, &marks, "2026-11-28T13:00:00Z"), ["missed local 2026-11-28T13:00:00Z x1 maintenance"]);
}

#[test]
fn jitter_is_small_and_always_the_same() {
    let most = SignedDuration::from_mins(10);
    let drawn: Vec<_> = (0..200).map(|number| jitter(&format!("db{number}/backup/full"), most)).collect();
    assert!(drawn.iter().all(|drawn| SignedDuration::ZERO <= *drawn && *drawn <= most));
    assert!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len() > 100);
    assert_eq!(jitter("wallet/backup/full", most), jitter("wallet/backup/full", most));
    assert_eq!(jitter("wallet/backup/full", SignedDuration::ZERO), SignedDuration::ZERO);
    let mut line = backup(BackupKind::Full, "0 2 * * *");
    line.jitter = SignedDuration::from_secs(90);
    let agenda = Agenda { lines: vec![line], holds: Vec::new() };
    let marks = [since("2026-11-20T02:00:00Z")];
    assert_eq!(told(&agenda, &marks, "2026-11-21T02:01:29Z"), ["wait full until 2026-11-21T02:01:30Z"]);
    assert_eq!(told(&agenda, &marks, "2026-11-21T02:01:30Z"), ["start full 2026-11-21T02:00:00Z"]);
}

proptest! {
    /// Whenever a scheduler looks, and however long it sleeps in between, each
    /// due time is begun, counted, recorded as missed or still waiting, once.
    #[test]
    fn every_due_time_is_accounted_for_once(
        pauses in prop::collection::vec(1_i64..200_000, 1..30),
        window in prop::option::of(600_i64..100_000),
        skip in any::<bool>(),
        held in any::<bool>(),
    ) {
        let mut lines = vec![
            backup(BackupKind::Full, "0 2 * * *"),
            backup(BackupKind::Incremental, "30 */3 * * *"),
            backup(BackupKind::Incremental, "0 */2 * * *"),
            restore_test("15 13 * * *"),
        ];
        for line in &mut lines {
            line.start_window = window.map(SignedDuration::from_secs);
            line.catch_up = if skip { CatchUp::Skip } else { CatchUp::RunOnce };
        }
        let holds = if held { vec![hold(Cause::Blackout, "Sat 12:00", "Sun 23:59")] } else { Vec::new() };
        let agenda = Agenda { lines, holds };
        let begin = at("2026-11-16T00:00:00Z");
        let mut now = begin;
        let mut marks = vec![Mark { through: begin, is_promised: true }; agenda.lines.len()];
        let mut seen: Vec<(usize, Timestamp)> = Vec::new();
        let mut waiting: Vec<(usize, Timestamp)> = Vec::new();
        for pause in pauses {
            now += SignedDuration::from_secs(pause);
            let look = agenda.look(&marks, now);
            seen.extend(look.start.iter().map(|due| (due.line, due.due_at)));
            seen.extend(look.missed.iter().flat_map(|missed| missed.due.iter().map(|due_at| (missed.line, *due_at))));
            waiting = look.waiting.iter().map(|due| (due.line, due.due_at)).collect();
            prop_assert!(look.again_at.is_some_and(|again| again > now));
            for (mark, through) in marks.iter_mut().zip(&look.through) {
                prop_assert!(*through >= mark.through);
                mark.through = *through;
            }
        }
        seen.extend(waiting);
        seen.sort_unstable();
        let mut wanted: Vec<(usize, Timestamp)> = (0..agenda.lines.len())
            .flat_map(|line| agenda.coming(line, begin).take_while(|due| due.due_at <= now).collect::<Vec<_>>())
            .filter(|due| due.counted_by.is_none())
            .map(|due| (due.line, due.due_at))
            .collect();
        wanted.sort_unstable();
        prop_assert_eq!(seen, wanted);
    }
}
