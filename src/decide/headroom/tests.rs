use super::*;
use crate::domain::Timeline;

const MIB: u64 = 1 << 20;
/// Bytes a second.
const RATE: f64 = 1_048_576.0;

fn kept() -> WalKept {
    WalKept {
        member: "a".parse().unwrap(),
        is_primary: true,
        slot: "lifeboat_wallet".to_owned(),
        state: SlotState::Reserved,
        is_active: true,
        timeline: Timeline(1),
        written: Lsn(100 * MIB),
        from: Some(Lsn(60 * MIB)),
        limit_bytes: None,
        safe_bytes: None,
        folder_bytes: None,
        free_bytes: None,
    }
}

fn facts(kept: &WalKept) -> Facts<'_> {
    Facts {
        kept,
        room_bytes: None,
        bytes_per_second: Some(RATE),
        still_for: Duration::ZERO,
        confirmed_every: Duration::ZERO,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn what_ends_first_counts_and_lasts_as_long_as_the_rate_allows() {
    let of = |limit: Option<u64>, free: Option<u64>, room: Option<u64>| {
        let kept = WalKept { safe_bytes: limit.map(|n| n * MIB), free_bytes: free.map(|n| n * MIB), ..kept() };
        let headroom = headroom(&Facts { room_bytes: room.map(|n| n * MIB), ..facts(&kept) })?;
        Some((headroom.end, headroom.bytes / MIB, headroom.lasts.unwrap().as_secs()))
    };
    assert_eq!(of(None, None, None), None, "nobody knows");
    assert_eq!(of(Some(7200), None, None), Some((End::SlotLimit, 7200, 7200)));
    assert_eq!(of(Some(7200), Some(3600), None), Some((End::Disk, 3600, 3600)));
    // What is kept already takes 40 MiB of the room.
    assert_eq!(of(Some(7200), Some(3600), Some(100)), Some((End::Room, 60, 60)));
    assert_eq!(of(None, None, Some(10)), Some((End::Room, 0, 0)));
    let kept = WalKept { free_bytes: Some(MIB), ..kept() };
    for rate in [None, Some(0.0)] {
        assert_eq!(headroom(&Facts { bytes_per_second: rate, ..facts(&kept) }).unwrap().lasts, None, "{rate:?}");
    }
}

#[test]
fn a_look_that_is_older_than_some_periods_says_nothing_of_now() {
    for (age, expected) in [(0, true), (10, true), (60, true), (61, false), (86_400, false), (-5, true)] {
        assert_eq!(is_current(at(1000), at(1000 + age)), expected, "{age}");
    }
}

#[test]
fn it_stands_still_while_the_same_position_is_not_the_end() {
    let (kept, from) = (kept(), kept().from.unwrap());
    assert_eq!(still_since(None, &kept, at(10)), Some(at(10)));
    assert_eq!(still_since(Some((from, Some(at(10)))), &kept, at(40)), Some(at(10)));
    assert_eq!(still_since(Some((Lsn(from.0 - 1), Some(at(10)))), &kept, at(40)), Some(at(40)), "progress");
    let done = WalKept { from: Some(kept.written), ..kept.clone() };
    assert_eq!(still_since(Some((kept.written, None)), &done, at(40)), None, "all is confirmed");
    assert_eq!(still_since(Some((from, Some(at(10)))), &WalKept { from: None, ..kept }, at(40)), None, "no slot");
}

#[test]
fn a_finding_names_the_end_the_time_and_the_remedy() {
    let still = Duration::from_secs(190);
    let told = |change: fn(&mut WalKept), still_for, room: Option<u64>| {
        let mut kept = kept();
        change(&mut kept);
        finding(&Facts { still_for, room_bytes: room, ..facts(&kept) })
    };
    let holds = |text: Option<String>, words: &[&str]| {
        let text = text.unwrap();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    };
    assert_eq!(told(|_| {}, Duration::ZERO, None), None);
    assert_eq!(told(|kept| kept.safe_bytes = Some(3600 * MIB), Duration::ZERO, None), None);
    assert_eq!(told(|kept| kept.state = SlotState::Missing, still, None), None);
    holds(
        told(|kept| kept.safe_bytes = Some(7320 * MIB), still, None),
        &["keeps 40MiB", "for 3m", "in 2h2m its slot is over `max_slot_wal_keep_size`", "1MiB a second"],
    );
    holds(told(|kept| kept.free_bytes = Some(90 * MIB), still, None), &["in 1m its disk is full", "make room"]);
    holds(told(|_| {}, still, Some(200 * MIB)), &["in 2m `wal.room_on_primary` is used up"]);
    holds(told(|_| {}, still, None), &["max_slot_wal_keep_size` is -1", "room_on_primary"]);
    let kept = kept();
    let seldom = Facts { still_for: still, confirmed_every: Duration::from_secs(900), ..facts(&kept) };
    assert_eq!(finding(&seldom), None, "WAL is confirmed every 15 min");
    // There is progress, and little room.
    holds(told(|kept| kept.safe_bytes = Some(10 * MIB), Duration::ZERO, None), &["keeps 40MiB for slot", "in 10s"]);
    assert_eq!(told(|kept| kept.safe_bytes = Some(20 * MIB), Duration::ZERO, None), None);
    let little = |kept: &mut WalKept| (kept.from, kept.safe_bytes) = (Some(Lsn(99 * MIB)), Some(0));
    assert_eq!(told(little, Duration::ZERO, None), None, "one segment is nothing");
    holds(told(|kept| kept.state = SlotState::Unreserved, Duration::ZERO, None), &["the next checkpoint", "more room"]);
    holds(told(|kept| kept.state = SlotState::Lost, Duration::ZERO, None), &["invalidated slot `lifeboat_wallet`"]);
}

#[test]
fn of_a_standby_it_tells_what_is_lost_by_its_promotion() {
    let still = Duration::from_secs(190);
    let told = |change: fn(&mut WalKept)| {
        let mut kept = WalKept { member: "b".parse().unwrap(), is_primary: false, ..kept() };
        change(&mut kept);
        finding(&Facts { still_for: still, ..facts(&kept) }).unwrap()
    };
    for (text, words) in [
        (told(|kept| kept.safe_bytes = Some(7320 * MIB)), ["piles up on a standby: member `b`", "when it is promoted"]),
        (told(|kept| kept.free_bytes = Some(90 * MIB)), ["member `b`", "in 1m its disk is full"]),
        (told(|_| {}), ["member `b`", "or set a limit"]),
        (told(|kept| kept.state = SlotState::Lost), ["member `b` invalidated", "when this standby is promoted"]),
    ] {
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
        assert!(!text.contains("primary"), "{text}");
    }
}

#[test]
fn the_primary_is_the_one_on_the_newest_timeline() {
    let one = |name: &str, is_primary, timeline| WalKept {
        member: name.parse().unwrap(),
        is_primary,
        timeline: Timeline(timeline),
        ..kept()
    };
    let of = |seen: &[WalKept]| primary(seen.iter()).map(|kept| kept.member.to_string());
    let (a, b) = (one("a", true, 1), one("b", false, 1));
    assert_eq!(of(&[]), None);
    assert_eq!(of(std::slice::from_ref(&b)), None, "a standby is none");
    assert_eq!(of(&[a.clone(), b]).as_deref(), Some("a"));
    assert_eq!(of(&[a.clone(), one("b", true, 2)]).as_deref(), Some("b"), "it was promoted");
    assert_eq!(of(&[a, one("b", true, 1)]), None, "nobody can tell");
}
