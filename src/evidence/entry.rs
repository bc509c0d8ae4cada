//! An entry of the log and its canonical bytes. What is hashed and signed is
//! the text as it stands, never a re-serialization, so that no reader's idea of
//! JSON can matter.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EvidenceError;
use crate::{db::evidence::Row, domain::EvidenceRecord};

/// Namespace of the signatures over entries (`ssh-keygen -Y verify -n`).
pub const NAMESPACE: &str = "lifeboat-evidence";

/// What the first entry names as the one before it.
pub const NO_PREVIOUS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where a record stands in the log; ends every record that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRef {
    /// From 0.
    pub index: u64,
    /// SHA-256 of a zero byte and the entry's bytes, as lower-case hex.
    pub leaf_hash: String,
}

/// The canonical form: these fields in this order, compact.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Body<R> {
    pub(super) index: u64,
    /// Leaf hash of the entry before.
    pub(super) previous: String,
    pub(super) at: Timestamp,
    pub(super) record: R,
}

/// The canonical bytes of an entry.
pub(super) fn canonical(
    index: u64,
    previous: &str,
    at: Timestamp,
    record: &EvidenceRecord,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Body { index, previous: previous.to_owned(), at, record })
}

/// The leaf hash of RFC 6962 §2.1, so that a Merkle tree can be laid over the
/// log without touching an entry.
pub fn leaf_hash(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(bytes);
    hex::encode(hash.finalize())
}

/// An entry as it was found: bytes and a claim where it stands. Not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its row number or file number.
    pub index: u64,
    /// The run it is filed under, where the place files by run.
    pub run_id: Option<String>,
    pub text: String,
    /// The leaf hash beside it, where the place keeps one.
    pub leaf_hash: Option<String>,
    pub signature: String,
}

impl From<Row> for StoredEntry {
    fn from(row: Row) -> Self {
        Self {
            index: row.index,
            run_id: Some(row.run_id),
            text: row.entry,
            leaf_hash: Some(row.leaf_hash),
            signature: row.signature,
        }
    }
}

/// An entry that was read. Serializes as its record, followed by
/// `evidence {index, leaf_hash}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    pub record: EvidenceRecord,
    /// When it was appended.
    #[serde(rename = "recorded_at")]
    pub at: Timestamp,
    pub evidence: EvidenceRef,
    /// Leaf hash of the entry before.
    #[serde(skip)]
    pub previous: String,
    /// The bytes that are hashed and signed.
    #[serde(skip)]
    pub text: String,
    #[serde(skip)]
    pub signature: String,
}

impl Entry {
    /// Reads an entry; its hash is computed, its signature not checked.
    pub fn parse(index: u64, text: &str, signature: &str) -> Result<Self, EvidenceError> {
        let body: Body<EvidenceRecord> =
            serde_json::from_str(text).map_err(|source| EvidenceError::Unreadable { index, source })?;
        Ok(Self {
            record: body.record,
            at: body.at,
            evidence: EvidenceRef { index: body.index, leaf_hash: leaf_hash(text.as_bytes()) },
            previous: body.previous,
            text: text.to_owned(),
            signature: signature.to_owned(),
        })
    }

    pub(super) fn from_row(row: &Row) -> Result<Self, EvidenceError> {
        Self::parse(row.index, &row.entry, &row.signature)
    }

    pub(super) fn into_row(self) -> Row {
        Row {
            index: self.evidence.index,
            run_id: self.record.run_id,
            entry: self.text,
            leaf_hash: self.evidence.leaf_hash,
            signature: self.signature,
        }
    }
}
