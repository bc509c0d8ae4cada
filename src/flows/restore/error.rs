//! Why nothing was restored, each with what to do about it.

use std::path::PathBuf;

use crate::{
    decide::{
        archive::Frozen,
        cluster::Unclear,
        recovery::{Refusal, search::Unreachable},
        tablespaces::{InUse, Outside},
    },
    domain::{ByteSize, VaultName, archive::Thawing},
    engine::EngineError,
    flows::KeyError,
    vault::{ObjectKey, VaultError},
};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Tablespace(#[from] InUse),
    #[error(transparent)]
    Unconfined(#[from] Outside),
    #[error(transparent)]
    Unclear(Box<Unclear>),
    #[error("no vault holds a backup of `{database}` with system id {system_id}; there are: {known}")]
    UnknownCluster { database: String, system_id: String, known: String },
    #[error(
        "the restore needs at least {needed} in {path}, and {free} are free; free space, or restore to another file system"
    )]
    NoRoom { path: PathBuf, needed: ByteSize, free: ByteSize },
    #[error("the restore needs at least {needed} in {path}, and may take {limit}; raise the limit")]
    OverLimit { path: PathBuf, needed: ByteSize, limit: ByteSize },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "{left} object(s) that were asked for, such as `{key}`, still lie in the archive of vault `{vault}` after {}; restore again later (what was asked for can be read for {} day(s)), or raise `archive.limit` of the vault",
        terms.limit, terms.keep_days
    )]
    ArchiveLate { vault: VaultName, key: ObjectKey, left: usize, terms: Thawing },
    /// Nothing was asked for.
    #[error("it needs {frozen}")]
    Frozen { frozen: Frozen },
    #[error(
        "vault `{vault}` holds no backup of `{database}`; take one with `lifeboat backup {database}`, or name another vault"
    )]
    Nothing { vault: String, database: String },
    /// Why is told of each backup where it is read.
    #[error(
        "vault `{vault}` holds no backup of `{database}` that can be believed; compare the key that signed it with the fingerprint in the DR kit, or name another vault"
    )]
    NothingSound { vault: String, database: String },
    #[error(
        "no instant can be drawn: vault `{vault}` holds no heartbeat of `{database}` after its first backup yet; run the test later"
    )]
    NoWindow { vault: String, database: String },
}

impl RestoreError {
    /// Whether the same call can only fail again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Vault(error) => error.is_permanent(),
            Self::Engine(error) => error.is_permanent(),
            Self::Refused(_)
            | Self::Unreachable(_)
            | Self::Tablespace(_)
            | Self::Unconfined(_)
            | Self::Unclear(_)
            | Self::UnknownCluster { .. }
            | Self::NoRoom { .. }
            | Self::OverLimit { .. }
            | Self::ArchiveLate { .. }
            | Self::Frozen { .. }
            | Self::Key(_)
            | Self::Nothing { .. }
            | Self::NothingSound { .. }
            | Self::NoWindow { .. } => true,
        }
    }

    /// Whether the target was refused because something is in it: then nothing
    /// of ours is there to be removed.
    pub fn is_target_occupied(&self) -> bool {
        matches!(self, Self::Vault(VaultError::NotEmpty { .. }))
    }

    /// Whether what was asked for cannot be had, or what it needs was not
    /// configured: the caller's to mend.
    pub fn is_callers(&self) -> bool {
        match self {
            Self::Key(_)
            | Self::Vault(VaultError::NoIdentity { .. })
            | Self::Unreachable(_)
            | Self::Tablespace(_)
            | Self::Unconfined(_)
            | Self::Unclear(_)
            | Self::NoRoom { .. }
            | Self::UnknownCluster { .. } => true,
            Self::Refused(refusal) => {
                !matches!(refusal, Refusal::Gap { .. } | Refusal::NoHistory(_) | Refusal::NoParent { .. })
            }
            _ => false,
        }
    }
}
