//! Brings the files of a backup back: one full backup; a differential, laid over its
//! full one; or a full one and the increments upon it, each verified and restored on
//! its own and then made into one by the engine. Until then these lie in the target
//! itself, which is the one place that is surely large enough, on one file system,
//! and ours to write.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{RestoreError, Say, or_stopped};
use crate::{
    decide::room::{self, Brought},
    domain::{BackupKind, ByteSize},
    durable,
    engine::Engine,
    vault::{self, CatalogEntry, EmptyFolder, Fetch, Overlay, VaultError},
};

/// In the target, until the chain is one.
const STAGED: &str = "lifeboat_chain";
const COMBINED: &str = "combined";

/// Restores `chain`, the full backup first, into `target`, which holds nothing of a
/// backup yet. Everything is on disk when this returns.
pub(super) async fn fetch(
    engine: &Arc<dyn Engine>,
    fetch: &Fetch<'_>,
    chain: &[&CatalogEntry],
    target: EmptyFolder,
    say: &Say<'_>,
) -> Result<(), RestoreError> {
    let data = target.path().to_owned();
    if let [full, differential] = chain
        && differential.manifest.kind == BackupKind::Differential
    {
        let overlay = Overlay::read(fetch, full, differential).await?;
        let size = overlay.size();
        return Ok(overlay.lay(target, |done| say("fetched and verified", Some(done), Some(size))).await?);
    }
    let size: u64 = chain.iter().map(|entry| entry.manifest.size_bytes).sum();
    if let [entry] = chain {
        vault::fetch_backup(fetch, entry, target, |done| say("fetched and verified", Some(done), Some(size))).await?;
        return Ok(());
    }
    let staged = data.join(STAGED);
    let mut folders = Vec::new();
    let mut before = 0;
    for (nth, entry) in chain.iter().enumerate() {
        let folder = staged.join(nth.to_string());
        // What they become is made durable, and they are not.
        EmptyFolder::open(&folder)?;
        let fetched = vault::fetch_files(fetch, entry, &folder, |done| {
            say("fetched and verified", Some(before + done), Some(size));
        })
        .await?;
        before += fetched.plain_bytes;
        folders.push(folder);
    }
    say(&format!("combining {} backups", chain.len()), None, None);
    combine(engine, &folders, &staged, fetch.stop).await?;
    finish(&staged, &data).map_err(|source| VaultError::File {
        action: "move what was combined in",
        path: staged,
        source,
    })?;
    Ok(target.sync().await?)
}

/// The room that the restore of `chain` and of so much WAL takes at least, in bytes.
pub(super) async fn room(
    engine: &Arc<dyn Engine>,
    fetch: &Fetch<'_>,
    chain: &[&CatalogEntry],
    wal_bytes: u64,
) -> Result<u64, RestoreError> {
    let chain_bytes = chain.iter().map(|entry| entry.manifest.size_bytes).fold(0, u64::saturating_add);
    let brought = match chain {
        [full, differential] if differential.manifest.kind == BackupKind::Differential => {
            Brought::Laid { bytes: Overlay::read(fetch, full, differential).await?.size() }
        }
        [full, .., last] => Brought::Combined {
            chain_bytes,
            full: vault::file_sizes(fetch, &full.manifest).await?,
            last: vault::file_sizes(fetch, &last.manifest).await?,
            combining: engine.combining(&last.manifest.server_version),
        },
        _ => Brought::Laid { bytes: chain_bytes },
    };
    Ok(room::needed(&brought, wal_bytes))
}

/// What of `chain` a restore brings, in bytes: a differential takes the place of what it
/// is laid over.
pub fn size_min(chain: &[&CatalogEntry]) -> u64 {
    let of_last = chain.last().filter(|entry| entry.manifest.kind == BackupKind::Differential);
    let alone = of_last.map(|entry| entry.manifest.size_bytes);
    alone.unwrap_or_else(|| chain.iter().map(|entry| entry.manifest.size_bytes).fold(0, u64::saturating_add))
}

/// Refuses a file system, or a limit, that surely has too little room, before hours of
/// fetching show it.
pub(super) fn refuse_too_small(data: &Path, needed: u64, limit: Option<ByteSize>) -> Result<(), RestoreError> {
    let bytes = ByteSize::from_bytes;
    if let Some(limit) = limit.filter(|limit| needed > limit.as_bytes()) {
        return Err(RestoreError::OverLimit { path: data.to_owned(), needed: bytes(needed), limit });
    }
    let there = data.ancestors().find(|folder| folder.is_dir());
    let Some(Ok(found)) = there.map(nix::sys::statvfs::statvfs) else { return Ok(()) };
    let free = found.blocks_available() * found.fragment_size();
    if free >= needed {
        return Ok(());
    }
    Err(RestoreError::NoRoom { path: data.to_owned(), needed: bytes(needed), free: bytes(free) })
}

async fn combine(
    engine: &Arc<dyn Engine>,
    chain: &[PathBuf],
    staged: &Path,
    stop: &CancellationToken,
) -> Result<(), RestoreError> {
    let combined = staged.join(COMBINED);
    or_stopped(engine.combine(chain, &combined), staged, stop).await
}

/// What was combined becomes the target; the chain goes.
fn finish(staged: &Path, data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staged.join(COMBINED))? {
        let entry = entry?;
        durable::relocate(&entry.path(), &data.join(entry.file_name()))?;
    }
    fs::remove_dir_all(staged)
}
