use proptest::prelude::*;

use super::*;

const GB: u64 = 1_000_000_000;

fn test(restore_seconds: f64, fetch: (f64, u64), replay: (f64, u64), check_seconds: f64) -> Test {
    let replay = Some(Replay { seconds: replay.0, bytes: replay.1 });
    let parts = Parts { fetch_seconds: fetch.0, fetched_bytes: fetch.1, replay, check_seconds };
    Test { restore_seconds, parts: Some(parts) }
}

fn work(chain_bytes: u64, chain_length: usize, wal_bytes: u64) -> Work {
    Work { chain_bytes, chain_length, wal_bytes, archive_seconds: 0 }
}

#[test]
fn each_part_grows_with_what_there_is_to_do() {
    // 10 s of fetching 1 GB, 5 s of replaying 0.5 GB, 2 s of checks, 3 s of anything else.
    let tests = [test(20.0, (10.0, GB), (5.0, GB / 2), 2.0)];
    let of = |work: &Work| {
        let told = forecast(&tests, work).unwrap();
        (told.seconds, told.fetch_seconds, told.replay_seconds, told.check_seconds, told.rest_seconds)
    };
    assert_eq!(of(&work(GB, 1, GB / 2)), (20.0, 10.0, 5.0, 2.0, 3.0));
    assert_eq!(of(&work(3 * GB, 1, GB / 2)), (44.0, 30.0, 5.0, 6.0, 3.0));
    assert_eq!(of(&work(GB, 1, 5 * GB)), (65.0, 10.0, 50.0, 2.0, 3.0));
    assert_eq!(of(&work(GB, 1, 0)), (15.0, 10.0, 0.0, 2.0, 3.0));
    assert_eq!(forecast(&[], &work(GB, 1, 0)), None);
}

#[test]
fn an_archive_is_waited_for_whatever_was_measured() {
    let tests = [test(20.0, (10.0, GB), (5.0, GB / 2), 2.0)];
    let told = forecast(&tests, &Work { archive_seconds: 18_000, ..work(GB, 1, GB / 2) }).unwrap();
    assert_eq!((told.seconds, told.archive_seconds, told.rest_seconds), (18_020.0, 18_000.0, 3.0));
    let objectives = Objectives { rto: Span::from_secs(3600), rpo: Span::from_secs(900) };
    assert_eq!(advise(&told, &objectives), Some(Advice::LeaveArchive));
    let finding = finding(&told, &objectives).unwrap();
    assert!(finding.contains("5h of it is waiting for what lies in an archive, at most: let the bucket"), "{finding}");
}

#[test]
fn the_last_three_tests_count_by_what_they_did() {
    let slow = test(1000.0, (900.0, GB), (1.0, 1), 1.0);
    let tests = [
        test(43.0, (40.0, 4 * GB), (0.0, 0), 0.0),
        test(15.0, (10.0, GB), (0.0, 0), 0.0),
        test(14.0, (10.0, GB), (0.0, 0), 0.0),
        slow,
    ];
    let told = forecast(&tests, &work(6 * GB, 1, GB)).unwrap();
    assert_eq!((told.tests, told.fetch_seconds, told.rest_seconds), (3, 60.0, 4.0));
    assert_eq!((told.replay_bytes_per_second, told.replay_seconds), (None, 0.0), "nothing was replayed yet");
}

#[test]
fn a_record_of_before_tells_how_long_it_took_and_no_part() {
    let old = |seconds| Test { restore_seconds: seconds, parts: None };
    let told = forecast(&[old(30.0), old(50.0)], &work(9 * GB, 1, 9 * GB)).unwrap();
    assert_eq!((told.seconds, told.rest_seconds, told.tests), (30.0, 30.0, 1));
    // One that tells its parts goes first.
    let told = forecast(&[old(30.0), test(20.0, (10.0, GB), (5.0, GB), 2.0)], &work(GB, 1, GB)).unwrap();
    assert_eq!((told.seconds, told.tests), (20.0, 1));
    // A server that does not tell how long it replayed: that is in the rest.
    let mut untold = test(20.0, (10.0, GB), (5.0, GB), 2.0);
    untold.parts.as_mut().unwrap().replay = None;
    let told = forecast(&[untold], &work(GB, 1, 9 * GB)).unwrap();
    assert_eq!((told.rest_seconds, told.replay_seconds), (8.0, 0.0));
}

fn told(fetch: f64, replay: f64, check: f64, rest: f64, chain_length: usize) -> Forecast {
    Forecast {
        seconds: fetch + replay + check + rest,
        fetch_seconds: fetch,
        replay_seconds: replay,
        check_seconds: check,
        rest_seconds: rest,
        archive_seconds: 0.0,
        chain_bytes: 40 << 30,
        chain_length,
        wal_bytes: 3 << 20,
        fetch_bytes_per_second: None,
        replay_bytes_per_second: None,
        tests: 3,
    }
}

#[test]
fn the_advice_is_for_what_takes_the_most_and_only_over_the_objective() {
    let objectives = Objectives { rto: Span::from_secs(3600), rpo: Span::from_secs(900) };
    for (forecast, expected) in [
        (told(900.0, 900.0, 900.0, 900.0, 1), None),
        (told(1000.0, 2601.0, 0.0, 0.0, 1), Some(Advice::BackUpMoreOften)),
        (told(3000.0, 601.0, 0.0, 0.0, 1), Some(Advice::FetchFaster)),
        (told(3000.0, 601.0, 0.0, 0.0, 2), Some(Advice::ShortenChain)),
        (told(1000.0, 601.0, 5000.0, 0.0, 9), Some(Advice::CheckLess)),
        (told(1000.0, 601.0, 0.0, 4000.0, 1), Some(Advice::StartFaster)),
    ] {
        assert_eq!(advise(&forecast, &objectives), expected, "{forecast:?}");
        let finding = finding(&forecast, &objectives);
        assert_eq!(finding.is_some(), expected.is_some());
        if let (Some(finding), Some(advice)) = (finding, expected) {
            assert!(finding.contains("estimated") && finding.contains(advice.as_str()), "{finding}");
        }
    }
    let finding = finding(&told(1000.0, 6234.0, 0.0, 0.0, 1), &objectives).unwrap();
    assert!(finding.contains("about 2h now, longer than the RTO of 1h"), "{finding}");
    assert!(finding.contains("is replay of 3MiB of WAL: take full backups"), "{finding}");
}

#[test]
fn an_estimate_has_two_digits() {
    for (seconds, expected) in [(0.2, "1s"), (7.4, "7s"), (93.0, "93s"), (127.0, "130s"), (6234.0, "6200s")] {
        assert_eq!(about(seconds), expected.parse().unwrap(), "{seconds}");
    }
}

proptest! {
    /// More to do never takes less, and the parts are the whole.
    #[test]
    fn more_work_is_never_less_time(
        parts in prop::collection::vec((0.0..500.0_f64, 1..10 * GB, 0.0..500.0_f64, 1..10 * GB, 0.0..99.0_f64), 1..5),
        chain in 0..20 * GB,
        wal in 0..20 * GB,
        more in 0..GB,
    ) {
        let tests: Vec<Test> = parts
            .into_iter()
            .map(|(fetch, bytes, replay, wal, check)| {
                test(fetch + replay + check + 1.0, (fetch, bytes), (replay, wal), check)
            })
            .collect();
        let now = forecast(&tests, &work(chain, 1, wal)).unwrap();
        let sum = now.fetch_seconds + now.replay_seconds + now.check_seconds + now.rest_seconds;
        prop_assert!((now.seconds - sum).abs() < 1e-6 && now.seconds >= 0.99);
        for grown in [work(chain + more, 1, wal), work(chain, 1, wal + more)] {
            prop_assert!(forecast(&tests, &grown).unwrap().seconds >= now.seconds);
        }
    }
}
