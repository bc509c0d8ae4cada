//! What was promised: recovery time, recovery point, and where data may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Region, Span};

/// Recovery time and recovery point objectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Objectives {
    /// Recovery time objective: disaster to healthy users.
    pub rto: Span,
    /// Recovery point objective: newest acknowledged commit that may be lost, as an age.
    pub rpo: Span,
}

/// The regions that a jurisdiction allows data to be in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Residency {
    /// For people and reports, such as `MT`.
    pub jurisdiction: String,
    /// Every vault and restore target must be in one of these.
    pub regions: Vec<Region>,
}

impl Residency {
    pub fn allows(&self, region: &Region) -> bool {
        self.regions.contains(region)
    }
}
