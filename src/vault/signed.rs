//! Small signed documents: the signature is written before what it signs, so
//! that a crash leaves nothing that lacks one, and nothing is parsed before its
//! signature is found to be the trusted key's.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Object, ObjectKey, Store, VaultError, put_once, seal,
    signature::{Signer, Verifier},
    signature_of,
};

/// What is signed in one namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document {
    pub(super) namespace: &'static str,
    /// For errors: `a proof`.
    pub(super) what: &'static str,
}

impl Document {
    /// Stores a document with its signature. Repeating it is a success.
    pub(super) async fn put(
        self,
        store: &dyn Store,
        key: &ObjectKey,
        content: &(impl Serialize + Sync),
        signer: &Signer,
    ) -> Result<(), VaultError> {
        let unreadable = |source| VaultError::Unreadable { key: key.clone(), what: self.what, source };
        let json = Object::plain(serde_json::to_vec_pretty(content).map_err(unreadable)?);
        let signature = signer.sign(self.namespace, &json.stored)?;
        put_once(store, &signature_of(key), &Object::plain(signature)).await?;
        put_once(store, key, &json).await
    }

    /// Reads a document whose signature is valid.
    pub(super) async fn read<T: DeserializeOwned>(
        self,
        store: &dyn Store,
        key: &ObjectKey,
        verifier: &Verifier,
    ) -> Result<T, VaultError> {
        let json = seal::read_all(store, key).await?;
        let signature = seal::read_all(store, &signature_of(key)).await?;
        verifier.verify(self.namespace, key.as_str(), &json, &String::from_utf8_lossy(&signature))?;
        serde_json::from_slice(&json).map_err(|source| VaultError::Unreadable {
            key: key.clone(),
            what: self.what,
            source,
        })
    }
}
