//! Proofs: that a restore of exactly one backup was replayed, queried and torn
//! down. Signed, and kept beside the backups, so that a lost state database
//! loses none.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Layout, Listing, Store, VaultError,
    signature::{Signer, Verifier},
    signature_of,
    signed::Document,
};
use crate::domain::{BackupId, Opener, RunId};

pub(super) const PROOF: Document = Document { namespace: "lifeboat-proof", what: "a proof" };

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub backup: BackupId,
    /// Of the very manifest that was restored.
    pub manifest_sha256: String,
    pub run: RunId,
    pub proven_at: Timestamp,
    /// Whose identity opened it, and the public keys of those that did; older
    /// proofs do not tell.
    #[serde(default)]
    pub opener: Opener,
    #[serde(default)]
    pub opened_by: Vec<String>,
}

/// Stores a signed proof. Repeating it is a success.
pub async fn put_proof(store: &dyn Store, layout: &Layout, proof: &Proof, signer: &Signer) -> Result<(), VaultError> {
    PROOF.put(store, &layout.proof(&proof.backup, &proof.run)?, proof, signer).await
}

/// The newest valid proof of a backup; one that speaks of another manifest
/// proves nothing.
pub(super) async fn newest_proof(
    store: &dyn Store,
    listing: &Listing,
    backup: &BackupId,
    manifest_sha256: &str,
    verifier: &Verifier,
) -> Result<Option<Proof>, VaultError> {
    let mut proofs = valid_under(store, listing, &listing.layout().proofs_prefix(backup), verifier).await?;
    proofs.retain(|proof| proof.backup == *backup && proof.manifest_sha256 == manifest_sha256);
    Ok(proofs.into_iter().max_by_key(|proof| proof.proven_at))
}

/// When a restore test last passed that was opened by the identity kept elsewhere.
pub async fn last_escrow_proof(
    store: &dyn Store,
    listing: &Listing,
    verifier: &Verifier,
) -> Result<Option<Timestamp>, VaultError> {
    let proofs = valid_under(store, listing, &listing.layout().all_proofs_prefix(), verifier).await?;
    Ok(proofs.iter().filter(|proof| proof.opener == Opener::Escrow).map(|proof| proof.proven_at).max())
}

/// The proofs under a prefix; what is not validly signed is not counted.
async fn valid_under(
    store: &dyn Store,
    listing: &Listing,
    prefix: &str,
    verifier: &Verifier,
) -> Result<Vec<Proof>, VaultError> {
    let mut proofs = Vec::new();
    for key in listing.under(prefix) {
        let signature = signature_of(key);
        if key.as_str().strip_suffix(".json").is_none() || !listing.holds(&signature) {
            continue;
        }
        match PROOF.read(store, key, verifier).await {
            Ok(proof) => proofs.push(proof),
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => tracing::warn!(%error, "a proof is not counted"),
        }
    }
    Ok(proofs)
}
