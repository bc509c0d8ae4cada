//! Editing the files of a daemon that serves: what is new is protected, what is
//! broken is refused whole, and what was not touched goes on.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    site::{DIGEST, PASSWORD, Site, finished, recovered, wallet},
    streaming::{SOON, bet},
    tiers,
};
use crate::support::{Lab, eventually};

/// The server's process that streams a database, as long as it streams.
async fn sender(lab: &Lab, database: &str) -> String {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE active AND slot_name LIKE '%";
    lab.psql(&format!("{sql}{database}'")).await
}

pub(super) async fn status(site: &Site) -> Value {
    match site.get("/api/v1/status").await {
        Some((200, body)) => serde_json::from_str(&body).unwrap(),
        _ => Value::Null,
    }
}

async fn databases(site: &Site) -> Vec<String> {
    let status = status(site).await;
    let names = status["databases"].as_array().into_iter().flatten();
    names.map(|database| database["database"].as_str().unwrap().to_owned()).collect()
}

pub(super) async fn protects(site: &Site, wanted: &[&str]) {
    eventually(&format!("{wanted:?} are protected"), SOON, async || {
        let status = status(site).await;
        let databases = status["databases"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = databases.iter().map(|database| database["database"].as_str().unwrap()).collect();
        names == wanted
            && databases.iter().all(|database| {
                database["wal_streaming"]["state"] == "streaming" && database["last_heartbeat"].is_string()
            })
    })
    .await;
}

/// What is told of the files; nothing where all is well.
async fn told(site: &Site) -> Option<String> {
    let status = status(site).await;
    let is_of_files = |finding: &&Value| finding["message"].as_str().unwrap().starts_with("the edited files");
    let found = status["findings"].as_array()?.iter().find(is_of_files)?;
    assert_eq!(found["subject"], "test", "{found}");
    Some(found["message"].as_str()?.to_owned())
}

async fn refuses(site: &Site, words: &[&str]) {
    eventually(&format!("a finding tells {words:?}"), SOON, async || {
        told(site).await.is_some_and(|told| words.iter().all(|word| told.contains(word)))
    })
    .await;
}

async fn is_content(site: &Site) {
    let healthy = async || !status(site).await.is_null() && told(site).await.is_none();
    eventually("the finding is closed", SOON, healthy).await;
}

/// WAL that is written now reaches the vault.
async fn streams(lab: &Lab, site: &Site) {
    bet(lab, 100).await;
    let end: lifeboat::domain::Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("the vault has all WAL", SOON, async || {
        let status = status(site).await;
        let databases = status["databases"].as_array().cloned().unwrap_or_default();
        let durable = |database: &Value| database["wal_streaming"]["durable_lsn"].as_str()?.parse().ok();
        !databases.is_empty()
            && databases.iter().all(|of| durable(of).is_some_and(|durable: lifeboat::domain::Lsn| durable >= end))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_take_effect_while_the_daemon_serves_and_broken_ones_do_not() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    protects(&site, &["wallet"]).await;
    let first = sender(&lab, "wallet").await;

    // A new file, and a backup by what it says.
    let schedule = site.text("schedules/wallet.yaml").replace("database: wallet\n", "database: ledger\n");
    site.put("schedules/ledger.yaml", &schedule.replacen("0 2 29 2 *", "*/10 * * * * *", 1));
    protects(&site, &["ledger", "wallet"]).await;
    eventually("a backup by the new schedule", SOON, async || {
        let (_, body) = site.get("/api/v1/backups").await.unwrap_or_default();
        let backups: Value = serde_json::from_str(&body).unwrap_or_default();
        backups["items"].as_array().is_some_and(|all| {
            all.iter().any(|backup| backup["database"] == "ledger" && backup["state"] == "WAL_COMPLETE")
        })
    })
    .await;
    assert_eq!(sender(&lab, "wallet").await, first, "the stream of what was not edited was interrupted");

    // Broken: of two new files one is sound, and neither takes effect.
    site.put("schedules/ledger.yaml", &schedule.replace("flush_every: 1s", "flush_evry: 1s"));
    site.put("schedules/third.yaml", &schedule.replace("database: ledger", "database: third"));
    refuses(&site, &["ledger.yaml:", "flush_evry", "what was before goes on"]).await;
    assert_eq!(databases(&site).await, ["ledger", "wallet"], "nothing of it takes effect");
    streams(&lab, &site).await;
    site.put("schedules/ledger.yaml", &schedule);
    is_content(&site).await;
    protects(&site, &["ledger", "third", "wallet"]).await;

    // What is bound at the start, by SIGHUP, and taken back.
    site.edit("lifeboat.yaml", "name: test", "name: other");
    let hang_up = || kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGHUP).unwrap();
    hang_up();
    refuses(&site, &["`node` (but for `scratch`) cannot change while the daemon runs"]).await;
    site.edit("lifeboat.yaml", "name: other", "name: test");
    hang_up();
    is_content(&site).await;

    // Maintenance shifts what is due and interrupts no stream.
    let next = async || {
        let status = status(&site).await;
        let wallet = status["databases"].as_array()?.iter().find(|database| database["database"] == "wallet")?.clone();
        Some(wallet["next_runs"].as_array()?.iter().find(|run| run["what"] == "full backup")?["at"].clone())
    };
    let due = next().await;
    assert!(due.is_some());
    let week = "maintenance: [{reason: new disks, start: \"Mon 00:00\", end: \"Sun 23:59\"}]\napi:";
    site.edit("lifeboat.yaml", "api:", week);
    eventually("it is shifted", SOON, async || next().await.is_some_and(|at| Some(at) != due)).await;
    site.edit("lifeboat.yaml", week, "api:");
    eventually("it is due as before", SOON, async || next().await == due).await;
    assert_eq!(sender(&lab, "wallet").await, first, "nobody's WAL waits for maintenance");

    // A file that goes is no more protected.
    std::fs::remove_file(site.path("schedules/third.yaml")).unwrap();
    protects(&site, &["ledger", "wallet"]).await;
    eventually("its stream ends", SOON, async || sender(&lab, "third").await.is_empty()).await;
    assert_eq!(sender(&lab, "wallet").await, first, "no edit touched the wallet");

    tiers::are_told(&lab, &site).await;
    assert_eq!(sender(&lab, "wallet").await, first, "what another database lacks touches no stream");

    // No file of the configuration changes, and nobody asks for anything: it is read at each login.
    lab.psql(&format!("ALTER ROLE lifeboat PASSWORD '{PASSWORD}2'")).await;
    site.put_private("wallet.password", &format!("{PASSWORD}2"));
    lab.psql(&format!("SELECT pg_terminate_backend({first})")).await;
    eventually("streams log in with the new password", SOON, async || {
        let now = sender(&lab, "wallet").await;
        !now.is_empty() && now != first
    })
    .await;
    protects(&site, &["ledger", "wallet"]).await;
    streams(&lab, &site).await;

    let rows = lab.psql_in("wallet", DIGEST).await;
    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    let data = site.path("restored");
    let restore = site.command(&["restore", "ledger", "--latest", "--to", data.to_str().unwrap()]);
    assert_eq!(finished(restore).await.code, 0);
    assert_eq!(recovered(&lab, &data, DIGEST).await, rows, "what the new schedule backed up");
}
