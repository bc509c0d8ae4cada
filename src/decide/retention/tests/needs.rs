//! What rules need, apart from what locks and doubts keep.

use super::{
    history::{self, after, days, hours},
    *,
};

/// A lock keeps, and nothing is locked or copied because of it.
#[test]
fn what_only_a_lock_keeps_is_not_needed() {
    let mut world = a_month(30);
    let (locked, now) = (world.backup("b3").clone(), world.now);
    world.facts.backups[3].locked_until = Some(after(now, days(9)));
    let (plan, needed) = (world.plan(&daily(2)), needs(&world.facts, &daily(2), now));
    assert_eq!(reasons_of(&plan, "b3"), [Reason::Locked(after(now, days(9)))]);
    assert!(!needed.backup(&locked.id) && needed.backup(&"b27".parse().unwrap()));
    let of = |backup: &Held| Segment::holding(Timeline(1), backup.start_lsn, history::SIZE);
    assert!(!needed.wal(of(&locked)) && needed.wal(of(world.backup("b27"))));
    let left = world.without(&plan.expire);
    assert!(
        left.facts.coverage.covers(Timeline(1), history::SIZE, locked.start_lsn, locked.stop_lsn),
        "it stays whole"
    );
    // A doubt keeps everything and needs nothing.
    world.facts.problems.push("a vault is away".to_owned());
    assert!(world.plan(&daily(2)).expire.is_empty() && !needs(&world.facts, &daily(2), now).backup(&locked.id));
    // The parents of what is locked stay with it, and are not needed either.
    let lines = [BackupKind::Full, BackupKind::Incremental].map(|kind| line(kind, false, &[(KeepPeriod::Daily, 1)]));
    let policy = policy(3, lines.to_vec());
    let mut world = a_month(3);
    world.increment();
    for _ in 0..20 {
        world.full(false);
        world.pass(hours(24), 1);
    }
    world.increment();
    world.facts.backups[4].locked_until = Some(after(world.now, days(9)));
    let (plan, needed) = (world.plan(&policy), needs(&world.facts, &policy, world.now));
    assert_eq!(reasons_of(&plan, "b3"), [Reason::ParentOf("b4".parse().unwrap())], "{plan:#?}");
    assert!(!needed.backup(&"b3".parse().unwrap()) && !needed.backup(&"b4".parse().unwrap()));
}

/// Where no history file tells which lines there are, all WAL is needed.
#[test]
fn what_is_not_known_is_needed() {
    let mut world = a_month(30);
    world.facts.coverage.add_whole(Segment { timeline: Timeline(7), number: 200 });
    let needed = needs(&world.facts, &daily(2), world.now);
    assert!(needed.wal(Segment { timeline: Timeline(1), number: 1 }) && needed.wal_key(world.facts.wal_keys[0]));
}

/// What one vault has damaged needs no older one where another has it sound.
#[test]
fn vaults_together_need_what_one_that_has_it_all_sound_would() {
    let sound = a_month(30);
    let mut damaged = sound.clone();
    damaged.facts.backups[27].is_damaged = true;
    let b26: BackupId = "b26".parse().unwrap();
    let needed = |facts: &Facts| needs(facts, &daily(2), sound.now).backup(&b26);
    assert!(needed(&damaged.facts) && !needed(&sound.facts));
    assert!(!needed(&damaged.facts.clone().with(sound.facts.clone())));
    assert!(!needed(&sound.facts.clone().with(damaged.facts)));
    // Nor does what another one has let go already come back.
    let pruned = sound.without(&sound.plan(&daily(2)).expire);
    assert!(!needed(&pruned.facts.with(sound.facts.clone())));
}
