//! A signed head of the log. A log can be cut and grown again by somebody who
//! holds the key; the checkpoints that lie in vaults then tell another story.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::EvidenceError;
use crate::{db::evidence::Row, evidence::entry::Body, vault::signature::Signer};

/// Namespace of the signatures over checkpoints.
pub const NAMESPACE: &str = "lifeboat-checkpoint";

/// The log as it was when it had `size` entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which log: `lifeboat/` and the signing key's fingerprint.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Leaf hash of the last of them.
    pub head: String,
    /// When that entry was appended.
    pub at: Timestamp,
}

/// A checkpoint as it was found. Not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Where it was found, for people.
    pub place: String,
    pub text: String,
    pub signature: String,
}

/// The origin of all logs signed by one key.
pub(super) fn origin(fingerprint: &str) -> String {
    format!("lifeboat/{fingerprint}")
}

/// The checkpoint after a row. The same row gives the same bytes, as Ed25519
/// draws no random numbers: every vault gets the same checkpoint, whenever.
pub(super) fn after(row: &Row, signer: &Signer) -> Result<(String, String), EvidenceError> {
    let unreadable = |source| EvidenceError::Unreadable { index: row.index, source };
    let body: Body<serde_json::Value> = serde_json::from_str(&row.entry).map_err(unreadable)?;
    let checkpoint = Checkpoint {
        origin: origin(&signer.verifier().fingerprint()),
        size: row.index + 1,
        head: row.leaf_hash.clone(),
        at: body.at,
    };
    let text = serde_json::to_string(&checkpoint).map_err(unreadable)?;
    let signature = signer.sign(NAMESPACE, text.as_bytes())?;
    Ok((text, signature))
}
