//! Many databases, one daemon, one process.

use lifeboat::domain::Lsn;

use super::{
    site::{Site, wallet},
    streaming::{SOON, bet},
};
use crate::support::eventually;

/// Enough that a process or thread for each would show.
const DATABASES: usize = 60;

/// What Linux says of a process; memory in KiB.
fn said(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn children(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end while they are listed.
    let children = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(|task| children(task.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_daemon_streams_many_databases_without_a_process_each() {
    let lab = wallet("max_wal_senders = 200\nmax_replication_slots = 200\nmax_connections = 400").await;
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "flush_every: 1s", "flush_every: 5s");
    let schedule = site.text("schedules/wallet.yaml");
    // One server stands for all: each has its own slot, stream, vault prefix and heartbeat.
    for nth in 1..DATABASES {
        let own = schedule.replace("database: wallet", &format!("database: wallet{nth}"));
        site.put(&format!("schedules/wallet{nth}.yaml"), &own);
    }
    let mut daemon = site.serve(&[]);
    let pid = daemon.id().unwrap();
    let streams =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'lifeboat' AND state = 'streaming'";
    eventually("all databases are streamed", SOON * 2, async || lab.psql(streams).await == DATABASES.to_string()).await;
    for _ in 0..2 {
        bet(&lab, 100).await;
        let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        eventually("every vault has all WAL", SOON * 2, async || {
            let Some((200, body)) = site.get("/api/v1/status").await else { return false };
            let status: serde_json::Value = serde_json::from_str(&body).unwrap();
            let databases = status["databases"].as_array().unwrap();
            let durable = |database: &serde_json::Value| -> Option<Lsn> {
                database["wal_streaming"]["durable_lsn"].as_str()?.parse().ok()
            };
            assert_eq!(databases.len(), DATABASES);
            databases.iter().all(|database| durable(database).is_some_and(|durable| durable >= end))
        })
        .await;
        assert_eq!(children(pid), "", "it works alone");
    }
    let (memory, peak, threads) = (said(pid, "VmRSS") / 1024, said(pid, "VmHWM") / 1024, said(pid, "Threads"));
    println!("{DATABASES} databases: {memory} MiB, at most {peak} MiB, {threads} threads");
    // The open segment of each is held in memory until it is whole.
    assert!(memory < 24 * DATABASES as u64, "{memory} MiB");
    assert!(threads < DATABASES as u64, "{threads} threads");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
}
