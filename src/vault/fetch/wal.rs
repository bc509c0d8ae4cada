//! Brings chosen WAL into a folder: whole segments under PostgreSQL's names, and
//! history files. All of it before a restore is handed over, or piece by piece
//! while a server recovers from the same folder.
//!
//! Each object is verified before its file gets its name, in one step, so that
//! whoever looks for a file finds all of it or none.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::sync::Semaphore;

use super::{EmptyFolder, Fetch, Fetched, key_objects};
use crate::{
    decide::recovery::{Selection, WalPiece},
    durable,
    vault::{Layout, ObjectKey, SharedStore, StoreError, VaultError, keys::Keyring, seal},
};

/// Segments on their way at once; each may take two segments of memory.
const SEGMENTS_AT_ONCE: usize = 4;

/// A folder that gets the WAL of a selection, and what opens it.
pub struct WalFolder<'a> {
    fetch: Fetch<'a>,
    layout: &'a Layout,
    selection: &'a Selection,
    path: &'a Path,
    ring: Keyring,
    /// Objects that are opened at once; each keeps a core busy.
    opening: Semaphore,
    /// Told the plain bytes that were brought, after each segment.
    on_progress: Option<&'a (dyn Fn(u64) + Send + Sync)>,
}

impl<'a> WalFolder<'a> {
    /// Opens the keys that the selection needs; the folder must be there.
    pub async fn open(
        fetch: &Fetch<'a>,
        layout: &'a Layout,
        selection: &'a Selection,
        path: &'a Path,
    ) -> Result<Self, VaultError> {
        let mut keys = key_objects(fetch.sources, &layout.wal_keys_prefix()).await?;
        keys.retain(|key| may_need(selection, layout, key));
        let ring = Keyring::open(fetch.sources, keys, fetch.identities).await.usable()?;
        Ok(Self {
            fetch: *fetch,
            layout,
            selection,
            path,
            ring,
            opening: Semaphore::new(SEGMENTS_AT_ONCE),
            on_progress: None,
        })
    }

    /// Leaves a core to the server that recovers meanwhile.
    #[must_use]
    pub fn beside_replay(self) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { opening: Semaphore::new((cores - 1).clamp(1, SEGMENTS_AT_ONCE)), ..self }
    }

    /// Tells how many plain bytes of what is brought are there.
    #[must_use]
    pub fn telling(self, on_progress: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { on_progress: Some(on_progress), ..self }
    }

    /// Brings the history files of the selection.
    pub async fn bring_histories(&self) -> Result<(), VaultError> {
        for timeline in &self.selection.histories {
            let key = self.layout.history(*timeline);
            let text = of_any(self.fetch.sources, |source| seal::read_all(source.as_ref(), &key).boxed()).await?;
            self.put(timeline.history_file(), text).await?;
        }
        Ok(())
    }

    /// Brings these segments of the selection, about in their order. After an error
    /// nothing of this writes any more.
    pub async fn bring(&mut self, pieces: &[WalPiece]) -> Result<Fetched, VaultError> {
        let brought = self.bring_each(pieces).await;
        brought.map_err(|error| std::mem::take(&mut self.ring.lost).explain(error))
    }

    async fn bring_each(&self, pieces: &[WalPiece]) -> Result<Fetched, VaultError> {
        let stop = &self.fetch.stop.child_token();
        let segments = stream::iter(pieces.to_vec()).map(|piece| async move {
            // What is only read may be left; what is written is awaited.
            let (bytes, stored) = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(VaultError::Stopped),
                segment = self.segment(&piece) => segment?,
            };
            let plain = bytes.len() as u64;
            self.put(piece.segment.file_name(self.selection.segment_size), bytes).await?;
            Ok((plain, stored))
        });
        let mut segments = std::pin::pin!(segments.buffer_unordered(SEGMENTS_AT_ONCE));
        let mut fetched = Fetched { plain_bytes: 0, stored_bytes: 0 };
        let mut failed = None;
        while let Some(segment) = segments.next().await {
            match segment {
                Ok((plain, stored)) => {
                    fetched.plain_bytes += plain;
                    fetched.stored_bytes += stored;
                    if let Some(tell) = self.on_progress {
                        tell(fetched.plain_bytes);
                    }
                }
                Err(error) => {
                    stop.cancel();
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(fetched), Err)
    }

    /// A whole segment, with zeros behind what was chosen of it, and the bytes that
    /// were stored of it. Where tails are gone, as the segment has become whole since
    /// they were chosen, the same bytes are taken from that.
    async fn segment(&self, piece: &WalPiece) -> Result<(Vec<u8>, u64), VaultError> {
        let (segment, size) = (piece.segment, self.selection.segment_size);
        let whole: [Held; 1] = [(self.layout.segment(segment, size), 0, size.bytes())];
        let Some((_, end)) = piece.tails.last() else { return self.assembled(&whole).await };
        let tails: Vec<Held> =
            piece.tails.iter().map(|(from, to)| (self.layout.tail(segment, size, *from, *to), *from, *to)).collect();
        let error = match self.assembled(&tails).await {
            Err(error) => error,
            read => return read,
        };
        match self.assembled(&whole).await {
            Ok((mut bytes, stored)) => {
                bytes.get_mut(in_memory(*end)..).unwrap_or_default().fill(0);
                Ok((bytes, stored))
            }
            Err(VaultError::Missing { .. }) => Err(error),
            Err(damaged) => Err(damaged),
        }
    }

    /// A segment from the pieces that it is stored in, filled up with zeros, and the
    /// bytes that were stored of it.
    async fn assembled(&self, pieces: &[Held]) -> Result<(Vec<u8>, u64), VaultError> {
        let (mut bytes, mut stored) = (Vec::new(), 0);
        for (key, from, to) in pieces {
            let (plain, size) = of_any(self.fetch.sources, |source| self.piece(source, key, to - from).boxed()).await?;
            stored += size;
            if *from == 0 {
                bytes = plain;
            } else {
                bytes.truncate(in_memory(*from));
                bytes.extend_from_slice(&plain);
            }
        }
        bytes.resize(in_memory(self.selection.segment_size.bytes()), 0);
        Ok((bytes, stored))
    }

    /// A piece of WAL of exactly this plain length, and the bytes stored of it.
    async fn piece(&self, source: &SharedStore, key: &ObjectKey, length: u64) -> Result<(Vec<u8>, u64), VaultError> {
        let object = match seal::read_all(source.as_ref(), key).await {
            Err(VaultError::Store(StoreError::NotFound { vault, key })) => {
                return Err(VaultError::Missing { vault, key });
            }
            other => other?,
        };
        let (vault, size) = (&source.place().vault, object.len() as u64);
        let _turn = self.opening.acquire().await;
        let plain = seal::open(vault, key, object, true, &self.ring.identities).await?;
        if plain.len() as u64 == length {
            return Ok((plain, size));
        }
        let what = format!("{} bytes instead of {length}", plain.len());
        Err(VaultError::Damaged { vault: vault.clone(), key: key.clone(), what })
    }

    /// A file of the folder's owner.
    async fn put(&self, name: String, bytes: Vec<u8>) -> Result<(), VaultError> {
        let (path, temporary) = (self.path.join(&name), self.path.join(format!(".{name}.part")));
        let (folder, shown) = (self.path.to_owned(), path.clone());
        let written = tokio::task::spawn_blocking(move || {
            fs::write(&temporary, bytes)?;
            let owner = fs::metadata(&folder)?;
            if owner.uid() != nix::unistd::geteuid().as_raw() {
                chown(&temporary, Some(owner.uid()), Some(owner.gid()))?;
            }
            durable::relocate(&temporary, &path)
        });
        let written = written.await.map_err(|_| VaultError::Pipeline)?;
        written.map_err(|source| VaultError::File { action: "write", path: shown, source })
    }
}

/// Brings all WAL and all history files of a selection into `folder`, which must
/// be empty or absent, and tells after each segment how many plain bytes are there.
/// Durable on return.
pub async fn fetch_wal(
    fetch: &Fetch<'_>,
    layout: &Layout,
    selection: &Selection,
    folder: &Path,
    on_progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Fetched, VaultError> {
    let empty = EmptyFolder::open(folder)?;
    let mut wal = WalFolder::open(fetch, layout, selection, folder).await?.telling(on_progress);
    wal.bring_histories().await?;
    let fetched = wal.bring(&selection.wal).await?;
    empty.sync().await?;
    Ok(fetched)
}

/// What the first source that can give it gives; else why the first one could not.
async fn of_any<'a, T>(
    sources: &'a [SharedStore],
    read: impl Fn(&'a SharedStore) -> BoxFuture<'a, Result<T, VaultError>>,
) -> Result<T, VaultError> {
    let mut first = None;
    for source in sources {
        match read(source).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or(VaultError::Pipeline))
}

/// Whether a chosen segment can have been written with this key: one of its
/// timeline, and not older than the stretch that the key is named after.
fn may_need(selection: &Selection, layout: &Layout, key: &ObjectKey) -> bool {
    let Some((first, _)) = layout.parse_wal_key(key, selection.segment_size) else { return false };
    selection.wal.iter().any(|piece| piece.segment.timeline == first.timeline && piece.segment >= first)
}

/// An object of WAL with the offsets in its segment that it holds.
type Held = (ObjectKey, u64, u64);

/// An offset or length that fits in memory.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
