//! How long an acknowledged commit is missing from the vault under load: seen
//! from outside, by the names of the objects that are there.

use std::{path::Path, path::PathBuf, time::Duration, time::Instant};

use lifeboat::domain::Lsn;

use super::{
    daemon::Site,
    emulator::{BUCKET, Emulator},
    estate::Estate,
    measure::median,
    table::Figure,
};

/// Commits that are followed.
const COMMITS: usize = 100;
/// The pauses between them take all lengths up to that of a flush, evenly: a fixed
/// one would have every commit wait as long as the first, as the next pause begins
/// when the daemon has flushed.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The golden section spreads its multiples evenly.
const SPREAD: f64 = 0.618_034;
/// How often the vault is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(60);
const SEGMENT: u64 = 16 << 20;

/// Where objects are looked for.
enum Vault {
    Folder(PathBuf),
    Bucket(aws_sdk_s3::Client),
}

/// With a vault in a folder, and with one in a bucket of an emulator.
pub(crate) async fn measure(estate: &Estate) -> Vec<Figure> {
    let site = Site::new(estate, "point-folder", "{kind: directory, path: vault, region: lab}");
    let in_folder = delays(estate, &site, &Vault::Folder(site.folder.join("vault"))).await;
    let emulator = Emulator::start(estate).await;
    let site = Site::new(estate, "point-bucket", &emulator.vault());
    let in_bucket = delays(estate, &site, &Vault::Bucket(emulator.client())).await;
    emulator.end().await;
    let figure = |place: &str, seconds: &[f64]| Figure {
        work: "commit acknowledged → in the vault".to_owned(),
        what: format!("{place}, pgbench at 500 transactions a second, `flush_every: 1s`, {COMMITS} commits followed"),
        measured: format!(
            "{:.2} s in the median, {:.2} s at the 99th percentile, {:.2} s at most",
            median(seconds.to_vec()),
            seconds[COMMITS * 99 / 100 - 1],
            seconds[COMMITS - 1]
        ),
        goal: "≤ 3 s at the 99th percentile".to_owned(),
    };
    vec![figure("a folder", &in_folder), figure("S3, emulated by moto on the same two cores", &in_bucket)]
}

/// Seconds from the acknowledgement of a commit until the vault holds it, while
/// pgbench writes and the daemon flushes every second; ascending.
async fn delays(estate: &Estate, site: &Site, vault: &Vault) -> Vec<f64> {
    let daemon = site.serve();
    let seconds = (COMMITS as u64 * 3 + 60).to_string();
    let load = std::fs::File::create(site.folder.join("pgbench")).unwrap();
    let mut load = estate.program("pgbench").args(["-n", "-c", "4", "-R", "500", "-T", &seconds]).start(load).unwrap();
    estate.psql("CREATE TABLE IF NOT EXISTS followed (n bigint)").await;
    let mut seconds = Vec::new();
    // The first one waits for the daemon to stream.
    for n in 0..=COMMITS {
        estate.psql(&format!("INSERT INTO followed VALUES ({n})")).await;
        let acknowledged = Instant::now();
        let lsn: Lsn = estate.psql("SELECT pg_current_wal_lsn()").await.parse().unwrap();
        while vault.newest().await < lsn.0 {
            assert!(acknowledged.elapsed() < LIMIT, "{}", site.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        seconds.push(acknowledged.elapsed().as_secs_f64());
        tokio::time::sleep(PAUSE_MAX.mul_f64((n as f64 * SPREAD).fract())).await;
    }
    seconds.remove(0);
    load.kill().await.unwrap();
    daemon.stop().await;
    seconds.sort_by(f64::total_cmp);
    seconds
}

impl Vault {
    /// The end of the WAL that whole segments and tails hold.
    async fn newest(&self) -> u64 {
        match self {
            Self::Folder(path) => newest_in(path),
            Self::Bucket(client) => {
                let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
                let mut newest = 0;
                while let Some(page) = pages.next().await {
                    let names = page.unwrap().contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
                    newest = names.filter_map(|name| end_of(name.rsplit('/').next()?)).fold(newest, u64::max);
                }
                newest
            }
        }
    }
}

/// The same of a folder.
fn newest_in(vault: &Path) -> u64 {
    let mut newest = 0;
    let mut folders = vec![vault.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
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
    let to = match name.get(24..)?.strip_suffix(".zst.age")?.strip_suffix(".tail") {
        Some(range) => hex(range.split_once('-')?.1)?,
        None => SEGMENT,
    };
    Some(start + to)
}
