//! Our slot on a standby, and slots there that are not ours.

use lifeboat::engine::{EngineError, Protect, postgres::Postgres};

use super::{member, over_tcp};
use crate::support::{Lab, standby::Standby};

const OURS: &str =
    "SELECT slot_type, restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'";
const DROP: &str = "SELECT pg_drop_replication_slot('lifeboat_wallet')";

/// What became of the slot on the standby.
async fn kept(postgres: &Postgres) -> Result<(), EngineError> {
    let mut all = postgres.keep_on_standbys(None).await.into_iter();
    let (primary, standby) = (all.next().unwrap(), all.next().unwrap());
    assert!(primary.0.as_str() == "a" && primary.1.is_ok(), "the primary has nothing to be done: {primary:?}");
    standby.1
}

#[tokio::test]
async fn a_slot_on_a_standby_is_made_anew_by_two_at_once_and_anothers_is_told() {
    // A standby has logical slots since 16.
    let lab = Lab::start_major(18, "wal_level = logical").await;
    let standby = Standby::of(&lab).await;
    let mut postgres = over_tcp(&lab, "postgres");
    postgres.members.push(member("b", "127.0.0.1", standby.port));

    let anothers = "SELECT pg_create_logical_replication_slot('lifeboat_wallet', 'pgoutput')";
    let making = standby.psql_in("postgres", anothers);
    tokio::pin!(making);
    loop {
        // It waits for the primary to say which transactions run.
        tokio::select! {
            _ = &mut making => break,
            _ = lab.psql("SELECT pg_log_standby_snapshot()") => {}
        }
    }
    let told = kept(&postgres).await.unwrap_err();
    assert!(matches!(told, EngineError::Unfit { .. }) && told.to_string().contains("logical slot"), "{told}");
    standby.psql_in("postgres", DROP).await;
    kept(&postgres).await.unwrap();
    assert_eq!(standby.psql_in("postgres", OURS).await, "physical|t");

    // One that keeps nothing, as if it had lost its WAL.
    for _ in 0..10 {
        standby.psql_in("postgres", DROP).await;
        standby.psql_in("postgres", "SELECT pg_create_physical_replication_slot('lifeboat_wallet')").await;
        assert_eq!(standby.psql_in("postgres", OURS).await, "physical|f");
        let (one, other) = tokio::join!(kept(&postgres), kept(&postgres));
        one.unwrap();
        other.unwrap();
        assert_eq!(standby.psql_in("postgres", OURS).await, "physical|t");
    }
}
