//! The daemon as synchronous standby: what a client was told is committed is in
//! the vault, whatever becomes of the primary and its disk.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use lifeboat::process::{Tasks, end_all_of};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::{
    journey::backed_up,
    site::{Site, recovered, wallet},
    streaming::SOON,
};
use crate::support::{Lab, eventually};

/// Commits that a client was told of, as `CLIENT-NUMBER`.
type Told = Arc<Mutex<BTreeSet<String>>>;

/// A session of a superuser.
pub(super) async fn connect(lab: &Lab) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass().socket(lab.cluster.socket_folder());
    options.port(lab.port).username("postgres").database("wallet").connect().await.unwrap()
}

async fn run(session: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session).await.map(drop)
}

/// Commits one row after the other until the server is gone.
async fn commit(mut session: PgConnection, client: usize, level: &str, told: Told) {
    run(&mut session, format!("SET synchronous_commit = {level}")).await.unwrap();
    for number in 0.. {
        // In the simple protocol the answer comes after the commit, and never before.
        let insert = format!("INSERT INTO told VALUES ('{client}-{number}')");
        if run(&mut session, insert).await.is_err() {
            return;
        }
        told.lock().unwrap().insert(format!("{client}-{number}"));
    }
}

async fn have_commits_wait(lab: &Lab, names: &str) {
    lab.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await;
    lab.psql("SELECT pg_reload_conf()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_commit_that_was_acknowledged_is_lost_with_the_primary_and_its_disk() {
    let lab = wallet("fsync = on").await;
    lab.psql_in("wallet", "CREATE TABLE told (id text PRIMARY KEY)").await;
    let site = Site::write(lab.port);
    // Whoever waited for it would wait longer than this test.
    site.edit("schedules/wallet.yaml", "flush_every: 1s", "flush_every: 1h");
    site.edit("schedules/wallet.yaml", "rpo: 15s", "rpo: 2h");
    let mut daemon = site.serve(&["-vv"]);
    let streams =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'lifeboat' AND state = 'streaming'";
    eventually("the daemon streams", SOON, async || lab.psql(streams).await == "1").await;

    // It changes while the stream runs.
    have_commits_wait(&lab, "ANY 1 (standby, lifeboat)").await;
    let perhaps = ["wallet: member `connection`", "does not protect every commit"];
    noted(&site, &perhaps).await;
    have_commits_wait(&lab, "lifeboat").await;
    noted(&site, &["no acknowledged one can be lost", "commits stand still"]).await;
    backed_up(&site).await;

    let (tasks, told) = (Tasks::new(), Told::default());
    let levels = ["on", "remote_apply", "remote_write", "on"];
    let mut clients = Vec::new();
    for (client, level) in levels.into_iter().enumerate() {
        clients.push(tasks.spawn(commit(connect(&lab).await, client, level, Arc::clone(&told))));
    }
    let instant = 40 + usize::from(rand::random::<u8>());
    eventually("commits are acknowledged long before the next flush", SOON, async || {
        told.lock().unwrap().len() >= instant
    })
    .await;
    let text = site.get("/metrics").await.unwrap().1;
    let disk = lab.cluster.data();
    let (killed, ended) = tokio::join!(end_all_of(&disk), async {
        daemon.start_kill().unwrap();
        daemon.wait().await
    });
    killed.unwrap();
    ended.unwrap();
    for client in clients {
        client.await.unwrap();
    }
    std::fs::remove_dir_all(disk).unwrap();

    let told = told.lock().unwrap().clone();
    for (client, level) in levels.into_iter().enumerate() {
        let prefix = format!("{client}-");
        assert!(told.iter().any(|id| id.starts_with(&prefix)), "`{level}` is served too");
    }
    let data = site.path("restored");
    site.run(&["restore", "wallet", "--to", data.to_str().unwrap(), "--latest"]).await.json(0);
    let found = recovered(&lab, &data, "SELECT string_agg(id, ' ') FROM told").await;
    let found: BTreeSet<String> = found.split(' ').map(str::to_owned).collect();
    let lost: Vec<&String> = told.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged commits are lost: {lost:?}", lost.len(), told.len());

    let measured = "lifeboat_wal_durable_seconds_count{database=\"wallet\",vault=\"primary\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(measured)).map(|count| count.parse::<f64>().unwrap());
    assert!(count.is_some_and(|count| count > 0.0), "{text}");
    assert!(
        text.contains("lifeboat_wal_durable_seconds_bucket{database=\"wallet\",vault=\"primary\",le=\"3\"}"),
        "{text}"
    );
}

/// What `check --connect` says of it, and that it finds nothing wrong.
async fn noted(site: &Site, words: &[&str]) {
    eventually("check tells what it means", SOON, async || {
        let checked = site.run(&["check", "--connect"]).await.json(0);
        let notes: Vec<&str> =
            checked["findings"].as_array().unwrap().iter().filter_map(|note| note.as_str()).collect();
        notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
    })
    .await;
}
