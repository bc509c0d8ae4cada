//! Encryption of whole objects, and the one place through which every byte of
//! an object leaves this process. Nothing unencrypted passes it but the closed
//! list of `docs/format.md`.

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use age::x25519::{Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{ObjectInfo, ObjectKey, ObjectWriter, Store, StoreError, VaultError};
use crate::domain::VaultName;

/// How every sealed object begins.
pub(super) const AGE_MAGIC: &[u8] = b"age-encryption.org/v1\n";
const DIGEST_STANZA: &str = "lifeboat-sha256";
const RECIPIENTS_STANZA: &str = "lifeboat-recipients";
const SIZE_STANZA: &str = "lifeboat-size";
/// zstd's level. Relation files become a few hundredths larger than at level 3,
/// in half the time (`docs/benchmarks.md`).
pub(super) const LEVEL: i32 = 1;
/// No header of ours is longer; bounds what is read of a foreign object.
pub(super) const HEADER_MAX: u64 = 64 << 10;

/// The lower-case hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether an object of this name may be stored unencrypted.
fn may_be_plain(key: &ObjectKey) -> bool {
    let path = key.as_str();
    let signed = path.strip_suffix(".sig").unwrap_or(path);
    let is_signature = signed != path;
    let mut parts = signed.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let folders: Vec<&str> = parts.collect();
    match folders.as_slice() {
        [_, "backups", ..] => {
            name == "manifest.json"
                || (!is_signature && ["backup_manifest", "RESTORE.md", "restore.sh"].contains(&name))
        }
        ["wal", ..] => !is_signature && name.strip_suffix(".history").is_some(),
        [_, "proofs" | "verifications", ..] | ["evidence"] | ["checkpoints", "evidence"] => {
            name.strip_suffix(".json").is_some()
        }
        [] => name == super::identity::NAME,
        [_, _, _] => name == super::incarnation::NAME,
        _ => false,
    }
}

/// Whether what begins so was meant to be an age file. One with a changed bit
/// was: it is damaged, and no foreign file.
pub(super) fn looks_sealed(head: &[u8]) -> bool {
    let alike = head.iter().zip(AGE_MAGIC).filter(|(found, wanted)| found == wanted).count();
    2 * alike >= head.len().min(AGE_MAGIC.len())
}

/// Lets an object pass when it is sealed or on the list.
pub struct Gate {
    inner: Box<dyn ObjectWriter>,
    key: ObjectKey,
    /// The first bytes, held back until they are enough to judge; none once judged.
    head: Option<BytesMut>,
}

impl Gate {
    /// Opens a new object in `store`.
    pub async fn create(store: &dyn Store, key: &ObjectKey) -> Result<Self, VaultError> {
        let is_sealed = key.as_str().strip_suffix(".age").is_some();
        if !is_sealed && !may_be_plain(key) {
            return Err(VaultError::Unsealed { key: key.clone() });
        }
        let inner = store.create(key).await?;
        Ok(Self { inner, key: key.clone(), head: is_sealed.then(BytesMut::new) })
    }

    pub async fn write(&mut self, bytes: Bytes) -> Result<(), VaultError> {
        let Some(head) = &mut self.head else { return Ok(self.inner.write(bytes).await?) };
        head.extend_from_slice(&bytes);
        if head.len() < AGE_MAGIC.len() {
            return Ok(());
        }
        if !head.starts_with(AGE_MAGIC) {
            return Err(VaultError::Unsealed { key: self.key.clone() });
        }
        let head = head.split().freeze();
        self.head = None;
        Ok(self.inner.write(head).await?)
    }

    pub async fn commit(self) -> Result<ObjectInfo, VaultError> {
        if self.head.is_some() {
            return Err(VaultError::Unsealed { key: self.key });
        }
        Ok(self.inner.commit().await?)
    }
}

/// A small object ready to be stored.
#[derive(Clone)]
pub struct Object {
    pub stored: Bytes,
    /// Of the bytes before compression and encryption.
    pub plain_sha256: String,
    pub plain_size: u64,
    is_sealed: bool,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("plain_sha256", &self.plain_sha256)
            .field("stored", &self.stored.len())
            .finish_non_exhaustive()
    }
}

impl Object {
    /// For names on the closed list alone.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        let stored = bytes.into();
        Self { plain_sha256: sha256_hex(&stored), plain_size: stored.len() as u64, stored, is_sealed: false }
    }

    /// Encrypts, after compression when `compress`. CPU-bound: large content
    /// belongs on a blocking thread (`seal_blocking`).
    pub fn seal(plain: &[u8], compress: bool, recipients: &[Recipient]) -> Result<Self, VaultError> {
        Self::seal_noted(plain, compress, recipients, &[])
    }

    /// A key object, which tells for whom it is.
    pub(super) fn seal_key(plain: &[u8], recipients: &[Recipient]) -> Result<Self, VaultError> {
        let note = Note { tag: RECIPIENTS_STANZA, args: recipients.iter().map(ToString::to_string).collect() };
        Self::seal_noted(plain, false, recipients, &[note])
    }

    fn seal_noted(plain: &[u8], compress: bool, recipients: &[Recipient], notes: &[Note]) -> Result<Self, VaultError> {
        let failed = |what: String| VaultError::Seal { what };
        let plain_sha256 = sha256_hex(plain);
        let digest = Note { tag: DIGEST_STANZA, args: vec![plain_sha256.clone()] };
        if recipients.is_empty() {
            return Err(failed("there is no recipient".to_owned()));
        }
        let compressed = if compress { Some(zstd::bulk::compress(plain, LEVEL)) } else { None };
        let compressed = compressed.transpose().map_err(|error| failed(error.to_string()))?;
        let content = compressed.as_deref().unwrap_or(plain);
        let size = Note { tag: SIZE_STANZA, args: vec![content.len().to_string()] };
        let notes = [&digest, &size].into_iter().chain(notes).map(|note| note as &dyn age::Recipient);
        let all = recipients.iter().map(|r| r as &dyn age::Recipient).chain(notes);
        let encryptor = age::Encryptor::with_recipients(all).map_err(|error| failed(error.to_string()))?;
        let seal = || -> std::io::Result<Vec<u8>> {
            let mut writer = encryptor.wrap_output(Vec::new())?;
            writer.write_all(content)?;
            writer.finish()
        };
        let stored = seal().map_err(|error| failed(error.to_string()))?.into();
        Ok(Self { stored, plain_sha256, plain_size: plain.len() as u64, is_sealed: true })
    }

    /// The same off the runtime's threads.
    pub async fn seal_blocking(plain: Bytes, compress: bool, recipients: Vec<Recipient>) -> Result<Self, VaultError> {
        tokio::task::spawn_blocking(move || Self::seal(&plain, compress, &recipients))
            .await
            .map_err(|_| VaultError::Pipeline)?
    }
}

/// Stores a small object. A name that holds the same plain content already is a
/// success retried; with other content it is `Conflict`.
pub async fn put_once(store: &dyn Store, key: &ObjectKey, object: &Object) -> Result<(), VaultError> {
    let put = async {
        let mut gate = Gate::create(store, key).await?;
        gate.write(object.stored.clone()).await?;
        gate.commit().await
    };
    match put.await {
        Ok(_) => Ok(()),
        Err(VaultError::Store(StoreError::AlreadyExists { vault, key })) => {
            let existing = if object.is_sealed {
                sealed_digest(store, &key).await?
            } else {
                Some(sha256_hex(&read_all(store, &key).await?))
            };
            if existing.as_ref() == Some(&object.plain_sha256) {
                Ok(())
            } else {
                Err(VaultError::Conflict { vault, key })
            }
        }
        Err(error) => Err(error),
    }
}

/// The plain digest that a sealed object's header tells; none when it has none.
pub async fn sealed_digest(store: &dyn Store, key: &ObjectKey) -> Result<Option<String>, VaultError> {
    let mut reader = store.read(key).await?.take(HEADER_MAX);
    let mut head = Vec::new();
    loop {
        let count = reader.read_buf(&mut head).await.map_err(|source| read_failed(store, key, source))?;
        let digest = header_digest(&head);
        if digest.is_some() || count == 0 || head.windows(5).any(|line| line == b"\n--- ") {
            return Ok(digest);
        }
    }
}

/// The same of an object's first bytes.
pub(super) fn header_digest(stored: &[u8]) -> Option<String> {
    header_note(stored, DIGEST_STANZA).filter(|args| args.len() == 1)?.pop().filter(|digest| digest.len() == 64)
}

/// How many bytes were encrypted, by an object's first bytes; older objects do not tell.
pub(super) fn header_size(stored: &[u8]) -> Option<u64> {
    header_note(stored, SIZE_STANZA).filter(|args| args.len() == 1)?.pop()?.parse().ok()
}

/// For whom a key object is; none when it does not tell.
pub(super) fn key_recipients(stored: &[u8]) -> Option<Vec<String>> {
    header_note(stored, RECIPIENTS_STANZA)
}

/// The arguments of a note in the header.
fn header_note(stored: &[u8], tag: &str) -> Option<Vec<String>> {
    let end = stored.windows(5).position(|line| line == b"\n--- ").unwrap_or(stored.len());
    let header = stored.get(..end)?;
    header.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.strip_prefix("-> ")?.split(' ');
        (words.next() == Some(tag)).then(|| words.map(str::to_owned).collect())
    })
}

pub(super) fn read_failed(store: &dyn Store, key: &ObjectKey, source: std::io::Error) -> VaultError {
    let vault = store.place().vault.clone();
    VaultError::Store(StoreError::Io { vault, subject: format!("`{key}`"), action: "read", source })
}

/// Reads an object that fits in memory.
pub async fn read_all(store: &dyn Store, key: &ObjectKey) -> Result<Vec<u8>, VaultError> {
    let mut bytes = Vec::new();
    let mut reader = store.read(key).await?;
    reader.read_to_end(&mut bytes).await.map_err(|source| read_failed(store, key, source))?;
    Ok(bytes)
}

/// Reads and opens a sealed object that fits in memory, and checks it against
/// the digest in its header.
pub async fn read_sealed(
    store: &dyn Store,
    key: &ObjectKey,
    compressed: bool,
    identities: &[Identity],
) -> Result<Vec<u8>, VaultError> {
    let stored = read_all(store, key).await?;
    open(&store.place().vault, key, stored, compressed, identities).await
}

/// The same for bytes that were read from `vault` already.
pub(super) async fn open(
    vault: &VaultName,
    key: &ObjectKey,
    stored: Vec<u8>,
    compressed: bool,
    identities: &[Identity],
) -> Result<Vec<u8>, VaultError> {
    let (vault, key, identities) = (vault.clone(), key.clone(), identities.to_vec());
    if !looks_sealed(&stored) {
        return Err(VaultError::Unencrypted { vault, key });
    }
    let damaged = move |key, what| VaultError::Damaged { vault: vault.clone(), key, what };
    tokio::task::spawn_blocking(move || {
        let decryptor =
            age::Decryptor::new_buffered(stored.as_slice()).map_err(|e| damaged(key.clone(), e.to_string()))?;
        let mut reader = match decryptor.decrypt(identities.iter().map(|identity| identity as _)) {
            Ok(reader) => reader,
            Err(age::DecryptError::NoMatchingKeys) => return Err(VaultError::NoIdentity { key }),
            Err(error) => return Err(damaged(key, error.to_string())),
        };
        let mut plain = Vec::new();
        let read = if compressed {
            zstd::stream::copy_decode(reader, &mut plain)
        } else {
            reader.read_to_end(&mut plain).map(drop)
        };
        read.map_err(|error| damaged(key.clone(), error.to_string()))?;
        match header_digest(&stored) {
            Some(digest) if digest != sha256_hex(&plain) => Err(damaged(key, "its digest differs".to_owned())),
            _ => Ok(plain),
        }
    })
    .await
    .map_err(|_| VaultError::Pipeline)?
}

/// Tells something in the age header. Wraps no key: it opens nothing.
struct Note {
    tag: &'static str,
    args: Vec<String>,
}

impl age::Recipient for Note {
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let stanza = Stanza { tag: self.tag.to_owned(), args: self.args.clone(), body: Vec::new() };
        Ok((vec![stanza], HashSet::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_closed_list_may_be_plain() {
        let plain = |name: &str| may_be_plain(&ObjectKey::new(name).unwrap());
        for good in [
            "w/1/1/backups/b/manifest.json",
            "w/1/1/backups/b/manifest.json.sig",
            "w/1/1/backups/b/backup_manifest",
            "w/1/1/backups/b/RESTORE.md",
            "w/1/1/backups/b/restore.sh",
            "w/1/1/wal/00000002.history",
            "w/1/1/proofs/b/run.json",
            "w/1/1/proofs/b/run.json.sig",
            "w/1/1/verifications/b/at-run.json",
            "w/1/1/verifications/b/at-run.json.sig",
            "evidence/0000000000000001.json",
            "evidence/0000000000000001.json.sig",
            "evidence/checkpoints/00000001.json",
            "vault.json",
            "vault.json.sig",
        ] {
            assert!(plain(good), "{good}");
        }
        for bad in [
            "w/1/1/backups/b/data/00000.tar.zst",
            "w/1/1/backups/b/data/manifest.json",
            "w/1/1/wal/00000001/000000010000000000000001",
            "w/1/1/heartbeats/1-2.jsonl",
            "w/1/1/backups/b/restore.sh.sig",
            "notes.txt",
            "w/vault.json",
            "w/evidence/x/00000001.json",
        ] {
            assert!(!plain(bad), "{bad}");
        }
    }

    #[test]
    fn the_digest_is_read_from_the_header_alone() {
        let identity = Identity::generate();
        let object = Object::seal(b"WAL", true, &[identity.to_public()]).unwrap();
        assert_eq!(header_digest(&object.stored), Some(sha256_hex(b"WAL")));
        let planted = format!("age-encryption.org/v1\n-> X25519 a\n--- mac\n-> lifeboat-sha256 {}\n", "0".repeat(64));
        assert_eq!(header_digest(planted.as_bytes()), None);
    }
}
