//! How fast a server writes WAL, from heartbeats: what it writes as a rule, and not
//! what a moment did. A backup switches segments and makes the next writes whole pages;
//! on an idle server that is most of what it writes in ten minutes.
//!
//! What must never happen: a load that lasts is taken for such a moment. It shows in
//! most of the last minutes, and what comes back by the hour shows in the mean of hours.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::{Beat, Lsn, WalKept};

/// The stretches that are compared, up to now.
const STRETCHES: u32 = 5;

/// One of them.
const STRETCH: Duration = Duration::from_secs(120);

/// What is far enough back for a mean.
const LONG: Duration = Duration::from_secs(6 * 3600);

/// A shorter time has too few of what comes back by the hour.
const LONG_MIN: Duration = Duration::from_secs(3600);

/// A shorter stretch measures nothing.
const MIN: Duration = Duration::from_secs(3);

/// From which instants on the first heartbeat is needed, oldest first.
pub fn instants(now: Timestamp) -> Vec<Timestamp> {
    let before = |time: Duration| {
        SignedDuration::try_from(time).ok().and_then(|time| now.checked_sub(time).ok()).unwrap_or(Timestamp::MIN)
    };
    let recent = (1..=STRETCHES).rev().map(|count| before(STRETCH.saturating_mul(count)));
    std::iter::once(before(LONG)).chain(recent).collect()
}

/// Bytes a second: the greater of the middle one of the last stretches and the mean of
/// hours; none where no heartbeat says anything of it. Where none is recent, the time
/// since the newest counts.
pub fn rate(beats: &[Beat], kept: &WalKept, now: Timestamp) -> Option<f64> {
    let mut seen: Vec<(Timestamp, Lsn)> = beats
        .iter()
        .filter(|beat| beat.timeline == kept.timeline && beat.commit_lsn <= kept.written)
        .map(|beat| (beat.acknowledged_at, beat.commit_lsn))
        .filter(|(at, _)| *at <= now)
        .collect();
    seen.sort_unstable();
    let end = (now, kept.written);
    let is_since = |at: Timestamp, time: Duration| age(at, now).is_some_and(|age| age >= time);
    let mean = seen.first().filter(|(at, _)| is_since(*at, LONG_MIN)).and_then(|first| between(*first, end));
    let recent: Vec<_> =
        seen.iter().copied().filter(|(at, _)| !is_since(*at, STRETCH * (STRETCHES + 1))).chain([end]).collect();
    let mut rates: Vec<f64> =
        recent.iter().zip(recent.iter().skip(1)).filter_map(|(from, to)| between(*from, *to)).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let middle = rates.get(rates.len() / 2).copied();
    let since_newest = || seen.last().and_then(|newest| between(*newest, end));
    match (middle, mean) {
        (Some(middle), Some(mean)) => Some(middle.max(mean)),
        (one, other) => one.or(other).or_else(since_newest),
    }
}

fn age(at: Timestamp, now: Timestamp) -> Option<Duration> {
    now.duration_since(at).try_into().ok()
}

/// None where the stretch is too short, or goes back.
fn between((from, first): (Timestamp, Lsn), (to, last): (Timestamp, Lsn)) -> Option<f64> {
    let took = age(from, to).filter(|took| *took >= MIN)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
    let bytes = last.0.checked_sub(first.0)? as f64;
    Some(bytes / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{SlotState, Timeline};

    const MIB: u64 = 1 << 20;
    const NOW: i64 = 100_000;

    fn kept(written: u64) -> WalKept {
        WalKept {
            member: "a".parse().unwrap(),
            is_primary: true,
            slot: "lifeboat_wallet".to_owned(),
            state: SlotState::Reserved,
            is_active: true,
            timeline: Timeline(1),
            written: Lsn(written),
            from: None,
            limit_bytes: None,
            safe_bytes: None,
            folder_bytes: None,
            free_bytes: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn beat(seconds_ago: i64, lsn: u64) -> Beat {
        let timeline = Timeline(1);
        Beat { seq: 1, acknowledged_at: at(NOW - seconds_ago), commit_lsn: Lsn(lsn), timeline }
    }

    /// The rate of what is written at each second ago, from nothing, in KiB a second.
    fn of(written: fn(i64) -> u64) -> u64 {
        let beats: Vec<Beat> = instants(at(NOW))
            .into_iter()
            .map(|from| NOW - from.as_second())
            .map(|seconds_ago| beat(seconds_ago, written(seconds_ago)))
            .collect();
        let rate = rate(&beats, &kept(written(0)), at(NOW)).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
        let kib = (rate / 1024.0).round() as u64;
        kib
    }

    fn ago(seconds_ago: i64) -> u64 {
        u64::try_from(21_600 - seconds_ago).unwrap()
    }

    #[test]
    fn the_burst_of_a_backup_is_not_what_a_server_writes() {
        // An idle server writes 1 KiB a second; a backup 7 min ago wrote 64 MiB, over two stretches.
        let with_backup = |seconds_ago: i64| {
            let burst = if seconds_ago < 420 { 32 * MIB } else { 0 } + if seconds_ago < 350 { 32 * MIB } else { 0 };
            ago(seconds_ago) * 1024 + burst
        };
        assert_eq!(of(|seconds_ago| ago(seconds_ago) * 1024), 1, "idle");
        assert_eq!(of(with_backup), 4, "the mean of six hours, and not 109 KiB");
        assert_eq!(of(|seconds_ago| ago(seconds_ago) * 1024 * 500), 500, "steady");
        // A load that began six minutes ago is one that lasts.
        let surge = |seconds_ago: i64| u64::try_from((360 - seconds_ago).max(0)).unwrap() * 1024 * 900;
        assert_eq!(of(surge), 900, "surge");
        // What is written in one minute of each hour counts with its mean.
        let hourly = |seconds_ago: i64| u64::try_from(6 - (seconds_ago + 1800) / 3600).unwrap() * 360 * MIB;
        assert_eq!(of(hourly), 102, "hourly");
    }

    #[test]
    fn the_rate_is_that_of_one_history_over_some_seconds() {
        let now = at(NOW);
        let of = |beats: &[Beat]| rate(beats, &kept(100 * MIB), now);
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let mib = |count: f64| Some(count * MIB as f64);
        assert_eq!(of(&[beat(20, 60 * MIB)]), mib(2.0));
        assert_eq!(of(&[beat(20, 60 * MIB); 6]), mib(2.0), "the daemon began a moment ago");
        assert_eq!(of(&[beat(4000, 60 * MIB)]), mib(0.01), "nobody wrote one for long");
        assert_eq!(of(&[beat(1000, 60 * MIB)]), mib(0.04), "nor for a while");
        assert_eq!(of(&[beat(1, 60 * MIB)]), None, "too short");
        assert_eq!(of(&[beat(-10, 60 * MIB)]), None, "another node's clock");
        assert_eq!(of(&[Beat { timeline: Timeline(2), ..beat(20, 60 * MIB) }]), None);
        assert_eq!(of(&[beat(20, 101 * MIB)]), None, "another cluster");
        assert_eq!(of(&[]), None);
    }
}
