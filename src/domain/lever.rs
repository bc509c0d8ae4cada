//! The safety lever: the one switch that stops all drills and blocks new ones.
//! And who asked for something, and why, as they say it themselves.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

/// How the lever stands, and who turned it last; nobody did while the rest is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lever {
    pub on: bool,
    pub who: Option<String>,
    pub reason: Option<String>,
    pub since: Option<Timestamp>,
}

impl fmt::Display for Lever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.on { "on" } else { "off" })?;
        match (&self.since, &self.who, &self.reason) {
            (Some(since), Some(who), Some(reason)) => write!(f, " since {since}, by {who}: {reason}"),
            _ => Ok(()),
        }
    }
}

/// Who asked for something, and why; kept in the journal and the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    pub who: String,
    /// Empty where nothing was said.
    pub reason: String,
}

/// Why an attribution does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributionError {
    #[error("`who` is empty; say who you are")]
    Nobody,
    #[error("`reason` is empty; say why")]
    NoReason,
    #[error("`who` is longer than {WHO_MAX} characters; shorten it")]
    LongWho,
    #[error("`reason` is longer than {REASON_MAX} characters; shorten it")]
    LongReason,
    #[error("`who` and `reason` are one line each; leave line breaks and control characters out")]
    Unprintable,
}

const WHO_MAX: usize = 100;
const REASON_MAX: usize = 1000;

impl Attribution {
    pub fn new(who: &str, reason: &str) -> Result<Self, AttributionError> {
        let (who, reason) = (who.trim(), reason.trim());
        if who.is_empty() {
            return Err(AttributionError::Nobody);
        }
        if who.chars().count() > WHO_MAX {
            return Err(AttributionError::LongWho);
        }
        if reason.chars().count() > REASON_MAX {
            return Err(AttributionError::LongReason);
        }
        if who.chars().chain(reason.chars()).any(char::is_control) {
            return Err(AttributionError::Unprintable);
        }
        Ok(Self { who: who.to_owned(), reason: reason.to_owned() })
    }

    /// The same where a reason must be given.
    pub fn with_reason(who: &str, reason: &str) -> Result<Self, AttributionError> {
        let by = Self::new(who, reason)?;
        if by.reason.is_empty() { Err(AttributionError::NoReason) } else { Ok(by) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attribution, AttributionError, Lever, REASON_MAX, WHO_MAX};

    #[test]
    fn somebody_says_who_and_why_in_one_line_each() {
        let long = |count: usize| "é".repeat(count);
        for (who, reason, expected) in [
            (" ann ", " why ", Ok(("ann", "why"))),
            ("ann", "", Ok(("ann", ""))),
            (" \t", "why", Err(AttributionError::Nobody)),
            ("ann\nbob", "why", Err(AttributionError::Unprintable)),
            ("ann", "a\u{1b}[2J", Err(AttributionError::Unprintable)),
            (&long(WHO_MAX + 1), "", Err(AttributionError::LongWho)),
            ("ann", &long(REASON_MAX + 1), Err(AttributionError::LongReason)),
        ] {
            let made = Attribution::new(who, reason);
            let made = made.as_ref().map(|by| (by.who.as_str(), by.reason.as_str()));
            assert_eq!(made, expected.as_ref().copied(), "{who:?} {reason:?}");
        }
        assert!(Attribution::new(&long(WHO_MAX), &long(REASON_MAX)).is_ok());
        assert_eq!(Attribution::with_reason("ann", "  "), Err(AttributionError::NoReason));
    }

    #[test]
    fn a_lever_that_nobody_turned_is_off() {
        assert_eq!(Lever::default().to_string(), "off");
    }
}
