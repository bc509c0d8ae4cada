//! Numbers as people read them. What was not measured is said so and never
//! shown as zero. Everything is taken by reference, as templates hand it over.

use jiff::{Timestamp, tz::TimeZone};

use crate::domain::{ByteSize, ExposureOver};

/// What stands where a kind of run does not measure something.
pub const NOT_MEASURED: &str = "not measured";

/// `0.42 s`, `12.3 s`, `4 min 12 s`, `1 h 03 min`, `3 d 4 h`.
pub fn seconds(seconds: &f64) -> String {
    let seconds = *seconds;
    if !seconds.is_finite() {
        return NOT_MEASURED.to_owned();
    }
    if seconds < 0.0 {
        return format!("−{}", self::seconds(&-seconds));
    }
    if seconds < 9.995 {
        let text = format!("{seconds:.2}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        return format!("{text} s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, not negative, for people")]
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) if rest == 0 => format!("{minutes} min"),
        (0, 0) => format!("{minutes} min {rest:02} s"),
        (0, _) if minutes == 0 => format!("{hours} h"),
        (0, _) => format!("{hours} h {minutes:02} min"),
        (_, 0) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// The same, or that it was not measured.
pub fn seconds_or_not(measured: &Option<f64>) -> String {
    measured.map_or_else(|| NOT_MEASURED.to_owned(), |measured| seconds(&measured))
}

/// `0.4 %`; never `0.0 %` of what was not zero, nor all of what was not all.
pub fn share(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 0.0 && percent < 0.05 => "less than 0.1 %".to_owned(),
        percent if (99.95..100.0).contains(&percent) => "more than 99.9 %".to_owned(),
        percent => format!("{percent:.1} %"),
    }
}

/// The longest, the share over the objective, and of how much of the time that is known.
pub fn exposure_over(over: &ExposureOver) -> String {
    let Some(over_share) = over.over_share() else { return NOT_MEASURED.to_owned() };
    let (longest, measured) = (seconds_or_not(&over.max_seconds), share(over.measured_share()));
    format!("at most {longest}, {} of the time over the objective, measured {measured} of the time", share(over_share))
}

/// `2026-11-21 05:00:12 UTC`.
pub fn instant(at: &Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `21 Nov 05:00` for places where the year is clear.
pub fn short_instant(at: &Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-d %b %H:%M").to_string()
}

/// `05:00:12`.
pub fn time_of_day(at: &Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S").to_string()
}

/// `1` → `1 backup`, `2` → `2 backups`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Seconds between two instants; negative when `to` is earlier.
pub fn between(from: &Timestamp, to: &Timestamp) -> f64 {
    to.duration_since(*from).as_secs_f64()
}

/// `4 min 12 s ago`; an instant that our clock has not reached yet is `now`.
pub fn ago(at: &Timestamp, now: &Timestamp) -> String {
    match between(at, now) {
        past if past < 0.5 => "now".to_owned(),
        past => format!("{} ago", seconds(&past.round())),
    }
}

/// `21 Nov 2026`.
pub fn date(at: &Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-d %b %Y").to_string()
}

/// `533.2MiB`.
pub fn bytes(bytes: &u64) -> String {
    ByteSize::from_bytes(*bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_from_milliseconds_to_days() {
        for (input, expected) in [
            (0.0, "0 s"),
            (0.418, "0.42 s"),
            (1.5, "1.5 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min"),
            (252.0, "4 min 12 s"),
            (3600.0, "1 h"),
            (3780.0, "1 h 03 min"),
            (273_600.0, "3 d 4 h"),
            (-2.0, "−2 s"),
            (f64::NAN, "not measured"),
        ] {
            assert_eq!(seconds(&input), expected);
        }
        assert_eq!(seconds_or_not(&None), "not measured");
    }
}
