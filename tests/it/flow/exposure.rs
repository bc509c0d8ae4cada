//! The history of exposure on both databases: whoever looks, a stretch counts once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    db::{
        Db,
        exposure::{self, Addition},
    },
    decide::exposure::history::{self, Look},
    domain::{Exposed, ExposureOver, exposure::Width},
};

use super::{state::State, tables::run};

fn exposed(database: &str) -> Exposed {
    Exposed { database: database.parse().unwrap(), vault: "primary".parse().unwrap() }
}

fn addition(of: &Exposed, before: Option<Timestamp>, at: Timestamp, seconds: u64) -> Addition {
    let (exposure, objective) = (Duration::from_secs(seconds), Duration::from_secs(60));
    let added = history::add(before, &Look { at, exposure, objective });
    Addition { of: of.clone(), before, through: added.through, buckets: added.buckets }
}

/// Seconds measured and over the objective, and the longest.
async fn told(db: &Db, width: Width, around: Timestamp, of: &Exposed) -> Option<(f64, f64, Option<f64>)> {
    let day = SignedDuration::from_hours(24);
    let over = exposure::over(db, width, (around - day, around + day)).await.unwrap();
    let sum: ExposureOver = *over.get(of)?;
    assert!((sum.period_seconds - 172_800.0).abs() < 1e-6);
    Some((sum.measured_seconds, sum.over_seconds, sum.max_seconds))
}

/// Two nodes look at the same instant, again and again.
pub(super) async fn a_stretch_that_two_nodes_measure_counts_once(state: &State) {
    let (one, other) = (&state.db().await, &state.db().await);
    let (wallet, ledger) = (exposed("wallet"), exposed("ledger"));
    assert!(exposure::marks(one).await.unwrap().through.is_empty());
    let start: Timestamp = "2026-11-21T11:59:00Z".parse().unwrap();
    for nth in 0..30 {
        let at = start + SignedDuration::from_secs(10 * nth);
        // Ten of the stretches end over the objective.
        let seconds = if (10..20).contains(&nth) { 61 + nth.unsigned_abs() } else { 1 };
        let looks = async |db: &Db| {
            let marks = exposure::marks(db).await.unwrap().through;
            let add = |of: &Exposed| addition(of, marks.get(of).copied(), at, seconds);
            let (first, second) = (add(&ledger), add(&wallet));
            // Whichever order they come in.
            exposure::add(db, &if nth % 2 == 0 { [first, second] } else { [second, first] }).await.unwrap()
        };
        let (one, other) = tokio::join!(looks(one), looks(other));
        assert!(one + other >= 2, "at least one of them counts");
    }
    for width in Width::ALL {
        for of in [&wallet, &ledger] {
            assert_eq!(told(one, width, start, of).await, Some((290.0, 100.0, Some(80.0))), "{width:?}");
        }
    }
    // What was read before somebody else stored counts for nothing.
    let marks = exposure::marks(one).await.unwrap().through;
    let late = addition(&wallet, marks.get(&wallet).copied(), start + SignedDuration::from_secs(300), 500);
    assert_eq!(exposure::add(one, std::slice::from_ref(&late)).await.unwrap(), 1);
    assert_eq!(exposure::add(other, &[late]).await.unwrap(), 0);
    assert_eq!(told(one, Width::Day, start, &wallet).await, Some((300.0, 110.0, Some(500.0))));
    assert_eq!(told(one, Width::Day, start, &exposed("odds")).await, None, "nobody looked");
}

pub(super) async fn silence_is_not_measured_and_a_clock_set_back_fills_no_bucket_twice(state: &State) {
    let db = &state.db().await;
    let (of, start) = (exposed("wallet"), "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap());
    let look = async |after: i64| {
        let before = exposure::marks(db).await.unwrap().through.get(&of).copied();
        let at = start + SignedDuration::from_secs(after);
        assert_eq!(exposure::add(db, &[addition(&of, before, at, 1)]).await.unwrap(), 1);
    };
    for after in [0, 10, 3600, 3610] {
        look(after).await;
    }
    assert_eq!(told(db, Width::Day, start, &of).await, Some((20.0, 0.0, Some(1.0))), "an hour of silence");
    for _ in 0..2 {
        for after in (0..=300).step_by(30) {
            look(after).await;
        }
    }
    let first = exposure::over(db, Width::FiveMinutes, (start, start + SignedDuration::from_secs(1))).await.unwrap();
    assert_eq!(Some(first[&of].measured_seconds), Some(300.0), "no more than there is in five minutes");
}

pub(super) async fn old_history_is_forgotten_by_its_width(state: &State) {
    let db = &state.db().await;
    let (of, now) = (exposed("wallet"), exposure::marks(db).await.unwrap().now);
    exposure::add(db, &[addition(&of, None, now, 1)]).await.unwrap();
    assert_eq!(exposure::forget(db).await.unwrap(), 0);
    // Eight days: five minutes go, and days stay.
    run(db, "UPDATE exposure SET begins_ms = begins_ms - 691200000").await;
    assert_eq!(exposure::forget(db).await.unwrap(), 1);
    run(db, "UPDATE exposure SET begins_ms = begins_ms - 34560000000").await;
    assert_eq!(exposure::forget(db).await.unwrap(), 1);
}
