use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::domain::Lsn;

fn plan(target: RecoveryTarget, isolated: bool) -> RecoveryPlan {
    RecoveryPlan {
        data: PathBuf::from("/r/data"),
        wal_folder: PathBuf::from("/r/wal"),
        awaited: None,
        target,
        timeline: Timeline(3),
        consistent_from: Lsn(0),
        required_settings: vec![
            ("max_connections".to_owned(), "100".to_owned()),
            ("max_locks_per_transaction".to_owned(), "256".to_owned()),
            ("archive_command".to_owned(), "rm -rf /".to_owned()),
            ("max_wal_senders".to_owned(), "10\narchive_mode = on".to_owned()),
        ],
        isolated,
    }
}

fn facts() -> FolderFacts {
    FolderFacts {
        major: 15,
        controldata: "max_connections setting:              250\nmax_wal_senders setting:              12\n\
                      max_locks_per_xact setting:           64\nmax_prepared_xacts setting:           7\n"
            .to_owned(),
        preload_libraries: Some("pg_cron".to_owned()),
    }
}

fn conf(target: RecoveryTarget, isolated: bool) -> String {
    postgresql_conf(&plan(target, isolated), &facts()).unwrap()
}

#[test]
fn replay_gets_the_highest_value_that_backup_or_folder_require_and_nothing_unlisted() {
    let text = conf(RecoveryTarget::Immediate, true);
    for (name, value) in [
        ("max_connections", "250"),
        ("max_locks_per_transaction", "256"),
        ("max_wal_senders", "12"),
        ("max_prepared_transactions", "7"),
        ("archive_mode", "off"),
        ("listen_addresses", ""),
        ("shared_preload_libraries", ""),
    ] {
        assert_eq!(value_in(&text, name).as_deref(), Some(value), "{name}");
    }
    assert!(!text.contains("archive_command") && !text.contains("rm -rf"));
}

#[test]
fn every_recovery_has_a_target_and_stays_on_its_timeline() {
    let at = "2026-11-21T04:30:00.123456Z".parse().unwrap();
    for (target, line) in [
        (RecoveryTarget::Immediate, "recovery_target = 'immediate'"),
        (RecoveryTarget::Lsn(Lsn(0x1_0300_0148)), "recovery_target_lsn = '1/3000148'"),
        (RecoveryTarget::Time(at), "recovery_target_time = '2026-11-21 04:30:00.123456+00'"),
        (RecoveryTarget::Xid("731".to_owned()), "recovery_target_xid = '731'"),
        (RecoveryTarget::Name("it's".to_owned()), "recovery_target_name = 'it''s'"),
    ] {
        let text = conf(target.clone(), false);
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
        let rest = "recovery_target_inclusive = on\nrecovery_target_timeline = '3'\nrecovery_target_action = 'promote'";
        assert!(text.contains(&format!("{line}\n{rest}")), "{text}");
        let Some(exclusive) = target.exclusive() else { continue };
        assert!(conf(exclusive, false).contains(&format!("{line}\n{}", rest.replace("= on", "= off"))));
    }
    let latest = postgresql_conf(&plan(RecoveryTarget::Latest, true), &facts());
    assert_eq!(latest, Err(SettingsError::UnknownTarget));
}

#[test]
fn a_name_cannot_smuggle_in_a_setting() {
    let target = RecoveryTarget::Name("x'\narchive_mode = on".to_owned());
    assert!(matches!(postgresql_conf(&plan(target, true), &facts()), Err(SettingsError::Unquotable(_))));
}

#[test]
fn only_an_isolated_instance_trusts_its_socket() {
    assert!(hba_conf(true).contains("trust") && !hba_conf(true).contains("host"));
    assert!(!hba_conf(false).contains("trust"));
    assert!(ident_conf(false, &["root"], &["postgres"]).contains("lifeboat \"root\" \"postgres\""));
    assert!(!ident_conf(true, &["root"], &["postgres"]).contains("root"));
}

#[test]
fn the_last_value_in_a_file_counts() {
    let text = "shared_preload_libraries = 'a'\n#shared_preload_libraries = 'no'\n Shared_Preload_Libraries 'b, c' # x\nport=5\n";
    assert_eq!(value_in(text, "shared_preload_libraries").as_deref(), Some("b, c"));
    assert_eq!(value_in(text, "port").as_deref(), Some("5"));
    assert_eq!(value_in(text, "por"), None);
}

proptest! {
    #[test]
    fn a_quoted_value_stays_one_value(value in "[^\n\r\0]*") {
        let text = quoted(&value).unwrap();
        let inside = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).unwrap();
        prop_assert_eq!(inside.replace("\\\\", "\\").replace("''", "'"), value);
        prop_assert!(!inside.replace("''", "").contains('\''));
    }
}
