//! What people outside of the product are told: one text for whoever reads it, and
//! the same as data for programs. Holds no secret and no personal data.
//!
//! A notice has one id for ever. It is told at least once, always by that id, so
//! that whoever gets it twice can know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::DatabaseName;

/// What is told, and to nobody in particular.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Stable: `maintenance/20261226t0100z-20261226t0300z-all/24h/dba`.
    pub id: String,
    pub topic: Topic,
    /// When there was something to tell.
    pub at: Timestamp,
    /// The databases that it is about.
    pub databases: Vec<DatabaseName>,
    /// One line.
    pub title: String,
    /// Lines for people; the title is not repeated in them.
    pub text: String,
    /// The same for programs.
    pub details: serde_json::Value,
}

/// What a notice is of, by its kind and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Topic {
    #[serde(rename = "maintenance.announced")]
    MaintenanceAnnounced,
    #[serde(rename = "maintenance.changed")]
    MaintenanceChanged,
    #[serde(rename = "maintenance.cancelled")]
    MaintenanceCancelled,
}

impl Topic {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaintenanceAnnounced => "maintenance.announced",
            Self::MaintenanceChanged => "maintenance.changed",
            Self::MaintenanceCancelled => "maintenance.cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_written_as_it_is_named() {
        for topic in [Topic::MaintenanceAnnounced, Topic::MaintenanceChanged, Topic::MaintenanceCancelled] {
            assert_eq!(serde_json::to_value(topic).unwrap(), topic.as_str());
        }
    }
}
