//! An isolated instance on this machine, in a folder of its own below `node.scratch`.
//!
//! What it may use is kept to by the kernel for memory, and watched for the disk: no file
//! system has to be set up for that, and none is filled by a copy that is not stopped.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt, future::FusedFuture};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Exhausted, Failed, Target};
use crate::{
    config::schedule::LocalTargetConfig,
    domain::{ByteSize, Span},
    engine::{Instance, IsolatedParams},
    flow::{StepContext, StepError},
    flows::{
        Database,
        restore::{self, Ahead, Restored},
        restore_test::{Chosen, FETCH_LIMIT, vault_of},
    },
    vault::Listing,
};

/// How long a folder may still be written to that is to be removed.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
/// How often the folder is measured, and which share of the time that may take.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
const MEASURING_SHARE: u32 = 20;

pub(super) struct Local {
    database: Arc<Database>,
    /// Of each process of the server.
    memory: Option<ByteSize>,
    disk: Option<ByteSize>,
    /// How long replay may take once all WAL is there.
    limit: Span,
}

impl Local {
    pub(super) fn new(database: &Arc<Database>, config: &LocalTargetConfig, limit: Span) -> Self {
        Self { database: Arc::clone(database), memory: config.memory, disk: config.disk, limit }
    }
}

#[async_trait]
impl Target for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn limits(&self) -> Vec<String> {
        let memory = self.memory.map(|limit| {
            format!("memory: {limit} of address space for each process of the server, not for all together (prlimit)")
        });
        let disk = self.disk.map(|limit| {
            format!("disk: {limit}, asked before the fetch and watched since, about every {MEASURE_EVERY:?}; no quota")
        });
        let time = format!("time: {} of replay once all WAL is there", self.limit);
        memory.into_iter().chain(disk).chain([time]).collect()
    }

    async fn fetch(&self, chosen: &Chosen, cx: &StepContext, stop: &CancellationToken) -> Result<Restored, Failed> {
        let listing = tokio::fs::read(chosen.listing_file()).await.map_err(|error| {
            StepError::permanent(format!("the frozen listing is gone: {error}; run the test again"))
        })?;
        let listing: Listing = serde_json::from_slice(&listing).map_err(|error| StepError::from_error(error, true))?;
        for folder in [chosen.data(), chosen.wal()] {
            if folder.exists() {
                tokio::fs::remove_dir_all(&folder)
                    .await
                    .map_err(|error| StepError::transient(format!("cannot clear {}: {error}", folder.display())))?;
            }
        }
        let (database, vault) = (&self.database, vault_of(&self.database, chosen.vault())?);
        let request = restore::Request {
            target: chosen.target.clone(),
            timeline: chosen.timeline,
            backup: chosen.backup.clone(),
            system_id: None,
            data: chosen.data(),
            wal_folder: chosen.wal(),
            is_isolated: true,
            opener: chosen.opener,
            disk_max: self.disk,
        };
        let say = |message: &str, done, total| cx.progress(message, done, total);
        let restored = match restore::from_listing(database, vault, &listing, &request, stop, &say).await {
            Err(_) if stop.is_cancelled() => return Err(StepError::Stopped.into()),
            other => other?,
        };
        match tokio::fs::remove_file(chosen.started_file()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StepError::transient(format!("cannot clear {}: {error}", chosen.folder.display())).into())
            }
            Ok(()) | Err(_) => Ok(restored),
        }
    }

    /// Starts the copy, and fetches the rest of its WAL while it recovers. Nothing is
    /// fetched any more when this returns.
    async fn start(
        &self,
        chosen: &Chosen,
        restored: &Restored,
        cx: &StepContext,
        asked_to_stop: &CancellationToken,
    ) -> Result<Box<dyn Instance>, Failed> {
        let (database, vault) = (&self.database, vault_of(&self.database, chosen.vault())?);
        let stop = asked_to_stop.child_token();
        let say = |message: &str, done, total| cx.progress(message, done, total);
        let mut ahead = Ahead::take_up(&chosen.wal())?;
        // Where the system does not keep the copy inside its folder, none of its WAL may lead out.
        let unconfined = database.engine.unconfined(&chosen.folder).await?;
        let is_wal_searched = match (&unconfined, ahead.take_if(|_| unconfined.is_some())) {
            (Some(reason), Some(ahead)) => {
                let searched = ahead.fetch_and_search(database, vault, (restored, reason), &stop, &say).await;
                searched.map_err(|error| {
                    if asked_to_stop.is_cancelled() { StepError::Stopped.into() } else { Failed::from(error) }
                })?;
                true
            }
            _ => false,
        };
        // The limit is replay's own: it counts from when nothing is left to be fetched.
        let limit = self.limit.as_duration();
        let recovery_timeout = FETCH_LIMIT + limit;
        let folder = chosen.folder.clone();
        let params = IsolatedParams { folder, recovery_timeout, is_wal_searched, memory_max: self.memory };
        let mut over = pin!(tokio::time::sleep(limit));
        let fetch = async {
            match ahead {
                Some(ahead) => ahead.fetch(database, vault, chosen.opener, &stop, &say).await,
                None => Ok(()),
            }
        };
        let mut fetching = pin!(fetch.fuse());
        let mut starting = pin!(database.engine.start_isolated(&params));
        let started = loop {
            tokio::select! {
                biased;
                () = asked_to_stop.cancelled() => break Err(StepError::Stopped.into()),
                // Why the copy lacks WAL says more than that it does.
                fetched = &mut fetching, if !fetching.is_terminated() => match fetched {
                    Ok(()) => over.as_mut().reset(Instant::now() + limit),
                    Err(error) => break Err(error.into()),
                },
                () = &mut over, if fetching.is_terminated() => {
                    let what = format!("the copy did not reach its target within {limit:?} although all WAL was there");
                    break Err(StepError::permanent(what).into());
                }
                started = &mut starting => break started.map_err(Failed::from),
            }
        };
        // One that has reached its target needs no more.
        stop.cancel();
        if !fetching.is_terminated() {
            drop(fetching.await);
        }
        started
    }

    async fn passed(&self, folder: &Path) -> Exhausted {
        let Some(limit) = self.disk else { return std::future::pending().await };
        loop {
            let (begun, measured) = (Instant::now(), folder.to_owned());
            let used = tokio::task::spawn_blocking(move || used_bytes(&measured)).await.unwrap_or_default();
            if used > limit.as_bytes() {
                let (used, folder) = (ByteSize::from_bytes(used), folder.display());
                let what = format!(
                    "the copy took {used} in {folder} and may take {limit}; raise `restore_test.target.disk`, or leave it out"
                );
                return Exhausted { resource: "disk".to_owned(), what };
            }
            tokio::time::sleep(MEASURE_EVERY.max(begun.elapsed() * MEASURING_SHARE)).await;
        }
    }

    async fn stop(&self, folder: &Path) -> Result<(), StepError> {
        Ok(self.database.engine.stop_isolated(folder).await?)
    }

    async fn tear_down(&self, folder: &Path) -> Result<(), StepError> {
        self.stop(folder).await?;
        let begun = std::time::Instant::now();
        loop {
            match tokio::fs::remove_dir_all(folder).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // A fetch that was told to stop ends its last write.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && begun.elapsed() < REMOVE_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    return Err(StepError::transient(format!("cannot remove {}: {error}", folder.display())));
                }
            }
        }
    }
}

/// What a folder takes of the disk, in bytes; a file with several names counts once. What
/// is gone meanwhile takes nothing.
fn used_bytes(folder: &Path) -> u64 {
    let (mut used, mut seen, mut left) = (0_u64, HashSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        for path in entries(&folder).unwrap_or_default() {
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                left.push(path);
            } else if found.nlink() < 2 || seen.insert((found.dev(), found.ino())) {
                used = used.saturating_add(found.blocks().saturating_mul(512));
            }
        }
    }
    used
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_takes_its_place_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inside")).unwrap();
        let file = folder.path().join("inside/file");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        let once = used_bytes(folder.path());
        assert!(once >= 1 << 20, "{once}");
        fs::hard_link(&file, folder.path().join("again")).unwrap();
        assert_eq!(used_bytes(folder.path()), once);
        assert_eq!(used_bytes(&folder.path().join("gone")), 0);
    }
}
