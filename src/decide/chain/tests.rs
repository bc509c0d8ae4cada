use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + offset)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A backup from within a segment to within the same one.
fn backup(timeline: u32, number: u64, second: i64) -> Candidate {
    Candidate {
        id: format!("b{second}").parse().unwrap(),
        timeline: Timeline(timeline),
        start_lsn: lsn(number, 40),
        stop_lsn: lsn(number, 400),
        finished_at: at(second),
        parent: None,
    }
}

fn history(system_id: &str, incarnation: u32, whole: &[(u32, u64)], backups: Vec<Candidate>) -> History<'static> {
    let mut coverage = Coverage::default();
    for (timeline, number) in whole {
        coverage.add_whole(Segment { timeline: Timeline(*timeline), number: *number });
    }
    let facts = Facts { backups, coverage, histories: [].into(), segment_size: SIZE, not_after: None };
    let name = Name { system_id: system_id.to_owned(), incarnation };
    let complete = facts.backups.iter().map(|backup| backup.id.clone()).collect();
    History { name, is_unlogged: false, facts, complete, is_kept: Box::new(|_| true) }
}

fn only(histories: &[History<'_>]) -> Break {
    let found = breaks(histories);
    let [one] = &found[..] else { panic!("{found:?}") };
    one.clone()
}

#[test]
fn nothing_is_broken_where_all_is_there_or_still_on_its_way() {
    let whole = [(1, 2), (1, 3), (1, 4)];
    assert_eq!(breaks(&[history("7", 1, &whole, vec![backup(1, 2, 100)])]), []);
    // Its own WAL has not arrived.
    assert_eq!(breaks(&[history("7", 1, &whole, vec![backup(1, 2, 100), backup(1, 5, 200)])]), []);
    // Without a backup there is no recovery point that a gap could cut off.
    assert_eq!(breaks(&[history("7", 1, &[(1, 2), (1, 5)], vec![])]), []);
}

#[test]
fn lost_wal_is_open_until_a_backup_behind_it_has_its_wal() {
    let whole = [(1, 2), (1, 3), (1, 6), (1, 7)];
    let with = |more: &[Candidate]| {
        let backups = [&[backup(1, 2, 100)][..], more].concat();
        only(&[history("7", 1, &whole, backups)])
    };
    let open = with(&[]);
    assert_eq!((open.cause, open.from, open.to), (Cause::WalLost, lsn(4, 0), lsn(6, 0)));
    assert_eq!((open.after, open.until, open.is_open()), (Some(at(100)), None, true));
    for word in ["from 0/4000000 to 0/6000000", "1970-01-01T00:01:40Z", "the end of the next full backup"] {
        assert!(open.to_string().contains(word), "{open}");
    }
    // Another node, or this one after a restart, makes the same of it.
    assert_eq!(open.id(), "wal-lost-7-1-1-0_4000000-0_6000000");
    assert_eq!(with(&[]).id(), open.id());
    // One whose WAL is listed, and that nobody has read back, ends nothing.
    let mut unread = history("7", 1, &whole, vec![backup(1, 2, 100), backup(1, 6, 200)]);
    unread.complete.clear();
    assert!(only(&[unread]).is_open());
    assert!(!with(&[backup(1, 6, 200)]).is_open());
    // One whose WAL was lost, or has not arrived, ends nothing.
    for useless in [backup(1, 5, 200), backup(1, 8, 200)] {
        assert!(breaks(&[history("7", 1, &whole, vec![backup(1, 2, 100), useless])]).iter().all(Break::is_open));
    }
    let over = with(&[backup(1, 7, 300)]);
    assert_eq!((over.until, over.id()), (Some(at(300)), open.id()));
}

#[test]
fn a_break_that_is_over_is_told_while_the_wal_around_it_is_kept() {
    let whole = [(1, 2), (1, 3), (1, 6), (1, 7)];
    let mut over = history("7", 1, &whole, vec![backup(1, 2, 100), backup(1, 7, 300)]);
    assert_eq!(breaks(std::slice::from_ref(&over)).len(), 1);
    over.is_kept = Box::new(|segment| segment.number > 6);
    assert_eq!(breaks(std::slice::from_ref(&over)), [], "a backup beyond the window stands alone");
    // Without a backup behind it nothing can have expired, whatever retention says.
    let mut open = history("7", 1, &whole, vec![backup(1, 2, 100)]);
    open.is_kept = Box::new(|_| false);
    assert!(only(&[open]).is_open());
}

#[test]
fn another_history_is_open_until_its_first_backup() {
    let old = || history("7", 1, &[(1, 2), (1, 3)], vec![backup(1, 2, 100)]);
    for (system_id, incarnation, cause) in [("7", 2, Cause::SetBack), ("9", 1, Cause::Replaced)] {
        let new = |backups| history(system_id, incarnation, &[(1, 1), (1, 2)], backups);
        let open = only(&[old(), new(vec![])]);
        assert_eq!((open.cause, open.from, open.to), (cause, lsn(4, 0), lsn(1, 0)));
        assert_eq!((open.history.incarnation, open.after, open.until), (incarnation, Some(at(100)), None));
        let over = only(&[old(), new(vec![backup(1, 2, 200)])]);
        assert_eq!((over.until, over.id()), (Some(at(200)), open.id()));
        let unlogged = History { is_unlogged: true, ..new(vec![]) };
        let expected = if cause == Cause::SetBack { Cause::Unlogged } else { cause };
        assert_eq!(only(&[old(), unlogged]).cause, expected);
        // Nothing was there before that could be restored.
        assert_eq!(breaks(&[history("7", 1, &[(1, 2)], vec![]), new(vec![])]), []);
    }
}

#[test]
fn wal_beyond_the_place_where_a_standby_was_promoted_is_a_break_until_the_next_backup() {
    let whole = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4)];
    let with = |fork: Lsn, more: Option<Candidate>| {
        let mut promoted = history("7", 1, &whole, std::iter::once(backup(1, 2, 100)).chain(more).collect());
        promoted.facts.histories = [(Timeline(2), vec![(Timeline(1), fork)])].into();
        breaks(&[promoted])
    };
    let [open] = &with(lsn(3, 500), None)[..] else { panic!() };
    assert_eq!((open.cause, open.timeline, open.from, open.to), (Cause::Ahead, Timeline(1), lsn(3, 500), lsn(5, 0)));
    assert!(open.is_open());
    let [over] = &with(lsn(3, 500), Some(backup(2, 4, 200)))[..] else { panic!() };
    assert_eq!(over.until, Some(at(200)));
    assert_eq!(with(lsn(5, 0), None), [], "the standby had everything");
}

#[test]
fn wal_that_is_still_on_its_way_was_not_passed_over() {
    let coverage = history("7", 1, &[(1, 2), (1, 3), (1, 6)], vec![]).facts.coverage;
    let passed = |start, stop| is_passed_over(&coverage, Timeline(1), SIZE, start, stop);
    assert!(!passed(lsn(2, 40), lsn(3, 400)), "it is there");
    assert!(!passed(lsn(6, 40), lsn(7, 400)), "it is the newest");
    assert!(passed(lsn(3, 40), lsn(4, 400)));
    assert!(passed(lsn(4, 40), lsn(6, 400)));
    assert!(!is_passed_over(&Coverage::default(), Timeline(1), SIZE, lsn(1, 0), lsn(2, 0)));
}
