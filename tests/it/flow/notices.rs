//! The outbox of notices, on both databases: cases of the list in `tables`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    clock::Clock,
    db::{
        Db,
        notices::{self, NewNotice},
    },
    domain::{Notice, Topic},
};

use super::{state::State, tables::run};

const LEASE: Duration = Duration::from_secs(30);

fn new(id: &str, notifier: &str, until: Timestamp) -> NewNotice {
    let notice = Notice {
        id: id.to_owned(),
        topic: Topic::MaintenanceAnnounced,
        at: "2026-12-25T01:00:00Z".parse().unwrap(),
        databases: vec!["wallet".parse().unwrap()],
        title: "Maintenance ž".to_owned(),
        text: "two\nlines".to_owned(),
        details: serde_json::json!({"stage": "24h"}),
    };
    NewNotice { notifier: notifier.parse().unwrap(), notice, until, over_at: until }
}

fn tomorrow() -> Timestamp {
    Clock::system().now() + SignedDuration::from_hours(24)
}

/// Stores one of what was over so many milliseconds ago.
pub(super) async fn stored_over(db: &Db, id: &str, ago_ms: i64) {
    let over_at = Clock::system().now() - SignedDuration::from_millis(ago_ms);
    notices::store(db, &[new(id, "dba", over_at)], &[]).await.unwrap();
}

async fn claimed(db: &Db) -> Option<(String, i64)> {
    let claimed = notices::claim(db, &"dba".parse().unwrap(), LEASE).await.unwrap();
    claimed.map(|claimed| (claimed.notice.id, claimed.attempts))
}

pub(super) async fn a_notice_is_told_once(state: &State) {
    // Pools of their own, as two nodes have.
    let (one, other) = (&state.db().await, &state.db().await);
    let both = [new("m/1/dba", "dba", tomorrow()), new("m/1/oncall", "oncall", tomorrow())];
    for db in [one, other] {
        notices::store(db, &both, &[]).await.unwrap();
    }
    let dba = "dba".parse().unwrap();
    let claims = (0..8).map(|number| notices::claim(if number % 2 == 0 { one } else { other }, &dba, LEASE));
    let claims = futures::future::join_all(claims).await;
    let mut got: Vec<_> = claims.into_iter().filter_map(Result::unwrap).collect();
    let first = got.pop().unwrap();
    assert!(got.is_empty(), "one of them alone may tell it: {got:?}");
    assert_eq!((&first.notice, first.attempts), (&both[0].notice, 1), "whole, as it was stored");
    // Who claimed it died: when the claim ends it comes again, by the same id.
    assert_eq!(claimed(other).await, None);
    run(one, "UPDATE notices SET lease_until_ms = 1 WHERE notifier = 'dba'").await;
    assert_eq!(claimed(other).await, Some(("m/1/dba".to_owned(), 2)));
    // What the one before has to say of it comes too late.
    notices::give_back(one, &first, Duration::ZERO, false).await.unwrap();
    assert_eq!(claimed(one).await, None);
    notices::note_sent(other, "m/1/dba").await.unwrap();
    run(one, "UPDATE notices SET lease_until_ms = 0, next_ms = 0 WHERE notifier = 'dba'").await;
    notices::store(one, &both, &[]).await.unwrap();
    assert_eq!(claimed(one).await, None, "it was told");
    let stored = notices::current(one, "m").await.unwrap();
    let told: Vec<_> = stored.iter().map(|stored| (stored.notifier.as_str(), stored.sent_at.is_some())).collect();
    assert_eq!(told, [("dba", true), ("oncall", false)]);
    assert!(notices::current(one, "n").await.unwrap().is_empty());
}

pub(super) async fn what_cannot_be_told_waits(state: &State) {
    let db = &state.db().await;
    let dba = "dba".parse().unwrap();
    notices::store(db, &[new("m/1/dba", "dba", tomorrow())], &[]).await.unwrap();
    run(db, "UPDATE notices SET stored_ms = stored_ms - 1000").await;
    notices::store(db, &[new("m/2/dba", "dba", tomorrow())], &[]).await.unwrap();
    let claim = async || notices::claim(db, &dba, LEASE).await.unwrap();
    let first = claim().await.unwrap();
    assert_eq!(first.notice.id, "m/1/dba", "the oldest first");
    assert_eq!(claimed(db).await, None, "while it is told none overtakes it");
    notices::give_back(db, &first, LEASE, false).await.unwrap();
    assert_eq!(claimed(db).await, None, "nor while it waits");
    // One that a person has to mend holds up nothing.
    run(db, "UPDATE notices SET next_ms = 0").await;
    let first = claim().await.unwrap();
    notices::give_back(db, &first, LEASE, true).await.unwrap();
    let second = claim().await.unwrap();
    assert_eq!((second.notice.id.as_str(), second.attempts), ("m/2/dba", 1));
    notices::give_back(db, &second, LEASE, false).await.unwrap();
    assert_eq!(claimed(db).await, None);
    // An edit of the files may have mended what was refused, and nothing else.
    notices::try_refused(db).await.unwrap();
    assert_eq!(claimed(db).await, Some(("m/1/dba".to_owned(), 3)));
    assert_eq!(claimed(db).await, None);
    notices::note_sent(db, "m/1/dba").await.unwrap();
    assert_eq!(claimed(db).await, None);
    run(db, "UPDATE notices SET next_ms = 0").await;
    assert!(notices::is_any_untold(db, &dba).await.unwrap());
    assert_eq!(claimed(db).await, Some(("m/2/dba".to_owned(), 2)));
    // Too late.
    run(db, "UPDATE notices SET next_ms = 0, lease_until_ms = 0, until_ms = 1").await;
    assert_eq!(claimed(db).await, None);
    assert!(!notices::is_any_untold(db, &dba).await.unwrap());
    assert_eq!(notices::current(db, "m").await.unwrap().len(), 2, "what they are about is not over");
    run(db, "UPDATE notices SET over_ms = 1").await;
    assert!(notices::current(db, "m").await.unwrap().is_empty());
}

pub(super) async fn what_nobody_began_to_tell_is_taken_back(state: &State) {
    let db = &state.db().await;
    let ids = ["m/1/dba", "m/2/dba"].map(str::to_owned);
    let both = [new(&ids[0], "dba", tomorrow()), new(&ids[1], "dba", tomorrow())];
    notices::store(db, &both, &[]).await.unwrap();
    let (tried, _) = claimed(db).await.unwrap();
    notices::store(db, &[new("m/3/dba", "dba", tomorrow())], &ids).await.unwrap();
    let left: Vec<String> = notices::current(db, "m").await.unwrap().into_iter().map(|of| of.notice.id).collect();
    assert_eq!(left, [tried.clone(), "m/3/dba".to_owned()]);
    run(db, "UPDATE notices SET lease_until_ms = 0").await;
    assert_eq!(claimed(db).await, Some(("m/3/dba".to_owned(), 1)), "the other one is told no more");
    assert_eq!(claimed(db).await, None);
    // It is true again, and comes after what was said meanwhile.
    run(db, "UPDATE notices SET stored_ms = stored_ms - 1000").await;
    notices::store(db, &[new(&tried, "dba", tomorrow())], &[]).await.unwrap();
    assert_eq!(claimed(db).await, None);
    notices::note_sent(db, "m/3/dba").await.unwrap();
    assert_eq!(claimed(db).await, Some((tried.clone(), 2)));
    notices::note_sent(db, &tried).await.unwrap();
    notices::store(db, &[new(&tried, "dba", tomorrow())], &[]).await.unwrap();
    run(db, "UPDATE notices SET lease_until_ms = 0").await;
    assert_eq!(claimed(db).await, None, "what was told is not said again");
}
