//! What cannot be restored stands for nothing else, and is kept to be mended.

use super::{history, *};

/// What a verification found damaged counts for nothing and replaces nobody, and
/// stays as long as it would if it were sound: another vault may mend it.
#[test]
fn what_is_damaged_stands_for_no_other() {
    let mut world = a_month(30);
    world.facts.backups[27].is_damaged = true;
    let plan = world.plan(&daily(2));
    assert_eq!(plan.refusals, []);
    assert_eq!(kept(&plan), ["b26", "b27", "b28", "b29", "b30"], "{plan:#?}");
    assert_eq!(reasons_of(&plan, "b26"), [Reason::WindowBase]);
    let start = world.backup("b26").start_lsn;
    assert_eq!(plan.wal.first().unwrap().first, history::SIZE.number_of(start), "the window is restored from b26");

    // 2026-01-25 ends a week, and b24 was taken on it.
    let lines = vec![line(BackupKind::Full, false, &[(KeepPeriod::Weekly, 3)])];
    let mut world = a_month(30);
    world.facts.backups[24].is_damaged = true;
    let plan = world.plan(&policy(3, lines.clone()));
    assert_eq!(kept(&plan), ["b17", "b23", "b24", "b27", "b28", "b30"]);
    assert_eq!(reasons_of(&plan, "b23"), [Reason::Newest { period: KeepPeriod::Weekly, of: "2026-W04".to_owned() }]);
    assert_eq!(reasons_of(&plan, "b24"), [Reason::Broken]);
    assert!(Reason::Broken.to_string().contains("to be mended"));
    // So does one whose own WAL is not all here.
    world.facts.backups[24].is_damaged = false;
    world.facts.backups[24].state = BackupState::Uploaded;
    assert_eq!(world.plan(&policy(3, lines)).keep, plan.keep);
}

#[test]
fn what_was_proven_and_is_damaged_does_not_replace_what_is_proven() {
    for spoil in [
        |backup: &mut Held| backup.is_damaged = true,
        |backup: &mut Held| backup.state = BackupState::Uploaded,
        |backup: &mut Held| backup.state = BackupState::Degraded,
    ] {
        let mut world = a_month(30);
        for proven in [10, 20] {
            world.facts.backups[proven].is_proven = true;
        }
        let plan = world.plan(&daily(1));
        assert_eq!((kept(&plan)[0], reasons_of(&plan, "b20")), ("b20", &[Reason::LastProven][..]));
        spoil(&mut world.facts.backups[20]);
        let plan = world.plan(&daily(1));
        assert_eq!(kept(&plan)[..2], ["b10", "b20"], "{plan:#?}");
        assert_eq!(reasons_of(&plan, "b10"), [Reason::LastProven]);
    }
}

/// A child cannot be restored without its parent.
#[test]
fn what_builds_on_something_damaged_is_not_sound() {
    let mut world = a_month(3);
    for _ in 0..10 {
        world.increment();
        world.pass(hours(24), 2);
    }
    world.full(false);
    world.pass(hours(24), 1);
    let last = world.facts.backups.len() - 1;
    world.facts.backups[4].is_damaged = true;
    let sound: Vec<&str> =
        world.facts.backups.iter().filter(|b| world.facts.is_sound(b)).map(|b| b.id.as_str()).collect();
    assert_eq!(sound, ["b0", "b1", "b2", "b3", &format!("b{last}")]);
}
