//! Storage that gives nothing at once: the classes and tiers of S3 from which a copy must be
//! asked for, and how it is asked for.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// A class, or a tier of `INTELLIGENT_TIERING`, from which nothing is read before a copy
/// of it was restored. As S3 spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ArchiveClass {
    Glacier,
    ArchiveAccess,
    DeepArchive,
    DeepArchiveAccess,
}

impl ArchiveClass {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Glacier => "GLACIER",
            Self::ArchiveAccess => "ARCHIVE_ACCESS",
            Self::DeepArchive => "DEEP_ARCHIVE",
            Self::DeepArchiveAccess => "DEEP_ARCHIVE_ACCESS",
        }
    }

    /// Whether it is a tier: what is asked for there moves back for good, and is no copy.
    pub const fn is_tier(self) -> bool {
        matches!(self, Self::ArchiveAccess | Self::DeepArchiveAccess)
    }
}

impl fmt::Display for ArchiveClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a listing tells of an object that may not be readable at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cold {
    /// Nothing but a copy of it can be read.
    Archived(ArchiveClass),
    /// It is moved to where nobody reads it; only the object itself tells where it is.
    Tiered,
}

/// How fast a copy is asked for. The faster, the dearer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retrieval {
    /// Minutes; from deep archives as `standard`, which is the fastest that there is.
    Expedited,
    /// Hours.
    #[default]
    Standard,
    /// Many hours, for the least money.
    Bulk,
}

impl Retrieval {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }
}

/// How copies are asked for, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thawing {
    pub retrieval: Retrieval,
    /// How long a copy can be read, in days.
    pub keep_days: u16,
    /// When waiting ends.
    pub limit: Span,
}

impl Default for Thawing {
    /// Three days are enough for a restore and a second look; no retrieval takes longer
    /// than two.
    fn default() -> Self {
        Self { retrieval: Retrieval::Standard, keep_days: 3, limit: Span::from_secs(2 * 86_400) }
    }
}
