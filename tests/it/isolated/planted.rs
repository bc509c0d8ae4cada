//! Ties to others that come with the source, or are planted into a copy: what the copy
//! only has is told, and what acts turns its check.

use std::{fs, path::Path, time::Duration};

use lifeboat::{
    domain::{Check, RecoveryTarget, Verdict},
    engine::{
        Recover,
        postgres::{Member, cluster::LocalCluster},
    },
};

use super::copy::Copy;
use crate::support::{Lab, eventually, free_port};

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check `{name}` in {checks:?}"))
}

/// What a source may have that must not act, or not be, in a copy of it.
async fn tied(lab: &Lab) {
    lab.psql("create foreign data wrapper nobody").await;
    lab.psql("create server erp foreign data wrapper nobody options (host '192.0.2.1')").await;
    for sql in [
        "create schema cron; create table cron.job (jobid int); insert into cron.job values (1), (2)",
        "create subscription idle connection 'host=127.0.0.1 port=1' publication p with (connect = false)",
    ] {
        lab.psql(sql).await;
    }
    let eager = "create subscription eager connection 'host=127.0.0.1 port=1' publication p with (connect = false)";
    lab.psql(eager).await;
    lab.psql("alter subscription eager enable").await;
    let data = lab.cluster.data();
    fs::create_dir(data.join("conf.d")).unwrap();
    for (name, text) in [
        ("server.key", "-----BEGIN PRIVATE KEY-----\nhunter2\n"),
        (".pgpass", "*:*:*:replicator:hunter2\n"),
        ("conf.d/secret.conf", "archive_command = 'push --key hunter2'\n"),
        ("postgresql.auto.conf", "primary_conninfo = 'host=db1 password=hunter2'\n"),
    ] {
        fs::write(data.join(name), text).unwrap();
    }
    give(lab, &data);
}

fn give(lab: &Lab, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&path)).unwrap();
    }
    let inside = folder.join("conf.d/secret.conf");
    lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&inside)).unwrap();
}

#[tokio::test]
async fn what_ties_a_source_to_others_is_told_and_acts_on_nobody() {
    let lab = Lab::start("max_logical_replication_workers = 0\n").await;
    tied(&lab).await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    let data = copy.folder.join("data");
    assert!(data.join("server.key").exists() && data.join("conf.d").exists(), "the backup has them");
    let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
    let checks = instance.isolation().await.unwrap();
    for (name, told) in [
        ("subscriptions", "2 in the catalog, 1 enabled"),
        ("background_jobs", "2 jobs of pg_cron in `postgres`"),
        ("foreign_servers", "erp of nobody in `postgres`; tried: a listener of ours, 2 members"),
        ("archive", "`off`, `(disabled)`, ``, `0`"),
        ("credentials", "none; its own login is `local all all trust`"),
    ] {
        let check = check(&checks, name);
        assert!(check.verdict == Verdict::Pass && check.actual.contains(told), "{check:?}");
    }
    let found = grep(&data, "hunter2");
    assert!(found.is_empty(), "{found:?}");

    // Planted into the running copy.
    instance.query("postgres", "select pg_create_physical_replication_slot('planted')").await.unwrap();
    fs::write(data.join("client.pem"), "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
    fs::write(data.join("postgresql.auto.conf"), "primary_conninfo = 'host=db1 password=x'\n").unwrap();
    fs::write(data.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    let link = data.join("pg_tblspc/99999");
    std::os::unix::fs::symlink(lab.cluster.data(), &link).unwrap();
    let checks = instance.isolation().await.unwrap();
    let outside = lab.cluster.data().display().to_string();
    for (name, told) in [
        ("replication", "`1`"),
        ("tablespaces", outside.as_str()),
        ("credentials", "`client.pem` is not of the cluster"),
        ("credentials", "`postgresql.auto.conf` holds a login"),
        ("credentials", "`pg_hba.conf` is not the copy's own"),
    ] {
        let check = check(&checks, name);
        assert!(check.verdict == Verdict::Fail && check.actual.contains(told), "{check:?}");
    }
    fs::remove_file(link).unwrap();
    instance.stop().await.unwrap();
}

/// Files directly in the folder that hold the text.
fn grep(folder: &Path, text: &str) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let holds = |path: &std::path::PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(text);
    files.filter(holds).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn settings_that_act_on_others_turn_their_checks() {
    let lab = Lab::start("max_logical_replication_workers = 0\n").await;
    tied(&lab).await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    copy.configure(RecoveryTarget::Immediate).await.unwrap();
    let conf = copy.folder.join("data/postgresql.conf");
    let planted = "archive_mode = on\narchive_command = 'true'\nmax_logical_replication_workers = 4\n\
                   shared_preload_libraries = 'auto_explain'\nprimary_conninfo = 'host=127.0.0.1 port=1'\n";
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + planted).unwrap();
    let instance = copy.postgres.start_isolated(&copy.params()).await.unwrap();
    let checks = instance.isolation().await.unwrap();
    for (name, told) in [
        ("archive", "`on`, `true`"),
        ("replication", "`host=127.0.0.1 port=1`"),
        ("subscriptions", "`4`"),
        ("background_jobs", "logical replication"),
        ("preloaded_libraries", "auto_explain"),
    ] {
        let check = check(&checks, name);
        assert!(check.verdict == Verdict::Fail && check.actual.contains(told), "{check:?}");
    }
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_whose_socket_is_in_sight_turns_the_checks() {
    let lab = Lab::start("").await;
    let mut copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    copy.configure(RecoveryTarget::Immediate).await.unwrap();
    // The instance's own folder is the one place that nothing covers.
    let inside = copy.folder.join("planted");
    let other = LocalCluster::new(lab.cluster.binaries.clone(), lab.cluster.account.clone(), inside.clone());
    let port = free_port();
    let socket = other.socket_folder();
    let quoted = socket.display().to_string().replace('\'', "''");
    let settings = format!("listen_addresses = ''\nport = {port}\nunix_socket_directories = '{quoted}'\nfsync = off\n");
    let host = socket.display().to_string();
    let planted = Member { name: "planted".parse().unwrap(), host, port, site: "here".parse().unwrap() };
    copy.postgres.members.push(planted);
    let instance = copy.postgres.start_isolated(&copy.params()).await.unwrap();
    other.init_with(&[]).await.unwrap();
    other.configure(&settings).unwrap();
    other.start(Duration::from_secs(60)).await.unwrap();
    let role = || async {
        let psql = other.binaries.program("psql", other.account.clone());
        let psql = psql.args(["-X", "-U", "postgres", "-d", "postgres", "-p", &port.to_string(), "-h"]).arg(&socket);
        psql.args(["-c", "create role lifeboat_probe login superuser"]).output(Duration::from_secs(20)).await.is_ok()
    };
    eventually("the probe's role is there", Duration::from_secs(60), role).await;
    let agent = copy.folder.join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let checks = instance.isolation().await.unwrap();
    let path = socket.join(format!(".s.PGSQL.{port}")).display().to_string();
    for (name, told) in
        [("sockets", "reached: "), ("sockets", &path), ("member:planted", &path), ("foreign_servers", &path)]
    {
        let check = check(&checks, name);
        assert!(check.verdict == Verdict::Fail && check.actual.contains(told), "{check:?}");
    }
    for name in ["member:tcp", "member:socket", "tcp_canary"] {
        assert_eq!(check(&checks, name).verdict, Verdict::Pass, "{checks:?}");
    }
    // Without it the other socket, which leads who knows where, is left.
    other.stop("fast").await.unwrap();
    let checks = instance.isolation().await.unwrap();
    let left = check(&checks, "sockets");
    let told = left.actual.contains(&agent.display().to_string());
    assert!(left.verdict == Verdict::Inconclusive && told, "{left:?}");
    drop(listener);
    let checks = instance.isolation().await.unwrap();
    assert_eq!(check(&checks, "sockets").verdict, Verdict::Pass, "{checks:?}");
    instance.stop().await.unwrap();
}
