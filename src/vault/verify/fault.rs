//! What can be wrong with an object of a vault, and what a person does about it.

use serde::{Deserialize, Serialize};

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Missing,
    Extra,
    Size,
    Damaged,
    NotEncrypted,
    Unreadable,
    /// A part that holds what does not belong into one, or other bytes than
    /// PostgreSQL's own manifest says.
    Structure,
    /// Validly signed, and not true.
    LyingManifest,
    /// It does not fit its signature.
    Signature,
    /// Somebody else's signature.
    ForeignSignature,
    /// WAL that should be there and is not.
    Gap,
    /// WAL ends before a commit that was acknowledged.
    Behind,
    /// WAL that is not what its name says.
    ForeignWal,
    /// Two objects that should hold the same bytes do not.
    Disagrees,
    History,
    Heartbeats,
    /// No key in the vault opens it.
    NoKey,
    LaterVersion,
    DeleteMarker,
    Lock,
}

impl Fault {
    /// As in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Size => "size",
            Self::Damaged => "damaged",
            Self::NotEncrypted => "not_encrypted",
            Self::Unreadable => "unreadable",
            Self::Structure => "structure",
            Self::LyingManifest => "lying_manifest",
            Self::Signature => "signature",
            Self::ForeignSignature => "foreign_signature",
            Self::Gap => "gap",
            Self::Behind => "behind",
            Self::ForeignWal => "foreign_wal",
            Self::Disagrees => "disagrees",
            Self::History => "history",
            Self::Heartbeats => "heartbeats",
            Self::NoKey => "no_key",
            Self::LaterVersion => "later_version",
            Self::DeleteMarker => "delete_marker",
            Self::Lock => "lock",
        }
    }

    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Missing | Self::Size | Self::Damaged | Self::Unreadable => {
                "copy it from another vault with `lifeboat vault copy`, or take a new backup"
            }
            Self::NotEncrypted | Self::Structure => {
                "find out who wrote it, copy the right one from another vault with `lifeboat vault copy`, or take a new backup"
            }
            Self::Extra => "nobody reads it: find out who wrote it, and remove it",
            Self::LyingManifest => {
                "do not restore from this backup: take a new one, and find out who holds the signing key"
            }
            Self::Signature => {
                "it does not count: copy it with its signature from another vault with `lifeboat vault copy`, or take a new backup"
            }
            Self::ForeignSignature => {
                "it does not count: find out who can write to this vault; if the key is yours, name it with `--signed-by`"
            }
            Self::Gap => "copy the WAL from another vault with `lifeboat vault copy`, or take a new backup now",
            Self::Behind => {
                "look whether WAL still reaches this vault, and copy it from another one with `lifeboat vault copy`"
            }
            Self::ForeignWal => {
                "two clusters write here: find out which, copy the right segment from another vault with `lifeboat vault copy`, or take a new backup now"
            }
            Self::Disagrees => {
                "the cluster's history was forked, or somebody wrote here: compare with another vault, and take a new backup now"
            }
            Self::History => {
                "recovery would follow a wrong line: copy the file from another vault with `lifeboat vault copy`, or from the server's pg_wal"
            }
            Self::Heartbeats => {
                "recovery points before it cannot be measured: copy it from another vault with `lifeboat vault copy`"
            }
            Self::NoKey => {
                "copy the key objects from another vault with `lifeboat vault copy`, or take a new backup now"
            }
            Self::LaterVersion => {
                "Lifeboat reads the first version: remove the later one, and find out who can write here"
            }
            Self::DeleteMarker => "Lifeboat still reads it: remove the delete marker, and find out who can delete here",
            Self::Lock => "lock it again",
        }
    }
}
