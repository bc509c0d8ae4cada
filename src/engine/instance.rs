//! A restored copy that runs apart from everything, and what is asked of it.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::{
    decide::{
        answer::Answer,
        collation::Collation,
        indexes::LookedAt,
        reading::{Pages, ReadThrough},
    },
    domain::{AnswerDigest, ByteSize, Check, ClusterParts, Lineage},
};

/// How to start a restored copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedParams {
    /// Holds the restored `data` folder, `wal`, and everything the instance may touch.
    pub folder: PathBuf,
    /// How long recovery may take.
    pub recovery_timeout: Duration,
    /// Whether all WAL was looked through, and makes no tablespace. Where the system does
    /// not keep the copy inside `folder`, one of which that is not known is not started.
    pub is_wal_searched: bool,
    /// How much memory each process of the server may have; all that there is when absent.
    pub memory_max: Option<ByteSize>,
}

/// What checks ask of a restored copy.
#[async_trait]
pub trait Ask: Send + Sync + fmt::Debug {
    /// What a query answers.
    async fn query(&self, dbname: &str, sql: &str) -> Result<Answer, EngineError>;
    /// The digest of a query's whole answer, asked as the source was.
    async fn witness(&self, dbname: &str, sql: &str) -> Result<AnswerDigest, EngineError>;
    /// What the copy is made of beside its data; its settings as the files of the backup have
    /// them, those that are named and all that stand there.
    async fn parts(&self, settings: &BTreeSet<String>) -> Result<ClusterParts, EngineError>;
    /// The rows of a table, which is named as SQL does; none where there is no such table.
    async fn count(&self, dbname: &str, table: &str) -> Result<Option<u64>, EngineError>;
    /// What sorts text in the copy: as its catalogs say, and as this machine does.
    async fn collations(&self) -> Result<Vec<Collation>, EngineError>;
    /// Holds every B-tree index of every database against its table. Writes to the copy.
    async fn indexes(&self) -> Result<Vec<LookedAt>, EngineError>;
    /// Reads every database to its end, and keeps nothing.
    async fn read_all(&self) -> Result<Vec<ReadThrough>, EngineError>;
    /// Shuts the server down in order and verifies the checksum of every page on disk.
    /// The instance answers nothing afterwards.
    async fn page_checksums(&self) -> Result<Pages, EngineError>;
}

/// A restored copy that runs apart from everything.
#[async_trait]
pub trait Instance: Ask {
    /// The state that recovery reached, and the history that leads there.
    fn lineage(&self) -> Lineage;
    fn server_version(&self) -> String;

    /// How long its replay of WAL took, waiting for WAL included; none where the server
    /// does not tell.
    fn replay_seconds(&self) -> Option<f64>;
    /// Probes that production cannot be reached; what cannot be isolated is INCONCLUSIVE.
    async fn isolation(&self) -> Result<Vec<Check>, EngineError>;
    /// The newest heartbeat in the copy and any sequence numbers missing below it.
    async fn heartbeats(&self) -> Result<CopiedBeats, EngineError>;
    /// Stops the server and proves that no process of it is left. Idempotent.
    async fn stop(&self) -> Result<(), EngineError>;
}

/// The heartbeats that a restored copy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedBeats {
    /// All sequence numbers present, ascending.
    pub present: Vec<i64>,
}
