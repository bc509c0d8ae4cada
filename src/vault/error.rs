//! What can go wrong in a vault above its stores. Every message names the
//! object and says what to do.

use std::{io, path::PathBuf};

use super::{ObjectKey, StoreError, signature::SignatureError};
use crate::domain::{BackupId, Lsn, Timeline, VaultName};

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(
        "vault `{vault}`: `{key}` exists with other content; two writers use one name, or this cluster's history was forked: find out which before anything is deleted"
    )]
    Conflict { vault: VaultName, key: ObjectKey },
    #[error(
        "`{key}` would leave this process unencrypted; nothing was written. This is a defect of Lifeboat: report it"
    )]
    Unsealed { key: ObjectKey },
    #[error("vault `{vault}`: `{key}` is damaged ({what}); restore from another vault or another backup")]
    Damaged { vault: VaultName, key: ObjectKey, what: String },
    #[error(
        "vault `{vault}`: `{key}` is not encrypted: somebody put another file in its place; restore from another vault or another backup, and find out who can write here"
    )]
    Unencrypted { vault: VaultName, key: ObjectKey },
    #[error(
        "vault `{vault}`: `{key}` is named by the backup and is missing; restore from another vault or another backup"
    )]
    Missing { vault: VaultName, key: ObjectKey },
    #[error("none of the given identities opens `{key}`; name the age identity whose public key was a recipient")]
    NoIdentity { key: ObjectKey },
    #[error(
        "no key that could be read opens `{key}`, and these are lost: {}; restore from a vault where they are sound",
        names(lost)
    )]
    LostKeys {
        key: ObjectKey,
        lost: Vec<ObjectKey>,
        /// Why the first of them is.
        #[source]
        source: Box<VaultError>,
    },
    #[error("this is no age identity: {what}")]
    BadIdentity { what: String },
    #[error("cannot encrypt: {what}; configure at least one recipient (`age1…`)")]
    Seal { what: String },
    #[error("the server's archive cannot be stored: {what}; take the backup again")]
    Archive { what: String },
    /// A full backup can be taken instead.
    #[error("no differential can be taken: {what}")]
    Unlike { what: String },
    #[error("`{key}` holds `{member}`, which does not belong into a backup ({what}); do not trust this vault")]
    Member { key: ObjectKey, member: String, what: &'static str },
    #[error("`{key}` cannot be read as {what}; restore it from another vault")]
    Unreadable {
        key: ObjectKey,
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{key}` has format {found}, this Lifeboat reads up to {newest}; use a newer Lifeboat")]
    Format { key: ObjectKey, found: u32, newest: u32 },
    #[error("`{name}` is not a valid {what}")]
    BadName { name: String, what: &'static str },
    #[error("{path} is not empty; restore into an empty folder")]
    NotEmpty { path: PathBuf },
    #[error("cannot {action} {path}; check space and permissions")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("backup `{backup}` is committed and is not swept; expire it instead")]
    Committed { backup: BackupId },
    #[error("WAL at {expected} was expected, the server sent {found}; start streaming anew")]
    WalOrder { expected: Lsn, found: Lsn },
    #[error("vault `{vault}`: {what}")]
    Refused { vault: VaultName, what: String },
    #[error("no WAL stream has begun; begin one first")]
    NotStreaming,
    #[error("vault `{vault}` is back and needs WAL from {from} on; start streaming anew")]
    Behind { vault: VaultName, from: Lsn },
    #[error("vault `{vault}`: another stream began under the key name `{key}`; start streaming anew")]
    KeyTaken { vault: VaultName, key: ObjectKey },
    /// The server writes another history than the one that the vault holds under
    /// the same names.
    #[error(
        "vault `{vault}` holds WAL of timeline {timeline} up to {held} that the server, which is at {server}, did not write: it was set back to an earlier state, such as a storage snapshot or an old copy of its data folder"
    )]
    Forked { vault: VaultName, timeline: Timeline, held: Lsn, server: Lsn },
    /// Nothing restores what lies behind this position from a backup before it.
    #[error(
        "the server wrote on from {at} of timeline {timeline} with `wal_level` minimal, and no recovery passes that: what it writes since needs a full backup of its own"
    )]
    Unlogged { timeline: Timeline, at: Lsn },
    #[error("incarnation {incarnation} keeps what the server writes now apart; start streaming anew")]
    NextIncarnation {
        incarnation: u32,
        #[source]
        forked: Box<VaultError>,
    },
    #[error("stopped before it was done")]
    Stopped,
    #[error("a worker of the vault's pipeline ended early; run it again")]
    Pipeline,
}

impl VaultError {
    /// Whether the same call can only fail again until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::LostKeys { source, .. } => source.is_permanent(),
            // The backup can be taken again; the same bytes cannot be stored.
            Self::Archive { .. }
            | Self::File { .. }
            | Self::WalOrder { .. }
            | Self::NotStreaming
            | Self::Behind { .. }
            | Self::KeyTaken { .. }
            | Self::NextIncarnation { .. }
            | Self::Stopped
            | Self::Pipeline => false,
            _ => true,
        }
    }
}

fn names(keys: &[ObjectKey]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
