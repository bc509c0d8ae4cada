//! The tables beside the journal, on both databases, and how the state is opened.

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    db::{
        Db, agenda,
        evidence::{self, Row},
        findings, heartbeats, lever, nodes, runs, samples, vaults,
    },
    domain::{
        AnswerDigest, Attribution, Beat, ClusterParts, DatabaseName, Lsn, Moment, NodeRole, Sample, Timeline, Told,
    },
    tasks::forget::{Forgotten, forget_old},
};

use super::{
    exposure::{
        a_stretch_that_two_nodes_measure_counts_once, old_history_is_forgotten_by_its_width,
        silence_is_not_measured_and_a_clock_set_back_fills_no_bucket_twice,
    },
    notices::{a_notice_is_told_once, what_cannot_be_told_waits, what_nobody_began_to_tell_is_taken_back},
    state::State,
};

cases!(
    findings_open_and_close,
    heartbeats_keep_microseconds,
    samples_are_kept_by_database_and_question,
    evidence_grows_by_one_and_each_run_has_one_entry,
    nodes_live_and_leave,
    marks_move_forward_alone,
    a_vault_keeps_its_first_id,
    what_is_over_and_old_is_forgotten,
    the_lever_is_turned_once,
    a_notice_is_told_once,
    what_cannot_be_told_waits,
    what_nobody_began_to_tell_is_taken_back,
    a_stretch_that_two_nodes_measure_counts_once,
    silence_is_not_measured_and_a_clock_set_back_fills_no_bucket_twice,
    old_history_is_forgotten_by_its_width,
);

#[tokio::test]
async fn sqlite_is_synced_at_every_commit() {
    let state = State::sqlite();
    let Db::Sqlite { state, evidence } = state.db().await else { panic!("this is SQLite") };
    for pool in [state, evidence] {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    }
}

async fn the_lever_is_turned_once(state: &State) {
    let db = &state.db().await;
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

async fn findings_open_and_close(state: &State) {
    let db = &state.db().await;
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

async fn heartbeats_keep_microseconds(state: &State) {
    let db = &state.db().await;
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
    assert_eq!(heartbeats::first_since(db, &wallet, from).await.unwrap(), Some(beats[2]));
    let numbers = lifeboat::domain::BeatRange { first: 2, last: 9 };
    assert_eq!(heartbeats::numbered(db, &wallet, numbers).await.unwrap(), beats[1..9]);
    let until = (Timeline(3), beats[5].commit_lsn);
    assert_eq!(heartbeats::last_until(db, &wallet, numbers, until).await.unwrap(), Some(beats[5]));
    assert_eq!(heartbeats::trim(db, beats[4].acknowledged_at).await.unwrap(), 4);
    let all = heartbeats::between(db, &wallet, start, beats[9].acknowledged_at).await.unwrap();
    assert_eq!(all, beats[4..]);
    let later = beats[9].acknowledged_at + SignedDuration::from_hours(1);
    heartbeats::trim(db, later).await.unwrap();
    assert_eq!(heartbeats::newest(db, &wallet).await.unwrap(), Some(beats[9]), "the newest stays");
    assert_eq!(heartbeats::newest(db, &ledger).await.unwrap(), Some(beats[0]));
}

async fn samples_are_kept_by_database_and_question(state: &State) {
    let db = &state.db().await;
    let (wallet, ledger): (DatabaseName, DatabaseName) = ("wallet".parse().unwrap(), "ledger".parse().unwrap());
    let start: Timestamp = "2026-11-21T05:00:00.123456Z".parse().unwrap();
    let sample = |nth: i64, told: Told| Sample {
        taken_at: start + SignedDuration::from_micros(nth),
        moment: Moment {
            as_of: start - SignedDuration::from_micros(nth),
            system_id: "7713317621536039346".to_owned(),
            timeline: Timeline(3),
            from: Lsn(u64::MAX - 100),
            to: Lsn(u64::MAX),
        },
        told,
    };
    let answer = |rows| Told::Answer(AnswerDigest { rows, sha256: format!("{rows:064x}") });
    let parts = [("role `ž'".to_owned(), "{}".to_owned())].into();
    let parts = Told::Parts(ClusterParts { parts, unseen: vec!["a".to_owned()], ..ClusterParts::default() });
    let samples = [sample(1, answer(1)), sample(2, answer(u64::MAX)), sample(3, parts)];
    assert_eq!(samples::newest(db, &wallet, "bets").await.unwrap(), None);
    for sample in &samples {
        samples::append(db, &wallet, "bets", sample).await.unwrap();
    }
    samples::append(db, &wallet, "bets", &sample(1, answer(9))).await.unwrap();
    samples::append(db, &wallet, "stakes", &samples[0]).await.unwrap();
    samples::append(db, &ledger, "bets", &samples[0]).await.unwrap();
    assert_eq!(samples::newest(db, &wallet, "bets").await.unwrap(), Some(samples[2].taken_at));
    let moments = samples::moments(db, &wallet, "bets").await.unwrap();
    assert_eq!(moments, samples.each_ref().map(|sample| (sample.taken_at, sample.moment.clone())));
    for sample in &samples {
        let kept = samples::taken_at(db, &wallet, "bets", sample.taken_at).await.unwrap();
        assert_eq!(kept.as_ref(), Some(sample), "as it was stored first");
    }
    assert_eq!(samples::taken_at(db, &wallet, "stakes", samples[1].taken_at).await.unwrap(), None);
    assert_eq!(samples::trim(db, &wallet, samples[1].taken_at).await.unwrap(), 2, "of all its questions");
    assert_eq!(samples::moments(db, &wallet, "bets").await.unwrap().len(), 2);
    assert_eq!(samples::newest(db, &wallet, "stakes").await.unwrap(), None);
    assert_eq!(samples::newest(db, &ledger, "bets").await.unwrap(), Some(samples[0].taken_at), "another database's");
}

/// The row that stands upon `head`.
fn upon(head: Option<&Row>, run_id: &str) -> Row {
    let index = head.map_or(0, |head| head.index + 1);
    Row {
        index,
        run_id: run_id.to_owned(),
        entry: format!("{{\"upon\":\"{}\"}} ž", head.map_or("", |head| &head.leaf_hash)),
        leaf_hash: format!("{index:064x}"),
        signature: "signed\n".to_owned(),
    }
}

async fn evidence_grows_by_one_and_each_run_has_one_entry(state: &State) {
    // Pools of their own, as two nodes have.
    let (one, other) = (&state.db().await, &state.db().await);
    let append = async |db: &Db, run: String| {
        evidence::append(db, &run, |head| Ok::<_, lifeboat::db::DbError>(upon(head.as_ref(), &run))).await.unwrap()
    };
    let all = (0..20).map(|run| append(if run % 2 == 0 { one } else { other }, format!("run/{}", run / 2)));
    futures::future::join_all(all).await;
    let rows = evidence::rows_from(one, 0).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    for (before, row) in rows.iter().zip(&rows[1..]) {
        assert_eq!(*row, upon(Some(before), &row.run_id), "nobody built upon the same head");
    }
    assert_eq!(evidence::rows_from(other, 7).await.unwrap(), rows[7..]);
    assert_eq!(evidence::by_index(other, 3).await.unwrap(), Some(rows[3].clone()));
    assert_eq!(evidence::by_run(other, &rows[4].run_id).await.unwrap(), Some(rows[4].clone()));
    assert_eq!(evidence::by_run(other, "run/never").await.unwrap(), None);
    // What fails in between leaves nothing.
    let failed = evidence::append(one, "run/failed", |_| Err(failure())).await;
    assert!(failed.is_err() && evidence::by_run(one, "run/failed").await.unwrap().is_none());
}

fn failure() -> lifeboat::db::DbError {
    lifeboat::db::DbError::Url { url: "none".to_owned() }
}

async fn nodes_live_and_leave(state: &State) {
    let db = &state.db().await;
    let (malta, milan) = ("eu-mt-1".parse().unwrap(), "eu-south-1".parse().unwrap());
    nodes::tell(db, "b", &malta, &[NodeRole::Worker], "1.0.0").await.unwrap();
    nodes::tell(db, "a", &malta, &NodeRole::ALL, "1.0.0").await.unwrap();
    nodes::tell(db, "b", &milan, &[NodeRole::Api], "1.0.1").await.unwrap();
    let told = nodes::list(db).await.unwrap();
    assert_eq!(told.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let b = &told[1];
    assert_eq!((&b.region, b.roles.as_slice(), b.version.as_str()), (&milan, &[NodeRole::Api][..], "1.0.1"));
    assert!(told.iter().all(|node| node.is_alive));
    nodes::leave(db, "a").await.unwrap();
    run(db, "UPDATE nodes SET seen_ms = seen_ms - 30000").await;
    let silent = nodes::list(db).await.unwrap();
    assert!(silent.len() == 1 && !silent[0].is_alive, "{silent:?}");
    run(db, "UPDATE nodes SET seen_ms = seen_ms - 691200000").await;
    nodes::tell(db, "c", &malta, &[], "1.0.0").await.unwrap();
    assert_eq!(nodes::list(db).await.unwrap().len(), 1, "one that was silent for a week is forgotten");
}

async fn marks_move_forward_alone(state: &State) {
    let db = &state.db().await;
    let at = |second| Timestamp::from_second(second).unwrap();
    let mark = |line: &str, second| agenda::MarkRow {
        database: "wallet".to_owned(),
        line: line.to_owned(),
        through: at(second),
    };
    assert!(agenda::marks(db).await.unwrap().is_empty());
    runs::insert_all(db, &[], &[mark("full", 100), mark("incremental", 50)]).await.unwrap();
    runs::insert_all(db, &[], &[mark("full", 90), mark("incremental", 60)]).await.unwrap();
    let marks = agenda::marks(db).await.unwrap();
    let of_wallet: Vec<(&str, Timestamp)> = marks["wallet"].iter().map(|(line, at)| (line.as_str(), *at)).collect();
    assert_eq!(of_wallet, [("full", at(100)), ("incremental", at(60))]);
}

async fn a_vault_keeps_its_first_id(state: &State) {
    let db = &state.db().await;
    let vault = "primary".parse().unwrap();
    assert_eq!(vaults::id_of(db, &vault).await.unwrap(), None);
    assert!(vaults::remember(db, &vault, "first").await.unwrap());
    assert!(!vaults::remember(db, &vault, "second").await.unwrap());
    assert_eq!(vaults::id_of(db, &vault).await.unwrap().as_deref(), Some("first"));
}

/// Runs a statement on whichever database is open.
pub(super) async fn run(db: &Db, sql: &'static str) -> u64 {
    match db {
        Db::Sqlite { state, .. } => sqlx::query(sql).execute(state).await.unwrap().rows_affected(),
        Db::Postgres(pool) => sqlx::query(sql).execute(pool).await.unwrap().rows_affected(),
    }
}

/// Runs of which nothing is left, in the order of their ids.
async fn left(db: &Db) -> Vec<String> {
    let mut ids: Vec<String> = runs::list(db, 10_000).await.unwrap().into_iter().map(|run| run.id).collect();
    ids.sort();
    ids
}

async fn what_is_over_and_old_is_forgotten(state: &State) {
    let db = &state.db().await;
    let keep = "400d".parse().unwrap();
    assert_eq!(forget_old(db, keep).await.unwrap(), Forgotten::default(), "nothing is there");
    // More than one batch of a series, each a day younger than the one before, the last one of today.
    for day in 0..=900_i64 {
        let (id, ended) = (format!("backup/wallet/full/{day:04}"), (900 - day) * 86_400_000);
        insert(db, &id, "schedule", Some(ended)).await;
    }
    let years = 800 * 86_400_000;
    insert(db, "backup/ledger/full/0001", "schedule", None).await;
    insert(db, "backup/ledger/full/0002", "schedule", Some(years)).await;
    insert(db, "verify/wallet/primary/0001", "schedule", Some(years)).await;
    // Younger, and by hand: it does not stand for the one that was due.
    insert(db, "verify/wallet/primary/0002", "marija", Some(years / 2)).await;
    findings::open(db, "wal/wallet", "wallet", "old").await.unwrap();
    findings::close(db, "wal/wallet").await.unwrap();
    findings::open(db, "lag/wallet", "wallet", "still open").await.unwrap();
    run(db, "UPDATE findings SET opened_ms = 0").await;
    run(db, "UPDATE findings SET closed_ms = 1 WHERE closed_ms IS NOT NULL").await;
    evidence::append(db, "backup/wallet/full/0000", |head| {
        Ok::<_, lifeboat::db::DbError>(upon(head.as_ref(), "backup/wallet/full/0000"))
    })
    .await
    .unwrap();

    super::notices::stored_over(db, "maintenance/old/24h/dba", years).await;
    super::notices::stored_over(db, "maintenance/new/24h/dba", years / 4).await;

    let Forgotten { runs: forgotten, findings: of_findings, notices } = forget_old(db, keep).await.unwrap();
    assert_eq!((notices, run(db, "DELETE FROM notices").await), (1, 1));
    let left = left(db).await;
    // What ended on the day of the cut-off itself may count to either side.
    assert!((499..=501).contains(&forgotten) && of_findings == 1, "{forgotten} {of_findings}");
    assert_eq!(left.len() as u64, 905 - forgotten);
    for stays in [
        "backup/wallet/full/0900",
        "backup/wallet/full/0502",
        "backup/ledger/full/0001",
        "backup/ledger/full/0002",
        "verify/wallet/primary/0001",
        "verify/wallet/primary/0002",
    ] {
        assert!(left.iter().any(|id| id == stays), "{stays} went");
    }
    assert!(!left.iter().any(|id| id.as_str() < "backup/wallet/full/0499" && id.contains("wallet/full")), "{left:?}");
    let (_, journal) = runs::journal(db, "backup/wallet/full/0900").await.unwrap();
    assert_eq!(journal.len(), 1, "the journals of those that stay");
    assert!(runs::journal(db, "backup/wallet/full/0000").await.unwrap().1.is_empty());
    assert_eq!(findings::open_findings(db).await.unwrap().len(), 1);
    assert_eq!(evidence::rows_from(db, 0).await.unwrap().len(), 1, "evidence is never forgotten");
    assert_eq!(forget_old(db, keep).await.unwrap(), Forgotten::default(), "once is enough");
}

/// A run with a journal that ended so many milliseconds ago, or did not end.
async fn insert(db: &Db, id: &str, requester: &str, ended_ago_ms: Option<i64>) {
    let run = "INSERT INTO runs (id, flow, subject, params, requester, created_ms, begun_ms, finished_ms, state, fence, lease_until_ms)
        VALUES ($1, 'backup', $1, '{}', $2, $3, $3, $4, 'done', 1, 0)";
    let entry = "INSERT INTO journal (run_id, nonce, at_ms, fence, event) VALUES ($1, $1, 0, 1, '{}')";
    let now = lifeboat::clock::Clock::system().now().as_millisecond();
    let (ended, created) = (ended_ago_ms.map(|ago| now - ago), now - ended_ago_ms.unwrap_or(900 * 86_400_000));
    match db {
        Db::Sqlite { state, .. } => {
            let run = sqlx::query(run).bind(id).bind(requester).bind(created).bind(ended);
            run.execute(state).await.unwrap();
            sqlx::query(entry).bind(id).execute(state).await.unwrap();
        }
        Db::Postgres(pool) => {
            let run = sqlx::query(run).bind(id).bind(requester).bind(created).bind(ended);
            run.execute(pool).await.unwrap();
            sqlx::query(entry).bind(id).execute(pool).await.unwrap();
        }
    }
}
