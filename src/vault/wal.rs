//! Fans the WAL out from memory to all vaults of a database: whole segments as
//! one object each, and the durable part of the open segment as tails.
//!
//! A vault that fails is left behind by name and the others go on. A required
//! one holds back the flush position meanwhile, so that the server keeps what
//! it lacks; once it answers again, streaming must begin anew from there. Where
//! none is required, those count that take what they are given.
//!
//! Nothing is stored before the server has sent WAL, and nothing is confirmed
//! before what the vaults held is proven to be what this server wrote.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use age::x25519::{Identity, Recipient};
use bytes::{Bytes, BytesMut};
use futures::future::join_all;

use self::{
    stretch::{Lane, Stretch},
    target::{Item, State, Stream, Target, Work},
    walk::Walk,
};
use super::{Layout, Object, SharedStore, VaultError, keys};
use crate::{
    decide::{
        recovery::parse_history,
        stretch::{Forked, Held, Source, begin},
    },
    domain::{Lsn, Segment, SegmentSize, Timeline},
};

mod delay;
mod level;
mod look;
mod status;
mod stretch;
mod target;
pub(in crate::vault) mod walk;

pub use look::{LOOK_LIMIT, Looked};
pub use status::{Uploads, VaultWal, WalSnapshot, WalStatus};

/// One vault of the database.
#[derive(Debug, Clone)]
pub struct WalTarget {
    pub store: SharedStore,
    /// Whether the server must keep what is not durable here.
    pub required: bool,
}

/// Takes the WAL of one database. One value lives across many stretches.
pub struct WalWriter {
    recipients: Vec<Recipient>,
    targets: Vec<Arc<Target>>,
    /// Where timelines branched off, from the history files that were handed in.
    forks: BTreeMap<Timeline, Lsn>,
    histories: BTreeMap<Timeline, Arc<Object>>,
    stretch: Option<Stretch>,
    status: Arc<WalStatus>,
}

impl Drop for WalWriter {
    fn drop(&mut self) {
        self.targets.iter().for_each(|target| target.close());
    }
}

impl WalWriter {
    /// The writer, and what must run beside it.
    pub fn new(recipients: Vec<Recipient>, targets: Vec<WalTarget>) -> (Self, Uploads) {
        let any_required = targets.iter().any(|target| target.required);
        let target = |WalTarget { store, required }| Arc::new(Target::new(store, required, required || !any_required));
        let targets: Vec<Arc<Target>> = targets.into_iter().map(target).collect();
        let status = Arc::new(WalStatus::new(targets.clone()));
        let uploads = Uploads::new(targets.clone());
        let writer =
            Self { recipients, targets, forks: BTreeMap::new(), histories: BTreeMap::new(), stretch: None, status };
        (writer, uploads)
    }

    pub fn status(&self) -> Arc<WalStatus> {
        self.status.clone()
    }

    /// Looks at what the vaults hold of the newest incarnation of a history. A
    /// best-effort one that cannot be listed is left behind until it answers; a
    /// required one is an error.
    pub async fn look(&self, layout: Layout) -> Result<Looked, VaultError> {
        Looked::at(&self.targets, layout).await
    }

    /// Begins a stretch and answers from where on WAL is wanted, as
    /// `decide::stretch` says: the start of a segment. Tails that are there
    /// already are not written again, but the segment is received from its
    /// start, so that it is stored whole in the end. `Forked` where a vault
    /// holds more than the server has written.
    pub fn begin(&mut self, looked: &Looked, source: &Source) -> Result<Lsn, VaultError> {
        self.stretch = None;
        let Source { timeline, segment_size: size, .. } = *source;
        let forks = looked.histories().filter_map(|(timeline, history)| Some((timeline, history.last()?.1)));
        self.forks.extend(forks);
        let source = Source { fork: source.fork.or(self.forks.get(&timeline).copied()), ..*source };
        let held = looked.held(&self.targets, size);
        let begun = begin(&held, &source).map_err(|Forked { vault, held, written }| {
            let vault = self.targets.get(vault).map(|target| target.store.place().vault.clone());
            vault.map_or(VaultError::NotStreaming, |vault| VaultError::Forked {
                vault,
                timeline,
                held,
                server: written,
            })
        })?;
        let judged = judged_to(&held, &source);
        let segment = Segment::holding(timeline, begun.start, size);
        let identity = Identity::generate();
        let key = self.new_key(looked, segment, size, &identity)?;
        let layout = looked.layout.clone();
        let stream = Stream { layout: layout.clone(), timeline, size };
        let mut lanes = Vec::new();
        for (((target, seen), held), standing) in self.targets.iter().zip(&looked.seen).zip(held).zip(begun.vaults) {
            let standing = match (&standing, seen) {
                (Some(standing), _) => Ok(standing),
                (None, Err(error)) => Err(error),
                (None, Ok(_)) => continue,
            };
            target.begin(stream.clone(), standing);
            let held = held.map(|held| held.coverage).unwrap_or_default();
            lanes.push(Lane {
                target: Arc::clone(target),
                handed: standing.map_or(begun.start, |standing| standing.stored),
                is_opened: false,
                last_tail: standing
                    .ok()
                    .and_then(|standing| standing.last.clone())
                    .filter(|(last, _)| !held.has_whole(*last)),
                held,
            });
        }
        let history = |(timeline, object): (&Timeline, &Arc<Object>)| Item {
            key: layout.history(*timeline),
            work: Work::Put(Arc::clone(object)),
            to: None,
        };
        let opening = self.histories.iter().map(history).chain([key]).collect();
        let recipient = identity.to_public();
        let bytes = BytesMut::new();
        let walk = Walk::from(begun.start, size, &level::SOUGHT);
        self.stretch =
            Some(Stretch { layout, size, timeline, recipient, opening, segment, bytes, walk, judged, lanes });
        self.status.set(|status| {
            *status = WalSnapshot { timeline: Some(timeline), received: begun.start, ..WalSnapshot::default() };
        });
        Ok(begun.start)
    }

    /// The stretch's own key under the first number that is free in every vault.
    fn new_key(
        &self,
        looked: &Looked,
        first: Segment,
        size: SegmentSize,
        identity: &Identity,
    ) -> Result<Item, VaultError> {
        let mut number = 0;
        let key = loop {
            let key = looked.layout.wal_key(first, size, number);
            if !looked.is_taken(&key) {
                break key;
            }
            number += 1;
        };
        let work = Work::Key(Arc::new(keys::wrap(identity, &self.recipients)?));
        Ok(Item { key, work, to: None })
    }

    /// The history file of a timeline; comes before the stretch that needs it.
    pub fn history(&mut self, timeline: Timeline, content: Bytes) {
        if let Some((_, fork)) = parse_history(&String::from_utf8_lossy(&content)).and_then(|h| h.last().copied()) {
            self.forks.insert(timeline, fork);
        }
        self.histories.insert(timeline, Arc::new(Object::plain(content)));
    }

    /// The server sent the WAL before `end` at this time, and it is handed in next: it
    /// is measured how long it takes until the vaults have it.
    pub fn sent(&self, end: Lsn, at: Instant) {
        self.targets.iter().for_each(|target| target.sent(end, at));
    }

    /// Contiguous WAL bytes that start at `at`. Waits while a vault that the
    /// server must keep WAL for has too much to store.
    pub async fn wal(&mut self, at: Lsn, mut bytes: Bytes) -> Result<(), VaultError> {
        let mut expected = self.stretch.as_ref().ok_or(VaultError::NotStreaming)?.position();
        if at != expected {
            return Err(VaultError::WalOrder { expected, found: at });
        }
        while !bytes.is_empty() {
            let stretch = self.open()?;
            let room = stretch.segment.end(stretch.size).0 - expected.0;
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let piece = bytes.split_to(take);
            if let Some(at) = stretch.unlogged(&piece) {
                return Err(VaultError::Unlogged { timeline: stretch.timeline, at });
            }
            stretch.bytes.extend_from_slice(&piece);
            expected = stretch.position();
            let is_whole = expected == stretch.segment.end(stretch.size);
            stretch.compare_tails();
            self.status.set(|status| status.received = expected);
            if is_whole {
                self.resume()?;
                self.open()?.offer_segment().await?;
                self.settle(State::has_room).await?;
            }
        }
        Ok(())
    }

    /// Makes durable what was received so far, and answers the position up to
    /// which it is in every vault that the server must keep WAL for; 0/0 while
    /// that is not known. A vault that does not store what it is given is not
    /// waited for again before it does. `Behind` when such a vault answers again
    /// that must be caught up.
    pub async fn flush(&mut self) -> Result<Lsn, VaultError> {
        self.resume()?;
        self.open()?.offer_tails().await?;
        self.settle(State::is_idle).await?;
        let confirmed = self.deciding().map(|target| target.confirmed()).min().unwrap_or_default();
        if confirmed > Lsn(0) {
            self.status.set(|status| status.confirmed = Some(confirmed));
        }
        Ok(confirmed)
    }

    fn open(&mut self) -> Result<&mut Stretch, VaultError> {
        self.stretch.as_mut().ok_or(VaultError::NotStreaming)
    }

    /// Takes up again the vaults that answer, from the start of the open segment
    /// on; what one lacks before that is copied to it from another vault. One
    /// that the server kept WAL for ends the stream, so that it is sent again.
    fn resume(&mut self) -> Result<(), VaultError> {
        let stretch = self.open()?;
        let from = stretch.segment.start(stretch.size);
        for lane in &mut stretch.lanes {
            let target = &lane.target;
            if !target.with(State::is_back) {
                continue;
            }
            let vault = &target.store.place().vault;
            if target.is_required {
                return Err(VaultError::Behind { vault: vault.clone(), from: target.confirmed() });
            }
            target.resume(from);
            let VaultWal { durable, gap_before, .. } = target.shown();
            tracing::warn!(%vault, %durable, ?gap_before, "the vault takes WAL again");
            (lane.handed, lane.is_opened) = (target.with(|state| state.stored).max(from), false);
        }
        Ok(())
    }

    /// The vaults that the server keeps WAL for.
    fn deciding(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter().filter(|target| target.decides())
    }

    /// Waits for the vaults that the server keeps WAL for, and ends the stream
    /// where one of them holds another history.
    async fn settle(&self, done: fn(&State) -> bool) -> Result<(), VaultError> {
        let stretch = self.stretch.as_ref().ok_or(VaultError::NotStreaming)?;
        join_all(self.deciding().map(|target| target.wait(done))).await;
        for target in &self.targets {
            let Some((error, to)) = target.refusal() else { continue };
            return Err(match (error, to) {
                // One that is not needed stays as it is, and is told by name.
                (VaultError::Conflict { .. }, _) if !target.counts => continue,
                (VaultError::Conflict { vault, .. }, Some(held)) => {
                    VaultError::Forked { vault, timeline: stretch.timeline, held, server: stretch.position() }
                }
                (error, _) => error,
            });
        }
        Ok(())
    }
}

/// Up to where the WAL of a stretch was looked at when a vault got it, or is of no
/// account, as nothing before it was to be recovered.
fn judged_to(held: &[Option<Held>], source: &Source) -> Lsn {
    let Source { timeline, segment_size: size, wanted, fork, .. } = *source;
    let coverages = || held.iter().flatten().map(|held| &held.coverage);
    let tip = coverages().filter_map(|coverage| coverage.tip(timeline, size)).max();
    // The segment of a fork begins with what the older timeline wrote.
    let older = coverages().filter_map(|coverage| {
        let older = coverage.timelines().range(..timeline).next_back().copied()?;
        coverage.tip(older, size)
    });
    let older = older.max().map(|older| fork.map_or(older, |fork| older.min(fork)));
    tip.or(older).unwrap_or(wanted)
}
