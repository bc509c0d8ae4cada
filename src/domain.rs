//! The words of the product as plain types: no I/O, no async, nothing else of
//! ours. Every type here means the same in code, YAML, API and pages.

pub mod amount;
pub mod archive;
pub mod backup;
pub mod beat;
pub mod causes;
pub mod exposure;
pub mod ids;
pub mod kept;
pub mod lever;
pub mod lsn;
pub mod node;
pub mod notice;
pub mod objective;
pub mod record;
pub mod recovery;
pub mod sampled;
pub mod selection;
pub mod settings;
pub mod snapshot;
pub mod verdict;

pub use amount::{ByteSize, Decimal, Share, Span};
pub use backup::{Backup, BackupFrom, BackupKind, BackupState, KeepPeriod, TakenFrom};
pub use beat::{Beat, BeatRange};
pub use causes::with_causes;
pub use exposure::{Exposed, ExposureOver};
pub use ids::{BackupId, DatabaseName, MemberName, NotifierName, Region, RunId, RunbookName, SiteName, VaultName};
pub use kept::{SlotState, WalKept};
pub use lever::{Attribution, AttributionError, Lever};
pub use lsn::{Lsn, Segment, SegmentSize, Timeline};
pub use node::{Node, NodeRole, Placement};
pub use notice::{Notice, Topic};
pub use objective::{Objectives, Residency, Tier};
pub use record::EvidenceRecord;
pub use recovery::{Opener, RecoveryPoint, RecoveryTarget};
pub use sampled::{AnswerDigest, ClusterParts, Lineage, Moment, Question, Sample, Told};
pub use selection::{RecoveryAlgorithm, Selection, Turn};
pub use settings::InstanceSettings;
pub use snapshot::{Snapshot, SnapshotOrigin, SnapshotState};
pub use verdict::{Check, Phase, Verdict};
