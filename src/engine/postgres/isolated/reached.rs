//! What a recovery that has ended reached, and that it is what was asked for: by
//! the server's own words where it stopped, by its position, and by the history
//! that its promotion wrote.
//!
//! What must never happen: another point, or the same on another timeline, that
//! counts as reached.

use std::fs;

use super::{EndedRecovery, unfit};
use crate::{
    domain::{Lineage, Lsn, RecoveryPoint, RecoveryTarget, Timeline},
    engine::{
        EngineError,
        postgres::restored::{ConfiguredRecovery, file_error},
    },
};

/// The point that was reached, and its history; an error where it is another one than was asked for.
pub(super) fn judge(
    ended: &EndedRecovery,
    data: &std::path::Path,
    configured: &ConfiguredRecovery,
    log: &str,
) -> Result<Lineage, EngineError> {
    let path = data.join("pg_wal").join(ended.timeline.history_file());
    let history = entries(&fs::read_to_string(&path).map_err(file_error("read", &path))?);
    let Some((timeline, lsn)) = last_replayed(&history, ended.replayed) else {
        return Err(unfit("tell where its recovery ended", format!("{} has no entry", path.display())));
    };
    let reached = RecoveryPoint { timeline, lsn, last_commit_at: ended.last_commit_at };
    let missed = elsewhere(configured, &reached, &history).or_else(|| missed(&configured.target, &reached, log));
    match missed {
        None => Ok(Lineage { system_id: ended.system_id.clone(), reached, history }),
        Some(why) => Err(unfit(&format!("reach {}", configured.target), why)),
    }
}

/// Where timelines were left, oldest first: lines of timeline, position, reason.
fn entries(history: &str) -> Vec<(Timeline, Lsn)> {
    let lines = history.lines().map(str::split_whitespace);
    lines.filter_map(|mut words| Some((Timeline(words.next()?.parse().ok()?), words.next()?.parse().ok()?))).collect()
}

/// The timeline and end of the last replayed record, from the history that the
/// promotion wrote.
fn last_replayed(history: &[(Timeline, Lsn)], replayed: Option<Lsn>) -> Option<(Timeline, Lsn)> {
    let lsn = replayed.or_else(|| history.last().map(|(_, left)| *left))?;
    history.iter().find(|(_, left)| *left >= lsn).or(history.last()).map(|(timeline, _)| (*timeline, lsn))
}

/// Why this is another history than the one that was followed, or too early in it.
fn elsewhere(configured: &ConfiguredRecovery, reached: &RecoveryPoint, history: &[(Timeline, Lsn)]) -> Option<String> {
    // What is promoted branches off the timeline that was followed.
    let left = history.last().map(|(timeline, _)| *timeline);
    if left != Some(configured.timeline) {
        let left = left.unwrap_or(reached.timeline);
        return Some(format!("it followed timeline {left} instead of {}", configured.timeline));
    }
    let from = configured.consistent_from;
    (reached.lsn < from).then(|| format!("it ended at {}, before the end of the backup at {from}", reached.lsn))
}

/// Why the point that was reached is not the one that was asked for.
fn missed(target: &RecoveryTarget, reached: &RecoveryPoint, log: &str) -> Option<String> {
    let end = reached.lsn;
    let Some(told) = log.lines().find_map(|line| Some(line.split_once("recovery stopping ")?.1.trim())) else {
        return Some(format!("it ended at {end} without stopping at a target"));
    };
    let commit = reached.last_commit_at;
    let is_reached = match target {
        RecoveryTarget::Latest => false,
        RecoveryTarget::Immediate => told == "after reaching consistency",
        RecoveryTarget::Name(name) => told.starts_with(&format!("at restore point \"{name}\",")),
        // The end of the last replayed record lies behind the start that was asked for.
        RecoveryTarget::Lsn(lsn) => location(told, "after").is_some_and(|at| at >= *lsn && at < end),
        RecoveryTarget::BeforeLsn(lsn) => location(told, "before").is_some_and(|at| at >= *lsn && end <= at),
        RecoveryTarget::Xid(xid) => is_end_of(told, "after", xid),
        RecoveryTarget::BeforeXid(xid) => is_end_of(told, "before", xid),
        RecoveryTarget::Time(at) => told.starts_with("before ") && commit.is_none_or(|commit| commit <= *at),
        RecoveryTarget::BeforeTime(at) => told.starts_with("before ") && commit.is_none_or(|commit| commit < *at),
    };
    let commit = commit.map(|commit| format!(", with the commit of {commit}")).unwrap_or_default();
    (!is_reached).then(|| format!("it ended at {end}{commit}, stopping {told}"))
}

/// How long the replay took, waiting for WAL included, from `redo done at … elapsed: 0.12 s`
/// of a server that tells it. It counts hundredths of a second: less is one.
pub(super) fn replay_seconds(log: &str) -> Option<f64> {
    let told = log.lines().rev().find_map(|line| Some(line.split_once("redo done at ")?.1))?;
    let seconds: f64 = told.split_once("elapsed: ")?.1.split_whitespace().next()?.parse().ok()?;
    seconds.is_finite().then(|| seconds.max(0.01))
}

/// The position in `after WAL location (LSN) "0/3000148"`.
fn location(told: &str, side: &str) -> Option<Lsn> {
    told.strip_prefix(side)?.strip_prefix(" WAL location (LSN) \"")?.split('"').next()?.parse().ok()
}

/// Whether it says `after commit of transaction 731, time …`. An epoch before the
/// number that was asked for counts for nothing.
fn is_end_of(told: &str, side: &str, xid: &str) -> bool {
    let Ok(number) = xid.parse::<u64>() else { return false };
    let rest = told.strip_prefix(side).and_then(|rest| rest.split_once(" of transaction "));
    let is_end = rest.is_some_and(|(what, _)| matches!(what.trim(), "commit" | "abort"));
    let told = rest.and_then(|(_, rest)| rest.split(',').next());
    is_end && told.and_then(|told| told.parse().ok()) == Some(number & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn point(timeline: u32, lsn: u64) -> RecoveryPoint {
        RecoveryPoint { timeline: Timeline(timeline), lsn: Lsn(lsn), last_commit_at: Some(at(50)) }
    }

    #[test]
    fn the_history_tells_the_timeline_of_the_last_record() {
        let history = entries("1\t0/3000180\tno recovery target specified\n\n2\t0/5000000\tafter LSN 0/4FFFF00\n");
        let at = |lsn| last_replayed(&history, lsn);
        assert_eq!(at(Some(Lsn(0x500_0000))), Some((Timeline(2), Lsn(0x500_0000))));
        assert_eq!(at(Some(Lsn(0x300_0100))), Some((Timeline(1), Lsn(0x300_0100))));
        assert_eq!(at(None), Some((Timeline(2), Lsn(0x500_0000))));
        assert_eq!(last_replayed(&[], None), None);
    }

    #[test]
    fn the_server_tells_how_long_it_replayed() {
        let of = |seconds: &str| {
            format!(
                "LOG:  redo starts at 0/2000028\nLOG:  redo done at 0/5FFFFC0 system usage: CPU: user: 1.90 s, system: 0.20 s, elapsed: {seconds} s\nLOG:  selected new timeline ID: 2\n"
            )
        };
        assert_eq!(replay_seconds(&of("62.17")), Some(62.17));
        assert_eq!(replay_seconds(&of("0.00")), Some(0.01));
        for silent in ["LOG:  redo done at 0/5FFFFC0\n", "LOG:  redo is not required\n", ""] {
            assert_eq!(replay_seconds(silent), None, "{silent}");
        }
    }

    #[test]
    fn only_the_point_that_was_asked_for_is_reached() {
        let location = |side: &str| format!("{side} WAL location (LSN) \"0/64\"");
        let end = |side: &str| format!("{side} commit of transaction 731, time 1970-01-01 00:00:51+00");
        let time = |second| RecoveryTarget::Time(at(second));
        let before = |target: RecoveryTarget| target.exclusive().unwrap();
        let lsn = |lsn| RecoveryTarget::Lsn(Lsn(lsn));
        let xid = |xid: &str| RecoveryTarget::Xid(xid.to_owned());
        let noon = RecoveryTarget::Name("noon".to_owned());
        // What is asked for, what the server says, up to where it replayed, and whether that is it.
        for (target, told, replayed, is_reached) in [
            (lsn(100), location("after"), 120, true),
            (lsn(90), location("after"), 120, true),
            (lsn(101), location("after"), 120, false),
            (lsn(100), location("after"), 100, false),
            (lsn(100), location("before"), 120, false),
            (before(lsn(100)), location("before"), 100, true),
            (before(lsn(100)), location("before"), 101, false),
            (before(lsn(101)), location("before"), 100, false),
            (before(lsn(100)), location("after"), 100, false),
            (xid("731"), end("after"), 120, true),
            (xid("4294968027"), end("after"), 120, true),
            (xid("73"), end("after"), 120, false),
            (xid("731"), end("before"), 120, false),
            (before(xid("731")), end("before"), 120, true),
            (before(xid("731")), end("after"), 120, false),
            (time(50), end("before"), 120, true),
            (time(49), end("before"), 120, false),
            (time(50), end("after"), 120, false),
            (before(time(51)), end("before"), 120, true),
            (before(time(50)), end("before"), 120, false),
            (noon.clone(), "at restore point \"noon\", time 1970".to_owned(), 120, true),
            (noon.clone(), "at restore point \"noonday\", time 1970".to_owned(), 120, false),
            (noon, end("before"), 120, false),
            (RecoveryTarget::Immediate, "after reaching consistency".to_owned(), 120, true),
            (RecoveryTarget::Immediate, location("after"), 120, false),
        ] {
            let log = format!("LOG:  redo starts at 0/50\nLOG:  recovery stopping {told}\n");
            let why = missed(&target, &point(1, replayed), &log);
            assert_eq!(why.is_none(), is_reached, "{target}, {told}, {replayed}: {why:?}");
            assert!(missed(&target, &point(1, replayed), "LOG:  redo done at 0/64").is_some(), "{target}");
        }
    }

    #[test]
    fn another_timeline_or_a_point_before_the_backups_end_is_none() {
        let configured = |timeline, target| ConfiguredRecovery {
            target,
            timeline: Timeline(timeline),
            consistent_from: Lsn(100),
            preload_libraries: None,
        };
        let history = [(Timeline(1), Lsn(150)), (Timeline(2), Lsn(200))];
        let position = || RecoveryTarget::Lsn(Lsn(110));
        let why = |timeline, target, reached| elsewhere(&configured(timeline, target), &reached, &history);
        assert_eq!(why(2, position(), point(2, 180)), None);
        assert_eq!(why(2, RecoveryTarget::Time(at(1)), point(1, 120)), None, "an instant before the fork");
        assert!(why(1, position(), point(2, 180)).unwrap().contains("followed timeline 2 instead of 1"));
        assert!(why(2, RecoveryTarget::Time(at(1)), point(1, 99)).unwrap().contains("before the end of the backup"));
    }
}
