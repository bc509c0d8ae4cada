//! The small tables beside the journal, and how the database is opened.

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    db::{Db, findings, heartbeats, lever},
    domain::{Attribution, Beat, DatabaseName, Lsn, Timeline},
};

use super::state::State;
use crate::support::Lab;

#[tokio::test]
async fn sqlite_is_synced_at_every_commit() {
    let state = State::sqlite();
    let Db::Sqlite(pool) = state.db().await else { panic!("this is SQLite") };
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
    assert_eq!((synchronous, journal.as_str()), (2, "wal"));
}

#[tokio::test]
async fn findings_and_heartbeats_are_kept_on_sqlite() {
    let state = State::sqlite();
    let db = state.db().await;
    findings_open_and_close(&db).await;
    heartbeats_keep_microseconds(&db).await;
    the_lever_is_turned_once(&db).await;
}

#[tokio::test]
async fn findings_and_heartbeats_are_kept_on_postgresql() {
    let lab = Lab::start("").await;
    let db = State::postgres(&lab, "tables").await.db().await;
    findings_open_and_close(&db).await;
    heartbeats_keep_microseconds(&db).await;
    the_lever_is_turned_once(&db).await;
}

async fn the_lever_is_turned_once(db: &Db) {
    let by = |who: &str| Attribution::new(who, "a match").unwrap();
    assert!(!lever::current(db).await.unwrap().on, "it is off before anybody turns it");
    assert!(!lever::turn(db, false, &by("ann")).await.unwrap());
    let people: Vec<Attribution> = (0..8).map(|number| by(&format!("person {number}"))).collect();
    let turned = futures::future::join_all(people.iter().map(|by| lever::turn(db, true, by))).await;
    let turned: Vec<bool> = turned.into_iter().map(Result::unwrap).collect();
    assert_eq!(turned.iter().filter(|turned| **turned).count(), 1, "{turned:?}");
    let who = &people[turned.iter().position(|turned| *turned).unwrap()].who;
    let stands = lever::current(db).await.unwrap();
    assert_eq!((stands.on, stands.who.as_ref(), stands.reason.as_deref()), (true, Some(who), Some("a match")));
    assert!(lever::turn(db, false, &by("eve")).await.unwrap());
    let turns = lever::unrecorded(db).await.unwrap();
    assert_eq!(turns.iter().map(|turn| turn.on).collect::<Vec<_>>(), [true, false]);
    lever::note_recorded(db, turns[0].seq).await.unwrap();
    let left = lever::unrecorded(db).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].by.who, "eve");
}

async fn findings_open_and_close(db: &Db) {
    findings::open(db, "wal/wallet", "wallet", "first").await.unwrap();
    findings::open(db, "lag/ledger", "ledger", "other").await.unwrap();
    let first = findings::open_findings(db).await.unwrap();
    findings::open(db, "wal/wallet", "wallet", "second").await.unwrap();
    let again = findings::open_findings(db).await.unwrap();
    assert_eq!((first.len(), again.len()), (2, 2));
    let of = |all: &[findings::Finding]| all.iter().find(|finding| finding.id == "wal/wallet").unwrap().clone();
    assert_eq!(of(&again).message, "second");
    assert_eq!(of(&again).opened_at, of(&first).opened_at, "an open finding keeps its time");
    findings::close(db, "wal/wallet").await.unwrap();
    findings::close(db, "wal/wallet").await.unwrap();
    assert_eq!(findings::open_findings(db).await.unwrap().len(), 1);
    findings::open(db, "wal/wallet", "wallet", "third").await.unwrap();
    assert_eq!(of(&findings::open_findings(db).await.unwrap()).message, "third");
}

async fn heartbeats_keep_microseconds(db: &Db) {
    let (wallet, ledger): (DatabaseName, DatabaseName) = ("wallet".parse().unwrap(), "ledger".parse().unwrap());
    let start: Timestamp = "2026-11-21T05:00:00.123456Z".parse().unwrap();
    let beat = |seq: i64| Beat {
        seq,
        acknowledged_at: start + SignedDuration::from_micros(seq * 1_000_001),
        commit_lsn: Lsn(u64::MAX - 1000 + u64::try_from(seq).unwrap()),
        timeline: Timeline(3),
    };
    let beats: Vec<Beat> = (1..=10).map(beat).collect();
    assert_eq!(heartbeats::newest(db, &wallet).await.unwrap(), None);
    heartbeats::append(db, &wallet, &beats).await.unwrap();
    heartbeats::append(db, &wallet, &beats[3..5]).await.unwrap();
    heartbeats::append(db, &ledger, &beats[..1]).await.unwrap();
    assert_eq!(heartbeats::newest(db, &wallet).await.unwrap(), Some(beats[9]));
    let (from, to) = (beats[2].acknowledged_at, beats[4].acknowledged_at);
    assert_eq!(heartbeats::between(db, &wallet, from, to).await.unwrap(), beats[2..5]);
    assert_eq!(heartbeats::trim(db, beats[4].acknowledged_at).await.unwrap(), 4);
    let all = heartbeats::between(db, &wallet, start, beats[9].acknowledged_at).await.unwrap();
    assert_eq!(all, beats[4..]);
    let later = beats[9].acknowledged_at + SignedDuration::from_hours(1);
    heartbeats::trim(db, later).await.unwrap();
    assert_eq!(heartbeats::newest(db, &wallet).await.unwrap(), Some(beats[9]), "the newest stays");
    assert_eq!(heartbeats::newest(db, &ledger).await.unwrap(), Some(beats[0]));
}
