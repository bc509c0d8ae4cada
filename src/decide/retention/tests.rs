//! Tables for each rule, and what must never be lost over random histories.

use super::*;
use crate::decide::due::parse_zone;

mod calendar;
mod history;
mod needs;
mod random;
mod sound;

use history::{World, after, at, days, hours};

fn line(kind: BackupKind, standalone: bool, keep: &[(KeepPeriod, u32)]) -> Line {
    let due = Schedule::parse("0 0 * * *", "UTC").unwrap();
    Line { kind, standalone, due, keep: Some(keep.iter().copied().collect()) }
}

fn policy(window_days: i64, lines: Vec<Line>) -> Policy {
    Policy { lines, zone: parse_zone("Europe/Malta").unwrap(), window: days(window_days), heartbeats: 1000 }
}

fn daily(count: u32) -> Policy {
    policy(3, vec![line(BackupKind::Full, false, &[(KeepPeriod::Daily, count)])])
}

/// A full backup each day for so many days, then an hour.
fn a_month(days: usize) -> World {
    let mut world = World::new();
    for _ in 0..days {
        world.full(false);
        world.pass(hours(24), 3);
    }
    world.full(false);
    world.pass(hours(1), 1);
    world
}

fn kept(plan: &Plan) -> Vec<&str> {
    plan.keep.iter().map(|kept| kept.backup.as_str()).collect()
}

fn reasons_of<'a>(plan: &'a Plan, backup: &str) -> &'a [Reason] {
    plan.keep.iter().find(|kept| kept.backup.as_str() == backup).map_or(&[], |kept| &kept.reasons)
}

#[test]
fn a_month_of_days_becomes_a_week_and_the_window() {
    let world = a_month(30);
    let plan = world.plan(&daily(2));
    assert_eq!(plan.refusals, []);
    // The window of three days begins before b28; b27 restores its beginning.
    assert_eq!(kept(&plan), ["b27", "b28", "b29", "b30"]);
    assert_eq!(reasons_of(&plan, "b27"), [Reason::WindowBase]);
    assert_eq!(reasons_of(&plan, "b28"), [Reason::WindowNext]);
    assert_eq!(plan.expire.backups.len(), 27);
    assert_eq!(plan.expire.backups.first().map(BackupId::as_str), Some("b26"), "the newest goes first");
    let start = world.backup("b27").start_lsn;
    assert_eq!(plan.wal.first().unwrap().first, history::SIZE.number_of(start));
    let gone = Segment::holding(Timeline(1), Lsn(start.0 - history::SIZE.bytes()), history::SIZE);
    assert_eq!(plan.expire.segments, [SegmentRun { timeline: Timeline(1), first: 1, last: gone.number }]);
}

#[test]
fn older_backups_keep_their_own_wal_and_nothing_between() {
    let lines = vec![line(BackupKind::Full, false, &[(KeepPeriod::Weekly, 3)])];
    let world = a_month(30);
    let plan = world.plan(&policy(3, lines));
    // 2026-01-01 is a Thursday: Sundays end weeks; b17 was taken on Sunday the 18th.
    assert_eq!(kept(&plan), ["b17", "b24", "b27", "b28", "b30"]);
    assert_eq!(reasons_of(&plan, "b24"), [Reason::Newest { period: KeepPeriod::Weekly, of: "2026-W04".to_owned() }]);
    let left = world.without(&plan.expire);
    for backup in ["b17", "b24"] {
        let backup = left.backup(backup);
        assert!(left.facts.coverage.covers(Timeline(1), history::SIZE, backup.start_lsn, backup.stop_lsn));
    }
    let between = world.backup("b20");
    assert!(!left.facts.coverage.covers(Timeline(1), history::SIZE, between.start_lsn, between.stop_lsn));
}

#[test]
fn standalone_backups_are_counted_apart_and_a_line_without_keep_limits_nothing() {
    let mut world = a_month(10);
    world.full(true);
    world.pass(hours(1), 1);
    for _ in 0..10 {
        world.full(false);
        world.pass(hours(24), 2);
    }
    world.full(false);
    let mut lines = vec![
        line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)]),
        line(BackupKind::Full, true, &[(KeepPeriod::Monthly, 1)]),
    ];
    let plan = world.plan(&policy(1, lines.clone()));
    assert_eq!(kept(&plan), ["b11", "b21", "b22"], "{plan:#?}");
    lines[0].keep = None;
    assert_eq!(world.plan(&policy(1, lines)).keep.len(), 23);
}

#[test]
fn the_parents_of_what_stays_stay() {
    let mut world = a_month(6);
    for _ in 0..4 {
        world.increment();
        world.pass(hours(24), 2);
    }
    world.increment();
    let lines = [
        line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)]),
        line(BackupKind::Incremental, false, &[(KeepPeriod::Hourly, 1)]),
    ]
    .map(|line| Line { due: Schedule::parse("0 0 * * 0", "UTC").unwrap(), ..line })
    .to_vec();
    let plan = world.plan(&policy(1, lines));
    assert_eq!(plan.refusals, []);
    assert_eq!(kept(&plan), ["b6", "b7", "b8", "b9", "b10", "b11"]);
    assert!(reasons_of(&plan, "b7").contains(&Reason::ParentOf("b8".parse().unwrap())));
}

/// Each needs the full backup and no other differential; the next is built upon the
/// newest full one, although an increment is newer.
#[test]
fn the_full_backup_that_carries_differentials_stays() {
    let mut world = a_month(6);
    for _ in 0..4 {
        world.differential();
        world.pass(hours(24), 2);
    }
    world.increment();
    let lines = [
        line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)]),
        line(BackupKind::Differential, false, &[(KeepPeriod::Daily, 1)]),
        line(BackupKind::Incremental, false, &[(KeepPeriod::Daily, 1)]),
    ]
    .map(|line| Line { due: Schedule::parse("0 0 * * 0", "UTC").unwrap(), ..line })
    .to_vec();
    let plan = world.plan(&policy(1, lines));
    assert_eq!(plan.refusals, []);
    assert_eq!(kept(&plan), ["b6", "b10", "b11"]);
    let parent_of = |child: &str| Reason::ParentOf(child.parse().unwrap());
    let reasons = reasons_of(&plan, "b6");
    assert!(reasons.contains(&parent_of("b10")) && reasons.contains(&Reason::Last), "{reasons:?}");
}

/// One may be built upon it just now.
#[test]
fn the_newest_backup_that_carries_increments_stays() {
    let mut world = a_month(6);
    for _ in 0..8 {
        world.full(true);
        world.pass(hours(24), 2);
    }
    let standalone = line(BackupKind::Full, true, &[(KeepPeriod::Daily, 1)]);
    let lines = vec![line(BackupKind::Incremental, false, &[(KeepPeriod::Daily, 1)]), standalone];
    let plan = world.plan(&policy(1, lines));
    assert_eq!(plan.refusals, []);
    assert!(reasons_of(&plan, "b6").contains(&Reason::Last), "{:?}", kept(&plan));
}

#[test]
fn the_last_proven_backup_stays_however_old() {
    let mut world = a_month(30);
    world.facts.backups[1].is_proven = true;
    world.facts.backups[2].is_proven = true;
    let plan = world.plan(&daily(2));
    assert_eq!(kept(&plan)[..2], ["b2", "b27"]);
    assert_eq!(reasons_of(&plan, "b2"), [Reason::LastProven]);
}

#[test]
fn what_is_locked_stays_whole() {
    let mut world = a_month(30);
    world.facts.backups[3].locked_until = Some(after(world.now, hours(1)));
    world.facts.backups[4].locked_until = Some(world.now);
    let plan = world.plan(&daily(2));
    assert_eq!(kept(&plan)[..2], ["b3", "b27"]);
    let left = world.without(&plan.expire);
    let backup = left.backup("b3");
    assert!(left.facts.coverage.covers(Timeline(1), history::SIZE, backup.start_lsn, backup.stop_lsn));
}

#[test]
fn a_window_with_less_than_itself_behind_it_keeps_all_its_wal() {
    let world = a_month(5);
    let plan = world.plan(&policy(31, vec![line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)])]));
    assert_eq!(kept(&plan), ["b0", "b1", "b5"]);
    assert_eq!(plan.expire.segment_count(), 0);
}

/// A key whose name is older than the next one's may open newer segments.
#[test]
fn a_key_stays_while_any_newer_segment_of_its_timeline_does() {
    let mut world = a_month(30);
    world.facts.wal_keys.insert(0, WalKey { first: Segment { timeline: Timeline(1), number: 2 }, number: 0 });
    assert_eq!(world.plan(&daily(2)).expire.wal_keys, []);
    world.fail_over();
    world.pass(hours(24), 4);
    for _ in 0..10 {
        world.full(false);
        world.pass(hours(24), 3);
    }
    world.full(false);
    let plan = world.plan(&daily(2));
    assert_eq!(plan.refusals, []);
    assert!(plan.expire.wal_keys.iter().all(|key| key.first.timeline == Timeline(1)));
    assert_eq!(plan.expire.wal_keys.len(), 2, "nothing of timeline 1 is kept any more");
    assert_eq!(plan.expire.histories, []);
}

#[test]
fn what_lies_behind_a_gap_is_restored_from_behind_it() {
    let mut world = a_month(10);
    world.pass(hours(12), 2);
    world.gap(2);
    world.full(false);
    world.pass(hours(12), 2);
    for _ in 0..3 {
        world.full(false);
        world.pass(hours(24), 2);
    }
    world.full(false);
    let lines = vec![line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)])];
    let plan = world.plan(&policy(10, lines));
    assert_eq!(reasons_of(&plan, "b11"), [Reason::WindowBase], "{plan:#?}");
}

#[test]
fn every_doubt_keeps_everything() {
    let base = a_month(30);
    let doubtful = |change: &dyn Fn(&mut World)| {
        let mut world = base.clone();
        change(&mut world);
        let plan = world.plan(&daily(2));
        assert!(plan.expire.is_empty(), "{plan:#?}");
        assert_eq!(plan.keep.len(), world.facts.backups.len(), "what is in doubt is shown as kept");
        assert!(!plan.refusals.is_empty());
        plan.refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let says = |text: String, words: &str| assert!(text.contains(words), "`{words}` is not in: {text}");
    says(doubtful(&|world| world.facts.problems.push("a manifest is missing".to_owned())), "a manifest is missing");
    says(doubtful(&|world| world.facts.last_run = Some((run(), Verdict::Error))), "ended with ERROR");
    says(
        doubtful(&|world| world.facts.last_run = Some((run(), Verdict::Aborted))),
        "was ended before it was done; take a backup",
    );
    says(doubtful(&|world| world.newest().size_bytes = 49), "the one before it had 100");
    says(doubtful(&|world| world.newest().state = BackupState::Degraded), "DEGRADED");
    says(doubtful(&|world| world.newest().state = BackupState::Uploaded), "is not complete");
    says(doubtful(&|world| world.newest().is_damaged = true), "is damaged in this vault");
    says(doubtful(&|world| world.facts.busy = Some(run())), "works with this vault");
    says(doubtful(&|world| world.newest().parent = Some("gone".parse().unwrap())), "needs gone");
    says(doubtful(&|world| world.upload("young", Some(hours(2)), false)), "young is being uploaded");
    says(doubtful(&|world| world.upload("copy", Some(days(20)), true)), "copy is being uploaded");
    says(doubtful(&|world| world.now = at(-1)), "the clock is behind");
    says(doubtful(&|world| world.now = after(world.now, -hours(30))), "the clock is behind");
    says(doubtful(&|world| world.jump(days(365))), "the clock may have jumped");
    says(doubtful(&|world| world.now = after(world.now, days(4))), "no full backup was begun since");
    says(doubtful(&|world| world.facts.backups.clear()), "no sound backup");
    says(
        doubtful(&|world| {
            world.facts.coverage.add_whole(Segment { timeline: Timeline(7), number: 200 });
        }),
        "history file of timeline 7",
    );
}

fn run() -> RunId {
    RunId::from("backup/wallet/full/1".to_owned())
}

/// The clock jumps a year ahead and stays there: everything goes on, heartbeats
/// and backups too. Nothing expires before a whole window has really passed.
#[test]
fn a_clock_that_stays_ahead_expires_nothing_for_a_window() {
    let mut world = a_month(30);
    world.jump(days(365));
    for day in 0..5 {
        world.full(false);
        world.pass(hours(24), 3);
        let plan = world.plan(&daily(2));
        let waits = plan.refusals.iter().any(|doubt| matches!(doubt, Doubt::ClockJump { .. }));
        assert_eq!(waits, day < 2, "day {day}: {:#?}", plan.refusals);
    }
}

/// One that is dated in the past by a wrong clock is not taken for the base of the window.
#[test]
fn a_wrong_date_does_not_move_the_window() {
    let mut world = a_month(30);
    let newest = world.facts.backups.len() - 2;
    world.facts.backups[newest].finished_at = at(0);
    let plan = world.plan(&daily(1));
    assert_eq!(reasons_of(&plan, "b27"), [Reason::WindowBase], "{plan:#?}");
}

#[test]
fn a_shrunken_backup_is_suspicious_for_a_week() {
    let mut world = a_month(30);
    world.newest().size_bytes = 10;
    for day in 0..9 {
        world.pass(hours(24), 1);
        world.full(false);
        world.newest().size_bytes = 10;
        let is_suspicious = world.plan(&daily(2)).refusals.iter().any(|doubt| matches!(doubt, Doubt::Shrunken { .. }));
        assert_eq!(is_suspicious, day < 6, "day {day}");
    }
}

#[test]
fn only_uploads_older_than_a_day_are_swept() {
    let mut world = a_month(30);
    world.upload("old", Some(hours(25)), false);
    world.upload("nameless", None, false);
    let plan = world.plan(&daily(2));
    assert_eq!(plan.expire.uploads, ["old".parse().unwrap()]);
    assert!(plan.left[0].contains("nameless"), "{:?}", plan.left);
}

#[test]
fn tails_go_when_their_segment_is_whole_and_old() {
    let size = history::SIZE;
    let segment = |number| Segment { timeline: Timeline(1), number };
    let mut coverage = Coverage::default();
    for number in 1..=3 {
        coverage.add_tail(segment(number), 0, 10);
        coverage.add_tail(segment(number), 10, 20);
    }
    coverage.add_whole(segment(1));
    coverage.add_whole(segment(2));
    let beat = |minutes: i64, number: u64| crate::domain::Beat {
        seq: minutes,
        acknowledged_at: after(at(100), -SignedDuration::from_mins(minutes)),
        commit_lsn: segment(number).start(size).forward(5),
        timeline: Timeline(1),
    };
    let swept = |beats: &[_]| {
        let tails = tails::superseded(&coverage, size, beats, at(100), tails::LAG);
        tails.iter().map(|tail| tail.segment.number).collect::<Vec<_>>()
    };
    assert_eq!(swept(&[]), [0; 0], "nobody knows how old they are");
    assert_eq!(swept(&[beat(5, 3)]), [0; 0]);
    assert_eq!(swept(&[beat(61, 2), beat(5, 3)]), [1, 1]);
    assert_eq!(swept(&[beat(61, 3), beat(5, 3)]), [1, 1, 2, 2]);
    let mut newer = beat(61, 1);
    newer.timeline = Timeline(2);
    assert_eq!(swept(&[newer]), [1, 1, 2, 2], "the segment that is not whole ended its timeline");
}

#[test]
fn what_is_shown_is_deleted_as_far_as_it_is_still_allowed() {
    let plan = a_month(30).plan(&daily(2));
    let mut fresh = plan.expire.clone();
    fresh.backups.remove(3);
    fresh.segments = vec![SegmentRun { timeline: Timeline(1), first: 4, last: 9 }];
    let both = plan.expire.allowed_by(&fresh);
    assert_eq!(both.backups, fresh.backups);
    assert_eq!(both.segments, fresh.segments);
    assert!(plan.expire.allowed_by(&Expiry::default()).is_empty());
}
