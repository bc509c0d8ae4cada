//! What differs between an instance and a cluster: the calls, and what their answers say.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    caller::Caller,
    own::{Mark, Name, Own},
};
use crate::{
    aws::AwsError,
    domain::{Region, Snapshot},
    engine::managed::{InstanceOrder, RestoredInstance, SourceFacts},
};

/// A snapshot as the provider tells of it, before it is known whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenSnapshot {
    /// Its origin is what the provider says: automated, or adopted.
    pub snapshot: Snapshot,
    /// The identifier of what it is a snapshot of.
    pub source: String,
    pub tags: BTreeMap<String, String>,
    /// It is being removed.
    pub is_going: bool,
}

/// A copy of a snapshot that is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyOrder<'a> {
    pub name: &'a Name,
    pub from: &'a Snapshot,
    /// A key of the region that it is copied to.
    pub kms_key: Option<&'a str>,
    /// Whoever may read the snapshot, where it is encrypted and of another region.
    pub reader: Option<&'a Caller>,
    pub tags: &'a BTreeMap<String, String>,
}

/// The calls about snapshots.
#[async_trait]
pub(super) trait SnapshotCalls: Send + Sync {
    /// What the provider tells of the database in its own region.
    async fn source(&self, caller: &Caller, id: &str) -> Result<SourceFacts, AwsError>;

    /// Up to which instant the region of `caller`, another one, can restore the source; none
    /// where nothing of it is replicated there.
    async fn replicated_until(
        &self,
        caller: &Caller,
        source: &SourceFacts,
        id: &str,
    ) -> Result<Option<Timestamp>, AwsError>;

    /// All snapshots of a database.
    async fn all(&self, caller: &Caller, source: &str) -> Result<Vec<SeenSnapshot>, AwsError>;

    /// The snapshot with this name; none where there is none.
    async fn one(&self, caller: &Caller, id: &str) -> Result<Option<SeenSnapshot>, AwsError>;

    async fn take(
        &self,
        caller: &Caller,
        name: &Name,
        source: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<SeenSnapshot, AwsError>;

    async fn copy(&self, caller: &Caller, order: &CopyOrder<'_>) -> Result<SeenSnapshot, AwsError>;

    async fn share(&self, caller: &Caller, own: &Own, accounts: &[String]) -> Result<(), AwsError>;

    async fn delete(&self, caller: &Caller, own: &Own) -> Result<(), AwsError>;
}

/// An instance or cluster that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub instance: RestoredInstance,
    /// The instances of a cluster: their identifiers, whether they are going, their tags.
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub id: String,
    pub is_going: bool,
    pub tags: BTreeMap<String, String>,
}

/// An order, as far as it is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoreOrder<'a> {
    pub name: &'a Name,
    pub order: &'a InstanceOrder,
    /// With the tag of the database.
    pub tags: &'a BTreeMap<String, String>,
    /// Whose data it is.
    pub source: &'a Source<'a>,
}

/// Where the database itself is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub id: &'a str,
    pub region: &'a Region,
}

/// The calls about instances.
#[async_trait]
pub(super) trait InstanceCalls: Send + Sync {
    /// The one with this identifier, or all.
    async fn seen(&self, caller: &Caller, id: Option<&str>) -> Result<Vec<Seen>, AwsError>;

    /// Begins the restore.
    async fn restore(&self, caller: &Caller, order: &RestoreOrder<'_>) -> Result<(), AwsError>;

    /// Adds what the restored data cannot be served without, where it is not there yet.
    async fn complete(&self, caller: &Caller, seen: &Seen, order: &RestoreOrder<'_>, own: &Own)
    -> Result<(), AwsError>;

    /// Removes it with what it consists of, each part of which must bear the mark.
    async fn remove(&self, caller: &Caller, seen: &Seen, own: &Own, mark: Mark<'_>) -> Result<(), AwsError>;
}
