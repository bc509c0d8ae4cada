//! How long what lies in an archive takes until it can be read, how it is asked for, and
//! when it is looked for again. The times are those that Amazon states:
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html>

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::domain::{
    ByteSize, Span,
    archive::{ArchiveClass, Retrieval},
};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
/// Pauses between two looks are a part of the time that was waited already, within these.
const PAUSE_PART: u32 = 20;
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5 * MINUTE);

/// What is asked for in place of what the class does not offer.
pub fn offered(class: ArchiveClass, asked: Retrieval) -> Retrieval {
    match (class, asked) {
        (ArchiveClass::DeepArchive | ArchiveClass::DeepArchiveAccess, Retrieval::Expedited) => Retrieval::Standard,
        _ => asked,
    }
}

/// How long it takes at most, as stated, until what is asked for so can be read.
pub fn seconds_max(class: ArchiveClass, asked: Retrieval) -> u64 {
    let is_deep = matches!(class, ArchiveClass::DeepArchive | ArchiveClass::DeepArchiveAccess);
    match (is_deep, offered(class, asked)) {
        (_, Retrieval::Expedited) => 5 * MINUTE,
        (false, Retrieval::Standard) => 5 * HOUR,
        (false, Retrieval::Bulk) | (true, Retrieval::Standard) => 12 * HOUR,
        (true, Retrieval::Bulk) => 48 * HOUR,
    }
}

/// How long to wait before the next look.
pub fn pause(waited: Duration) -> Duration {
    (waited / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// What of a restore lies in an archive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Objects and their stored bytes.
    by_class: BTreeMap<ArchiveClass, (u64, u64)>,
    seconds_max: u64,
}

impl Frozen {
    pub fn add(&mut self, class: ArchiveClass, stored_bytes: u64, asked: Retrieval) {
        let (objects, bytes) = self.by_class.entry(class).or_default();
        *objects += 1;
        *bytes = bytes.saturating_add(stored_bytes);
        self.seconds_max = self.seconds_max.max(seconds_max(class, asked));
    }

    pub fn is_empty(&self) -> bool {
        self.by_class.is_empty()
    }

    /// All are asked for at once, so the slowest counts.
    pub fn seconds_max(&self) -> u64 {
        self.seconds_max
    }
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (class, (objects, bytes))) in self.by_class.iter().enumerate() {
            let before = if nth == 0 { "" } else { ", " };
            write!(f, "{before}{objects} object(s) of {} in {class}", ByteSize::from_bytes(*bytes))?;
        }
        write!(f, ", which takes up to {}", Span::from_secs(self.seconds_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_takes_as_long_as_amazon_states() {
        use ArchiveClass::{ArchiveAccess, DeepArchive, DeepArchiveAccess, Glacier};
        use Retrieval::{Bulk, Expedited, Standard};
        for (class, asked, is_asked, expected) in [
            (Glacier, Expedited, Expedited, "5m"),
            (Glacier, Standard, Standard, "5h"),
            (Glacier, Bulk, Bulk, "12h"),
            (ArchiveAccess, Expedited, Expedited, "5m"),
            (ArchiveAccess, Standard, Standard, "5h"),
            (ArchiveAccess, Bulk, Bulk, "12h"),
            (DeepArchive, Expedited, Standard, "12h"),
            (DeepArchive, Standard, Standard, "12h"),
            (DeepArchive, Bulk, Bulk, "2d"),
            (DeepArchiveAccess, Expedited, Standard, "12h"),
            (DeepArchiveAccess, Bulk, Bulk, "2d"),
        ] {
            assert_eq!(offered(class, asked), is_asked, "{class} {asked:?}");
            let takes = Span::from_secs(seconds_max(class, asked));
            assert_eq!(takes, expected.parse().unwrap(), "{class} {asked:?}");
        }
    }

    #[test]
    fn the_slowest_counts_as_all_are_asked_for_at_once() {
        let mut frozen = Frozen::default();
        assert!(frozen.is_empty());
        frozen.add(ArchiveClass::Glacier, 1 << 20, Retrieval::Standard);
        assert_eq!(frozen.seconds_max(), 5 * HOUR);
        frozen.add(ArchiveClass::DeepArchive, 1 << 20, Retrieval::Standard);
        frozen.add(ArchiveClass::Glacier, 1 << 20, Retrieval::Standard);
        assert_eq!(frozen.seconds_max(), 12 * HOUR);
        assert_eq!(
            frozen.to_string(),
            "2 object(s) of 2MiB in GLACIER, 1 object(s) of 1MiB in DEEP_ARCHIVE, which takes up to 12h"
        );
    }

    #[test]
    fn looks_become_rarer_and_never_too_rare() {
        let pauses: Vec<Duration> = [0, 60, 600, 86_400].map(Duration::from_secs).map(pause).into();
        assert_eq!(pauses, [PAUSE_MIN, Duration::from_secs(3), Duration::from_secs(30), PAUSE_MAX]);
    }
}
