//! A restore never touches production.

use std::{fs, time::Duration};

use lifeboat::{
    domain::{Check, RecoveryTarget, Verdict},
    engine::{
        Instance,
        postgres::{
            cluster::LocalCluster,
            isolated::{self, Confinement},
        },
    },
};

use super::copy::{Copy, beat};
use crate::support::{Lab, eventually, free_port, scratch};

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check `{name}` in {checks:?}"))
}

#[tokio::test]
async fn production_cannot_be_reached_and_that_is_shown() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
    let checks = instance.isolation().await.unwrap();
    for check in &checks {
        assert_eq!(check.verdict, Verdict::Pass, "{check:?}");
    }
    // The probes of the members could have failed: both are there from outside.
    for name in ["member:tcp", "member:socket"] {
        assert!(check(&checks, name).actual.contains("from outside: reached"), "{checks:?}");
    }
    // The server's own programs have no way out either, and write nowhere else.
    let outside = copy.folder.parent().unwrap().join("outside");
    for (attempt, goal) in [
        (format!("psql -h 127.0.0.1 -p {} -U postgres -c 'create table reached()'", lab.port), "a connection"),
        (
            format!(
                "psql -h {} -p {} -U postgres -c 'create table reached()'",
                lab.cluster.socket_folder().display(),
                lab.port
            ),
            "a connection",
        ),
        (format!("touch {}", outside.display().to_string().replace('\'', "\\''")), "a file"),
    ] {
        let attempt = attempt.replace('\'', "''");
        let sql = format!(
            "create temp table o(l text); copy o from program '{attempt} 2>&1 || :' (delimiter E'\\x01'); select count(*) from o"
        );
        let answer = instance.query("postgres", &sql).await.unwrap();
        assert_ne!(answer.first.as_deref(), Some("0"), "{goal} left the instance: {attempt}");
    }
    assert!(!outside.exists());
    assert_eq!(lab.psql("select to_regclass('reached')").await, "");
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn without_namespaces_the_verdict_is_not_pass() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    copy.configure(RecoveryTarget::Immediate).await.unwrap();
    let off = Confinement::None { reason: "switched off".to_owned() };
    let instance = isolated::start(&copy.postgres, &copy.params(), off).await.unwrap();
    let checks = instance.isolation().await.unwrap();
    assert_eq!(Verdict::worst(checks.iter().map(|check| check.verdict)), Verdict::Inconclusive);
    for name in
        ["namespaces", "network", "files", "tcp_canary", "sockets", "foreign_servers", "member:tcp", "member:socket"]
    {
        let check = check(&checks, name);
        assert!(check.verdict == Verdict::Inconclusive && check.actual.contains("switched off"), "{check:?}");
    }
    assert_eq!(check(&checks, "listen_addresses").verdict, Verdict::Pass);
    instance.stop().await.unwrap();
    assert!(super::copy::processes_in(&copy.folder).is_empty());
}

#[tokio::test]
async fn a_copy_of_a_standby_with_everything_switched_on_comes_up_apart() {
    let lab = Lab::start("").await;
    beat(&lab, 1..=2).await;
    lab.psql("select pg_create_physical_replication_slot('standby')").await;
    let folder = scratch();
    let standby =
        LocalCluster::new(lab.cluster.binaries.clone(), lab.cluster.account.clone(), folder.path().join("standby"));
    standby.make_folders().unwrap();
    let port = free_port();
    standby
        .binaries
        .program("pg_basebackup", standby.account.clone())
        .args(["-R", "-S", "standby", "-c", "fast", "--no-sync", "-U", "postgres", "-h", "127.0.0.1"])
        .args(["-p", &lab.port.to_string(), "-D"])
        .arg(standby.data())
        .output(Duration::from_secs(60))
        .await
        .unwrap();
    standby
        .configure(&format!(
            "port = {port}\nunix_socket_directories = '{}'\nmax_connections = 150\n",
            standby.socket_folder().display()
        ))
        .unwrap();
    standby.start(Duration::from_secs(30)).await.unwrap();
    let streaming = || async { lab.psql("select count(*) from pg_stat_replication").await == "1" };
    eventually("the standby streams", Duration::from_secs(20), streaming).await;

    // In its files only: running so, it would end a backup only once the primary writes on.
    standby.configure("archive_mode = always\narchive_command = 'true'\n").unwrap();
    let copy = Copy::take(&lab, &standby, port, None).await;
    assert!(copy.folder.join("data/standby.signal").exists(), "the source must be a standby");
    beat(&lab, 3..=3).await;
    let newest = copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Lsn(copy.last_record(newest).await)).await.unwrap();
    standby.stop("fast").await.unwrap();
    // Only the copy could stream now.
    let alone = || async { lab.psql("select count(*) from pg_stat_replication").await == "0" };
    eventually("nobody streams", Duration::from_secs(20), alone).await;
    assert_eq!(lab.psql("select active from pg_replication_slots").await, "f");
    let checks = instance.isolation().await.unwrap();
    for name in ["archive", "replication", "subscriptions", "background_jobs", "foreign_servers", "listen_addresses"] {
        assert_eq!(check(&checks, name).verdict, Verdict::Pass, "{checks:?}");
    }
    assert_eq!(instance.heartbeats().await.unwrap().present, [1, 2, 3]);
    assert!(!copy.folder.join("data/standby.signal").exists());
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn a_tablespace_lies_inside_or_the_folder_is_refused() {
    let lab = Lab::start("").await;
    let theirs = lab.cluster.folder.join("space");
    fs::create_dir(&theirs).unwrap();
    lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&theirs)).unwrap();
    lab.psql(&format!("create tablespace space location '{}'", theirs.display())).await;
    lab.psql("create table t tablespace space as select 42 as n").await;
    let copy = Copy::take(&lab, &lab.cluster, lab.port, Some(&theirs)).await;
    copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
    assert_eq!(instance.query("postgres", "select n from t").await.unwrap().first.as_deref(), Some("42"));
    let checks = instance.isolation().await.unwrap();
    assert_eq!(check(&checks, "tablespaces").actual, "1, all inside");
    instance.stop().await.unwrap();

    let stale = Copy::take(&lab, &lab.cluster, lab.port, Some(&theirs)).await;
    fs::write(stale.folder.join("data/tablespace_map"), format!("16384 {}\n", theirs.display())).unwrap();
    let refused = stale.configure(RecoveryTarget::Immediate).await.unwrap_err();
    assert!(refused.to_string().contains("outside the restore"), "{refused}");
}

#[tokio::test]
async fn an_operators_copy_recovers_when_it_is_started_and_ties_itself_to_nothing() {
    let lab = Lab::start("archive_mode = on\narchive_command = 'true'\n").await;
    beat(&lab, 1..=3).await;
    let copy = Copy::of(&lab).await;
    beat(&lab, 4..=4).await;
    let newest = copy.archive(&lab, 0).await;
    let target = RecoveryTarget::Lsn(copy.last_record(newest).await);
    copy.configure_for(target, false).await.unwrap();
    let server = LocalCluster::new(lab.cluster.binaries.clone(), lab.cluster.account.clone(), copy.folder.clone());
    server.make_folders().unwrap();
    // What an operator would do: pick a port and a socket folder.
    let port = free_port();
    server
        .configure(&format!(
            "port = {port}\nunix_socket_directories = '{}'\n",
            copy.folder.join("socket").display().to_string().replace('\'', "''")
        ))
        .unwrap();
    server.start(Duration::from_secs(60)).await.unwrap();
    let ask = |sql: &'static str| {
        let program = server.binaries.program("psql", server.account.clone());
        let program = program.args(["-X", "-A", "-t", "-q", "-U", "postgres", "-d", "postgres", "-h"]);
        program.arg(copy.folder.join("socket")).args(["-p", &port.to_string(), "-c", sql])
    };
    let recovered = || async {
        let answer = ask("select not pg_is_in_recovery()").output(Duration::from_secs(10)).await;
        answer.is_ok_and(|text| text.trim() == "t")
    };
    eventually("the copy is recovered", Duration::from_secs(30), recovered).await;
    let facts = "select max(seq), current_setting('archive_mode'), current_setting('fsync') from lifeboat.heartbeat";
    let answer = ask(facts).output(Duration::from_secs(10)).await.unwrap();
    assert_eq!(answer.trim(), "4|off|on");
    // Local users are who they are; nobody enters over TCP without a password.
    let nobody = ask("select 1").arg("-h").arg("127.0.0.1").arg("-w").output(Duration::from_secs(10)).await;
    assert!(nobody.is_err(), "{nobody:?}");
    server.stop("fast").await.unwrap();
}
