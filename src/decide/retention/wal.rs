//! Which WAL, history files and WAL keys stay.
//!
//! The window: on every line of history that was alive in it, the newest sound
//! backup that finished before it began stays with all WAL from its start on,
//! and so does the first backup behind each gap of that WAL. The next backup
//! stays too, so that the window always has something to move on to.
//!
//! Older WAL stays from start to stop of each kept backup. A WAL key stays while
//! any kept segment of its timeline is not older than the key: vaults are not
//! equally far when a stretch begins, so that one which is ahead holds segments
//! beyond the name of the next key that only the older key opens.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Doubt, Expiry, Facts, Held, KeptWal, Reason, Reasons, Tail, runs};
use crate::{
    decide::recovery::{self, Line},
    domain::{Lsn, Segment, Timeline},
};

/// The WAL of the window; adds the backups that it is restored from.
pub(super) fn window(facts: &Facts, start: Timestamp, reasons: &mut Reasons) -> Result<Vec<KeptWal>, Doubt> {
    let sound = by_age(facts.backups.iter().filter(|backup| facts.is_sound(backup)));
    // On timelines older than this one nothing of the window was written.
    let current = sound.iter().filter(|aged| aged.finished_at <= start).map(|aged| aged.held.timeline).max();
    let any = by_age(facts.backups.iter());
    let mut wal = Vec::new();
    for timeline in timelines(facts) {
        if current.is_some_and(|current| timeline < current) {
            continue;
        }
        let line = Line::leading_to(timeline, &facts.histories).map_err(|_| Doubt::NoHistory { timeline })?;
        let sound = base(facts, &line, &sound, start, reasons);
        // Behind a gap, or before the first that is sound, another one may be all
        // there is.
        let any = base(facts, &line, &any, start, reasons);
        let first = sound.into_iter().chain(any).min_by_key(|held| held.start_lsn);
        // Without any backup nothing tells what the WAL is good for.
        let number = first.map_or(0, |first| facts.segment_size.number_of(first.start_lsn));
        let backup = first.map(|first| first.id.clone());
        let of = |timeline| KeptWal { timeline, first: number, last: None, backup: backup.clone() };
        wal.extend(line.timelines().map(of));
    }
    wal.sort_by_key(|kept| (kept.timeline, kept.first));
    // What begins first covers the rest of its timeline.
    wal.dedup_by_key(|kept| kept.timeline);
    Ok(wal)
}

/// The backup that the window is restored from on one line of history: the newest
/// that finished before it began, or else the oldest, before which nothing can be
/// restored. It stays, and so do the next one and those behind gaps of WAL.
fn base<'a>(
    facts: &Facts,
    line: &Line,
    backups: &[Aged<'a>],
    start: Timestamp,
    reasons: &mut Reasons,
) -> Option<&'a Held> {
    let on: Vec<&Aged<'_>> =
        backups.iter().filter(|aged| line.passes(aged.held.timeline, aged.held.stop_lsn)).collect();
    let nth = on.iter().rposition(|aged| aged.finished_at <= start).unwrap_or(0);
    let base = on.get(nth)?;
    reasons.add(base.held, Reason::WindowBase);
    let reach =
        |from: &Held| recovery::collect(&facts.coverage, facts.segment_size, line, from.start_lsn, Lsn(u64::MAX)).1;
    let mut reached = reach(base.held);
    for later in on.iter().skip(nth + 1) {
        if reached < later.held.stop_lsn {
            reasons.add(later.held, Reason::WindowBase);
            reached = reach(later.held);
        }
    }
    if let Some(next) = on.get(nth + 1) {
        reasons.add(next.held, Reason::WindowNext);
    }
    Some(base.held)
}

/// A backup with the instant at which it was finished at the earliest: not before
/// one that it follows, whatever its clock said.
struct Aged<'a> {
    held: &'a Held,
    finished_at: Timestamp,
}

/// Oldest first, by position.
fn by_age<'a>(backups: impl Iterator<Item = &'a Held>) -> Vec<Aged<'a>> {
    let mut backups: Vec<&Held> = backups.collect();
    backups.sort_by_key(|backup| backup.age());
    let mut latest = Timestamp::MIN;
    let aged = backups.into_iter().map(|held| {
        latest = latest.max(held.finished_at);
        Aged { held, finished_at: latest }
    });
    aged.collect()
}

fn timelines(facts: &Facts) -> BTreeSet<Timeline> {
    let backups = facts.backups.iter().map(|backup| backup.timeline);
    facts.coverage.timelines().into_iter().chain(backups).chain(facts.histories.keys().copied()).collect()
}

/// The WAL of the window, and that of each backup that stays.
pub(super) fn all(facts: &Facts, mut window: Vec<KeptWal>, reasons: &Reasons) -> Vec<KeptWal> {
    let is_kept = |backup: &&Held| reasons.0.contains_key(&backup.id);
    window.extend(facts.backups.iter().filter(is_kept).flat_map(|backup| of_backup(facts, backup)));
    window
}

/// The WAL without which the backup itself cannot be restored. A server reads a
/// segment in which a timeline began from either file: both stay.
fn of_backup(facts: &Facts, backup: &Held) -> Vec<KeptWal> {
    let size = facts.segment_size;
    let first = size.number_of(backup.start_lsn);
    let last = size.number_of(Lsn(backup.stop_lsn.0.saturating_sub(1))).max(first);
    let of = |timeline| KeptWal { timeline, first, last: Some(last), backup: Some(backup.id.clone()) };
    match Line::leading_to(backup.timeline, &facts.histories) {
        Ok(line) => line.timelines().map(of).collect(),
        // Where it branched off is not known: any older one may be needed.
        Err(_) => timelines(facts).range(..=backup.timeline).copied().map(of).collect(),
    }
}

/// What none of the kept WAL and backups needs.
pub(super) fn unneeded(facts: &Facts, wal: &[KeptWal], of_backups: &BTreeSet<Timeline>) -> Expiry {
    let held = facts.coverage.wholes().chain(facts.coverage.tails().map(|(segment, ..)| segment));
    let needed: BTreeSet<Segment> = held.filter(|segment| wal.iter().any(|kept| kept.covers(*segment))).collect();
    let tail = |(segment, from, to)| Tail { segment, from, to };
    let lines = needed_timelines(facts, wal, of_backups);
    // A stretch on the newest timeline may have its key and no segment yet.
    let newest = timelines(facts).into_iter().chain(facts.wal_keys.iter().map(|key| key.first.timeline)).max();
    let is_idle = |first: &Segment| {
        newest != Some(first.timeline)
            && needed.range(first..).next().is_none_or(|segment| segment.timeline != first.timeline)
    };
    Expiry {
        segments: runs(facts.coverage.wholes().filter(|segment| !needed.contains(segment))),
        tails: facts.coverage.tails().filter(|(segment, ..)| !needed.contains(segment)).map(tail).collect(),
        histories: facts.histories.keys().filter(|timeline| !lines.contains(timeline)).copied().collect(),
        wal_keys: facts.wal_keys.iter().filter(|key| is_idle(&key.first)).copied().collect(),
        ..Expiry::default()
    }
}

/// The timelines whose history files stay: of kept backups and WAL, the newest,
/// and all that these branched off from.
fn needed_timelines(facts: &Facts, wal: &[KeptWal], of_backups: &BTreeSet<Timeline>) -> BTreeSet<Timeline> {
    let mut needed = of_backups.clone();
    needed.extend(timelines(facts).last());
    needed.extend(wal.iter().map(|kept| kept.timeline));
    let histories = needed.iter().filter_map(|timeline| facts.histories.get(timeline));
    let ancestors: Vec<Timeline> = histories.flatten().map(|(parent, _)| *parent).collect();
    needed.extend(ancestors);
    needed
}
