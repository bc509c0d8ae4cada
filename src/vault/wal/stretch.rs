//! The stretch that is being written: the open segment in memory, and how far
//! each vault was handed what came.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use age::x25519::Recipient;
use bytes::{Bytes, BytesMut};

use super::{
    level,
    target::{Item, State, Target, Work},
    walk::Walk,
};
use crate::{
    decide::recovery::Coverage,
    domain::{Lsn, Segment, SegmentSize, Timeline},
    vault::{Layout, Object, ObjectKey, VaultError, seal},
};

/// The stretch that is being written.
pub(super) struct Stretch {
    pub(super) layout: Layout,
    pub(super) size: SegmentSize,
    pub(super) timeline: Timeline,
    pub(super) recipient: Recipient,
    /// What a vault gets before its first object: history files and the key.
    pub(super) opening: Vec<Item>,
    /// The open segment's bytes from its start on.
    pub(super) segment: Segment,
    pub(super) bytes: BytesMut,
    /// Looks for where the server stopped to log everything.
    pub(super) walk: Walk,
    /// What was there before was looked at then.
    pub(super) judged: Lsn,
    pub(super) lanes: Vec<Lane>,
}

impl Stretch {
    /// Where in these next bytes WAL begins that no recovery passes.
    pub(super) fn unlogged(&mut self, next: &[u8]) -> Option<Lsn> {
        let mut changes = self.walk.take(next).into_iter();
        changes.find(|record| level::is_minimal(record) && record.at.end > self.judged).map(|record| record.at.start)
    }

    pub(super) fn position(&self) -> Lsn {
        self.segment.start(self.size).forward(self.bytes.len() as u64)
    }

    /// The bytes of the open segment from this position to the newest one.
    fn piece(&self, from: Lsn) -> (u64, Bytes) {
        let offset = from.0 - self.segment.start(self.size).0;
        let piece = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        (offset, Bytes::copy_from_slice(piece))
    }

    /// Has the tails with which vaults ended held against what the server sent.
    pub(super) fn compare_tails(&mut self) {
        let (segment, size) = (self.segment, self.size);
        for lane in &mut self.lanes {
            let Some((_, tail)) = lane.last_tail.as_ref().filter(|(of, _)| *of == segment) else { continue };
            let range = usize::try_from(tail.start).ok().zip(usize::try_from(tail.end).ok());
            let Some(piece) = range.and_then(|(from, to)| self.bytes.get(from..to)) else { continue };
            let item = Item {
                key: self.layout.tail(segment, size, tail.start, tail.end),
                work: Work::Compare(seal::sha256_hex(piece)),
                to: Some(segment.start(size).forward(tail.end)),
            };
            lane.target.push(item);
            lane.last_tail = None;
        }
    }

    /// Queues the open segment, which is whole, and goes on to the next one.
    pub(super) async fn offer_segment(&mut self) -> Result<(), VaultError> {
        let (segment, size) = (self.segment, self.size);
        let plain = self.bytes.split().freeze();
        self.segment = segment.next();
        let object = Arc::new(Object::seal_blocking(plain, true, vec![self.recipient.clone()]).await?);
        let (key, to) = (self.layout.segment(segment, size), segment.end(size));
        for lane in &mut self.lanes {
            if lane.held.has_whole(segment) {
                let work = Work::Compare(object.plain_sha256.clone());
                lane.target.push(Item { key: key.clone(), work, to: Some(to) });
            } else {
                lane.put(&self.opening, key.clone(), Arc::clone(&object), to);
            }
            lane.handed = lane.handed.max(to);
        }
        Ok(())
    }

    /// Queues what each vault has not been handed of the open segment: as a rule
    /// the same piece for all.
    pub(super) async fn offer_tails(&mut self) -> Result<(), VaultError> {
        let position = self.position();
        let lacking = self.lanes.iter().filter(|lane| lane.handed < position && lane.target.with(State::takes));
        let mut pieces: BTreeMap<Lsn, Option<(ObjectKey, Arc<Object>)>> =
            lacking.map(|lane| (lane.handed, None)).collect();
        for (from, piece) in &mut pieces {
            let (offset, plain) = self.piece(*from);
            let key = self.layout.tail(self.segment, self.size, offset, offset + plain.len() as u64);
            let object = Object::seal_blocking(plain, true, vec![self.recipient.clone()]).await?;
            *piece = Some((key, Arc::new(object)));
        }
        for lane in &mut self.lanes {
            if let Some(Some((key, object))) = pieces.get(&lane.handed).filter(|_| lane.target.with(State::takes)) {
                lane.put(&self.opening, key.clone(), Arc::clone(object), position);
                lane.handed = position;
            }
        }
        Ok(())
    }
}

/// What the writer knows of one vault in a stretch.
pub(super) struct Lane {
    pub(super) target: Arc<Target>,
    /// Everything before was queued or is held.
    pub(super) handed: Lsn,
    /// Whether what comes before its first object was queued.
    pub(super) is_opened: bool,
    /// What it held when the stretch began.
    pub(super) held: Coverage,
    /// The tail that it ended with, by its segment and offsets.
    pub(super) last_tail: Option<(Segment, Range<u64>)>,
}

impl Lane {
    /// Queues an object, and before the first one what must be there before it.
    fn put(&mut self, opening: &[Item], key: ObjectKey, object: Arc<Object>, to: Lsn) {
        if !self.is_opened {
            for item in opening {
                self.target.push(item.clone());
            }
            self.is_opened = true;
        }
        self.target.push(Item { key, work: Work::Put(object), to: Some(to) });
    }
}
