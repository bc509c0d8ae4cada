//! Which backups of a larger kind stand for those of a smaller one.

use super::*;

/// Increments of every six hours and a full backup at midnight, in place of one of them.
fn full_at_midnight() -> (World, Vec<Line>) {
    let mut world = World::new();
    world.now = after(world.now, -hours(1));
    for taken in 0..20 {
        if taken % 4 == 0 {
            world.full(false);
        } else {
            world.increment();
        }
        let next = after(world.now, hours(6) - SignedDuration::from_mins(11));
        world.pass(next.duration_since(world.now), 1);
    }
    world.full(false);
    let lines = [
        (line(BackupKind::Incremental, false, &[(KeepPeriod::Hourly, 6)]), "0 */6 * * *"),
        (line(BackupKind::Full, false, &[(KeepPeriod::Daily, 1)]), "0 0 * * *"),
    ];
    let lines = lines.map(|(line, cron)| Line { due: Schedule::parse(cron, "Europe/Malta").unwrap(), ..line });
    (world, lines.to_vec())
}

#[test]
fn a_larger_backup_that_ran_in_place_of_a_smaller_one_counts_for_both() {
    let (world, lines) = full_at_midnight();
    let hourly = |hour: &str| Reason::Newest { period: KeepPeriod::Hourly, of: format!("{hour} +01:00") };
    let plan = world.plan(&policy(1, lines.clone()));
    assert_eq!(plan.refusals, []);
    // b20 and b16 began at midnight; of the six hours these are two.
    assert_eq!(kept(&plan), ["b12", "b13", "b14", "b15", "b16", "b17", "b18", "b19", "b20"], "{plan:#?}");
    assert!(reasons_of(&plan, "b20").contains(&hourly("2026-01-06 00:00")), "{plan:#?}");
    assert!(reasons_of(&plan, "b16").contains(&hourly("2026-01-05 00:00")), "{plan:#?}");
    assert!(reasons_of(&plan, "b15").contains(&hourly("2026-01-04 18:00")), "{plan:#?}");
    assert!(!reasons_of(&plan, "b14").contains(&hourly("2026-01-04 12:00")), "{plan:#?}");

    // At another time it is no increment of that hour, and takes no increment's place.
    let mut apart = lines.clone();
    apart[1].due = Schedule::parse("30 23 * * *", "Europe/Malta").unwrap();
    let plan = world.plan(&policy(1, apart));
    assert!(!reasons_of(&plan, "b16").contains(&hourly("2026-01-05 00:00")), "{plan:#?}");
    assert!(reasons_of(&plan, "b13").contains(&hourly("2026-01-04 06:00")), "{plan:#?}");

    // Nor where it began when the next increment was due already.
    let mut late = world.clone();
    late.facts.backups[16].started_at = after(late.facts.backups[16].started_at, hours(7));
    let plan = late.plan(&policy(1, lines.clone()));
    assert!(!reasons_of(&plan, "b16").iter().any(|reason| matches!(reason, Reason::Newest { .. })), "{plan:#?}");

    // A standalone one counts for increments too, though nothing is built upon it.
    let mut standalone = world.clone();
    standalone.newest().standalone = true;
    let mut with_standalone = lines.clone();
    with_standalone.push(Line {
        standalone: true,
        keep: Some(BTreeMap::from([(KeepPeriod::Yearly, 1)])),
        ..lines[1].clone()
    });
    let plan = standalone.plan(&policy(1, with_standalone));
    assert!(reasons_of(&plan, "b20").contains(&hourly("2026-01-06 00:00")), "{plan:#?}");

    // Where increments never expire, neither does what ran in their place.
    let mut unlimited = lines;
    unlimited[0].keep = None;
    assert_eq!(world.plan(&policy(1, unlimited)).keep.len(), 21);
}
