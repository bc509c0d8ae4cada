//! A database that a provider runs: there are no files and no WAL to be had, but
//! snapshots and points in time, which the provider restores into an instance of its own.
//!
//! What must never happen: a call that changes the source; one that removes what nobody
//! proved to be ours; data in a region or account that was not named.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    aws::{AwsError, Identity},
    decide::promotion::{AcceptedLoss, Lag},
    domain::{Region, Snapshot},
};

pub use crate::domain::InstanceSettings;

/// What a call is made for. Each duty may have a role of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// Looks, takes snapshots, copies and shares them.
    Backup,
    /// Makes copies of the database, and looks at them.
    Restore,
    /// Removes what is ours: expired snapshots, and copies that were made.
    Delete,
}

/// What the provider tells of the database itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// The provider's id for it, which no other one ever gets.
    pub resource_id: String,
    pub arn: String,
    /// As the provider spells it: `available`, `modifying` …
    pub status: String,
    pub settings: InstanceSettings,
    /// Host and port that clients use; none while it is being made.
    pub endpoint: Option<(String, u16)>,
    /// Up to which instant it can be restored, by region: its own, and those that its
    /// automated backups are replicated to.
    pub latest_restorable: BTreeMap<Region, Timestamp>,
    /// Why it is not known of a region.
    #[serde(default)]
    pub unread: BTreeMap<Region, String>,
    /// From which instant on it can be restored in its own region.
    pub earliest_restorable: Option<Timestamp>,
}

/// Where a snapshot is copied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCopy {
    pub id: String,
    pub region: Region,
    /// A key of that region; required where the snapshot is encrypted.
    pub kms_key: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// What of the database is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreFrom {
    /// By its ARN.
    Snapshot(String),
    /// What was committed at this instant.
    Time(Timestamp),
    /// The newest instant that the provider can restore.
    Latest,
}

/// An isolated instance that is to be made. Nothing of it is taken from the source but its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceOrder {
    /// Begins with our prefix, and is no name of the source's.
    pub id: String,
    pub region: Region,
    pub from: RestoreFrom,
    pub instance_class: String,
    pub subnet_group: String,
    pub security_groups: Vec<String>,
    pub parameter_group: Option<String>,
    /// With the run and when it expires.
    pub tags: BTreeMap<String, String>,
}

/// An instance that a restore made, as the provider tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredInstance {
    pub id: String,
    pub arn: String,
    pub region: Region,
    pub status: String,
    /// Whether clients can log in.
    pub is_available: bool,
    /// Why it never will be available, in the provider's word; none while it still may.
    pub failed: Option<String>,
    pub endpoint: Option<(String, u16)>,
    pub created_at: Option<Timestamp>,
    pub settings: InstanceSettings,
}

/// Snapshots of one database.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Who calls of this duty are made as.
    async fn identity(&self, duty: Duty) -> Result<Identity, AwsError>;

    /// What the provider tells of the database now.
    async fn source(&self) -> Result<SourceFacts, AwsError>;

    /// All snapshots of it in a region: ours, adopted ones, and automated ones. Ours are
    /// those that bear our tags.
    async fn snapshots(&self, region: &Region) -> Result<Vec<Snapshot>, AwsError>;

    /// Begins a snapshot with our tags and these. One that has this id already and is ours
    /// is a success: it is answered as it is.
    async fn take_snapshot(&self, id: &str, tags: &BTreeMap<String, String>) -> Result<Snapshot, AwsError>;

    /// Begins a copy in another region, or with another key. Idempotent like `take_snapshot`.
    async fn copy_snapshot(&self, from: &Snapshot, to: &SnapshotCopy) -> Result<Snapshot, AwsError>;

    /// Lets these accounts restore from a snapshot of ours. Idempotent.
    async fn share_snapshot(&self, snapshot: &Snapshot, accounts: &[String]) -> Result<(), AwsError>;

    /// Removes a snapshot of ours; its tags are looked at again before. One that is gone is
    /// a success.
    async fn delete_snapshot(&self, snapshot: &Snapshot) -> Result<(), AwsError>;
}

/// Isolated instances of one database.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Begins a restore into a new instance: not publicly accessible, without deletion
    /// protection. One that has this id already and bears the order's tags is a success.
    async fn restore(&self, order: &InstanceOrder) -> Result<(), AwsError>;

    /// An instance as it is now; none where there is none of this id.
    async fn instance(&self, region: &Region, id: &str) -> Result<Option<RestoredInstance>, AwsError>;

    /// All instances in a region that bear our prefix and the tags of this database.
    async fn ours(&self, region: &Region) -> Result<Vec<RestoredInstance>, AwsError>;

    /// Begins to remove an instance, without a final snapshot and with its automated backups. Its
    /// prefix and tags are looked at again before: they must name `run_id`. One that is gone, or
    /// going, is a success.
    async fn remove(&self, region: &Region, id: &str, run_id: &str) -> Result<(), AwsError>;
}

/// A database that a provider runs. One value stands for one protected database.
pub trait Managed: Snapshots + Instances + fmt::Debug {}
impl<T: Snapshots + Instances + fmt::Debug> Managed for T {}

/// Moving the primary of what a provider replicates. What it does acts on production, and
/// cannot be undone: these alone do, and the lag is looked at right before. Each is a success
/// where it was done before.
#[async_trait]
pub trait Handover: Send + Sync {
    /// Makes a read replica a database of its own, once the source takes no writes. An unknown
    /// lag refuses.
    async fn promote_replica(
        &self,
        region: &Region,
        replica: &str,
        lag: Option<Lag>,
        lag_seconds_max: u64,
    ) -> Result<(), AwsError>;

    /// Has another instance of a cluster write. They share their storage: nothing is lost.
    async fn fail_over_cluster(&self, region: &Region, cluster: &str, member: &str) -> Result<(), AwsError>;

    /// Has the cluster `to`, by its ARN, write in place of the one that does, which the provider
    /// waits for: nothing is lost. `region` is that of the primary.
    async fn switch_over_global(&self, region: &Region, global: &str, to: &str) -> Result<(), AwsError>;

    /// The same without the primary, and without what was not replicated. `region` is that of `to`.
    async fn fail_over_global(
        &self,
        region: &Region,
        global: &str,
        to: &str,
        lag: Option<Lag>,
        loss: &AcceptedLoss,
    ) -> Result<(), AwsError>;
}

/// What the names of all that is made begin with.
pub const PREFIX: &str = "lifeboat-";

/// The tags of all that is made.
pub mod tag {
    /// Which database of which estate it is of, as in the schedule.
    pub const DATABASE: &str = "lifeboat:database";
    /// The run that made it.
    pub const RUN: &str = "lifeboat:run_id";
    /// When it may be removed though its run did not; RFC 3339.
    pub const EXPIRES: &str = "lifeboat:expires_at";
    /// On copies of snapshots: the state of the database that they hold; RFC 3339.
    pub const TAKEN: &str = "lifeboat:taken_at";
}
