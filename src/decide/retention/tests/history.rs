//! Histories of a database as a vault sees them, made step by step.

use super::*;

pub(super) const SIZE: SegmentSize = SegmentSize::DEFAULT;

pub(super) fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

pub(super) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// So many hours after 2026-01-01.
pub(super) fn at(after: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + hours(after)
}

pub(super) fn after(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap()
}

/// A vault and the clock beside it.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) facts: Facts,
    pub(super) now: Timestamp,
    timeline: Timeline,
    lsn: Lsn,
    key: WalKey,
    /// Backups so far, also those that are gone.
    taken: usize,
    /// The key that really opens each segment.
    pub(super) opened_by: BTreeMap<Segment, WalKey>,
}

impl World {
    pub(super) fn new() -> Self {
        let key = WalKey { first: Segment { timeline: Timeline(1), number: 1 }, number: 0 };
        Self {
            facts: Facts {
                backups: Vec::new(),
                uploads: Vec::new(),
                coverage: Coverage::default(),
                histories: BTreeMap::new(),
                wal_keys: vec![key],
                heartbeats: Vec::new(),
                segment_size: SIZE,
                problems: Vec::new(),
                signs: Vec::new(),
                last_run: None,
                busy: None,
            },
            now: at(0),
            timeline: Timeline(1),
            lsn: Lsn(SIZE.bytes()),
            key,
            taken: 0,
            opened_by: BTreeMap::new(),
        }
    }

    pub(super) fn plan(&self, policy: &Policy) -> Plan {
        plan(&self.facts, policy, self.now)
    }

    pub(super) fn backup(&self, id: &str) -> &Held {
        self.facts.backups.iter().find(|backup| backup.id.as_str() == id).unwrap()
    }

    /// The one that was taken last.
    pub(super) fn newest(&mut self) -> &mut Held {
        self.facts.backups.last_mut().unwrap()
    }

    /// Time passes, WAL is written and streamed, and half a segment of tail.
    pub(super) fn pass(&mut self, duration: SignedDuration, segments: u64) {
        let end = after(self.now, duration);
        while self.now < end {
            self.now = after(self.now, hours(1).min(end.duration_since(self.now)));
            self.facts.signs.push(self.now);
        }
        for _ in 0..segments {
            let segment = Segment::holding(self.timeline, self.lsn, SIZE);
            self.write(segment);
        }
        let open = Segment::holding(self.timeline, self.lsn, SIZE);
        self.facts.coverage.add_tail(open, 0, SIZE.bytes() / 2);
        self.opened_by.entry(open).or_insert(self.key);
    }

    fn write(&mut self, segment: Segment) {
        self.facts.coverage.add_tail(segment, 0, SIZE.bytes() / 2);
        self.facts.coverage.add_whole(segment);
        self.opened_by.insert(segment, self.key);
        self.lsn = segment.end(SIZE);
    }

    /// These segments never reach the vault.
    pub(super) fn gap(&mut self, segments: u64) {
        self.lsn = Lsn(SIZE.floor(self.lsn).0 + (segments + 1) * SIZE.bytes());
        self.restart(0);
    }

    /// Streaming begins anew: so many segments behind what this vault has already.
    pub(super) fn restart(&mut self, behind: u64) {
        let number = SIZE.number_of(self.lsn).saturating_sub(behind).max(1);
        let first = Segment { timeline: self.timeline, number };
        let taken = self.facts.wal_keys.iter().filter(|key| key.first == first).count();
        self.key = WalKey { first, number: u32::try_from(taken).unwrap() };
        self.facts.wal_keys.push(self.key);
    }

    /// Timeline `n` ends in the middle of a segment; a little of it beyond is in the vault.
    pub(super) fn fail_over(&mut self) {
        let fork = self.lsn.forward(SIZE.bytes() / 4);
        let old = Segment::holding(self.timeline, self.lsn, SIZE);
        self.facts.coverage.add_tail(old, 0, SIZE.bytes() / 2);
        self.opened_by.entry(old).or_insert(self.key);
        let mut history = self.facts.histories.get(&self.timeline).cloned().unwrap_or_default();
        history.push((self.timeline, fork));
        self.timeline = Timeline(self.timeline.0 + 1);
        self.facts.histories.insert(self.timeline, history);
        self.lsn = fork;
        self.restart(0);
    }

    pub(super) fn full(&mut self, standalone: bool) {
        self.take(BackupKind::Full, standalone, None);
    }

    pub(super) fn increment(&mut self) {
        self.child(BackupKind::Incremental);
    }

    pub(super) fn differential(&mut self) {
        self.child(BackupKind::Differential);
    }

    fn child(&mut self, kind: BackupKind) {
        let carries = |backup: &&Held| parent::carries(backup.kind, backup.standalone, kind);
        let parent = self.facts.backups.iter().rfind(carries).map(|backup| backup.id.clone());
        match parent {
            Some(parent) => self.take(kind, false, Some(parent)),
            None => self.full(false),
        }
    }

    fn take(&mut self, kind: BackupKind, standalone: bool, parent: Option<BackupId>) {
        let (start_lsn, started_at) = (self.lsn.forward(40), self.now);
        self.pass(SignedDuration::from_mins(10), 1);
        let stop_lsn = self.lsn.forward(40);
        self.pass(SignedDuration::from_mins(1), 1);
        self.facts.backups.push(Held {
            id: format!("b{}", self.taken).parse().unwrap(),
            kind,
            standalone,
            timeline: self.timeline,
            start_lsn,
            stop_lsn,
            started_at,
            finished_at: after(started_at, SignedDuration::from_mins(10)),
            size_bytes: 100,
            state: BackupState::WalComplete,
            is_damaged: false,
            is_proven: false,
            parent,
            locked_until: None,
        });
        self.taken += 1;
    }

    /// An upload without a manifest that began so long ago.
    pub(super) fn upload(&mut self, id: &str, ago: Option<SignedDuration>, is_copy: bool) {
        let started_at = ago.map(|ago| after(self.now, -ago));
        self.facts.uploads.push(Upload { id: id.parse().unwrap(), started_at, is_copy });
    }

    /// The clock jumps, and heartbeats go on.
    pub(super) fn jump(&mut self, by: SignedDuration) {
        self.now = after(self.now, by);
        self.facts.signs.push(self.now);
    }

    /// What is left when a plan was carried out.
    pub(super) fn without(&self, gone: &Expiry) -> Self {
        let mut left = self.clone();
        let facts = &mut left.facts;
        facts.backups.retain(|backup| !gone.backups.contains(&backup.id));
        facts.uploads.retain(|upload| !gone.uploads.contains(&upload.id));
        facts.histories.retain(|timeline, _| !gone.histories.contains(timeline));
        facts.wal_keys.retain(|key| !gone.wal_keys.contains(key));
        let mut coverage = Coverage::default();
        for segment in self.facts.coverage.wholes() {
            if !gone.segments.iter().any(|run| run.contains(segment)) {
                coverage.add_whole(segment);
            }
        }
        for (segment, from, to) in self.facts.coverage.tails() {
            if !gone.tails.contains(&Tail { segment, from, to }) {
                coverage.add_tail(segment, from, to);
            }
        }
        facts.coverage = coverage;
        left
    }
}
