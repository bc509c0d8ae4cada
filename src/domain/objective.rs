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

/// How soon a database has to be back, as a class: what is promised of it, and what
/// must be there to keep that (`decide/tier.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Users hardly notice, and no commit is lost: RTO 30s, RPO 1s.
    ActiveActive,
    /// A standby at another site takes over: RTO 5m, RPO 1m.
    WarmStandby,
    /// It is restored elsewhere from a copy: RTO 30m, RPO 15m.
    PilotLight,
    /// It is restored from its backups: RTO 1h, RPO 15m.
    BackupOnly,
}

impl Tier {
    pub const ALL: [Self; 4] = [Self::ActiveActive, Self::WarmStandby, Self::PilotLight, Self::BackupOnly];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ActiveActive => "active_active",
            Self::WarmStandby => "warm_standby",
            Self::PilotLight => "pilot_light",
            Self::BackupOnly => "backup_only",
        }
    }
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
