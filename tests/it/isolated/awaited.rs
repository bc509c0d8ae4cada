//! A copy that recovers while its WAL is still being fetched waits for what is
//! late, as long as somebody fetches it, and never ends before its target.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{fs, path::PathBuf, time::Instant};

use lifeboat::{
    domain::{Lsn, RecoveryTarget},
    engine::{Awaited, EngineError, Recover},
};

use super::copy::{Copy, LIMIT, beat, processes_in, switch_segment};
use crate::support::{Lab, eventually};

const LOCK: &str = ".fetching";

/// A copy whose WAL of several segments lies aside, sorted by name, and its last record.
async fn with_late_wal(lab: &Lab) -> (Copy, tempfile::TempDir, Vec<String>, Lsn) {
    beat(lab, 1..=2).await;
    let copy = Copy::of(lab).await;
    for round in 1..=4 {
        beat(lab, round * 10..=round * 10 + 4).await;
        switch_segment(lab).await;
    }
    beat(lab, 100..=101).await;
    let newest = copy.archive(lab, 0).await;
    let last = copy.last_record(newest).await;
    let late = tempfile::tempdir_in(&copy.folder).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(copy.wal()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        fs::copy(copy.wal().join(&name), late.path().join(&name)).unwrap();
        fs::remove_file(copy.wal().join(&name)).unwrap();
        names.push(name);
    }
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    (copy, late, names, last)
}

async fn configured(copy: &Copy, names: &[String], last: Lsn) -> fs::File {
    fs::write(copy.wal().join(LOCK), "").unwrap();
    let awaited = Awaited { names: names.to_vec(), lock: LOCK.to_owned() };
    copy.configure_awaiting(RecoveryTarget::Lsn(last), true, Some(awaited)).await.unwrap();
    let lock = fs::File::open(copy.wal().join(LOCK)).unwrap();
    lock.try_lock().unwrap();
    lock
}

/// Whether the server's script stands and waits for this file.
fn is_waited_for(copy: &Copy, name: &str) -> bool {
    let asks = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("lifeboat_fetch_wal.sh") && line.contains(name)
    };
    processes_in(&copy.folder).iter().any(asks)
}

/// In one step, and belonging to whom the folder belongs to.
fn arrive(copy: &Copy, late: &tempfile::TempDir, name: &str) {
    let temporary = copy.wal().join(format!(".{name}.part"));
    fs::copy(late.path().join(name), &temporary).unwrap();
    if let Some(account) = &copy.postgres.account {
        account.own(&temporary).unwrap();
    }
    lifeboat::durable::relocate(&temporary, &copy.wal().join(name)).unwrap();
}

#[tokio::test]
async fn a_copy_waits_for_each_segment_that_is_late() {
    let lab = Lab::start("").await;
    let (copy, late, names, last) = with_late_wal(&lab).await;
    let lock = configured(&copy, &names, last).await;
    let params = copy.params();
    let arriving = async {
        for name in &names {
            eventually("the copy waits", LIMIT, || async { is_waited_for(&copy, name) }).await;
            arrive(&copy, &late, name);
        }
        // All is there: the look that found the last one missing is not the last look.
        drop(lock);
    };
    let (instance, ()) = tokio::join!(copy.postgres.start_isolated(&params), arriving);
    let instance = instance.unwrap();
    let reached = instance.lineage().reached;
    assert!(reached.lsn > last, "{reached:?} {last}");
    assert_eq!(instance.heartbeats().await.unwrap().present.last(), Some(&101));
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn a_copy_whose_fetcher_is_gone_ends_and_is_not_promoted() {
    let lab = Lab::start("").await;
    let (copy, late, names, last) = with_late_wal(&lab).await;
    let lock = configured(&copy, &names, last).await;
    let params = copy.params();
    let going = async {
        let (there, missing) = names.split_at(2);
        for name in there {
            eventually("the copy waits", LIMIT, || async { is_waited_for(&copy, name) }).await;
            arrive(&copy, &late, name);
        }
        eventually("the copy waits", LIMIT, || async { is_waited_for(&copy, &missing[0]) }).await;
        drop(lock);
        Instant::now()
    };
    let (instance, gone) = tokio::join!(copy.postgres.start_isolated(&params), going);
    let Err(EngineError::Recovery { log, .. }) = instance.map(drop) else { panic!("it recovered without its WAL") };
    assert!(log.contains("could not restore file"), "{log}");
    assert!(gone.elapsed() < LIMIT / 2, "it waited for nobody");
    assert_eq!(processes_in(&copy.folder), Vec::<PathBuf>::new());
    assert!(copy.folder.join("data/recovery.signal").exists(), "it was promoted");
}
