//! From which member a backup is taken, and whether the WAL that it needs will
//! be in the vault.
//!
//! What must never happen: a backup from a standby of another cluster, or one
//! that begins before the WAL which any vault will ever hold.

use super::recovery::Coverage;
use crate::domain::{BackupFrom, ByteSize, Lsn, MemberName, SegmentSize, Timeline};

/// A standby that is further behind, in bytes of WAL, is passed over: its last
/// restartpoint lies further back still, and all WAL from there on is replayed.
pub const LAG_MAX: ByteSize = ByteSize::from_bytes(1 << 30);

/// What a member told of itself, or why it told nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub member: MemberName,
    pub state: Result<State, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub is_standby: bool,
    pub system_id: String,
    pub timeline: Timeline,
    /// Written on a primary, replayed on a standby.
    pub lsn: Lsn,
}

/// The primary, as the check before the backup found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    pub system_id: String,
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// Whom to ask for the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Primary {
        /// Why it is not a standby, where one was preferred.
        instead: Option<String>,
    },
    Standby(MemberName),
}

/// Chooses by the schedule's preference; the error says why nobody is fit.
pub fn choose(from: BackupFrom, primary: &Primary, seen: &[Seen]) -> Result<Choice, String> {
    if from == BackupFrom::Primary {
        return Ok(Choice::Primary { instead: None });
    }
    let mut fit: Vec<(Lsn, &MemberName)> = Vec::new();
    let mut unfit = Vec::new();
    for Seen { member, state } in seen {
        match state {
            Err(why) => unfit.push(why.clone()),
            Ok(state) if !state.is_standby => {}
            Ok(state) => match hindrance(state, primary) {
                Some(why) => unfit.push(format!("standby `{member}` {why}")),
                None => fit.push((state.lsn, member)),
            },
        }
    }
    // Of two that are as far, the first by name: the same at every attempt.
    fit.sort_by(|(one, a), (two, b)| two.cmp(one).then(a.cmp(b)));
    if let Some((_, member)) = fit.first() {
        return Ok(Choice::Standby((*member).clone()));
    }
    let why = if unfit.is_empty() { "no member is a standby".to_owned() } else { unfit.join("; ") };
    match from {
        BackupFrom::Standby => Err(why),
        BackupFrom::Primary | BackupFrom::PreferStandby => Ok(Choice::Primary { instead: Some(why) }),
    }
}

/// Why a standby gives no backup now, nor could take over.
pub(super) fn hindrance(standby: &State, primary: &Primary) -> Option<String> {
    if standby.system_id != primary.system_id {
        return Some(format!(
            "belongs to another cluster: its system identifier is {}, that of the primary is {}",
            standby.system_id, primary.system_id
        ));
    }
    if standby.timeline != primary.timeline {
        return Some(format!("is on timeline {}, the primary on timeline {}", standby.timeline, primary.timeline));
    }
    let behind = ByteSize::from_bytes(primary.lsn.0.saturating_sub(standby.lsn.0));
    (behind > LAG_MAX).then(|| format!("is {behind} of WAL behind the primary, more than {LAG_MAX}"))
}

/// Where a backup begins, and from where on the primary keeps WAL for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub timeline: Timeline,
    pub lsn: Lsn,
    pub kept_from: Option<Lsn>,
}

/// Why the vault will never hold all WAL from the start of a backup on, from what
/// it holds now; none where it will.
pub fn out_of_reach(start: &Start, size: SegmentSize, coverage: &Coverage) -> Option<String> {
    let ranges = coverage.ranges(start.timeline, size);
    let begins = |from: Lsn| {
        format!("the backup would begin at {}, and the vault holds WAL from {from} on without a gap", start.lsn)
    };
    let kept = start.kept_from.map(|kept| size.floor(kept));
    let unkept = |reached: Lsn| match kept {
        Some(kept) if kept <= reached => None,
        Some(kept) => Some(format!(
            "the backup would begin at {}, the vault holds WAL up to {reached} and the primary keeps it from {kept} on",
            start.lsn
        )),
        None => Some("the primary keeps no WAL for us".to_owned()),
    };
    match ranges.iter().position(|range| range.start <= start.lsn && start.lsn <= range.end) {
        Some(nth) => match (ranges.get(nth), ranges.get(nth + 1)) {
            (_, Some(next)) => Some(begins(next.start)),
            (Some(range), None) => unkept(range.end),
            (None, None) => None,
        },
        None => match ranges.iter().find(|range| range.start > start.lsn) {
            Some(_) => ranges.last().map(|last| begins(last.start)),
            None => unkept(start.lsn),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Segment;

    fn primary() -> Primary {
        Primary { system_id: "7".to_owned(), timeline: Timeline(2), lsn: Lsn(5 << 30) }
    }

    fn seen(name: &str, change: impl FnOnce(&mut State)) -> Seen {
        let mut state = State { is_standby: true, system_id: "7".to_owned(), timeline: Timeline(2), lsn: Lsn(5 << 30) };
        change(&mut state);
        Seen { member: name.parse().unwrap(), state: Ok(state) }
    }

    fn standby(name: &str) -> Choice {
        Choice::Standby(name.parse().unwrap())
    }

    #[test]
    fn the_standby_that_is_least_behind_is_preferred() {
        let a = seen("a", |state| state.is_standby = false);
        let b = seen("b", |state| state.lsn = Lsn((5 << 30) - 1000));
        let (c, d) = (seen("c", |_| {}), seen("d", |_| {}));
        let all = [a, d, b.clone(), c];
        assert_eq!(choose(BackupFrom::Primary, &primary(), &all), Ok(Choice::Primary { instead: None }));
        assert_eq!(choose(BackupFrom::PreferStandby, &primary(), &all), Ok(standby("c")));
        assert_eq!(choose(BackupFrom::Standby, &primary(), &all), Ok(standby("c")));
        assert_eq!(choose(BackupFrom::Standby, &primary(), &[b]), Ok(standby("b")));
    }

    #[test]
    fn one_that_is_not_fit_is_named_and_the_primary_taken_or_nothing() {
        let down = Seen { member: "b".parse().unwrap(), state: Err("member `b` cannot be reached".to_owned()) };
        let cases = [
            (seen("b", |state| state.system_id = "8".to_owned()), "another cluster"),
            (seen("b", |state| state.timeline = Timeline(1)), "is on timeline"),
            (seen("b", |state| state.lsn = Lsn((4 << 30) - 1)), "behind the primary, more than 1GiB"),
            (down, "cannot be reached"),
            (seen("b", |state| state.is_standby = false), "no member is a standby"),
        ];
        for (member, words) in cases {
            let all = [seen("a", |state| state.is_standby = false), member];
            let Ok(Choice::Primary { instead: Some(why) }) = choose(BackupFrom::PreferStandby, &primary(), &all) else {
                panic!("{all:?}")
            };
            assert!(why.contains(words), "{why}");
            let why = choose(BackupFrom::Standby, &primary(), &all).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const SEGMENT: u64 = 16 << 20;

    /// Whether a start is in reach where these segments are held, and then `tail` bytes
    /// of the next one.
    fn reaches(held: &[u64], tail: u64, lsn: u64, kept_from: Option<u64>) -> bool {
        let mut coverage = Coverage::default();
        let segment = |number| Segment { timeline: Timeline(1), number };
        for number in held {
            coverage.add_whole(segment(*number));
        }
        if let (Some(last), true) = (held.last(), tail > 0) {
            coverage.add_tail(segment(last + 1), 0, tail);
        }
        let start = Start { timeline: Timeline(1), lsn: Lsn(lsn), kept_from: kept_from.map(Lsn) };
        out_of_reach(&start, SIZE, &coverage).is_none()
    }

    #[test]
    fn a_backup_must_begin_where_the_vault_holds_wal_or_will() {
        let s = SEGMENT;
        // Nothing is held yet: the slot keeps what is needed, or does not.
        assert!(reaches(&[], 0, 5 * s + 9, Some(5 * s + 7)) && reaches(&[], 0, 5 * s + 9, Some(5 * s + 900)));
        assert!(!reaches(&[], 0, 5 * s + 9, Some(6 * s)) && !reaches(&[], 0, 5 * s + 9, None));
        // It is held, and the stream goes on where it ended.
        assert!(reaches(&[4, 5], 100, 4 * s + 9, Some(6 * s + 50)));
        assert!(!reaches(&[4, 5], 100, 4 * s + 9, Some(7 * s)), "what lies between is gone");
        assert!(!reaches(&[4, 6], 0, 4 * s + 9, Some(4 * s)), "a gap behind it is never filled");
        // What is held begins behind it.
        assert!(!reaches(&[5, 6], 0, 4 * s + 9, Some(4 * s)));
        // What is held ended before it.
        assert!(reaches(&[1, 2], 0, 5 * s, Some(3 * s)) && !reaches(&[1, 2], 0, 5 * s, Some(6 * s)));
    }
}
