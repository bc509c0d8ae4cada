//! How long an acknowledged commit is missing from the vault under load: seen
//! from outside, by the names of the objects that are there.

use std::{path::Path, time::Duration, time::Instant};

use lifeboat::domain::Lsn;

use super::{contenders::lifeboat, estate::Estate, measure::median};

/// Commits that are followed, and the pause between two.
const COMMITS: usize = 100;
const PAUSE: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(60);
const SEGMENT: u64 = 16 << 20;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Delays {
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) longest: f64,
}

/// Seconds from the acknowledgement of a commit until the vault holds it, while
/// pgbench writes and the daemon flushes every second.
pub(crate) async fn delays(estate: &Estate) -> Delays {
    let folder = estate.path("lifeboat");
    let log = std::fs::File::create(folder.join("serve")).unwrap();
    let mut daemon = lifeboat(&folder).arg("serve").start(log).unwrap();
    let seconds = (COMMITS as u64 * 2 + 60).to_string();
    let load = std::fs::File::create(folder.join("pgbench")).unwrap();
    let mut load = estate.program("pgbench").args(["-n", "-c", "4", "-R", "500", "-T", &seconds]).start(load).unwrap();
    estate.psql("CREATE TABLE followed (n bigint)").await;
    let mut seconds = Vec::new();
    // The first one waits for the daemon to stream.
    for n in 0..=COMMITS {
        estate.psql(&format!("INSERT INTO followed VALUES ({n})")).await;
        let acknowledged = Instant::now();
        let lsn: Lsn = estate.psql("SELECT pg_current_wal_lsn()").await.parse().unwrap();
        while newest_in(&folder.join("vault")) < lsn.0 {
            assert!(acknowledged.elapsed() < LIMIT, "{}", std::fs::read_to_string(folder.join("serve")).unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seconds.push(acknowledged.elapsed().as_secs_f64());
        tokio::time::sleep(PAUSE).await;
    }
    seconds.remove(0);
    load.kill().await.unwrap();
    let pid = nix::unistd::Pid::from_raw(daemon.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    daemon.wait().await.unwrap();
    seconds.sort_by(f64::total_cmp);
    Delays { median: median(seconds.clone()), p99: seconds[COMMITS * 99 / 100], longest: seconds[COMMITS - 1] }
}

/// The end of the WAL that whole segments and tails hold.
fn newest_in(vault: &Path) -> u64 {
    let mut newest = 0;
    let mut folders = vec![vault.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                folders.push(path);
            } else if path.parent().and_then(Path::parent).is_some_and(|wal| wal.ends_with("wal")) {
                newest = newest.max(end_of(name.to_str().unwrap_or_default()).unwrap_or(0));
            }
        }
    }
    newest
}

/// `<timeline><high><low>.zst.age`, or `….<from>-<to>.tail.zst.age`.
fn end_of(name: &str) -> Option<u64> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let start = (hex(name.get(8..16)?)? << 32) + hex(name.get(16..24)?)? * SEGMENT;
    let to = match name.get(24..)?.strip_suffix(".tail.zst.age") {
        Some(range) => hex(range.split_once('-')?.1)?,
        None => SEGMENT,
    };
    Some(start + to)
}
