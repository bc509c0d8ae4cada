//! Fans the WAL out from memory to all vaults of a database: whole segments as
//! one object each, and the durable part of the open segment as tails.
//!
//! A vault that fails is left behind by name and the others go on. A required
//! one holds back the flush position meanwhile, so that the server keeps what
//! it lacks; once it answers again, streaming must begin anew from there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use age::x25519::{Identity, Recipient};
use bytes::{Bytes, BytesMut};
use futures::future::join_all;

use super::{Layout, Listing, Object, ObjectKey, SharedStore, VaultError, keys, put_once};
use crate::{
    decide::recovery::parse_history,
    domain::{DatabaseName, Lsn, Segment, SegmentSize, Timeline, VaultName},
};

/// Stored bytes that are kept for a vault that fails before it is left behind.
const PENDING_MAX: usize = 32 << 20;

/// One vault of the database.
#[derive(Debug, Clone)]
pub struct WalTarget {
    pub store: SharedStore,
    /// Whether the server must keep what is not durable here.
    pub required: bool,
}

/// How far one vault is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultWal {
    /// All WAL of this stream before it is durable there.
    pub durable: Lsn,
    /// Why the vault is behind, while it is.
    pub error: Option<String>,
    /// The vault lacks WAL right before this position, until it is copied there
    /// from another vault.
    pub gap_before: Option<Lsn>,
}

/// How far the stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalSnapshot {
    pub timeline: Option<Timeline>,
    pub received: Lsn,
    pub vaults: BTreeMap<VaultName, VaultWal>,
}

/// Readable from outside while the writer works.
#[derive(Debug, Default)]
pub struct WalStatus(Mutex<WalSnapshot>);

impl WalStatus {
    pub fn snapshot(&self) -> WalSnapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An object on its way; `to` is what is durable once it is stored.
struct Pending {
    key: ObjectKey,
    object: Arc<Object>,
    to: Option<Lsn>,
}

struct Target {
    store: SharedStore,
    required: bool,
    durable: Lsn,
    pending: VecDeque<Pending>,
    error: Option<String>,
    gap_before: Option<Lsn>,
    /// What it lacks is no longer in memory.
    is_behind: bool,
}

impl Target {
    /// Stores what is pending, in order, as far as it goes. Conflicts are not
    /// failures of the vault: they end the stream.
    async fn drain(&mut self) -> Result<(), VaultError> {
        while let Some(next) = self.pending.front() {
            match put_once(self.store.as_ref(), &next.key, &next.object).await {
                Ok(()) => {
                    self.durable = next.to.map_or(self.durable, |to| to.max(self.durable));
                    self.pending.pop_front();
                    self.error = None;
                }
                Err(error @ (VaultError::Conflict { .. } | VaultError::Unsealed { .. })) => return Err(error),
                Err(error) => {
                    self.error = Some(describe(&error));
                    break;
                }
            }
        }
        if self.pending.iter().map(|pending| pending.object.stored.len()).sum::<usize>() > PENDING_MAX {
            self.pending.clear();
            self.is_behind = true;
        }
        Ok(())
    }

    fn push(&mut self, pending: Pending) {
        if !self.is_behind {
            self.pending.push_back(pending);
        }
    }
}

fn describe(error: &VaultError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The stretch that is being written.
struct Stretch {
    layout: Layout,
    size: SegmentSize,
    timeline: Timeline,
    recipient: Recipient,
    key: (ObjectKey, Arc<Object>),
    /// The open segment's bytes from its start on.
    segment: Segment,
    bytes: BytesMut,
    /// Offset up to which every vault has been handed tails of the open segment.
    tailed: u64,
}

impl Stretch {
    fn position(&self) -> Lsn {
        self.segment.start(self.size).forward(self.bytes.len() as u64)
    }
}

fn offer_history(targets: &mut [Target], key: &ObjectKey, content: Bytes) {
    let object = Arc::new(Object::plain(content));
    for target in targets {
        target.push(Pending { key: key.clone(), object: object.clone(), to: None });
    }
}

/// Takes the WAL of one database. One value lives across many streams.
pub struct WalWriter {
    database: DatabaseName,
    recipients: Vec<Recipient>,
    targets: Vec<Target>,
    /// Where timelines branched off, from the history files that were handed in.
    forks: BTreeMap<Timeline, Lsn>,
    /// History files that came before a stretch began.
    early_histories: Vec<(Timeline, Bytes)>,
    stretch: Option<Stretch>,
    status: Arc<WalStatus>,
}

impl WalWriter {
    pub fn new(database: DatabaseName, recipients: Vec<Recipient>, targets: Vec<WalTarget>) -> Self {
        let target = |WalTarget { store, required }| Target {
            store,
            required,
            durable: Lsn(0),
            pending: VecDeque::new(),
            error: None,
            gap_before: None,
            is_behind: false,
        };
        let targets = targets.into_iter().map(target).collect();
        let status = Arc::new(WalStatus::default());
        Self {
            database,
            recipients,
            targets,
            forks: BTreeMap::new(),
            early_histories: Vec::new(),
            stretch: None,
            status,
        }
    }

    pub fn status(&self) -> Arc<WalStatus> {
        self.status.clone()
    }

    /// Begins a stretch and answers from where on WAL is wanted: the start of
    /// the segment in which the durable WAL of this timeline ends in the vault
    /// that is furthest behind (of the required ones, where there are any).
    /// Tails that are there already are not written again, but the segment is
    /// received from its start, so that it is stored whole in the end. Where a
    /// vault holds nothing of the timeline yet, the segment of its fork, of the
    /// older timeline's end, or of `server_lsn` is the first.
    pub async fn begin(
        &mut self,
        system_id: &str,
        timeline: Timeline,
        size: SegmentSize,
        server_lsn: Lsn,
    ) -> Result<Lsn, VaultError> {
        self.stretch = None;
        let layout = Layout::new(self.database.clone(), system_id, 1)?;
        let listings = self.look(&layout).await?;
        let mut held = Vec::new();
        for (target, listing) in self.targets.iter_mut().zip(&listings) {
            let Some(listing) = listing else { continue };
            let coverage = listing.coverage(size);
            let tip = coverage.tip(timeline, size);
            target.durable = tip.unwrap_or_default();
            let older = coverage.timelines().range(..timeline).next_back().and_then(|older| coverage.tip(*older, size));
            held.push((target.required, tip, older, coverage));
        }
        let is_required = held.iter().any(|(required, ..)| *required);
        let relevant = || held.iter().filter(|(required, ..)| *required || !is_required);
        let from = relevant()
            .filter_map(|(_, tip, ..)| *tip)
            .min()
            .or_else(|| {
                // The rest of the older timeline comes first, where a vault lacks it.
                let older = relevant().filter_map(|(_, _, older, _)| *older).min();
                older.into_iter().chain(self.forks.get(&timeline).copied()).min()
            })
            .map_or(server_lsn, |from| from.min(server_lsn));
        let segment = Segment::holding(timeline, from, size);
        let start = segment.start(size);
        let tailed = relevant()
            .map(|(.., coverage)| if coverage.has_whole(segment) { 0 } else { coverage.tails_of(segment).1 })
            .min()
            .unwrap_or(0);
        let identity = Identity::generate();
        let key = self.new_key(&layout, segment, size, &listings, &identity)?;
        for target in &mut self.targets {
            // One that holds nothing at all has no gap: it is new.
            let lacks = target.durable != Lsn(0) && target.durable < start;
            target.gap_before = lacks.then_some(start);
            target.durable = target.durable.max(start);
            target.push(Pending { key: key.0.clone(), object: key.1.clone(), to: None });
        }
        for (timeline, content) in self.early_histories.drain(..) {
            offer_history(&mut self.targets, &layout.history(timeline), content);
        }
        self.drain().await?;
        self.stretch = Some(Stretch {
            layout,
            size,
            timeline,
            recipient: identity.to_public(),
            key,
            segment,
            bytes: BytesMut::new(),
            tailed,
        });
        self.publish();
        Ok(start)
    }

    /// Lists every vault. A best-effort one that cannot be listed is behind until
    /// the next beginning; a required one is an error.
    async fn look(&mut self, layout: &Layout) -> Result<Vec<Option<Listing>>, VaultError> {
        let mut listings = Vec::new();
        let mut failed = None;
        let looks = join_all(self.targets.iter().map(|target| Listing::take(target.store.as_ref(), layout))).await;
        for (target, look) in self.targets.iter_mut().zip(looks) {
            target.pending.clear();
            target.durable = Lsn(0);
            target.is_behind = look.is_err();
            target.error = look.as_ref().err().map(describe);
            match look {
                Ok(listing) => {
                    let histories = listing.histories(target.store.as_ref()).await?;
                    let forks = histories.iter().filter_map(|(timeline, history)| Some((*timeline, history.last()?.1)));
                    self.forks.extend(forks);
                    listings.push(Some(listing));
                }
                Err(error) => {
                    failed = Some(error);
                    listings.push(None);
                }
            }
        }
        // Where a required vault cannot say what it lacks, the server must keep all of it.
        let is_unknown = |(target, listing): (&Target, &Option<Listing>)| target.required && listing.is_none();
        match failed {
            Some(error)
                if listings.iter().all(Option::is_none) || self.targets.iter().zip(&listings).any(is_unknown) =>
            {
                Err(error)
            }
            _ => Ok(listings),
        }
    }

    /// The stretch's own key under the first number that is free in every vault.
    fn new_key(
        &self,
        layout: &Layout,
        first: Segment,
        size: SegmentSize,
        listings: &[Option<Listing>],
        identity: &Identity,
    ) -> Result<(ObjectKey, Arc<Object>), VaultError> {
        let is_taken = |key: &ObjectKey| listings.iter().flatten().any(|listing| listing.holds(key));
        let mut number = 0;
        let key = loop {
            let key = layout.wal_key(first, size, number);
            if !is_taken(&key) {
                break key;
            }
            number += 1;
        };
        Ok((key, Arc::new(keys::wrap(identity, &self.recipients)?)))
    }

    /// The history file of a timeline; may come before the stretch that needs it.
    pub async fn history(&mut self, timeline: Timeline, content: Bytes) -> Result<(), VaultError> {
        if let Some((_, fork)) = parse_history(&String::from_utf8_lossy(&content)).and_then(|h| h.last().copied()) {
            self.forks.insert(timeline, fork);
        }
        let Some(stretch) = &self.stretch else {
            // Whose history it is, is known when the stretch begins.
            self.early_histories.push((timeline, content));
            return Ok(());
        };
        offer_history(&mut self.targets, &stretch.layout.history(timeline), content);
        self.drain().await
    }

    /// Contiguous WAL bytes that start at `at`.
    pub async fn wal(&mut self, at: Lsn, mut bytes: Bytes) -> Result<(), VaultError> {
        let mut expected = self.stretch.as_ref().ok_or(VaultError::NotStreaming)?.position();
        if at != expected {
            return Err(VaultError::WalOrder { expected, found: at });
        }
        while !bytes.is_empty() {
            let stretch = self.stretch.as_mut().ok_or(VaultError::NotStreaming)?;
            let room = stretch.segment.end(stretch.size).0 - expected.0;
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            stretch.bytes.extend_from_slice(&bytes.split_to(take));
            expected = stretch.position();
            if expected == stretch.segment.end(stretch.size) {
                let plain = stretch.bytes.split().freeze();
                let key = stretch.layout.segment(stretch.segment, stretch.size);
                let (recipient, from) = (stretch.recipient.clone(), stretch.segment.start(stretch.size));
                stretch.segment = stretch.segment.next();
                stretch.tailed = 0;
                self.resume_best_effort(from);
                let object = Object::seal_blocking(plain, true, vec![recipient]).await?;
                self.offer(&key, object, expected).await?;
            }
        }
        self.publish();
        Ok(())
    }

    /// Makes durable what was received so far, and answers the position up to
    /// which it is in every required vault; in every vault where none is
    /// required. `Behind` when a vault answers again that must be caught up.
    pub async fn flush(&mut self) -> Result<Lsn, VaultError> {
        let stretch = self.stretch.as_mut().ok_or(VaultError::NotStreaming)?;
        let (from, to) = (stretch.tailed, stretch.bytes.len() as u64);
        if to > from {
            let at = usize::try_from(from).unwrap_or(usize::MAX);
            let piece = Bytes::copy_from_slice(stretch.bytes.get(at..).unwrap_or_default());
            let key = stretch.layout.tail(stretch.segment, stretch.size, from, to);
            let (recipient, position) = (stretch.recipient.clone(), stretch.position());
            stretch.tailed = to;
            let object = Object::seal_blocking(piece, true, vec![recipient]).await?;
            self.offer(&key, object, position).await?;
        } else {
            self.drain().await?;
        }
        self.publish();
        self.look_for_returned().await?;
        let is_required = self.targets.iter().any(|target| target.required);
        let durable = self.targets.iter().filter(|target| target.required || !is_required).map(|target| target.durable);
        Ok(durable.min().unwrap_or_default())
    }

    /// A required vault that was left behind and answers again ends the stream.
    async fn look_for_returned(&self) -> Result<(), VaultError> {
        for target in self.targets.iter().filter(|target| target.required && target.is_behind) {
            if target.store.probe().await.is_ok() {
                return Err(VaultError::Behind { vault: target.store.place().vault.clone(), from: target.durable });
            }
        }
        Ok(())
    }

    /// A best-effort vault that was left behind may take up the stream again at
    /// a new segment; the gap stays until it is copied from another vault.
    fn resume_best_effort(&mut self, from: Lsn) {
        let Some(stretch) = &self.stretch else { return };
        for target in self.targets.iter_mut().filter(|target| target.is_behind && !target.required) {
            tracing::warn!(vault = %target.store.place().vault, before = %from, "the vault lacks WAL before this position");
            target.is_behind = false;
            target.gap_before = Some(from);
            target.push(Pending { key: stretch.key.0.clone(), object: stretch.key.1.clone(), to: None });
        }
    }

    async fn offer(&mut self, key: &ObjectKey, object: Object, to: Lsn) -> Result<(), VaultError> {
        let object = Arc::new(object);
        for target in &mut self.targets {
            target.push(Pending { key: key.clone(), object: object.clone(), to: Some(to) });
        }
        self.drain().await
    }

    async fn drain(&mut self) -> Result<(), VaultError> {
        let results = join_all(self.targets.iter_mut().map(Target::drain)).await;
        self.publish();
        results.into_iter().collect()
    }

    fn publish(&self) {
        let mut status = self.status.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stretch) = &self.stretch {
            status.timeline = Some(stretch.timeline);
            status.received = stretch.position();
        }
        let state = |target: &Target| VaultWal {
            durable: target.durable,
            error: target.error.clone(),
            gap_before: target.gap_before,
        };
        let vaults = self.targets.iter().map(|target| (target.store.place().vault.clone(), state(target)));
        status.vaults = vaults.collect();
    }
}
