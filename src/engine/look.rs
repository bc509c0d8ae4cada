//! What the servers of a database say of themselves. Looks change nothing.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::domain::{Lsn, MemberName, Moment, Question, SegmentSize, SiteName, Timeline, Told, WalKept};

/// Whether a member takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Primary,
    Standby,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    pub member: MemberName,
    pub site: SiteName,
    pub role: Role,
    /// Decimal, as `pg_controldata` prints it.
    pub system_id: String,
    pub server_version: String,
    pub timeline: Timeline,
    /// Written on a primary, replayed on a standby.
    pub lsn: Lsn,
    pub segment_size: SegmentSize,
}

/// The backup that an increment builds upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub timeline: Timeline,
    pub start_lsn: Lsn,
}

/// Looking at one database.
#[async_trait]
pub trait Look: Send + Sync {
    /// Every member that answers, and why the others do not.
    async fn inspect(&self) -> Vec<(MemberName, Result<MemberFacts, EngineError>)>;

    /// Everything that would stop backups or streaming, each with its remedy;
    /// the facts of the primary when nothing would.
    async fn preflight(&self) -> Result<MemberFacts, Vec<EngineError>>;

    /// Why no increment can be taken now from that standby, else from the primary, upon
    /// `parent` where one is named, with the remedy; none when one can.
    async fn increment_hindrance(
        &self,
        standby: Option<&MemberName>,
        parent: Option<Parent>,
    ) -> Result<Option<String>, EngineError>;

    /// What a person should know of how the primary is set, though it stops nothing.
    async fn notes(&self) -> Result<Vec<String>, EngineError>;

    /// Whether the primary acknowledges no commit before every required vault has it.
    async fn commits_wait(&self) -> Result<bool, EngineError>;

    /// What each member keeps of its WAL for us now, and what room it has for it; why it
    /// cannot be seen of the others.
    async fn wal_kept(&self) -> Vec<(MemberName, Result<WalKept, EngineError>)>;

    /// What the primary answers, and of which moment that is. It writes nothing, and
    /// gives up before it is a burden there.
    async fn sample(&self, question: &Question) -> Result<(Moment, Told), EngineError>;
}
