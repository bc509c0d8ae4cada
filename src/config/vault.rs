//! The vaults of `lifeboat.yaml`. All that differs by kind of what is written
//! stands here; a new kind is a variant here, a store in `vault`, and the line
//! in `app/stores.rs` that opens it.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::SecretRef;
use crate::{
    decide::retention::locks::{self, Reach},
    domain::{
        ByteSize, Region, Span,
        archive::{Retrieval, Thawing},
    },
};

/// A place that holds backups.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VaultConfig {
    /// A folder on this machine or on a share.
    Directory(DirectoryVaultConfig),
    /// A bucket of S3, or of a store that speaks it.
    S3(Box<S3VaultConfig>),
}

impl VaultConfig {
    /// Where the vault is, as written.
    pub fn region(&self) -> &Region {
        match self {
            Self::Directory(directory) => &directory.region,
            Self::S3(s3) => &s3.region,
        }
    }

    /// Whether the server may forget WAL before this vault has it.
    pub fn durable(&self) -> Durability {
        match self {
            Self::Directory(directory) => directory.durable,
            Self::S3(s3) => s3.durable,
        }
    }

    /// What the vault may take of line and store.
    pub fn limits(&self) -> Option<&LimitsConfig> {
        match self {
            Self::Directory(directory) => directory.limits.as_ref(),
            Self::S3(s3) => s3.limits.as_ref(),
        }
    }

    /// How many runs may work on it at a time.
    pub fn runs_max(&self) -> Option<NonZeroU32> {
        match self {
            Self::Directory(directory) => directory.runs_max,
            Self::S3(s3) => s3.runs_max,
        }
    }

    /// How far what is kept is locked; not at all where nothing is said of it.
    pub fn lock_reach(&self) -> Reach {
        match self {
            Self::Directory(_) => Reach::default(),
            Self::S3(s3) => s3
                .object_lock
                .as_ref()
                .map(|lock| Reach::seconds(lock.reach.as_duration().as_secs()))
                .unwrap_or_default(),
        }
    }

    /// Whether every object is sent with a key to be encrypted with.
    pub fn has_key(&self) -> bool {
        match self {
            Self::Directory(_) => false,
            Self::S3(s3) => s3.encryption.is_some(),
        }
    }

    /// The kind, and where in it the vault is, for people.
    pub fn location(&self) -> (&'static str, String) {
        match self {
            Self::Directory(directory) => ("directory", directory.path.display().to_string()),
            Self::S3(s3) => {
                let prefix = s3.prefix.as_deref().unwrap_or_default();
                let at = s3.endpoint.as_ref().map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
                ("s3", format!("s3://{}/{prefix}{at}", s3.bucket))
            }
        }
    }

    /// Makes the paths in it absolute; they start from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        match self {
            Self::Directory(directory) => directory.path = folder.join(&directory.path),
            Self::S3(s3) => {
                for key in [&mut s3.credentials, &mut s3.delete_credentials].into_iter().flatten() {
                    key.anchor(folder);
                }
            }
        }
    }
}

/// A vault in a folder.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryVaultConfig {
    /// The folder; made when absent.
    #[schemars(extend("format" = "filled"))]
    pub path: PathBuf,
    /// Declared, as nobody can verify where a folder is.
    pub region: Region,
    /// Whether the server may forget WAL before this vault has it.
    #[serde(default)]
    pub durable: Durability,
    /// What it may take of line and store; not limited when absent.
    pub limits: Option<LimitsConfig>,
    /// How many runs may work on it at a time, of all nodes; not limited when absent.
    pub runs_max: Option<NonZeroU32>,
}

/// A vault in a bucket.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3VaultConfig {
    /// The bucket's name; it must exist.
    #[schemars(extend("format" = "bucket"))]
    pub bucket: String,
    /// Where the bucket is; verified with the store before anything is written.
    pub region: Region,
    /// What every object's name begins with, such as `prod/`; the whole bucket when absent.
    #[schemars(extend("format" = "prefix"))]
    pub prefix: Option<String>,
    /// `https://HOST` of a store that is not Amazon's.
    #[schemars(extend("format" = "endpoint"))]
    pub endpoint: Option<String>,
    /// Where the bucket's name stands in requests; `path` with an `endpoint`, else `host`.
    pub addressing: Option<Addressing>,
    /// What requests are signed for, where the store of `endpoint` names its regions otherwise.
    pub signing_region: Option<Region>,
    /// The access key; environment, profile, container and instance are asked when absent.
    pub credentials: Option<CredentialsConfig>,
    /// Another access key, used to delete and for nothing else.
    pub delete_credentials: Option<CredentialsConfig>,
    /// How the store encrypts; as the bucket's default says when absent.
    pub encryption: Option<EncryptionConfig>,
    /// The class of storage; the bucket's default when absent. Those that answer
    /// after hours are no place for what is new: a rule of the bucket may move there
    /// what is old.
    pub storage_class: Option<StorageClass>,
    /// How a restore asks for what the bucket has moved to an archive.
    #[serde(default)]
    pub archive: ArchiveConfig,
    /// Keeps objects from being deleted while they are kept; needs a bucket with Object Lock.
    pub object_lock: Option<ObjectLockConfig>,
    /// Whether the server may forget WAL before this vault has it.
    #[serde(default)]
    pub durable: Durability,
    /// What it may take of line and store; not limited when absent.
    pub limits: Option<LimitsConfig>,
    /// How many runs may work on it at a time, of all nodes; not limited when absent.
    pub runs_max: Option<NonZeroU32>,
}

/// Where the bucket's name stands in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// `https://HOST/BUCKET`
    Path,
    /// `https://BUCKET.HOST`
    Host,
}

/// An access key. Its id is no secret; the rest is named by reference.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialsConfig {
    /// The access key's id.
    #[schemars(extend("format" = "filled"))]
    pub access_key_id: String,
    /// Where the secret access key is found.
    pub secret_access_key: SecretRef,
    /// Where the token of a temporary key is found.
    pub session_token: Option<SecretRef>,
}

impl CredentialsConfig {
    pub(super) fn anchor(&mut self, folder: &Path) {
        self.secret_access_key.anchor(folder);
        self.session_token.iter_mut().for_each(|token| token.anchor(folder));
    }
}

/// How the store encrypts what it is given, which is encrypted already.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// The KMS key's id, ARN or alias.
    #[schemars(extend("format" = "filled"))]
    pub kms_key: String,
}

/// Classes of storage that answer at once, as S3 spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StorageClass {
    Standard,
    StandardIa,
    OnezoneIa,
    IntelligentTiering,
    GlacierIr,
}

impl StorageClass {
    /// As S3 spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::StandardIa => "STANDARD_IA",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
        }
    }
}

/// How a restore asks for what lies in an archive: `GLACIER`, `DEEP_ARCHIVE`, or an archive
/// tier of `INTELLIGENT_TIERING`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// How fast: the faster, the dearer.
    pub retrieval: Retrieval,
    /// How long what was asked for can be read, in whole days; `3d` when absent.
    pub keep: Span,
    /// When a restore no longer waits for it; `2d` when absent.
    pub limit: Span,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        let Thawing { retrieval, keep_days, limit } = Thawing::default();
        Self { retrieval, keep: Span::from_secs(u64::from(keep_days) * DAY_SECONDS), limit }
    }
}

impl From<ArchiveConfig> for Thawing {
    fn from(ArchiveConfig { retrieval, keep, limit }: ArchiveConfig) -> Self {
        let days = keep.as_duration().as_secs().div_ceil(DAY_SECONDS).max(1);
        Self { retrieval, keep_days: u16::try_from(days).unwrap_or(u16::MAX), limit }
    }
}

const DAY_SECONDS: u64 = 86_400;

/// Keeps objects from being deleted while they are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLockConfig {
    /// Who may lift a lock.
    pub mode: LockMode,
    /// How far locks reach ahead at least. What is kept is locked anew again and
    /// again, so this is how long nobody can delete it once nothing locks it any
    /// more, and how much later (up to a week more) what has expired goes; `15d`
    /// when absent, at least `2d`.
    #[serde(rename = "for", default = "lock_reach")]
    pub reach: Span,
}

fn lock_reach() -> Span {
    Span::from_secs(locks::DEFAULT_SECONDS)
}

/// Who may lift a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Whoever has a right of its own.
    Governance,
    /// Nobody, not even the account's owner, before its time.
    Compliance,
}

/// What a vault may take of line and store.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Bytes a second into the vault.
    pub upload: Option<ByteSize>,
    /// Bytes a second out of it.
    pub download: Option<ByteSize>,
    /// Calls a second.
    pub requests: Option<NonZeroU32>,
    /// Calls under way at once.
    pub concurrent: Option<NonZeroU32>,
}

/// Whether the server may forget WAL before this vault has it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The server keeps WAL until this vault has it.
    #[default]
    Required,
    /// The server may forget WAL that this vault lacks.
    BestEffort,
}
