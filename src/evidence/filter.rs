//! Which entries are meant.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::Entry;

/// A text that is no month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a month; write it like `2026-11`")]
pub struct InvalidMonth(String);

/// A calendar month in UTC. Written `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month {
    first: civil::Date,
}

impl Month {
    pub fn of(at: Timestamp) -> Self {
        Self { first: at.to_zoned(TimeZone::UTC).date().first_of_month() }
    }

    /// `November 2026`.
    pub fn in_words(self) -> String {
        self.first.strftime("%B %Y").to_string()
    }

    pub fn contains(self, at: Timestamp) -> bool {
        Self::of(at) == self
    }

    /// Its first instant.
    pub fn begins(self) -> Timestamp {
        self.first.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
    }

    /// The month after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { first: self.first.last_of_month().tomorrow().unwrap_or(self.first) }
    }

    /// The month before it.
    #[must_use]
    pub fn before(self) -> Self {
        Self { first: self.first.yesterday().unwrap_or(self.first).first_of_month() }
    }
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, InvalidMonth> {
        let invalid = || InvalidMonth(text.to_owned());
        if text.len() != 7 {
            return Err(invalid());
        }
        format!("{text}-01").parse().map(|first| Self { first }).map_err(|_| invalid())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

impl TryFrom<String> for Month {
    type Error = InvalidMonth;
    fn try_from(text: String) -> Result<Self, InvalidMonth> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> String {
        month.to_string()
    }
}

/// Which entries are meant; all that is absent does not limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// By the instant at which the run ended.
    pub month: Option<Month>,
    pub kind: Option<String>,
    /// Database or runbook.
    pub subject: Option<String>,
    /// At most this many, the newest ones.
    pub limit: Option<usize>,
}

impl Filter {
    pub(super) fn apply(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.retain(|Entry { record, .. }| {
            self.month.is_none_or(|month| month.contains(record.finished_at))
                && self.kind.as_ref().is_none_or(|kind| *kind == record.kind)
                && self.subject.as_ref().is_none_or(|subject| *subject == record.subject)
        });
        let surplus = self.limit.map_or(0, |limit| entries.len().saturating_sub(limit));
        entries.split_off(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_at_midnight_utc() {
        let month: Month = "2026-11".parse().unwrap();
        assert_eq!(month.to_string(), "2026-11");
        assert!(month.contains("2026-11-30T23:59:59.999Z".parse().unwrap()));
        assert!(!month.contains("2026-12-01T00:00:00Z".parse().unwrap()));
        assert!(!month.contains("2025-11-15T00:00:00Z".parse().unwrap()));
        for bad in ["", "2026", "2026-13", "2026-1", "11-2026", "2026-11-01"] {
            assert!(bad.parse::<Month>().is_err(), "{bad}");
        }
    }
}
