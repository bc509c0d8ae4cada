//! What a schedule says of a database that a provider runs: its name there, as whom it is
//! reached, how it should be set up, and where its snapshots go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::schedule::{EngineKind, ScheduleConfig};
use crate::domain::{Region, Span};

/// As whom AWS is called for a database: each duty as its own role, where one is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolesConfig {
    /// Looks, takes snapshots, copies and shares them.
    #[schemars(extend("format" = "role"))]
    pub backup: Option<String>,
    /// Makes isolated instances, and looks at them.
    #[schemars(extend("format" = "role"))]
    pub restore: Option<String>,
    /// Removes expired snapshots and isolated instances.
    #[schemars(extend("format" = "role"))]
    pub delete: Option<String>,
    /// What the account of the roles asks for, where it is another one.
    #[schemars(extend("format" = "filled"))]
    pub external_id: Option<String>,
}

/// How the database should be set up; what differs is a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutomatedBackupsConfig {
    /// How far back every instant can be restored at least, in whole days: at most `35d`.
    pub retention: Option<Span>,
    /// When the provider takes its own backup, in UTC, such as `02:00-03:00`.
    #[schemars(extend("format" = "utc-window"))]
    pub window: Option<String>,
    /// The ARN of the key that it is encrypted with; any key when absent.
    #[schemars(extend("format" = "filled"))]
    pub kms_key: Option<String>,
    /// Whether it has a standby in another zone.
    pub multi_az: Option<bool>,
    /// Regions that its automated backups are replicated to, for recovery to a point in time there.
    #[serde(default)]
    pub replicated_to: Vec<Region>,
}

/// Where each snapshot of ours is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCopyConfig {
    /// Where the copy is; within the residency.
    pub region: Region,
    /// The ARN of a key of that region, which the accounts of `share_with` may use; needed where
    /// the database is encrypted.
    #[schemars(extend("format" = "filled"))]
    pub kms_key: Option<String>,
    /// Ids of accounts that may restore from the copy, such as that of the vault.
    #[serde(default)]
    #[schemars(extend("items" = {"type": "string", "format": "account"}))]
    pub share_with: Vec<String>,
}

/// An isolated instance of the provider.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RdsTargetConfig {
    /// Of a VPC from which production cannot be reached.
    #[schemars(extend("format" = "filled"))]
    pub subnet_group: String,
    /// Which let in nobody but this node.
    pub security_groups: Vec<String>,
    /// That of the source when absent.
    #[schemars(extend("format" = "filled"))]
    pub parameter_group: Option<String>,
    /// `same_as_source`, or the name of a class.
    #[serde(default = "same_as_source")]
    #[schemars(extend("format" = "filled"))]
    pub instance_class: String,
    /// Where it is restored to; the database's region when absent.
    pub region: Option<Region>,
    /// How long the instance may live: then it is removed, whatever became of the test.
    #[serde(default = "eight_hours")]
    pub ttl: Span,
    /// The most that a test may cost, in the currency of `hourly_cost`; nothing starts beyond.
    pub cost_max: Option<f64>,
    /// What an hour of the instance costs, for `cost_max`.
    pub hourly_cost: Option<f64>,
}

/// The class of the source's own instance.
pub const SAME_AS_SOURCE: &str = "same_as_source";

fn same_as_source() -> String {
    SAME_AS_SOURCE.to_owned()
}

fn eight_hours() -> Span {
    Span::from_secs(8 * 3600)
}

/// What the provider calls a database, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagedSource<'a> {
    /// Of the instance, or of the cluster.
    pub id: &'a str,
    pub is_cluster: bool,
    pub region: &'a Region,
}

impl ScheduleConfig {
    /// Where the provider has it; none where we run backups of it ourselves. What was loaded
    /// has all that its engine needs.
    pub fn managed(&self) -> Option<ManagedSource<'_>> {
        let (id, is_cluster) = match self.engine {
            EngineKind::Postgres => return None,
            EngineKind::Rds => (self.instance.as_deref()?, false),
            EngineKind::Aurora => (self.cluster.as_deref()?, true),
        };
        Some(ManagedSource { id, is_cluster, region: self.region.as_ref()? })
    }
}
