//! What must hold over any history: full backups, chains, standalone ones,
//! failovers, gaps of WAL, streams that begin anew, damaged backups, any zone.

use proptest::prelude::*;

use super::{
    history::{SIZE, World, after, days, hours},
    *,
};
use crate::{
    decide::recovery::{self, Candidate, Selection},
    domain::RecoveryTarget,
};

#[derive(Debug, Clone)]
enum Event {
    Full {
        standalone: bool,
    },
    Increment,
    Differential,
    Damaged,
    FailOver,
    Gap(u64),
    Restart(u64),
    Proven,
    /// A verification finds one of the backups damaged.
    Rots(usize),
}

fn event() -> impl Strategy<Value = (Event, i64, u64)> {
    let kind = prop_oneof![
        5 => any::<bool>().prop_map(|standalone| Event::Full { standalone }),
        4 => Just(Event::Increment),
        2 => Just(Event::Differential),
        1 => Just(Event::Damaged),
        1 => Just(Event::FailOver),
        1 => (1u64..4).prop_map(Event::Gap),
        2 => (0u64..4).prop_map(Event::Restart),
        1 => Just(Event::Proven),
        2 => any::<usize>().prop_map(Event::Rots),
    ];
    (kind, 1i64..40, 0u64..4)
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let keep = || {
        let period = prop::sample::select(KeepPeriod::ALL.to_vec());
        prop::option::weighted(0.9, prop::collection::btree_map(period, 1u32..5, 1..3))
    };
    let zone = prop::sample::select(vec!["UTC", "Europe/Malta", "Asia/Kathmandu", "Australia/Lord_Howe"]);
    let keeps = [keep(), keep(), keep(), keep()];
    // What is due with the full backups, or never with them.
    let cron = || prop::sample::select(vec!["0 0 * * *", "0 5 * * *", "0 0 * * 0"]);
    (keeps, zone, 1i64..12, cron(), cron()).prop_map(|(keeps, zone, window, increments, differentials)| {
        let due = |cron: &str| Schedule::parse(cron, zone).unwrap();
        let mut lines = vec![
            Line { due: due("0 0 * * *"), ..line(BackupKind::Full, false, &[]) },
            Line { due: due("0 0 * * *"), ..line(BackupKind::Full, true, &[]) },
            Line { due: due(increments), ..line(BackupKind::Incremental, false, &[]) },
            Line { due: due(differentials), ..line(BackupKind::Differential, false, &[]) },
        ];
        for (line, keep) in lines.iter_mut().zip(keeps) {
            line.keep = keep;
        }
        Policy { lines, zone: parse_zone(zone).unwrap(), window: days(window), heartbeats: 1000 }
    })
}

fn happen(world: &mut World, (event, pause, segments): &(Event, i64, u64)) {
    match event {
        Event::Full { standalone } => world.full(*standalone),
        Event::Increment => world.increment(),
        Event::Differential => world.differential(),
        Event::Damaged => {
            world.full(false);
            world.newest().state = BackupState::Degraded;
        }
        Event::FailOver => world.fail_over(),
        Event::Gap(count) => world.gap(*count),
        Event::Restart(behind) => world.restart(*behind),
        Event::Rots(nth) => {
            let held = world.facts.backups.len().max(1);
            if let Some(backup) = world.facts.backups.get_mut(nth % held) {
                backup.is_damaged = true;
            }
        }
        Event::Proven => {
            if let Some(newest) = world.facts.backups.last_mut().filter(|backup| backup.state != BackupState::Degraded)
            {
                newest.is_proven = true;
            }
        }
    }
    world.pass(hours(*pause), *segments);
}

fn is_like(backup: &Held, line: &Line) -> bool {
    (backup.kind, backup.standalone) == (line.kind, line.standalone)
}

/// The period as people name it, by another calendar than the one that is tested.
fn on_the_wall(period: KeepPeriod, backup: &Held, zone: chrono_tz::Tz) -> String {
    let form = match period {
        KeepPeriod::Hourly => "%Y-%m-%d %H:00 %:z",
        KeepPeriod::Daily => "%Y-%m-%d",
        KeepPeriod::Weekly => "%G-W%V",
        KeepPeriod::Monthly => "%Y-%m",
        KeepPeriod::Yearly => "%Y",
    };
    backup.started_at.in_tz(zone.name()).unwrap().strftime(form).to_string()
}

/// The backups that ran in place of one of the line's: from all times at which it was
/// due together with a larger kind, forward to what ran then.
fn stand_ins(world: &World, policy: &Policy, line: &Line) -> BTreeSet<BackupId> {
    let rank =
        |kind| [BackupKind::Incremental, BackupKind::Differential, BackupKind::Full].iter().position(|of| *of == kind);
    let (from, until) = (after(world.facts.backups[0].started_at, -days(40)), after(world.now, days(40)));
    let all = |due: &Schedule| due.due_between(from, until);
    let own = all(&line.due);
    let mut found = BTreeSet::new();
    for larger in policy.lines.iter().filter(|larger| rank(larger.kind) > rank(line.kind)) {
        let theirs = all(&larger.due);
        for together in own.windows(2).filter(|pair| theirs.contains(&pair[0])) {
            let next = theirs.iter().copied().find(|due| *due > together[0]).unwrap_or(Timestamp::MAX);
            let ran = |backup: &&Held| {
                is_like(backup, larger) && (together[0]..together[1].min(next)).contains(&backup.started_at)
            };
            found.extend(world.facts.backups.iter().filter(ran).map(|backup| backup.id.clone()));
        }
    }
    found
}

/// The facts of a restore from whatever is there.
fn view(world: &World) -> recovery::Facts {
    view_of(world, &|_| true)
}

/// The facts of a restore that succeeds: of what can be read.
fn sound_view(world: &World) -> recovery::Facts {
    view_of(world, &|backup| world.facts.is_sound(backup))
}

fn view_of(world: &World, is_there: &dyn Fn(&Held) -> bool) -> recovery::Facts {
    let candidate = |backup: &Held| Candidate {
        id: backup.id.clone(),
        timeline: backup.timeline,
        start_lsn: backup.start_lsn,
        stop_lsn: backup.stop_lsn,
        finished_at: backup.finished_at,
        parent: backup.parent.clone(),
    };
    recovery::Facts {
        backups: world.facts.backups.iter().filter(|backup| is_there(backup)).map(candidate).collect(),
        coverage: world.facts.coverage.clone(),
        histories: world.facts.histories.clone(),
        segment_size: SIZE,
        not_after: Some(world.now),
    }
}

fn chosen(view: &recovery::Facts, target: &RecoveryTarget, backup: Option<&BackupId>) -> Option<Selection> {
    recovery::choose(view, target, backup).ok()
}

/// Nothing that this restore reads is gone, keys included.
fn assert_can_be_fetched(left: &World, selection: &Selection) -> Result<(), TestCaseError> {
    for piece in &selection.wal {
        let key = &left.opened_by[&piece.segment];
        prop_assert!(left.facts.wal_keys.contains(key), "no key opens {:?}", piece.segment);
    }
    let mut backup = left.backup(selection.backup.as_str());
    while let Some(parent) = &backup.parent {
        let found = left.facts.backups.iter().find(|other| other.id == *parent);
        prop_assert!(found.is_some(), "{} lost its parent {parent}", backup.id);
        backup = found.unwrap();
    }
    Ok(())
}

/// What could be restored of the window and of each kept backup still can.
fn assert_nothing_lost(whole: &World, left: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let (before_all, after_all) = (&view(whole), &view(left));
    for kept in &plan.keep {
        let before = chosen(before_all, &RecoveryTarget::Immediate, Some(&kept.backup));
        let after = chosen(after_all, &RecoveryTarget::Immediate, Some(&kept.backup));
        prop_assert_eq!(before.as_ref().map(|s| &s.wal), after.as_ref().map(|s| &s.wal), "{}", kept.backup);
        if let Some(selection) = after {
            assert_can_be_fetched(left, &selection)?;
        }
    }
    assert_window(before_all, after_all, left, (plan.window_start, whole.now))?;
    assert_window(&sound_view(whole), &sound_view(left), left, (plan.window_start, whole.now))
}

/// Every instant of the window that could be restored still can.
fn assert_window(
    before_all: &recovery::Facts,
    after_all: &recovery::Facts,
    left: &World,
    (start, now): (Timestamp, Timestamp),
) -> Result<(), TestCaseError> {
    let latest = chosen(before_all, &RecoveryTarget::Latest, None).map(|s| (s.timeline, s.end));
    prop_assert_eq!(latest, chosen(after_all, &RecoveryTarget::Latest, None).map(|s| (s.timeline, s.end)));
    let mut instant = start;
    while instant <= now {
        if let Some(before) = chosen(before_all, &RecoveryTarget::Time(instant), None) {
            let after = chosen(after_all, &RecoveryTarget::Time(instant), None);
            prop_assert!(after.is_some(), "{instant} was restorable from {}", before.backup);
            let after = after.unwrap();
            prop_assert_eq!((before.timeline, before.end), (after.timeline, after.end), "{}", instant);
            assert_can_be_fetched(left, &after)?;
        }
        instant = after(instant, hours(7));
    }
    Ok(())
}

/// The one that was proven last, and the one that is PROVEN still.
fn proven(world: &World) -> impl Iterator<Item = &Held> {
    let sound = world.facts.backups.iter().filter(|backup| world.facts.is_sound(backup));
    last_proven(world.facts.backups.iter()).into_iter().chain(last_proven(sound))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Pruned each time anything happened, a vault has what one that is never
    /// pruned has, of the window and of what is kept.
    #[test]
    fn nothing_that_is_kept_or_in_the_window_is_ever_lost(
        events in prop::collection::vec(event(), 3..30),
        policy in any_policy(),
    ) {
        let mut whole = World::new();
        let mut gone = Expiry::default();
        for event in &events {
            happen(&mut whole, event);
            let pruned = whole.without(&gone);
            let plan = pruned.plan(&policy);
            if !plan.refusals.is_empty() {
                prop_assert!(plan.expire.is_empty());
                continue;
            }
            let left = pruned.without(&plan.expire);
            assert_nothing_lost(&pruned, &left, &plan)?;
            // The same window in a vault that was never pruned.
            let (ever, now) = (view(&whole), view(&left));
            let mut instant = plan.window_start;
            while instant <= whole.now {
                let found = |view| chosen(view, &RecoveryTarget::Time(instant), None).map(|s| (s.timeline, s.end));
                prop_assert!(found(&ever).is_none() || found(&ever) == found(&now), "{} is lost", instant);
                instant = after(instant, hours(11));
            }
            for proven in proven(&pruned) {
                prop_assert!(left.facts.backups.iter().any(|backup| backup.id == proven.id));
            }
            // Decided again, the rest stays.
            prop_assert!(left.plan(&policy).expire.is_empty(), "{:#?}", left.plan(&policy).expire);
            gone.backups.extend(plan.expire.backups);
            gone.segments.extend(plan.expire.segments);
            gone.tails.extend(plan.expire.tails);
            gone.histories.extend(plan.expire.histories);
            gone.wal_keys.extend(plan.expire.wal_keys);
        }
    }

    /// Whatever the clock says, nothing goes that would not go by a true clock.
    #[test]
    fn a_jump_of_the_clock_expires_nothing(
        events in prop::collection::vec(event(), 3..30),
        policy in any_policy(),
        jump in prop_oneof![4i64..4000, -4000i64..-1],
        goes_on in any::<bool>(),
    ) {
        let mut world = World::new();
        for event in &events {
            happen(&mut world, event);
        }
        world.full(false);
        if goes_on && jump > 0 {
            // Heartbeats and a backup by the clock that jumped.
            world.jump(days(jump));
            world.full(false);
        } else {
            world.now = after(world.now, days(jump));
        }
        let plan = world.plan(&policy);
        prop_assert!(plan.expire.is_empty() && !plan.refusals.is_empty());
    }

    /// A last backup that failed, shrank, is damaged or incomplete, stops all.
    #[test]
    fn nothing_goes_after_a_bad_backup(
        events in prop::collection::vec(event(), 3..30),
        policy in any_policy(),
        what in 0..7,
    ) {
        let mut world = World::new();
        world.full(false);
        for event in &events {
            happen(&mut world, event);
        }
        world.full(false);
        match what {
            0 => world.facts.last_run = Some((run(), Verdict::Fail)),
            1 => world.newest().size_bytes = 49,
            2 => world.newest().state = BackupState::Degraded,
            3 => world.newest().state = BackupState::Uploaded,
            4 => world.newest().is_damaged = true,
            5 => {
                world.newest().is_damaged = true;
                world.increment();
            }
            _ => {
                world.newest().state = BackupState::Degraded;
                world.increment();
            }
        }
        let plan = world.plan(&policy);
        prop_assert!(plan.expire.is_empty() && !plan.refusals.is_empty());
    }

    /// Each line keeps the newest sound backup of as many periods as it says, its own or
    /// a larger one that ran in its place: no more of them, and no others.
    #[test]
    fn periods_are_counted(events in prop::collection::vec(event(), 3..40), policy in any_policy()) {
        let mut world = World::new();
        for event in &events {
            happen(&mut world, event);
        }
        world.full(false);
        let plan = world.plan(&policy);
        let mut wanted: BTreeMap<&BackupId, BTreeSet<(KeepPeriod, String)>> = BTreeMap::new();
        let mut unlimited: BTreeSet<&BackupId> = BTreeSet::new();
        for line in &policy.lines {
            let stand_in = stand_ins(&world, &policy, line);
            let mut counting: Vec<&Held> = world.facts.backups.iter()
                .filter(|b| world.facts.is_sound(b) && (is_like(b, line) || stand_in.contains(&b.id))).collect();
            counting.sort_by_key(|b| b.started_at);
            if line.keep.is_none() {
                unlimited.extend(counting.iter().map(|b| &b.id));
            }
            for (period, count) in line.keep.iter().flatten() {
                // The last one that is put in stays.
                let newest: BTreeMap<String, &Held> = counting.iter().map(|b| (on_the_wall(*period, b, policy.zone), *b)).collect();
                let mut newest: Vec<(String, &Held)> = newest.into_iter().collect();
                newest.sort_by_key(|(_, b)| std::cmp::Reverse(b.started_at));
                for (of, backup) in newest.into_iter().take(usize::try_from(*count).unwrap()) {
                    wanted.entry(&backup.id).or_default().insert((*period, of));
                }
            }
        }
        for backup in &world.facts.backups {
            let reasons = reasons_of(&plan, backup.id.as_str());
            let found: BTreeSet<(KeepPeriod, String)> = reasons.iter().filter_map(|reason| match reason {
                Reason::Newest { period, of } => Some((*period, of.clone())),
                _ => None,
            }).collect();
            prop_assert_eq!(&found, &wanted.remove(&backup.id).unwrap_or_default(), "{}", backup.id);
            prop_assert_eq!(reasons.contains(&Reason::NoLimit), unlimited.contains(&backup.id), "{}", backup.id);
        }
    }

    /// What is locked as long as a rule keeps it, and no longer, goes when its lock
    /// has ended, whatever doubts pass by; and nothing goes before.
    #[test]
    fn a_lock_is_no_reason_to_lock(reach in 2u64..20, doubtful in prop::collection::vec(any::<bool>(), 90)) {
        let (mut world, policy) = (World::new(), daily(2));
        let reach = locks::Reach::seconds(reach * 86_400);
        let mut ends: BTreeMap<BackupId, Timestamp> = BTreeMap::new();
        let mut unneeded_since: BTreeMap<BackupId, Timestamp> = BTreeMap::new();
        for is_doubtful in doubtful {
            world.full(false);
            world.pass(hours(24), 1);
            for backup in &mut world.facts.backups {
                backup.locked_until = ends.get(&backup.id).copied();
            }
            world.facts.problems = is_doubtful.then(|| "a vault is away".to_owned()).into_iter().collect();
            let needs = needs(&world.facts, &policy, world.now);
            let plan = world.plan(&policy);
            for id in &plan.expire.backups {
                prop_assert!(!needs.backup(id) && ends[id] <= world.now, "{id}");
            }
            world = world.without(&plan.expire);
            for backup in &world.facts.backups {
                // No rule reaches back further, whatever is locked.
                prop_assert!(world.now < after(backup.finished_at, days(6)) || !needs.backup(&backup.id));
                if needs.backup(&backup.id) {
                    ends.insert(backup.id.clone(), reach.until(world.now));
                } else if !is_doubtful {
                    let since = *unneeded_since.entry(backup.id.clone()).or_insert(world.now);
                    let longest = reach.until(since);
                    prop_assert!(world.now < after(longest, hours(25)), "{} is not let go", backup.id);
                }
            }
        }
    }
}
