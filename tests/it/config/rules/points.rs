//! Which recovery point a restore test takes.

use super::*;

const POINT: &str = "{algorithm: random_within_window, window: 30d}";

#[test]
fn recovery_points_that_cannot_be_had() {
    let each = [
        ("{algorithm: ‸oldst}", "`oldst` is not allowed", "did you mean `oldest`?"),
        ("{algorithm: ‸other_vaults}", "is not allowed", "did you mean `other_vault`?"),
        ("{algorithm: ‸rotate}", "`rotate` has nothing to take", "`increment_chain`"),
        ("{algorithm: rotate, of: ‸[]}", "`rotate` has nothing to take", "at least one under `of`"),
        ("{algorithm: rotate, of: [oldest, ‸rotate]}", "`rotate` is not allowed", "write one of"),
        ("{algorithm: rotate, of: [oldest, other_vault, ‸oldest]}", "`oldest` is listed twice", "keep one"),
        ("{algorithm: oldest, ‸of: [oldest]}", "`of` is for `rotate` alone", "`algorithm: rotate`"),
        ("{algorithm: ‸increment_chain}", "no line takes any", "kind: incremental"),
        ("{algorithm: rotate, of: [oldest, ‸increment_chain]}", "no line takes any", "kind: incremental"),
        ("{algorithm: oldest, ‸window: 30d}", "`oldest` has no window", "remove"),
        ("{algorithm: rotate, of: [oldest], ‸window: 30d}", "`rotate` has no window", "add `random_within_window`"),
        ("{algorithm: rotate, of: [random_within_window], window: ‸32d}", "kept for 31d", "at most"),
    ];
    for (written, what, remedy) in each {
        assert_each(&[(&[(S, POINT, written)], what, remedy)]);
    }
    assert_each(&[(
        &[(S, POINT, "{algorithm: ‸other_vault}"), (S, "[primary, dr]", "[primary]")],
        "a further vault, and there is one only",
        "under `vaults`",
    )]);
}

#[test]
fn recovery_points_that_can() {
    let written = Written::examples();
    let incremental = "{kind: incremental, cron: \"0 * * * *\", keep: {hourly: 24}}\nwal:";
    written.change(S, "wal:", &format!("  - {incremental}"));
    written.change(
        S,
        POINT,
        "{algorithm: rotate, of: [latest_at_disaster, random_within_window, oldest, increment_chain, other_vault, catalog_lost]}",
    );
    let estate = written.load().unwrap();
    let test = estate.schedules.iter().find_map(|schedule| schedule.config.restore_test.as_ref()).unwrap();
    assert_eq!(test.recovery_point.algorithms(), lifeboat::domain::RecoveryAlgorithm::ALL);
}
