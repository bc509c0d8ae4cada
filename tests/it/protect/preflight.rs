//! What the preflight finds, all at once, with the exact remedy.

use lifeboat::engine::{EngineError, Protect, Role};

use super::{member, over_tcp, set_hba};
use crate::support::{Lab, free_port};

fn texts(errors: &[EngineError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_fit_primary_passes_and_tells_about_itself() {
    let lab = Lab::start("").await;
    let postgres = over_tcp(&lab, "postgres");
    let facts = postgres.preflight().await.unwrap();
    assert_eq!(facts.role, Role::Primary);
    assert_eq!(facts.timeline.0, 1);
    assert_eq!(facts.system_id, lab.psql("SELECT system_identifier FROM pg_control_system()").await);
    assert!(facts.server_version.starts_with("15."), "{}", facts.server_version);
    assert_eq!(facts.segment_size.bytes(), 16 << 20);
    assert_eq!(lab.psql("SELECT count(*) FROM pg_replication_slots").await, "0", "it only looks");
}

#[tokio::test]
async fn everything_wrong_is_found_at_once() {
    let lab =
        Lab::start("wal_level = minimal\nmax_wal_senders = 0\nmax_replication_slots = 0\nfull_page_writes = off\n")
            .await;
    lab.psql("CREATE ROLE plain LOGIN").await;
    let postgres = over_tcp(&lab, "plain");
    let found = texts(&postgres.preflight().await.unwrap_err());
    for remedy in [
        "ALTER SYSTEM SET wal_level = 'replica'",
        "ALTER SYSTEM SET max_wal_senders = 2",
        "ALTER SYSTEM SET max_replication_slots = 1",
        "ALTER SYSTEM SET full_page_writes = on",
        r#"ALTER ROLE "plain" REPLICATION"#,
        "CREATE TABLE IF NOT EXISTS lifeboat.heartbeat",
        r#"GRANT SELECT, INSERT, DELETE ON lifeboat.heartbeat TO "plain""#,
    ] {
        assert!(found.contains(remedy), "{remedy} is missing in:\n{found}");
    }
    assert_eq!(found.lines().count(), 6, "{found}");
}

#[tokio::test]
async fn a_missing_line_for_replication_is_found() {
    let lab = Lab::start("").await;
    set_hba(&lab, "host all all 127.0.0.1/32 trust").await;
    let errors = over_tcp(&lab, "postgres").preflight().await.unwrap_err();
    assert!(matches!(errors.as_slice(), [EngineError::Login { .. }]), "{errors:?}");
}

#[tokio::test]
async fn the_primary_is_found_beside_a_member_that_is_down() {
    let lab = Lab::start("").await;
    let mut postgres = over_tcp(&lab, "postgres");
    postgres.members.insert(0, member("b", "127.0.0.1", free_port()));
    assert_eq!(postgres.preflight().await.unwrap().member.as_str(), "a");
    let seen = postgres.inspect().await;
    assert!(seen[0].1.is_err() && seen[1].1.is_ok(), "{seen:?}");

    postgres.members.pop();
    postgres.members.push(member("c", "127.0.0.1", free_port()));
    let errors = postgres.preflight().await.unwrap_err();
    assert!(matches!(errors.as_slice(), [EngineError::NoPrimary { .. }]), "{errors:?}");
}
