//! How far a stream is, readable from outside, and the work that brings it there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::sleep;

use super::target::Target;
use crate::domain::{Lsn, Timeline, VaultName};

/// How long what is queued may take after the writer is gone.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

/// How far one vault is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultWal {
    /// All WAL of this stream before it is durable there.
    pub durable: Lsn,
    /// Why the vault takes no WAL, while it does not.
    pub error: Option<String>,
    /// The vault lacks WAL from `durable` to here, until it is copied there from
    /// another vault.
    pub gap_before: Option<Lsn>,
}

/// How far the stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalSnapshot {
    pub timeline: Option<Timeline>,
    pub received: Lsn,
    /// Up to where the server need keep nothing for us; none before that is known.
    pub confirmed: Option<Lsn>,
    pub vaults: BTreeMap<VaultName, VaultWal>,
}

/// Readable from outside while the writer works.
#[derive(Debug)]
pub struct WalStatus {
    targets: Vec<Arc<Target>>,
    /// All but the vaults.
    stream: Mutex<WalSnapshot>,
}

impl WalStatus {
    pub(super) fn new(targets: Vec<Arc<Target>>) -> Self {
        Self { targets, stream: Mutex::default() }
    }

    pub fn snapshot(&self) -> WalSnapshot {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let vaults = self.targets.iter().map(|target| (target.store.place().vault.clone(), target.shown()));
        WalSnapshot { vaults: vaults.collect(), ..stream }
    }

    /// How long WAL took from when it was sent to being durable, by vault; each is
    /// answered once.
    pub fn take_delays(&self) -> Vec<(VaultName, Vec<Duration>)> {
        self.targets.iter().map(|target| (target.store.place().vault.clone(), target.take_delays())).collect()
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut WalSnapshot)) {
        change(&mut self.stream.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Stores what a writer queues. Must run beside it: a writer waits for it.
#[derive(Debug)]
pub struct Uploads(Vec<Arc<Target>>);

impl Uploads {
    pub(super) fn new(targets: Vec<Arc<Target>>) -> Self {
        Self(targets)
    }

    /// Ends soon after the writer is dropped. Dropped itself, it leaves nothing
    /// half-made that a reader can see.
    pub async fn run(self) {
        let work = join_all(self.0.iter().map(|target| target.work()));
        let too_long = async {
            join_all(self.0.iter().map(|target| target.closed())).await;
            sleep(FAREWELL_LIMIT).await;
        };
        tokio::select! {
            _ = work => {}
            () = too_long => {}
        }
    }
}
