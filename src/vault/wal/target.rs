//! One vault of a stream: a queue of bounded size, and the work that stores it.
//!
//! The writer never waits for a vault that the server need not wait for. One
//! that a stream cannot do without slows it down while it takes something now
//! and then, and is left behind, too, once it does not.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{VaultWal, delay::Delays};
use crate::{
    decide::stretch::Standing,
    domain::{Lsn, SegmentSize, Timeline},
    vault::{Layout, Listing, Object, ObjectKey, SharedStore, StoreError, VaultError, put_once, seal},
};

/// Stored bytes that wait for a vault before the stream waits for it.
const ROOM: usize = 32 << 20;
/// The same before a vault that nobody waits for is left behind: far enough from
/// the other that one which is as fast keeps up. Vaults share these bytes.
const QUEUE_MAX: usize = 2 * ROOM;
/// A vault that stores nothing for so long, though there is something, is stuck.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Pause before what failed is tried again; the store itself has tried with patience.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often a vault is looked at that lacks WAL of this stream.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a vault gets, or is held against.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// The key of the stretch. Nothing that is sealed to it may come before it.
    Key(Arc<Object>),
    Put(Arc<Object>),
    /// The object is there already: its content must have this SHA-256.
    Compare(String),
}

/// One object of the queue.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: ObjectKey,
    pub(super) work: Work,
    /// WAL up to here is in the vault then.
    pub(super) to: Option<Lsn>,
}

impl Item {
    fn size(&self) -> usize {
        match &self.work {
            Work::Key(object) | Work::Put(object) => object.stored.len(),
            Work::Compare(_) => 0,
        }
    }
}

/// How a vault gets along with the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pace {
    #[default]
    Keeps,
    /// Nobody waits for it any more until it stores something.
    Late,
    /// What it lacks is no longer in memory.
    Behind,
    /// The same, and it answers again.
    Back,
    /// Its own content forbids to go on.
    Refuses,
}

/// Where one vault is.
#[derive(Debug, Default)]
pub(super) struct State {
    pace: Pace,
    /// The first one is being worked on.
    queue: VecDeque<Item>,
    queued_bytes: usize,
    /// Changes when the queue is given up, so that what was under way then counts no more.
    given_up: u64,
    /// Objects done; tells whether it moves.
    done: u64,
    /// Since when the vault has been asked and has not answered.
    asked_at: Option<Instant>,
    /// Everything from the start of the stretch, or from the end of `hole`, to here is held.
    pub(super) stored: Lsn,
    /// What it lacks before.
    pub(super) hole: Option<Range<Lsn>>,
    /// What it held up to here when the stretch began is still to be compared
    /// with what the server sends.
    unproven: Option<Lsn>,
    delays: Delays,
    error: Option<String>,
    /// What its content says against it, and the position it is about, until it is told.
    refusal: Option<(VaultError, Option<Lsn>)>,
    is_closed: bool,
}

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.queued_bytes <= ROOM
    }

    /// Whether it is given what the server sends.
    pub(super) fn takes(&self) -> bool {
        matches!(self.pace, Pace::Keeps | Pace::Late)
    }

    /// Whether it was left behind and answers again.
    pub(super) fn is_back(&self) -> bool {
        self.pace == Pace::Back
    }

    /// Whether waiting for it is in vain.
    fn is_stuck(&self) -> bool {
        self.pace != Pace::Keeps || self.error.is_some()
    }

    /// What was queued is dropped; what is missing then can only come from the
    /// server or another vault.
    fn give_up(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.given_up += 1;
        self.delays.forget();
        self.pace = Pace::Behind;
    }

    fn finished(&mut self, item: &Item) {
        self.queue.pop_front();
        self.queued_bytes -= item.size();
        self.done += 1;
        self.error = None;
        if let Some(to) = item.to {
            self.stored = self.stored.max(to);
            self.delays.stored(self.stored, std::time::Instant::now());
            self.unproven = self.unproven.filter(|unproven| to < *unproven);
        }
        self.pace = Pace::Keeps;
    }

    fn shown(&self) -> VaultWal {
        let silent = self.asked_at.filter(|at| at.elapsed() >= SILENCE_MAX);
        let silence = || silent.map(|at| format!("it has not answered for {} s", at.elapsed().as_secs()));
        VaultWal {
            durable: self.hole.as_ref().map_or(self.stored, |hole| hole.start),
            error: self.error.clone().or_else(silence),
            gap_before: self.hole.as_ref().map(|hole| hole.end),
        }
    }
}

/// What is looked for in a vault that lacks WAL.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) layout: Layout,
    pub(super) timeline: Timeline,
    pub(super) size: SegmentSize,
}

/// What is done next for a vault.
enum Next {
    Store(Item, u64),
    Look,
    End,
}

/// One vault of a stream, shared between the writer and the work that stores.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) store: SharedStore,
    /// Whether the server must keep what is not durable here.
    pub(super) is_required: bool,
    /// Whether the server is told what is durable here: required, or none is.
    pub(super) counts: bool,
    stream: RwLock<Option<Stream>>,
    state: watch::Sender<State>,
}

impl Target {
    pub(super) fn new(store: SharedStore, is_required: bool, counts: bool) -> Self {
        Self { store, is_required, counts, stream: RwLock::default(), state: watch::Sender::new(State::default()) }
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Whether the stream slows down for it.
    fn is_waited_for(&self, state: &State) -> bool {
        self.counts && !state.is_stuck()
    }

    /// Whether what it holds decides what the server is told now.
    pub(super) fn decides(&self) -> bool {
        self.is_required || self.with(|state| self.is_waited_for(state))
    }

    pub(super) fn shown(&self) -> VaultWal {
        self.with(State::shown)
    }

    /// A new stretch begins. `standing` is an error where the vault's listing is
    /// not known: then it is left behind until it answers.
    pub(super) fn begin(&self, stream: Stream, standing: Result<&Standing, &VaultError>) {
        *self.stream.write().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        self.state.send_modify(|state| {
            state.give_up();
            let delays = std::mem::take(&mut state.delays);
            let kept = State { given_up: state.given_up, asked_at: state.asked_at, delays, ..State::default() };
            *state = match standing {
                Ok(Standing { stored, hole, last }) => {
                    State { stored: *stored, hole: hole.clone(), unproven: last.is_some().then_some(*stored), ..kept }
                }
                Err(error) => State { error: Some(describe(error)), pace: Pace::Behind, ..kept },
            };
        });
    }

    /// WAL before `end` comes, and was sent at this time.
    pub(super) fn sent(&self, end: Lsn, at: std::time::Instant) {
        self.state.send_if_modified(|state| {
            if state.takes() && end > state.stored {
                state.delays.sent(end, at);
            }
            // Nobody waits for it.
            false
        });
    }

    pub(super) fn take_delays(&self) -> Vec<Duration> {
        let mut delays = Vec::new();
        self.state.send_if_modified(|state| {
            delays = state.delays.take();
            false
        });
        delays
    }

    /// Gives the vault more. One that nobody waits for is left behind where its
    /// queue is full; what it lacks is copied to it from another vault.
    pub(super) fn push(&self, item: Item) {
        self.state.send_modify(|state| {
            if !state.takes() {
                return;
            }
            state.queued_bytes += item.size();
            state.queue.push_back(item);
            if state.queued_bytes > QUEUE_MAX && state.queue.len() > 1 && !self.is_waited_for(state) {
                state.give_up();
            }
        });
    }

    /// Takes a vault up again that was left behind, from `from` on. It lacks what
    /// lies between what it holds and there.
    pub(super) fn resume(&self, from: Lsn) {
        self.state.send_modify(|state| {
            let held = state.hole.as_ref().map_or(state.stored, |hole| hole.start);
            // One that holds nothing at all has no hole: it is new.
            state.hole = (held != Lsn(0) && held < from).then_some(held..from);
            state.stored = state.stored.max(from);
            state.unproven = None;
            state.pace = Pace::Keeps;
        });
    }

    pub(super) fn close(&self) {
        self.state.send_modify(|state| state.is_closed = true);
    }

    /// Up to where the server need keep nothing for this vault. Nothing is
    /// confirmed before what the vault held is proven to be this server's.
    pub(super) fn confirmed(&self) -> Lsn {
        self.with(|state| if state.unproven.is_some() { Lsn(0) } else { state.stored })
    }

    /// Why this vault forbids to go on, and the position it is about; once.
    pub(super) fn refusal(&self) -> Option<(VaultError, Option<Lsn>)> {
        if self.with(|state| state.refusal.is_none()) {
            return None;
        }
        let mut refusal = None;
        self.state.send_modify(|state| refusal = state.refusal.take());
        refusal
    }

    /// Waits until `done`, or until waiting is in vain.
    pub(super) async fn wait(&self, done: fn(&State) -> bool) {
        let mut changes = self.state.subscribe();
        loop {
            let before = changes.borrow_and_update().done;
            let moved = changes.wait_for(|state| done(state) || state.is_stuck() || state.done != before);
            match timeout(SILENCE_MAX, moved).await {
                Ok(Ok(state)) if done(&state) || state.is_stuck() => return,
                Ok(Ok(_)) => {}
                // The sender is ours.
                Ok(Err(_)) => return,
                Err(_) => {
                    self.state.send_modify(|state| {
                        if state.pace == Pace::Keeps {
                            state.pace = Pace::Late;
                        }
                    });
                    return;
                }
            }
        }
    }

    /// Resolves once the writer is gone.
    pub(super) async fn closed(&self) {
        let mut changes = self.state.subscribe();
        // The sender is ours.
        let _state = changes.wait_for(|state| state.is_closed).await;
    }

    /// Stores what is queued until the writer is gone and nothing is left, or the
    /// vault fails then.
    pub(super) async fn work(&self) {
        let mut look_at = Instant::now() + LOOK_EVERY;
        loop {
            match self.next(look_at).await {
                Next::Store(item, given_up) => self.store(item, given_up).await,
                Next::Look => {
                    self.look().await;
                    look_at = Instant::now() + LOOK_EVERY;
                }
                Next::End => return,
            }
            let failed = self.with(|state| state.error.is_some());
            if failed && timeout(RETRY_EVERY, self.closed()).await.is_ok() {
                return;
            }
        }
    }

    async fn next(&self, look_at: Instant) -> Next {
        let mut changes = self.state.subscribe();
        loop {
            let lacks = {
                let state = changes.borrow_and_update();
                let lacks = state.pace == Pace::Behind || state.hole.is_some() && state.takes();
                if lacks && !state.is_closed && Instant::now() >= look_at {
                    return Next::Look;
                }
                if let Some(item) = state.queue.front().filter(|_| state.takes()) {
                    return Next::Store(item.clone(), state.given_up);
                }
                if state.is_closed {
                    return Next::End;
                }
                lacks
            };
            tokio::select! {
                news = changes.changed() => if news.is_err() { return Next::End },
                () = sleep_until(look_at), if lacks => {}
            }
        }
    }

    async fn store(&self, item: Item, given_up: u64) {
        self.asked(true);
        let stored = match &item.work {
            Work::Key(object) | Work::Put(object) => put_once(self.store.as_ref(), &item.key, object).await,
            Work::Compare(sha256) => self.compare(&item.key, sha256).await,
        };
        self.asked(false);
        self.state.send_modify(|state| {
            if state.given_up != given_up {
                return;
            }
            match stored {
                Ok(()) => state.finished(&item),
                Err(error @ (VaultError::Conflict { .. } | VaultError::Unsealed { .. })) => {
                    let error = match (error, &item.work) {
                        (VaultError::Conflict { vault, key }, Work::Key(_)) => VaultError::KeyTaken { vault, key },
                        (error, _) => error,
                    };
                    state.error = Some(describe(&error));
                    state.refusal = Some((error, item.to));
                    state.pace = Pace::Refuses;
                }
                Err(error) => state.error = Some(describe(&error)),
            }
        });
    }

    /// Holds an object against what the server sent for it.
    async fn compare(&self, key: &ObjectKey, sha256: &str) -> Result<(), VaultError> {
        match seal::sealed_digest(self.store.as_ref(), key).await {
            Ok(Some(found)) if found != sha256 => {
                Err(VaultError::Conflict { vault: self.store.place().vault.clone(), key: key.clone() })
            }
            // Swept since, or damaged, which the verification of the vault tells.
            Ok(_) | Err(VaultError::Store(StoreError::NotFound { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Looks how far a vault is that lacks WAL: whether it answers again, and
    /// whether the hole was filled from another vault.
    async fn look(&self) {
        let Some(stream) = self.stream.read().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let Stream { layout, timeline, size } = stream;
        self.asked(true);
        let listing = Listing::take(self.store.as_ref(), &layout).await;
        self.asked(false);
        self.state.send_modify(|state| match listing {
            Err(error) => state.error = Some(describe(&error)),
            Ok(listing) => {
                let coverage = listing.coverage_by_name(size);
                state.error = None;
                if state.hole.as_ref().is_some_and(|hole| coverage.covers(timeline, size, hole.start, hole.end)) {
                    state.hole = None;
                }
                if state.pace == Pace::Behind {
                    state.pace = Pace::Back;
                    let ranges = coverage.ranges(timeline, size);
                    let around = ranges.iter().find(|range| range.start <= state.stored && state.stored <= range.end);
                    let held = around.or(ranges.last().filter(|_| state.stored == Lsn(0)));
                    state.stored = held.map_or(state.stored, |range| state.stored.max(range.end));
                }
            }
        });
    }

    fn asked(&self, is_asked: bool) {
        self.state.send_modify(|state| state.asked_at = is_asked.then(Instant::now));
    }
}

/// An error and its first cause.
fn describe(error: &VaultError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
