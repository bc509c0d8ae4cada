//! What the daemon does with WAL when a vault, the server or another process is
//! not as it should be.

#![allow(clippy::disallowed_methods, reason = "the data folder is copied by `cp` as an operator would")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lifeboat::{domain::Lsn, process::end_all_of};
use serde_json::Value;
use tokio::{process::Command, sync::Semaphore};

use super::site::{Site, finished, wallet};
use crate::support::{
    Lab, eventually,
    moto::{KEY_ID, Kind, Moto, REGION, SECRET},
    proxy::{Fate, Proxy},
};

pub(super) const SOON: Duration = Duration::from_secs(60);

pub(super) async fn status(site: &Site) -> Value {
    let Some((200, body)) = site.get("/api/v1/status").await else { return Value::Null };
    serde_json::from_str::<Value>(&body).unwrap()["databases"][0].clone()
}

/// Waits until every vault has all that the server has flushed by now.
pub(super) async fn caught_up(lab: &Lab, site: &Site) -> Lsn {
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("all WAL is in the vaults", SOON, || async {
        let status = status(site).await;
        let durable = status["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse::<Lsn>().ok());
        durable.is_some_and(|durable| durable >= end)
    })
    .await;
    end
}

/// The open findings that hold all of these words.
pub(super) async fn findings(site: &Site, words: &[&str]) -> Vec<String> {
    // As the daemon keeps them: a command would wait for each vault first.
    let db = sqlx::SqlitePool::connect(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap();
    let open = "SELECT message FROM findings WHERE closed_ms IS NULL";
    let messages: Vec<String> = sqlx::query_scalar(open).fetch_all(&db).await.unwrap();
    db.close().await;
    messages.into_iter().filter(|message| words.iter().all(|word| message.contains(word))).collect()
}

/// What lies under a part of the wallet's WAL, with its content.
pub(super) fn wal(site: &Site, vault: &str, part: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = site.files_in(vault).into_iter().filter(|path| path.to_string_lossy().contains(part));
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

pub(super) async fn bet(lab: &Lab, count: u32) {
    let sql = format!("INSERT INTO bets (stake) SELECT n % 50 FROM generate_series(1, {count}) n");
    lab.psql_in("wallet", &sql).await;
}

pub(super) async fn copied(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").args([from, to]);
    let copied = finished(copy).await;
    assert_eq!(copied.code, 0, "{copied:?}");
}

/// A server sends what it has flushed and nothing else, so that it is never
/// behind its vaults when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashed_and_recovered_is_no_alarm() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&["-vv"]);
    caught_up(&lab, &site).await;
    for _ in 0..4 {
        let load = async {
            // Ends with the server.
            let sql = "INSERT INTO bets (stake) SELECT n % 50 FROM generate_series(1, 10000000) n";
            lab.cluster
                .binaries
                .program("psql", lab.cluster.account.clone())
                .args(["-X", "-q", "-U", "postgres", "-d", "wallet", "-p", &lab.port.to_string(), "-c", sql, "-h"])
                .arg(lab.cluster.socket_folder())
                .output(SOON)
                .await
        };
        let end = caught_up(&lab, &site).await;
        let kill = async {
            eventually("the load is streamed", SOON, || async {
                let status = status(&site).await;
                let durable = status["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse::<Lsn>().ok());
                durable.is_some_and(|durable| durable > end.forward(4 << 20))
            })
            .await;
            end_all_of(&lab.cluster.data()).await.unwrap();
            // Nobody may have waited for the dead server, whose number is taken then.
            let socket = lab.cluster.socket_folder().join(format!(".s.PGSQL.{}.lock", lab.port));
            for lock in [lab.cluster.data().join("postmaster.pid"), socket] {
                std::fs::remove_file(lock).unwrap();
            }
        };
        let (loaded, ()) = tokio::join!(load, kill);
        assert!(loaded.is_err(), "the server was killed under load");
        lab.cluster.start(SOON).await.unwrap();
        caught_up(&lab, &site).await;
    }
    let log = site.text("log");
    assert!(!log.contains("was set back"), "{log}");
    assert_eq!(site.run(&["findings"]).await.json(0), serde_json::json!([]));
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_best_effort_vault_that_hangs_is_a_finding_by_name_and_delays_nothing() {
    let moto = Moto::start().await;
    moto.bucket("far-away", Kind::Plain).await;
    let (hangs, released) = (Arc::new(AtomicBool::new(false)), Arc::new(Semaphore::new(0)));
    let (is_hung, until) = (Arc::clone(&hangs), Arc::clone(&released));
    let proxy = Proxy::start(&moto.endpoint, move |_| {
        if is_hung.load(Ordering::SeqCst) { Fate::Hold(Arc::clone(&until)) } else { Fate::Pass }
    })
    .await;
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.put_private("s3.secret", SECRET);
    site.add_vault();
    let bucket = format!(
        "{{kind: s3, bucket: far-away, region: {REGION}, endpoint: \"{}\", \
         credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: s3.secret}}}}, durable: best_effort}}",
        proxy.endpoint
    );
    site.edit("lifeboat.yaml", "{kind: directory, path: dr, region: eu-central-1, durable: best_effort}", &bucket);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;

    hangs.store(true, Ordering::SeqCst);
    let tails = || wal(&site, "vault", ".tail.").len();
    for _ in 0..10 {
        let before = tails();
        bet(&lab, 10).await;
        eventually("the other vault gets a tail", SOON, || async { tails() > before }).await;
    }
    let words = ["WAL does not reach vault `dr`", "not answered"];
    eventually("a finding by name", SOON, || async { !findings(&site, &words).await.is_empty() }).await;
    let before = tails();
    bet(&lab, 10).await;
    eventually("the other vault goes on", SOON, || async { tails() > before }).await;
    assert_eq!(findings(&site, &["WAL is not streamed"]).await, [""; 0]);

    hangs.store(false, Ordering::SeqCst);
    released.add_permits(1);
    caught_up(&lab, &site).await;
    eventually("the finding goes away", SOON, || async { findings(&site, &["`dr`"]).await.is_empty() }).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_the_slot_busy_leaves_no_key() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    assert_eq!(wal(&site, "vault", "/wal/keys/").len(), 1);
    for _ in 0..2 {
        site.run(&["backup", "wallet"]).await.json(0);
    }
    bet(&lab, 10).await;
    caught_up(&lab, &site).await;
    assert_eq!(wal(&site, "vault", "/wal/keys/").len(), 1, "one stretch, one key");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
