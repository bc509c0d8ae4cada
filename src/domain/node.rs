//! Nodes that serve one state database, and where a run may be driven.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DatabaseName, Region, VaultName};

/// What a node does while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Stores the runs that are due.
    Scheduler,
    /// Drives runs, streams WAL and takes care of the vaults.
    Worker,
    /// Answers the status API and the page.
    Api,
}

impl NodeRole {
    pub const ALL: [Self; 3] = [Self::Scheduler, Self::Worker, Self::Api];
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Api => "api",
        })
    }
}

/// A node as it told of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    pub name: String,
    pub region: Region,
    pub roles: Vec<NodeRole>,
    /// Of Lifeboat.
    pub version: String,
    /// When it was last heard, by the clock of the state database.
    pub seen_at: Timestamp,
    /// Whether that is short enough ago to count on it.
    pub is_alive: bool,
}

/// Where a run may be driven, and what it works on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Only nodes of these regions may drive it; all when there is none.
    pub regions: Vec<Region>,
    /// The vaults that it writes to or reads from.
    pub vaults: Vec<VaultName>,
    pub database: Option<DatabaseName>,
}

impl Placement {
    /// Whether a node of this region may drive the run.
    pub fn allows(&self, region: &Region) -> bool {
        self.regions.is_empty() || self.regions.contains(region)
    }
}
