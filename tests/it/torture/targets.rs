//! An estate that lives through two failovers is restored to points of chance;
//! each copy is held against a replica that stopped at the same position.

use std::time::Duration;

use lifeboat::domain::{Lsn, Timeline};
use tokio::process::Child;

use super::{
    chance::{self, Chance},
    digest::{self, Digest},
    estate::{Estate, discard},
    workload::{Changes, transactions},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_point_of_a_history_with_failovers_is_what_a_replica_has_there() {
    tortured(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_and_full_backups_lead_to_what_a_replica_has() {
    tortured(18).await;
}

/// How much is done between two failovers, on how many of the timelines points are
/// drawn, and how many there.
struct Length {
    scale: u64,
    decks: u64,
    timelines: usize,
    points: u64,
}

fn length(has_increments: bool) -> Length {
    match chance::minutes() {
        // Where increments take their time, one is enough.
        None => Length { scale: 1, decks: 1, timelines: if has_increments { 1 } else { 3 }, points: 1 },
        Some(minutes) => Length { scale: 5, decks: minutes.max(1), timelines: 3, points: minutes.max(1) },
    }
}

/// Increments of the history, and the full backup to hold them against.
#[derive(Default)]
struct Taken {
    full: String,
    increments: Vec<(String, Lsn)>,
}

async fn tortured(major: u32) {
    let has_increments = major >= 17;
    let (mut chance, length) = (Chance::new(&format!("targets on {major}")), length(has_increments));
    let estate = Estate::start(major, length.scale).await;
    let mut daemon = estate.site.serve(&[]);
    estate.caught_up(estate.primary().lsn("pg_current_wal_flush_lsn").await).await;
    let (full, first) = estate.backup("full").await;
    let mut taken = Taken { full, ..Taken::default() };
    let mut changes = Changes::default();
    for timeline in 1..=3 {
        let mut load = transactions(estate.primary());
        for nth in 0..length.decks {
            let mut beside = chance.fork();
            // Backups are taken while everything moves.
            let backup = async {
                beside.instant(Duration::from_secs(1)).await;
                match (has_increments, nth % 3) {
                    (true, 0 | 1) => {
                        let increment = estate.backup("incremental").await;
                        taken.increments.push(increment);
                    }
                    _ => drop(estate.backup("full").await),
                }
            };
            tokio::join!(changes.deck(estate.primary(), &mut chance), backup);
        }
        if timeline < 3 {
            let (mut beside, dying) = (chance.fork(), estate.primary());
            let fail_over = async {
                beside.instant(Duration::from_millis(300)).await;
                estate.fail_over().await;
            };
            tokio::join!(changes.one(dying, &mut chance), fail_over);
            estate.followed(Timeline(timeline + 1)).await;
        }
        end(&mut load).await;
    }
    let newest = Timeline(3);
    let end_lsn = estate.settled(newest).await;
    changes.assert_all_done();
    let at_the_end = digest::of(estate.primary()).await;
    stop(&mut daemon).await;
    let verified = estate.site.run(&["vault", "verify", "wallet", "--full"]).await.json(0);
    assert_eq!(verified["verdict"], "PASS", "{verified}");
    let windows: Vec<Lsn> = [vec![first], estate.forks(newest), vec![end_lsn]].concat();
    assert_eq!(windows.len(), 4, "{windows:?}");
    estate.end_members().await;

    let mut drawn: Vec<_> = windows.windows(2).enumerate().collect();
    chance.shuffle(&mut drawn);
    for (timeline, window) in drawn.into_iter().take(length.timelines) {
        for nth in 0..length.points {
            let lsn = draw(&changes.marks, (window[0], window[1]), &mut chance);
            println!("{lsn} of {}..{}", window[0], window[1]);
            compare(&estate, &format!("timeline {}, {nth}", timeline + 1), lsn).await;
        }
    }
    compare(&estate, "behind a switch of WAL", end_lsn).await;
    compare_increments(&estate, &taken, length.points).await;
    let latest = estate.restored("latest", &["--latest"]).await;
    digest::assert_same("the latest", &comparable(digest::of(&latest).await), &comparable(at_the_end));
}

/// A position of chance within the window, behind any of the changes there: much of
/// the WAL is padding behind a switch.
fn draw(marks: &[Lsn], (from, to): (Lsn, Lsn), chance: &mut Chance) -> Lsn {
    let mut within: Vec<Lsn> = marks.iter().copied().filter(|mark| (from..to).contains(mark)).collect();
    within.sort_unstable();
    within.dedup();
    within.push(to);
    let nth = usize::try_from(chance.between(0, within.len() as u64 - 1)).unwrap();
    Lsn(chance.between(within[nth].0, within[nth + 1].0))
}

/// What is restored to this position, and the replica that stopped there.
async fn compare(estate: &Estate, what: &str, lsn: Lsn) {
    let at = lsn.to_string();
    let target = ["--lsn", &at];
    let (copy, replica) = tokio::join!(estate.restored("copy", &target), estate.replica("replica", lsn));
    digest::assert_same(&format!("{what} at {lsn}"), &digest::of(&copy).await, &digest::of(&replica).await);
    tokio::join!(discard(copy), discard(replica));
}

/// Where an increment ends: its chain, the first full backup with all WAL since,
/// and the replica. The newest `count` of them.
async fn compare_increments(estate: &Estate, taken: &Taken, count: u64) {
    for (id, stop) in taken.increments.iter().rev().take(usize::try_from(count).unwrap()) {
        println!("increment {id} to {stop}");
        let at = stop.to_string();
        let chain = estate.restored("chain", &["--backup", id, "--lsn", &at]).await;
        let full = estate.restored("full", &["--backup", &taken.full, "--lsn", &at]).await;
        let replica = estate.replica("replica", *stop).await;
        let truth = digest::of(&replica).await;
        digest::assert_same(&format!("the chain of {id}"), &digest::of(&chain).await, &truth);
        digest::assert_same(&format!("{} with WAL up to {id}", taken.full), &digest::of(&full).await, &truth);
        tokio::join!(discard(chain), discard(full), discard(replica));
    }
}

/// Without what a primary has and no copy: rows of unlogged tables, and heartbeats
/// that came after the last look.
fn comparable(digest: Digest) -> Digest {
    let is_everywhere = |name: &str| !name.contains(": unlogged ") && !name.ends_with("lifeboat.heartbeat");
    digest.into_iter().filter(|(name, _)| is_everywhere(name)).collect()
}

/// It may have ended with its server.
async fn end(load: &mut Child) {
    let _gone = load.start_kill();
    load.wait().await.unwrap();
}

/// Ends the daemon as an operator does.
pub(super) async fn stop(daemon: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(daemon.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().await.unwrap().success());
}
