//! The WAL of a restore. An operator's copy gets all of it before it is handed over.
//! An isolated one begins to recover with what tells its target, and gets the rest
//! meanwhile, in the order in which it needs it, so that replay and not fetching
//! decides how long it takes.
//!
//! What must never happen: a copy that waits for ever for WAL that nobody fetches
//! any more, and one that takes a file for absent that is only late.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Request, RestoreError, Restored, Say};
use crate::{
    decide::{
        recovery::{Selection, WalPiece},
        tablespaces,
    },
    domain::{Opener, RecoveryTarget, SegmentSize, with_causes},
    durable,
    engine::{Awaited, EngineError},
    fault,
    flows::{Database, Vault},
    vault::{self, EmptyFolder, Fetch, Layout, VaultError, WalFolder},
};

/// How many of the newest segments are looked through for the last whole record,
/// until one is found.
const NEWEST: [usize; 3] = [2, 16, usize::MAX];

/// Pauses before a vault that fails is asked again; it has been asked with patience already.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// What is still to be fetched, beside the WAL folder.
fn rest_file(wal_folder: &Path) -> PathBuf {
    wal_folder.with_file_name("wal_ahead.json")
}

/// In the WAL folder: whoever fetches holds it.
const LOCK: &str = ".fetching";

/// The WAL of a copy, of which comes while it recovers what is not there before.
#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    layout: Layout,
    selection: Selection,
}

/// Brings the WAL that is to be there before the copy is configured, and answers
/// the known target of its recovery and what is still to come.
pub(super) async fn stage(
    database: &Database,
    fetch: &Fetch<'_>,
    layout: &Layout,
    selection: &Selection,
    request: &Request,
    say: &Say<'_>,
) -> Result<(RecoveryTarget, Option<Awaited>), RestoreError> {
    let folder = &request.wal_folder;
    if !request.is_isolated {
        let size = bytes_of(&selection.wal, selection.segment_size);
        vault::fetch_wal(fetch, layout, selection, folder, &|done| say("fetching WAL", Some(done), Some(size))).await?;
        return Ok((known_target(database, selection, request).await?, None));
    }
    EmptyFolder::open(folder)?;
    let mut wal = WalFolder::open(fetch, layout, selection, folder).await?;
    wal.bring_histories().await?;
    let mut rest = selection.clone();
    let mut target = selection.target.clone();
    if target == RecoveryTarget::Latest {
        for count in NEWEST {
            let newest = rest.wal.split_off(rest.wal.len().saturating_sub(count));
            wal.bring(&newest).await?;
            match known_target(database, selection, request).await {
                Ok(known) => {
                    target = known;
                    break;
                }
                // The last whole record begins further back.
                Err(RestoreError::Engine(EngineError::Recovery { .. })) if !rest.wal.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
    }
    let names = rest.wal.iter().map(|piece| piece.segment.file_name(selection.segment_size)).collect();
    let lock = folder.join(LOCK);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| VaultError::File { action, path, source }
    };
    File::create(&lock).map_err(failed("make", &lock))?;
    let rest = Rest { layout: layout.clone(), selection: selection.clone() };
    let file = rest_file(folder);
    let written = serde_json::to_vec(&rest).map_err(std::io::Error::from);
    written.and_then(|text| durable::replace(&file, &text)).map_err(failed("write", &file))?;
    Ok((target, Some(Awaited { names, lock: LOCK.to_owned() })))
}

/// "Latest" becomes the start of the last whole record that the fetched WAL holds.
async fn known_target(
    database: &Database,
    selection: &Selection,
    request: &Request,
) -> Result<RecoveryTarget, RestoreError> {
    match (&selection.target, selection.wal.last()) {
        (RecoveryTarget::Latest, Some(newest)) => {
            let lsn = database
                .engine
                .last_record(&request.data, &request.wal_folder, newest.segment, selection.segment_size)
                .await?;
            Ok(RecoveryTarget::Lsn(lsn))
        }
        (RecoveryTarget::Latest, None) => Ok(RecoveryTarget::Immediate),
        (target, _) => Ok(target.clone()),
    }
}

/// Fetches WAL while a copy recovers. As long as this value lives, the copy waits
/// for what is not there yet.
pub struct Ahead {
    wal_folder: PathBuf,
    rest: Rest,
    lock: File,
}

impl Ahead {
    /// Takes up what a restore into an isolated instance left to be fetched; none
    /// where it left nothing, as those of older versions did.
    pub fn take_up(wal_folder: &Path) -> Result<Option<Self>, RestoreError> {
        let file = rest_file(wal_folder);
        let failed = |action, path: PathBuf| move |source| VaultError::File { action, path, source };
        let text = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed("read", file.clone()))?,
        };
        let rest = serde_json::from_slice(&text).map_err(std::io::Error::from).map_err(failed("understand", file))?;
        let path = wal_folder.join(LOCK);
        let lock = File::open(&path).map_err(failed("open", path.clone()))?;
        lock.try_lock().map_err(std::io::Error::from).map_err(failed("lock", path))?;
        Ok(Some(Self { wal_folder: wal_folder.to_owned(), rest, lock }))
    }

    /// Fetches from this vault until all is there or `stop` is cancelled. Nothing of
    /// it writes any more when this returns.
    pub async fn fetch(
        self,
        database: &Database,
        vault: &Vault,
        opener: Opener,
        stop: &CancellationToken,
        say: &Say<'_>,
    ) -> Result<(), RestoreError> {
        let Self { wal_folder, rest: Rest { layout, selection }, lock } = self;
        let identities = database.keys.identities_of(opener).await?;
        let sources = [Arc::clone(&vault.store)];
        let fetch = Fetch { sources: &sources, identities: &identities, stop };
        fault::point("restore_test.ahead");
        let is_there = |piece: &WalPiece| wal_folder.join(piece.segment.file_name(selection.segment_size)).exists();
        let size = bytes_of(&selection.wal, selection.segment_size);
        let (mut pauses, mut fewest) = (PAUSES.iter(), usize::MAX);
        loop {
            let left: Vec<WalPiece> = selection.wal.iter().filter(|piece| !is_there(piece)).cloned().collect();
            if left.len() < fewest {
                (pauses, fewest) = (PAUSES.iter(), left.len());
            }
            let before = size.saturating_sub(bytes_of(&left, selection.segment_size));
            let tell = |done: u64| say("fetching WAL for the isolated instance", Some(before + done), Some(size));
            let brought = async {
                let wal = WalFolder::open(&fetch, &layout, &selection, &wal_folder).await?;
                wal.beside_replay().telling(&tell).bring(&left).await
            };
            let Err(error) = brought.await else { break };
            let Some(pause) = pauses.next().filter(|_| !error.is_permanent() && !stop.is_cancelled()) else {
                return Err(error.into());
            };
            tracing::warn!(error = %with_causes(&error), "WAL cannot be fetched; the copy waits while it is tried again");
            stop.run_until_cancelled(tokio::time::sleep(*pause)).await;
        }
        drop(lock);
        Ok(())
    }

    /// Fetches all of it before the copy is started, and refuses WAL that makes a
    /// tablespace: for a system that, for `reason`, does not keep the copy in its folder.
    pub async fn fetch_and_search(
        self,
        database: &Database,
        vault: &Vault,
        (restored, reason): (&Restored, &str),
        stop: &CancellationToken,
        say: &Say<'_>,
    ) -> Result<(), RestoreError> {
        let (folder, selection) = (self.wal_folder.clone(), self.rest.selection.clone());
        self.fetch(database, vault, restored.opener, stop, say).await?;
        say("looking for new tablespaces in the WAL", None, None);
        let (start, target) = (restored.backup.start_lsn, &restored.target);
        let made = vault::made_tablespaces(&folder, &selection, start, target, stop).await?;
        Ok(tablespaces::refuse_unconfined(&made, reason)?)
    }
}

/// Plain bytes of segments.
fn bytes_of(pieces: &[WalPiece], size: SegmentSize) -> u64 {
    size.bytes().saturating_mul(pieces.len() as u64)
}
