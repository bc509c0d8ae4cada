//! What an increment shows the server of its parent, and a differential goes by:
//! PostgreSQL's own manifest, byte for byte. It is not encrypted, as whoever writes holds no identity; so
//! it is compared with the signed manifest while it is handed on.

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{Layout, Manifest, ObjectKey, ObjectReader, ObjectRecord, SharedStore, VaultError, seal};

/// How PostgreSQL's own manifest is named in a backup.
pub(super) const SERVER_MANIFEST: &str = "backup_manifest";

/// Handed on at once.
const CHUNK: usize = 256 << 10;

/// PostgreSQL's manifest on its way.
struct Reading {
    store: SharedStore,
    key: ObjectKey,
    record: ObjectRecord,
    reader: ObjectReader,
    sha256: Sha256,
}

/// The bytes of a backup's `backup_manifest`. Where they are not what was signed,
/// the last item is the error: nothing may be made of them before the end.
pub async fn server_manifest(
    store: &SharedStore,
    layout: &Layout,
    manifest: &Manifest,
) -> Result<impl Stream<Item = Result<Bytes, VaultError>> + use<>, VaultError> {
    let key = layout.backup_object(&manifest.backup, SERVER_MANIFEST)?;
    let missing = || VaultError::Missing { vault: store.place().vault.clone(), key: key.clone() };
    let record = manifest.server_manifest().cloned().ok_or_else(missing)?;
    let reader = store.read(&key).await?;
    let reading = Reading { store: SharedStore::clone(store), key, record, reader, sha256: Sha256::new() };
    Ok(stream::try_unfold(reading, next))
}

async fn next(mut reading: Reading) -> Result<Option<(Bytes, Reading)>, VaultError> {
    let Reading { store, key, record, reader, sha256 } = &mut reading;
    let mut chunk = BytesMut::with_capacity(CHUNK);
    let count = reader.read_buf(&mut chunk).await.map_err(|source| seal::read_failed(store.as_ref(), key, source))?;
    if count > 0 {
        sha256.update(&chunk);
        return Ok(Some((chunk.freeze(), reading)));
    }
    let found = hex::encode(std::mem::take(sha256).finalize());
    if found == record.stored_sha256 {
        return Ok(None);
    }
    let what = format!("SHA-256 {found} instead of {}", record.stored_sha256);
    Err(VaultError::Damaged { vault: store.place().vault.clone(), key: key.clone(), what })
}
