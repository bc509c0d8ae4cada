//! Exposure over time: what looks came to in buckets, and what buckets come to together.
//! Time in which nobody looked is in none of the figures but the period.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{DatabaseName, VaultName};

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    FiveMinutes,
    /// From midnight UTC.
    Day,
}

impl Width {
    pub const ALL: [Self; 2] = [Self::FiveMinutes, Self::Day];

    pub const fn as_secs(self) -> i64 {
        match self {
            Self::FiveMinutes => 300,
            Self::Day => 86_400,
        }
    }

    /// How long such buckets stay.
    pub const fn kept(self) -> SignedDuration {
        match self {
            Self::FiveMinutes => SignedDuration::from_hours(7 * 24),
            Self::Day => SignedDuration::from_hours(400 * 24),
        }
    }
}

/// What the looks of a stretch came to, for one vault of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub width: Width,
    pub begins: Timestamp,
    /// The longest exposure that was seen.
    pub max: Duration,
    /// For how long it was over the objective, as that stood then.
    pub over: Duration,
    /// For how long anybody measured.
    pub measured: Duration,
}

/// One vault of one database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposed {
    pub database: DatabaseName,
    pub vault: VaultName,
}

/// What the buckets of a period come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ExposureOver {
    /// How long the period is.
    pub period_seconds: f64,
    /// For how long anybody measured: what is missing was not measured, and not good.
    pub measured_seconds: f64,
    /// For how long exposure was over the objective.
    pub over_seconds: f64,
    /// The longest that was seen; none where nobody looked.
    pub max_seconds: Option<f64>,
}

impl ExposureOver {
    /// A period in which nobody looked.
    pub fn unmeasured(period: SignedDuration) -> Self {
        Self { period_seconds: period.as_secs_f64(), ..Self::default() }
    }

    /// Of the time that was measured, the share over the objective; none where none was.
    pub fn over_share(&self) -> Option<f64> {
        (self.measured_seconds > 0.0).then(|| self.over_seconds / self.measured_seconds)
    }

    /// Of the period, the share that was measured.
    pub fn measured_share(&self) -> f64 {
        if self.period_seconds > 0.0 { (self.measured_seconds / self.period_seconds).min(1.0) } else { 0.0 }
    }

    /// Both together: the longest of either, and the time of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            period_seconds: self.period_seconds + other.period_seconds,
            measured_seconds: self.measured_seconds + other.measured_seconds,
            over_seconds: self.over_seconds + other.over_seconds,
            max_seconds: self.max_seconds.into_iter().chain(other.max_seconds).reduce(f64::max),
        }
    }
}
