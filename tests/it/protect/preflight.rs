//! What the preflight finds, all at once, with the exact remedy.

use std::time::Duration;

use lifeboat::engine::{EngineError, Look, Protect, Role};
use tokio_util::sync::CancellationToken;

use super::{documented, known, member, over_tcp, set_hba, stream::Memory};
use crate::support::{Lab, eventually, free_port, scratch};

fn texts(errors: &[EngineError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_fit_primary_passes_and_tells_about_itself() {
    let lab = Lab::start("").await;
    let postgres = documented(&lab).await;
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
    let errors = documented(&lab).await.preflight().await.unwrap_err();
    assert!(matches!(errors.as_slice(), [EngineError::Login { .. }]), "{errors:?}");
}

#[tokio::test]
async fn the_lines_that_pg_hba_lacks_are_told_as_they_must_be_written() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION PASSWORD 'p'").await;
    let mut postgres = over_tcp(&lab, "plain");
    postgres.login.credentials = Some(known(&postgres, "p"));
    set_hba(&lab, "host all other 127.0.0.1/32 scram-sha-256").await;
    let found = texts(&postgres.preflight().await.unwrap_err());
    let lines = ["host postgres plain 127.0.0.1/32 scram-sha-256", "host replication plain 127.0.0.1/32 scram-sha-256"];
    for line in lines {
        assert!(found.contains(&format!("add `{line}` to pg_hba.conf")), "{line} is not in:\n{found}");
    }
    assert_eq!(found.lines().count(), 2, "{found}");
    // Written as told they are what was missing; then what else is missing is told.
    set_hba(&lab, &lines.join("\n")).await;
    let found = texts(&postgres.preflight().await.unwrap_err());
    assert!(!found.contains("pg_hba.conf") && found.contains("GRANT SELECT, INSERT, DELETE"), "{found}");
    lab.psql("ALTER ROLE plain CONNECTION LIMIT 0").await;
    let found = texts(&postgres.preflight().await.unwrap_err());
    assert!(found.contains(r#"too many connections for role "plain"; raise the limit"#), "{found}");
    assert!(found.contains(r#"`ALTER ROLE "plain" CONNECTION LIMIT -1`"#), "{found}");
}

#[tokio::test]
async fn a_slot_of_our_name_that_is_somebody_elses_is_told_and_left_alone() {
    let lab = Lab::start("wal_level = logical").await;
    let postgres = documented(&lab).await;
    lab.psql("SELECT pg_create_logical_replication_slot('lifeboat_wallet', 'pgoutput')").await;
    let found = texts(&postgres.preflight().await.unwrap_err());
    for words in ["`lifeboat_wallet`", "logical slot of pgoutput", "another name in its schedule"] {
        assert!(found.contains(words), "{words} is not in: {found}");
    }
    let mut sink = Memory::default();
    let streamed = postgres.stream_wal(&mut sink, Duration::from_secs(1), CancellationToken::new()).await;
    let error = streamed.unwrap_err();
    assert!(matches!(error, EngineError::Unfit { .. }) && error.to_string().contains("somebody else's"), "{error}");
    let slots = "SELECT string_agg(slot_name || ' ' || slot_type, ',') FROM pg_replication_slots";
    assert_eq!(lab.psql(slots).await, "lifeboat_wallet logical");

    lab.psql("SELECT pg_drop_replication_slot('lifeboat_wallet')").await;
    lab.psql("SELECT pg_create_physical_replication_slot('lifeboat_wallet')").await;
    let folder = scratch();
    let program = lab.cluster.binaries.program("pg_receivewal", None).env("PGAPPNAME", "other");
    let args = ["-h", "127.0.0.1", "-U", "postgres", "--slot", "lifeboat_wallet", "--no-sync", "-p"];
    let program = program.args(args).arg(lab.port.to_string()).arg("-D").arg(folder.path());
    let mut other = program.start(std::fs::File::create(folder.path().join("log")).unwrap()).unwrap();
    eventually("the other client streams", Duration::from_secs(60), || async {
        lab.psql("SELECT active FROM pg_replication_slots").await == "t"
    })
    .await;
    let found = texts(&postgres.preflight().await.unwrap_err());
    assert!(found.contains("is in use by `other`"), "{found}");
    other.kill().await.unwrap();
}

#[tokio::test]
async fn the_primary_is_found_beside_a_member_that_is_down() {
    let lab = Lab::start("").await;
    let mut postgres = documented(&lab).await;
    postgres.members.insert(0, member("b", "127.0.0.1", free_port()));
    assert_eq!(postgres.preflight().await.unwrap().member.as_str(), "a");
    let seen = postgres.inspect().await;
    assert!(seen[0].1.is_err() && seen[1].1.is_ok(), "{seen:?}");

    postgres.members.pop();
    postgres.members.push(member("c", "127.0.0.1", free_port()));
    let errors = postgres.preflight().await.unwrap_err();
    assert!(matches!(errors.as_slice(), [EngineError::NoPrimary { .. }]), "{errors:?}");
}

/// None of it stops anything now; all of it would when a standby is promoted, or a
/// daemon was away.
#[tokio::test]
async fn what_would_fail_only_later_is_a_note_with_its_remedy() {
    let lab = Lab::start_major(18, "idle_replication_slot_timeout = '1h'").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION").await;
    let mut postgres = over_tcp(&lab, "plain");
    postgres.members.push(member("b", "127.0.0.1", free_port()));
    let notes = postgres.notes().await.unwrap();
    for words in [
        &["once it is the primary it must let us in", "`b`", "cannot be reached"][..],
        &[r#"GRANT pg_monitor TO "plain";"#, r#"GRANT EXECUTE ON FUNCTION pg_promote TO "plain";"#],
        &["may not see who streams", r#"`GRANT pg_monitor TO "plain";`"#],
        &["`idle_replication_slot_timeout` is 1h", "set it to 0"],
    ] {
        let holds = |note: &&String| words.iter().all(|word| note.contains(word));
        assert_eq!(notes.iter().filter(holds).count(), 1, "{words:?}: {notes:?}");
    }
    assert_eq!(notes.len(), 4, "{notes:?}");
    let lab = Lab::start("").await;
    assert_eq!(documented(&lab).await.notes().await.unwrap(), [""; 0]);
}
