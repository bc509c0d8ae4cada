//! Copies one object from vault to vault, as it is stored: nothing is opened,
//! and no identity is needed. What arrives is what was signed, or bears its own
//! digest; a source that is damaged gives nothing.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::{
    Layout, Manifest, Object, ObjectKey, ObjectRecord, Store, StoreError, VaultError, put_once,
    seal::{self, Gate},
    signature::Verifier,
    signature_of, stat,
};
use crate::{decide::recovery::parse_history, domain::BackupId};

/// Read and written at once.
const CHUNK: usize = 256 << 10;
/// A sealed object's header lies within its first bytes.
const HEAD: usize = 64 << 10;

/// What is known of an object before it is read.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Named by a signed manifest.
    Named(ObjectRecord),
    /// Of this size by the listing; its header bears its digest.
    Sealed(u64),
}

/// Copies one object and answers the bytes that were written: none where the
/// target has the same content under that name already.
pub async fn copy_object(
    from: &dyn Store,
    to: &dyn Store,
    key: &ObjectKey,
    expected: &Expected,
    stop: &CancellationToken,
) -> Result<u64, VaultError> {
    let mut reader = match from.read(key).await {
        Err(StoreError::NotFound { vault, key }) => return Err(VaultError::Missing { vault, key }),
        other => other?,
    };
    let mut gate = match Gate::create(to, key).await {
        Err(VaultError::Store(StoreError::AlreadyExists { .. })) => return same(from, to, key).await,
        other => other?,
    };
    let (mut sha256, mut size, mut head) = (Sha256::new(), 0u64, Vec::new());
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = tokio::select! {
            count = reader.read_buf(&mut chunk) => count.map_err(|source| seal::read_failed(from, key, source))?,
            () = stop.cancelled() => return Err(VaultError::Stopped),
        };
        if count == 0 {
            break;
        }
        sha256.update(&chunk);
        size += count as u64;
        if head.len() < HEAD {
            head.extend_from_slice(&chunk);
        }
        gate.write(Bytes::from(chunk)).await.map_err(|error| sealed(from, error))?;
    }
    judge(expected, size, &hex::encode(sha256.finalize()), &head).map_err(|what| VaultError::Damaged {
        vault: from.place().vault.clone(),
        key: key.clone(),
        what,
    })?;
    match gate.commit().await.map_err(|error| sealed(from, error)) {
        Err(VaultError::Store(StoreError::AlreadyExists { .. })) => return same(from, to, key).await,
        other => other?,
    };
    match stat(to, key).await? {
        Some(stored) if stored.size_bytes == size => Ok(size),
        found => {
            let found = found.map_or("nothing".to_owned(), |found| format!("{} bytes", found.size_bytes));
            let what = format!("{size} bytes were written and {found} came back");
            Err(VaultError::Damaged { vault: to.place().vault.clone(), key: key.clone(), what })
        }
    }
}

/// What is not encrypted here is damage there.
fn sealed(from: &dyn Store, error: VaultError) -> VaultError {
    match error {
        VaultError::Unsealed { key } => {
            let (vault, what) = (from.place().vault.clone(), "it is not encrypted".to_owned());
            VaultError::Damaged { vault, key, what }
        }
        error => error,
    }
}

/// Whether what was read is what was expected.
fn judge(expected: &Expected, size: u64, sha256: &str, head: &[u8]) -> Result<(), String> {
    match expected {
        Expected::Named(record) if record.stored_size != size || record.stored_sha256 != sha256 => Err(format!(
            "{size} bytes with SHA-256 {sha256} instead of {} with {}",
            record.stored_size, record.stored_sha256
        )),
        Expected::Named(_) => Ok(()),
        Expected::Sealed(listed) if *listed != size => Err(format!("{size} bytes instead of {listed}")),
        Expected::Sealed(_) => {
            seal::header_digest(head).map(drop).ok_or_else(|| "its header bears no digest".to_owned())
        }
    }
}

/// A name that is taken must hold the same content.
async fn same(from: &dyn Store, to: &dyn Store, key: &ObjectKey) -> Result<u64, VaultError> {
    let is_same = match (seal::sealed_digest(from, key).await?, seal::sealed_digest(to, key).await?) {
        (Some(ours), Some(theirs)) => ours == theirs,
        // Parts bear no digest.
        _ => sha256_of(from, key).await? == sha256_of(to, key).await?,
    };
    if is_same { Ok(0) } else { Err(VaultError::Conflict { vault: to.place().vault.clone(), key: key.clone() }) }
}

async fn sha256_of(store: &dyn Store, key: &ObjectKey) -> Result<String, VaultError> {
    let (mut reader, mut sha256) = (store.read(key).await?, Sha256::new());
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut chunk).await.map_err(|source| seal::read_failed(store, key, source))?;
        if count == 0 {
            return Ok(hex::encode(sha256.finalize()));
        }
        sha256.update(chunk.get(..count).unwrap_or_default());
    }
}

/// Copies a history file that can be read as one, or a signed account and the
/// signature beside it that fits: small, and not encrypted.
pub async fn copy_plain(
    from: &dyn Store,
    to: &dyn Store,
    key: &ObjectKey,
    verifier: &Verifier,
) -> Result<u64, VaultError> {
    let name = key.as_str();
    let damaged =
        |what: &str| VaultError::Damaged { vault: from.place().vault.clone(), key: key.clone(), what: what.to_owned() };
    let bytes = read(from, key).await?;
    let signed = name.strip_suffix(".sig").map(|signed| ObjectKey(signed.to_owned()));
    match signed {
        Some(signed) => vouch(from, &signed, &read(from, &signed).await?, &bytes, verifier)?,
        None if name.strip_suffix(".json").is_some() => {
            vouch(from, key, &bytes, &read(from, &signature_of(key)).await?, verifier)?;
        }
        None if parse_history(&String::from_utf8_lossy(&bytes)).is_none() => {
            return Err(damaged("it is no history file"));
        }
        None => {}
    }
    let size = bytes.len() as u64;
    put_once(to, key, &Object::plain(bytes)).await.map(|()| size)
}

async fn read(from: &dyn Store, key: &ObjectKey) -> Result<Vec<u8>, VaultError> {
    match seal::read_all(from, key).await {
        Err(VaultError::Store(StoreError::NotFound { vault, key })) => Err(VaultError::Missing { vault, key }),
        other => other,
    }
}

fn vouch(
    from: &dyn Store,
    key: &ObjectKey,
    message: &[u8],
    signature: &[u8],
    verifier: &Verifier,
) -> Result<(), VaultError> {
    let vouched = verifier.vouch(key.as_str(), message, &String::from_utf8_lossy(signature));
    vouched.map_err(|error| VaultError::Damaged {
        vault: from.place().vault.clone(),
        key: key.clone(),
        what: error.to_string(),
    })
}

/// Commits a backup whose objects were copied: with the very manifest that was
/// signed, its signature before it, and not before all that it names was listed.
pub async fn copy_manifest(
    from: &dyn Store,
    to: &dyn Store,
    layout: &Layout,
    backup: &BackupId,
    verifier: &Verifier,
) -> Result<u64, VaultError> {
    let key = layout.manifest(backup);
    let (json, signature) = (read(from, &key).await?, read(from, &signature_of(&key)).await?);
    let manifest = Manifest::from_signed(&key, &json, &String::from_utf8_lossy(&signature), verifier)?;
    let there = to.list(&layout.backup_prefix(backup)).await?;
    for record in &manifest.objects {
        let key = layout.backup_object(backup, &record.name)?;
        if !there.iter().any(|object| object.key == key && object.size_bytes == record.stored_size) {
            // Somebody swept what nobody could see yet; it is copied anew.
            return Err(VaultError::Missing { vault: to.place().vault.clone(), key });
        }
    }
    let size = (json.len() + signature.len()) as u64;
    put_once(to, &signature_of(&key), &Object::plain(signature)).await?;
    put_once(to, &key, &Object::plain(json)).await?;
    Ok(size)
}
