//! Proves what a store can do by doing it.

use tokio::io::AsyncReadExt;

use super::{ObjectKey, Store, StoreError, put, stat};

/// Creates an object, is refused the second time, reads it back, deletes it.
pub(super) async fn by_doing(store: &dyn Store) -> Result<(), StoreError> {
    let key = ObjectKey::new(format!("lifeboat-probe-{:016x}", rand::random::<u64>()))?;
    let failed = |action, what: &str| StoreError::Io {
        vault: store.place().vault.clone(),
        subject: format!("the probe object `{key}`"),
        action,
        source: std::io::Error::other(what.to_owned()),
    };
    put(store, &key, "probe").await?;
    let again = put(store, &key, "other").await;
    let mut found = String::new();
    let read = store.read(&key).await?.read_to_string(&mut found).await;
    store.delete(&key).await?;
    if !matches!(again, Err(StoreError::AlreadyExists { .. })) {
        return Err(failed("create once", "the store overwrote an object; it cannot hold a vault"));
    }
    if read.is_err() || found != "probe" {
        return Err(failed("read back", "other bytes came back than were written"));
    }
    if stat(store, &key).await?.is_some() {
        return Err(failed("delete", "it is still there"));
    }
    Ok(())
}
