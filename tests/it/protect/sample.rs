//! What a source is asked that a copy is asked later.

use std::time::Duration;

use lifeboat::{
    domain::{AnswerDigest, Lsn, Moment, Question, Told},
    engine::{EngineError, Look},
};

use super::{documented, over_tcp};
use crate::support::Lab;

const BETS: &str = "CREATE TABLE bets (stake numeric, rate float8, placed timestamptz, seal bytea, took interval, price money);
    INSERT INTO bets SELECT n, n / 3.0, '2026-01-01'::timestamptz + n * interval '1 hour', '\\x00ff', n * interval '1 day 1 s', 5
        FROM generate_series(1, 100) n;
    INSERT INTO bets (placed) VALUES ('2026-01-01')";

fn witness(sql: &str) -> Question {
    Question::Witness { dbname: "postgres".to_owned(), sql: sql.to_owned(), settle: Duration::from_secs(1) }
}

async fn answer(postgres: &impl Look, sql: &str) -> (Moment, AnswerDigest) {
    match postgres.sample(&witness(sql)).await.unwrap() {
        (moment, Told::Answer(answer)) => (moment, answer),
        (_, told) => panic!("{told:?}"),
    }
}

#[tokio::test]
async fn sessions_that_are_set_otherwise_answer_alike_and_the_order_means_nothing() {
    let lab = Lab::start("").await;
    lab.psql(BETS).await;
    let postgres = documented(&lab).await;
    lab.psql("GRANT SELECT ON bets TO lifeboat; CREATE ROLE other LOGIN IN ROLE pg_read_all_data").await;
    for (name, value) in [
        ("timezone", "'Asia/Tokyo'"),
        ("datestyle", "'German'"),
        ("intervalstyle", "'iso_8601'"),
        ("extra_float_digits", "-5"),
        ("bytea_output", "'escape'"),
        ("search_path", "pg_catalog"),
        ("default_transaction_isolation", "'read committed'"),
    ] {
        lab.psql(&format!("ALTER ROLE other SET {name} = {value}")).await;
    }
    let started: Lsn = lab.psql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
    let sql = "SELECT * FROM bets WHERE placed < :as_of ORDER BY stake";
    let (moment, first) = answer(&postgres, sql).await;
    let ended: Lsn = lab.psql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
    assert!(started <= moment.from && moment.from <= moment.to && moment.to <= ended, "{moment:?}");
    assert_eq!((first.rows, first.sha256.len(), moment.timeline.0), (101, 64, 1));
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let now: i64 = lab.psql(clock).await.parse().unwrap();
    assert!(moment.as_of.as_microsecond() <= now - 1_000_000, "{moment:?}");
    let others = over_tcp(&lab, "other");
    assert_eq!(answer(&others, &sql.replace("stake", "rate DESC")).await.1, first, "another role, another order");
    assert_ne!(answer(&others, &sql.replace("SELECT *", "SELECT stake")).await.1, first);
    lab.psql("UPDATE bets SET stake = 8 WHERE stake = 7").await;
    let changed = answer(&postgres, sql).await.1;
    assert!(changed != first && changed.rows == 101, "{changed:?}");
    let none = answer(&postgres, "SELECT stake FROM bets WHERE placed > :as_of").await.1;
    assert_eq!(none.rows, 0, "no row is an answer, too");
}

#[tokio::test]
async fn a_sample_writes_nothing_waits_for_no_lock_and_says_what_it_lacks() {
    let lab = Lab::start("").await;
    lab.psql(BETS).await;
    let postgres = documented(&lab).await;
    let refused = async |sql: &str| postgres.sample(&witness(sql)).await.unwrap_err();
    let error = refused("SELECT * FROM bets WHERE placed < :as_of").await;
    let EngineError::Unfit { what, remedy, .. } = &error else { panic!("{error:?}") };
    assert!(what.contains("permission denied for table bets"), "{error}");
    assert!(remedy.contains("GRANT SELECT ON … TO \"lifeboat\""), "{error}");
    lab.psql("GRANT SELECT, DELETE ON bets TO lifeboat").await;
    let code = |error: &EngineError| match error {
        EngineError::Server { code, .. } => code.clone(),
        other => panic!("{other:?}"),
    };
    let error = refused("DELETE FROM bets WHERE placed < :as_of RETURNING 1").await;
    assert_eq!(code(&error), "25006", "it is read only: {error}");
    let error = refused("SET timezone = 'UTC' -- :as_of").await;
    assert!(error.to_string().contains("it is no query"), "{error}");
    let error = refused("SELECT n, :as_of FROM generate_series(1, 100001) n").await;
    assert!(error.to_string().contains("more than 100000 rows"), "{error}");

    lab.psql("ALTER TABLE bets ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON bets USING (stake > 5)").await;
    let error = refused("SELECT * FROM bets WHERE placed < :as_of").await;
    assert!(error.to_string().contains("row-level security"), "rows that are hidden are no answer: {error}");
    lab.psql("ALTER TABLE bets DISABLE ROW LEVEL SECURITY").await;

    let locks = "BEGIN; LOCK TABLE bets; SELECT pg_sleep(600)";
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .socket(lab.cluster.socket_folder())
        .port(lab.port)
        .username("postgres");
    let mut holder: sqlx::PgConnection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let held = async {
        sqlx::raw_sql(locks).execute(&mut holder).await.unwrap();
    };
    let asked = async {
        let is_held = "SELECT count(*) FROM pg_locks WHERE relation = 'bets'::regclass AND granted";
        crate::support::eventually("the table is locked", Duration::from_secs(60), || async {
            lab.psql(is_held).await == "1"
        })
        .await;
        refused("SELECT * FROM bets WHERE placed < :as_of").await
    };
    tokio::select! {
        () = held => panic!("the lock was given back"),
        error = asked => assert_eq!(code(&error), "55P03", "it waits for no lock: {error}"),
    }
}

#[tokio::test]
async fn the_parts_of_a_cluster_hold_no_secret_and_name_what_is_not_seen() {
    let lab = Lab::start("primary_conninfo = 'host=nowhere password=hunter2'\nwork_mem = 5MB").await;
    let postgres = documented(&lab).await;
    lab.psql("CREATE ROLE ann LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 3; CREATE ROLE staff; GRANT staff TO ann")
        .await;
    lab.psql("ALTER ROLE ann IN DATABASE postgres SET app.secret = 'hunter2'; ALTER ROLE ann SET work_mem = '7MB'")
        .await;
    let asked = async || match postgres.sample(&Question::Parts).await.unwrap() {
        (_, Told::Parts(parts)) => parts,
        (_, told) => panic!("{told:?}"),
    };
    let parts = asked().await;
    assert!(!serde_json::to_string(&parts).unwrap().contains("hunter2"), "{parts:?}");
    assert!(!serde_json::to_string(&parts).unwrap().contains("SCRAM"), "{parts:?}");
    assert_eq!(parts.unseen, Vec::<String>::new());
    for (name, told) in [
        ("server major version", "15"),
        ("setting work_mem", "5120"),
        ("setting primary_conninfo", "sha256:"),
        ("role ann", "\"rolconnlimit\": 3"),
        ("membership of ann in staff", "\"admin_option\": false"),
        ("setting work_mem of role ann", "7MB"),
        ("setting app.secret of role ann in `postgres`", "sha256:"),
        ("extension plpgsql of `postgres`", "1.0"),
        ("extension plpgsql of `template1`", "1.0"),
        ("collation of `postgres`", "version "),
    ] {
        let value = parts.parts.get(name).unwrap_or_else(|| panic!("no {name}: {parts:?}"));
        assert!(value.contains(told), "{name}: {value}");
    }
    assert!(parts.hidden.contains("setting timezone"), "a session of ours sets it: {parts:?}");

    lab.psql("REVOKE pg_monitor FROM lifeboat; REVOKE CONNECT ON DATABASE template1 FROM PUBLIC").await;
    let parts = asked().await;
    let unseen = parts.unseen.join("; ");
    assert!(unseen.contains("the settings; run `GRANT pg_monitor TO \"lifeboat\"`"), "{unseen}");
    assert!(unseen.contains("what is in `template1`") && unseen.contains("GRANT CONNECT"), "{unseen}");
}
