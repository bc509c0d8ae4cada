//! WAL fanned out to vaults: whole segments, tails, restarts, vaults that fail.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use lifeboat::{
    decide::{
        recovery::{Coverage, Selection, WalPiece},
        stretch::Source,
    },
    domain::{Lsn, RecoveryTarget, Segment, SegmentSize, Timeline},
    vault::{
        Expected, Fetch, Layout, Listing, ObjectKey, SharedStore, VaultError, VaultWal, WalTarget, WalWriter,
        copy_object, fetch_wal, put, seal,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    faulty::Faulty,
    fixture::{begin, layout, memory, named_memory, running},
};
use crate::support::{eventually, scratch};

const T1: Timeline = Timeline(1);
/// Nothing here takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);
const SYSTEM: &str = "7412345678901234567";

fn size() -> SegmentSize {
    SegmentSize::try_from(1 << 20).unwrap()
}

/// What the server wrote at these positions; it does not compress.
fn content(from: Lsn, length: u64) -> Bytes {
    let byte = |at: u64| {
        let mixed = (at ^ (at >> 3) ^ 0x5DEE_CE66).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB).to_be_bytes()[0]
    };
    (from.0..from.0 + length).map(byte).collect::<Vec<_>>().into()
}

struct Rig {
    identity: age::x25519::Identity,
    targets: Vec<WalTarget>,
}

impl Rig {
    fn new(targets: Vec<(SharedStore, bool)>) -> Self {
        let targets = targets.into_iter().map(|(store, required)| WalTarget { store, required }).collect();
        Self { identity: age::x25519::Identity::generate(), targets }
    }

    fn writer(&self) -> WalWriter {
        running(WalWriter::new(vec![self.identity.to_public()], self.targets.clone()))
    }

    /// The same to some of the vaults.
    fn writer_to(&self, vaults: &[usize]) -> WalWriter {
        let targets = vaults.iter().map(|vault| self.targets[*vault].clone()).collect();
        running(WalWriter::new(vec![self.identity.to_public()], targets))
    }

    /// Flushes until all before `end` is confirmed.
    async fn flushes(&self, writer: &mut WalWriter, end: Lsn) {
        let begun = std::time::Instant::now();
        while writer.flush().await.unwrap() < end {
            assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} in vain for {end}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a vault that nobody waits for has all before `end`.
    async fn reaches(&self, vault: usize, writer: &mut WalWriter, end: Lsn) {
        let name = self.targets[vault].store.place().vault.clone();
        let status = writer.status();
        eventually("the vault has it, too", LIMIT, || async { status.snapshot().vaults[&name].durable >= end }).await;
    }

    async fn names(&self, vault: usize) -> Vec<String> {
        self.coverage(vault).await.0.keys().map(ToString::to_string).collect()
    }

    async fn keys(&self, vault: usize) -> usize {
        self.coverage(vault).await.0.under(&layout().wal_keys_prefix()).count()
    }

    async fn coverage(&self, vault: usize) -> (Listing, Coverage) {
        let listing = Listing::take(self.targets[vault].store.as_ref(), &layout()).await.unwrap();
        let coverage = listing.coverage(size());
        (listing, coverage)
    }

    /// The segments of a vault from `start` to `end`, as they are held now.
    async fn selection(&self, vault: usize, start: Lsn, end: Lsn) -> Selection {
        let (_, coverage) = self.coverage(vault).await;
        assert!(coverage.covers(T1, size(), start, end), "{:?}", coverage.ranges(T1, size()));
        let numbers = size().number_of(start)..=size().number_of(Lsn(end.0 - 1));
        let wal = numbers.map(|number| Segment { timeline: T1, number }).map(|segment| {
            let tails = if coverage.has_whole(segment) { Vec::new() } else { coverage.tails_of(segment).0 };
            WalPiece { segment, tails }
        });
        Selection {
            chain: Vec::new(),
            backup: "b".parse().unwrap(),
            timeline: T1,
            segment_size: size(),
            wal: wal.collect(),
            histories: Vec::new(),
            end,
            target: RecoveryTarget::Latest,
        }
    }

    /// Fetches from the vaults, and compares what came, zeros behind the end.
    async fn fetch(&self, vaults: &[usize], selection: &Selection) -> Result<(), VaultError> {
        let folder = scratch();
        let sources: Vec<SharedStore> = vaults.iter().map(|vault| self.targets[*vault].store.clone()).collect();
        let (identities, stop) = (std::slice::from_ref(&self.identity), &CancellationToken::new());
        fetch_wal(&Fetch { sources: &sources, identities, stop }, &layout(), selection, folder.path(), &|_| ()).await?;
        for piece in &selection.wal {
            let found = std::fs::read(folder.path().join(piece.segment.file_name(size()))).unwrap();
            let start = piece.segment.start(size());
            let held = selection.end.0.min(start.0 + size().bytes()) - start.0;
            let mut expected = content(start, held).to_vec();
            expected.resize(1 << 20, 0);
            assert!(found == expected, "{} differs", piece.segment.file_name(size()));
        }
        Ok(())
    }

    async fn compare(&self, vault: usize, start: Lsn, end: Lsn) {
        let selection = self.selection(vault, start, end).await;
        self.fetch(&[vault], &selection).await.unwrap();
    }

    /// Flips the last bit of an object, which its MAC covers.
    async fn damage(&self, vault: usize, key: &ObjectKey) {
        let store = self.targets[vault].store.as_ref();
        let mut bytes = seal::read_all(store, key).await.unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        store.delete(key).await.unwrap();
        put(store, key, bytes).await.unwrap();
    }
}

#[tokio::test]
async fn segments_and_tails_come_back_and_a_restart_goes_on() {
    let rig = Rig::new(vec![(memory(), true), (named_memory("lax"), false)]);
    let mut writer = rig.writer();
    let server = Lsn(0x30_1234);
    let start = begin(&mut writer, SYSTEM, T1, size(), server).await.unwrap();
    assert_eq!(start, Lsn(0x30_0000), "an empty vault begins with the server's segment");
    let mut at = start;
    for length in [500_000, 600_000, 100_000, 900_001] {
        writer.wal(at, content(at, length)).await.unwrap();
        at = at.forward(length);
        assert_eq!(writer.flush().await.unwrap(), at);
    }
    assert!(matches!(writer.wal(at.forward(1), content(at, 1)).await, Err(VaultError::WalOrder { .. })));
    rig.compare(0, start, at).await;
    rig.reaches(1, &mut writer, at).await;
    rig.compare(1, start, at).await;
    assert_eq!(writer.status().snapshot().received, at);

    // The daemon dies and comes back: the open segment is received anew, and what
    // its tails held already is confirmed once the server has sent the same.
    let mut writer = rig.writer();
    let from = begin(&mut writer, SYSTEM, T1, size(), at.forward(77)).await.unwrap();
    assert_eq!(from, size().floor(at));
    assert_eq!(writer.flush().await.unwrap(), Lsn(0));
    assert_eq!(writer.status().snapshot().vaults[&"memory".parse().unwrap()].durable, at);
    let objects = rig.coverage(0).await.0.keys().count();
    writer.wal(from, content(from, at.0 - from.0)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), at);
    assert_eq!(rig.coverage(0).await.0.keys().count(), objects, "no tail is written twice");
    writer.wal(at, content(at, 50)).await.unwrap();
    let at = at.forward(50);
    assert_eq!(writer.flush().await.unwrap(), at);
    rig.compare(0, start, at).await;
    let end = size().floor(at).forward(size().bytes());
    writer.wal(at, content(at, end.0 - at.0)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), end);
    let (listing, coverage) = rig.coverage(0).await;
    assert!(coverage.has_whole(Segment::holding(T1, at, size())), "the segment is whole in the end");
    assert_eq!(listing.under(&layout().wal_keys_prefix()).count(), 2, "each stretch has its own key");
    rig.compare(0, start, end).await;
}

/// Between the choice and the fetch, which may take hours, the open segment
/// becomes whole and its tails are swept.
#[tokio::test]
async fn tails_that_were_swept_meanwhile_are_taken_from_the_whole_segment() {
    let rig = Rig::new(vec![(memory(), true), (named_memory("dr"), true)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    let mut at = start;
    for length in [size().bytes(), 300_000, 200_000] {
        writer.wal(at, content(at, length)).await.unwrap();
        at = at.forward(length);
        writer.flush().await.unwrap();
    }
    let chosen = rig.selection(0, start, at).await;
    let open = Segment::holding(T1, at, size());
    assert_eq!(chosen.wal.last().unwrap().tails.len(), 2);
    writer.wal(at, content(at, open.end(size()).0 - at.0)).await.unwrap();
    writer.flush().await.unwrap();
    let sweep = async |vault: usize| {
        let store = &rig.targets[vault].store;
        for (segment, from, to) in rig.coverage(vault).await.1.tails() {
            store.delete(&layout().tail(segment, size(), from, to)).await.unwrap();
        }
    };
    sweep(0).await;
    // What was chosen comes, and not a byte of what was written since.
    rig.fetch(&[0], &chosen).await.unwrap();
    // Nor is it lost where the vaults are not equally far: one has the tails still.
    let whole = layout().segment(open, size());
    rig.targets[0].store.delete(&whole).await.unwrap();
    rig.fetch(&[0, 1], &chosen).await.unwrap();
    sweep(1).await;
    rig.fetch(&[0, 1], &chosen).await.unwrap();
    rig.targets[1].store.delete(&whole).await.unwrap();
    let error = rig.fetch(&[0, 1], &chosen).await.unwrap_err();
    assert!(matches!(&error, VaultError::Missing { key, .. } if key.as_str().contains(".tail.")), "{error}");
}

#[tokio::test]
async fn a_damaged_key_fails_what_needs_it_and_nothing_else() {
    let rig = Rig::new(vec![(memory(), true)]);
    let start = Lsn(0x30_0000);
    let mut at = start;
    // Three stretches of two segments, each with a key of its own.
    for _ in 0..3 {
        let mut writer = rig.writer();
        assert_eq!(begin(&mut writer, SYSTEM, T1, size(), at).await.unwrap(), at);
        writer.wal(at, content(at, 2 * size().bytes())).await.unwrap();
        at = at.forward(2 * size().bytes());
        writer.flush().await.unwrap();
    }
    let [first, second, third] = [0, 2, 4].map(|number| {
        let stretch = Segment::holding(T1, start.forward(number * size().bytes()), size());
        layout().wal_key(stretch, size(), 0)
    });
    let newest = rig.selection(0, start.forward(4 * size().bytes()), at).await;
    rig.damage(0, &first).await;
    rig.fetch(&[0], &newest).await.unwrap();

    // What lacks it names it, with what is wrong; a key that is too new to matter is not looked at.
    rig.damage(0, &third).await;
    let older = rig.selection(0, start, start.forward(4 * size().bytes())).await;
    let error = rig.fetch(&[0], &older).await.unwrap_err();
    let VaultError::LostKeys { key, lost, source } = &error else { panic!("{error}") };
    assert_eq!(lost, std::slice::from_ref(&first), "{error}");
    let lacking = [3, 4].map(|number| layout().segment(Segment { timeline: T1, number }, size()));
    assert!(lacking.contains(key), "{key}");
    assert!(matches!(**source, VaultError::Damaged { .. }), "{source}");
    assert!(error.to_string().contains(first.as_str()) && error.is_permanent(), "{error}");

    // Where no key opens at all, that is the error.
    rig.damage(0, &second).await;
    let error = rig.fetch(&[0], &older).await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged { key, .. } if *key == first), "{error}");
}

#[tokio::test]
async fn a_required_vault_that_fails_blocks_and_a_best_effort_one_is_left_behind() {
    let (required, lax) = (Faulty::new(named_memory("dr")), Faulty::new(named_memory("lax")));
    let (required_faults, lax_faults) = (required.faults.clone(), lax.faults.clone());
    let rig = Rig::new(vec![(memory(), true), (Arc::new(required), true), (Arc::new(lax), false)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    lax_faults.down.store(true, Ordering::SeqCst);
    writer.wal(start, content(start, 1000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(1000), "a best-effort vault blocks nothing");
    let status = writer.status().snapshot();
    assert_eq!(status.vaults[&"dr".parse().unwrap()].error, None);
    let status = writer.status();
    eventually("the vault that fails is told by name", LIMIT, || async {
        let lax = status.snapshot().vaults[&"lax".parse().unwrap()].clone();
        lax.durable == start && lax.error.is_some_and(|error| error.contains("reset"))
    })
    .await;

    required_faults.down.store(true, Ordering::SeqCst);
    writer.wal(start.forward(1000), content(start.forward(1000), 1000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(1000), "a required one holds the position");
    rig.compare(0, start, start.forward(2000)).await;
    required_faults.down.store(false, Ordering::SeqCst);
    lax_faults.down.store(false, Ordering::SeqCst);
    let mut at = start.forward(2000);
    rig.flushes(&mut writer, at).await;
    rig.compare(1, start, at).await;
    rig.reaches(2, &mut writer, at).await;
    rig.compare(2, start, at).await;

    // Down for longer than memory holds: the stream must begin anew.
    required_faults.down.store(true, Ordering::SeqCst);
    let held = at;
    at = write_more(&mut writer, at, start).await;
    assert_eq!(writer.flush().await.unwrap(), held);
    required_faults.down.store(false, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    let ended = loop {
        match writer.flush().await {
            Ok(position) => assert_eq!(position, held),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < LIMIT, "it never notices that the vault is back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(ended, VaultError::Behind { .. }), "{ended:?}");
    let mut writer = rig.writer();
    assert_eq!(begin(&mut writer, SYSTEM, T1, size(), at).await.unwrap(), start);
    writer.wal(start, content(start, at.0 - start.0)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), at, "what the others hold already is a success retried");
    rig.compare(1, start, at).await;
}

async fn write(writer: &mut WalWriter, at: Lsn, bytes: Bytes) -> Result<Lsn, VaultError> {
    writer.wal(at, bytes).await?;
    writer.flush().await
}

/// Goes on from `at` by more segments than memory keeps for a vault.
async fn write_more(writer: &mut WalWriter, at: Lsn, start: Lsn) -> Lsn {
    let end = start.forward(70 * size().bytes());
    let mut at = at;
    while at < end {
        let length = size().bytes() - size().offset(at);
        writer.wal(at, content(at, length)).await.unwrap();
        at = at.forward(length);
        writer.flush().await.unwrap();
    }
    at
}

#[tokio::test]
async fn a_vault_that_hangs_delays_no_other_and_is_whole_again_when_it_answers() {
    let behind = named_memory("lax");
    let lax = Faulty::new(behind.clone());
    let faults = lax.faults.clone();
    let rig = Rig::new(vec![(memory(), true), (Arc::new(lax), false)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    faults.hangs.send_replace(true);
    let mut at = start;
    for round in 1..=30 {
        writer.wal(at, content(at, 1000)).await.unwrap();
        at = at.forward(1000);
        let flushed = tokio::time::timeout(LIMIT, writer.flush()).await.expect("the other vault is not waited for");
        assert_eq!(flushed.unwrap(), at);
        assert_eq!(rig.coverage(0).await.1.tails().count(), round);
    }
    let at = tokio::time::timeout(LIMIT, write_more(&mut writer, at, start)).await.unwrap();
    let lax = || writer.status().snapshot().vaults[&"lax".parse().unwrap()].clone();
    assert_eq!((lax().durable, lax().gap_before), (start, None), "nothing is claimed of it");
    assert_eq!(behind.list("").await.unwrap().len(), 0);

    faults.hangs.send_replace(false);
    let end = at.forward(700);
    writer.wal(at, content(at, 700)).await.unwrap();
    let status = writer.status();
    let lax = || status.snapshot().vaults[&"lax".parse().unwrap()].clone();
    let begun = std::time::Instant::now();
    while lax().gap_before.is_none() {
        assert_eq!(writer.flush().await.unwrap(), end);
        assert!(begun.elapsed() < LIMIT, "it is never taken up again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lax().gap_before, Some(at), "from the open segment on");
    assert_eq!(lax().durable, start);
    // What it lacks comes from the other vault.
    let (listing, _) = rig.coverage(0).await;
    for key in listing.keys() {
        let expected = Expected::Sealed(listing.size_of(key).unwrap());
        let (from, to) = (rig.targets[0].store.as_ref(), rig.targets[1].store.as_ref());
        copy_object(from, to, key, &expected, &CancellationToken::new()).await.unwrap();
    }
    eventually("it is whole again", LIMIT, || async {
        lax() == VaultWal { durable: end, error: None, gap_before: None }
    })
    .await;
    rig.compare(1, start, end).await;
    assert_eq!((rig.keys(0).await, rig.keys(1).await), (1, 1));
}

#[tokio::test]
async fn a_required_vault_that_hangs_holds_the_position_and_the_others_go_on() {
    let required = Faulty::new(named_memory("dr"));
    let faults = required.faults.clone();
    let rig = Rig::new(vec![(memory(), true), (Arc::new(required), true)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    faults.hangs.send_replace(true);
    let mut at = start;
    for round in 1..=5 {
        writer.wal(at, content(at, 1000)).await.unwrap();
        at = at.forward(1000);
        assert_eq!(writer.flush().await.unwrap(), start);
        assert_eq!(rig.coverage(0).await.1.tails().count(), round);
    }
    let dr = writer.status().snapshot().vaults[&"dr".parse().unwrap()].clone();
    assert!(dr.durable == start && dr.error.as_ref().is_some_and(|error| error.contains("not answered")), "{dr:?}");
    faults.hangs.send_replace(false);
    rig.flushes(&mut writer, at).await;
    rig.compare(1, start, at).await;
}

#[tokio::test]
async fn a_stretch_that_brings_nothing_leaves_nothing_and_one_that_does_has_one_key() {
    let rig = Rig::new(vec![(memory(), true), (named_memory("dr"), true)]);
    let start = Lsn(0x30_0000);
    for _ in 0..20 {
        // The server refuses: another process streams.
        let mut refused = rig.writer();
        refused.history(Timeline(2), format!("1\t{start}\tx\n").into());
        begin(&mut refused, SYSTEM, Timeline(2), size(), start).await.unwrap();
    }
    let mut writer = rig.writer();
    begin(&mut writer, SYSTEM, T1, size(), start).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start, "it holds nothing that must be compared");
    assert_eq!((rig.names(0).await, rig.names(1).await), (vec![], vec![]));
    writer.wal(start, content(start, 3_000_000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(3_000_000));
    assert_eq!((rig.keys(0).await, rig.keys(1).await), (1, 1));
    rig.compare(1, start, start.forward(3_000_000)).await;
}

#[tokio::test]
async fn each_vault_gets_what_it_lacks_of_the_open_segment() {
    let rig = Rig::new(vec![(memory(), true), (named_memory("lax"), false)]);
    let mut alone = rig.writer_to(&[0]);
    let start = begin(&mut alone, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    alone.wal(start, content(start, 1000)).await.unwrap();
    assert_eq!(alone.flush().await.unwrap(), start.forward(1000));
    drop(alone);
    let mut writer = rig.writer();
    begin(&mut writer, SYSTEM, T1, size(), start).await.unwrap();
    writer.wal(start, content(start, 1500)).await.unwrap();
    let at = start.forward(1500);
    assert_eq!(writer.flush().await.unwrap(), at);
    rig.reaches(1, &mut writer, at).await;
    rig.compare(1, start, at).await;
    let pieces = |coverage: Coverage| coverage.tails().map(|(_, from, to)| (from, to)).collect::<Vec<_>>();
    assert_eq!(pieces(rig.coverage(0).await.1), [(0, 1000), (1000, 1500)]);
    assert_eq!(pieces(rig.coverage(1).await.1), [(0, 1500)]);
}

/// A server that was set back and has written something else since.
#[tokio::test]
async fn a_server_that_was_set_back_is_refused_before_anything_is_stored() {
    let rig = Rig::new(vec![(memory(), true)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    let held = start.forward(size().bytes() + 1500);
    for (from, length) in [(start, size().bytes() + 1000), (start.forward(size().bytes() + 1000), 500)] {
        writer.wal(from, content(from, length)).await.unwrap();
        writer.flush().await.unwrap();
    }
    drop(writer);
    let before = rig.names(0).await;
    // Not as far yet.
    let server = start.forward(5000);
    let mut writer = rig.writer();
    let looked = writer.look(layout()).await.unwrap();
    let source = |written| Source {
        timeline: T1,
        segment_size: size(),
        wanted: written,
        written: Some(written),
        fork: None,
        oldest: None,
    };
    let refused = writer.begin(&looked, &source(server)).unwrap_err();
    let VaultError::Forked { ref vault, held: tip, server: at, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((vault.as_str(), tip, at), ("memory", held, server));
    assert!(refused.is_permanent());
    // Further: what it sends for the last that is held is not the same.
    let from = writer.begin(&looked, &source(held.forward(9000))).unwrap();
    assert_eq!(from, start.forward(size().bytes()));
    writer.wal(from, content(from.forward(1), 4000)).await.unwrap();
    let refused = writer.flush().await.unwrap_err();
    let VaultError::Forked { held: tip, server: at, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((tip, at), (held, from.forward(4000)));
    assert_eq!(writer.status().snapshot().confirmed, None, "nothing is acknowledged");
    // It asks for older WAL, too: whole segments are compared as well.
    let mut writer = rig.writer();
    let looked = writer.look(layout()).await.unwrap();
    assert_eq!(writer.begin(&looked, &Source { wanted: start, ..source(held.forward(9000)) }).unwrap(), start);
    let forked = write(&mut writer, start, content(start.forward(1), size().bytes())).await;
    assert!(matches!(forked, Err(VaultError::Forked { .. })), "{forked:?}");
    drop(writer);
    assert_eq!(rig.names(0).await, before, "nothing was stored");
    rig.compare(0, start, held).await;
}

#[tokio::test]
async fn a_best_effort_vault_with_another_history_is_left_alone_by_name() {
    let rig = Rig::new(vec![(memory(), true), (named_memory("lax"), false)]);
    let start = Lsn(0x30_0000);
    for (vault, shift) in [(0, 0), (1, 1)] {
        let mut writer = rig.writer_to(&[vault]);
        begin(&mut writer, SYSTEM, T1, size(), start).await.unwrap();
        writer.wal(start, content(start.forward(shift), 1000)).await.unwrap();
        assert_eq!(writer.flush().await.unwrap(), start.forward(1000));
    }
    let before = rig.names(1).await;
    let mut writer = rig.writer();
    begin(&mut writer, SYSTEM, T1, size(), start).await.unwrap();
    writer.wal(start, content(start, 2_000_000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(2_000_000));
    let status = writer.status();
    eventually("it is told", LIMIT, || async {
        let lax = status.snapshot().vaults[&"lax".parse().unwrap()].clone();
        lax.durable == start.forward(1000) && lax.error.is_some_and(|error| error.contains("forked"))
    })
    .await;
    assert_eq!(writer.flush().await.unwrap(), start.forward(2_000_000));
    assert_eq!(rig.names(1).await, before);
}

#[tokio::test]
async fn a_new_timeline_begins_with_the_segment_of_its_fork() {
    let rig = Rig::new(vec![(memory(), true)]);
    let mut writer = rig.writer();
    let start = begin(&mut writer, SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    writer.wal(start, content(start, 3_000_000)).await.unwrap();
    writer.flush().await.unwrap();
    let fork = start.forward(1_500_000);
    writer.history(Timeline(2), format!("1\t{fork}\tno recovery target specified\n").into());
    let server = start.forward(9_000_000);
    let from = begin(&mut writer, SYSTEM, Timeline(2), size(), server).await.unwrap();
    assert_eq!(from, size().floor(fork));
    // A process that is new hands the history in before it begins.
    let mut new = rig.writer();
    new.history(Timeline(3), format!("1\t{fork}\tx\n2\t{server}\tx\n").into());
    begin(&mut new, SYSTEM, Timeline(3), size(), server).await.unwrap();
    for writer in [&mut writer, &mut new] {
        let at = writer.status().snapshot().received;
        writer.wal(at, content(at, 10)).await.unwrap();
        writer.flush().await.unwrap();
    }
    let (listing, _) = rig.coverage(0).await;
    let histories = listing.histories(rig.targets[0].store.as_ref()).await.unwrap();
    assert_eq!(histories[&Timeline(2)], [(T1, fork)]);
    assert!(histories.contains_key(&Timeline(3)));
    // Another process knows it from the vault.
    assert_eq!(begin(&mut rig.writer(), SYSTEM, Timeline(2), size(), server).await.unwrap(), size().floor(fork));
}

#[tokio::test]
async fn another_history_under_the_same_names_is_alarmed() {
    let rig = Rig::new(vec![(memory(), true)]);
    let start = Lsn(0x30_0000);
    // Both begin before either has written: neither sees the other.
    let mut writers = [rig.writer(), rig.writer()];
    for writer in &mut writers {
        begin(writer, SYSTEM, T1, size(), start).await.unwrap();
    }
    let [first, second] = &mut writers;
    first.wal(start, content(start, size().bytes())).await.unwrap();
    assert_eq!(first.flush().await.unwrap(), start.forward(size().bytes()));
    let other = content(start.forward(1), size().bytes());
    let taken = write(second, start, other.clone()).await.unwrap_err();
    assert!(matches!(taken, VaultError::KeyTaken { .. }) && !taken.is_permanent(), "{taken:?}");
    let before = rig.names(0).await;
    begin(second, SYSTEM, T1, size(), start).await.unwrap();
    let forked = write(second, start, other).await;
    assert!(matches!(forked, Err(VaultError::Forked { .. })), "{forked:?}");
    assert_eq!(rig.names(0).await, before);
}

#[tokio::test]
async fn the_vault_tells_which_histories_it_holds() {
    let rig = Rig::new(vec![(memory(), true)]);
    let mut writer = rig.writer();
    begin(&mut writer, SYSTEM, T1, size(), Lsn(0)).await.unwrap();
    writer.wal(Lsn(0), content(Lsn(0), 10)).await.unwrap();
    writer.flush().await.unwrap();
    let store = &rig.targets[0].store;
    let mut second = rig.writer();
    begin(&mut second, "7", T1, size(), Lsn(0)).await.unwrap();
    second.wal(Lsn(0), content(Lsn(0), 10)).await.unwrap();
    second.flush().await.unwrap();
    let other = Layout::new("wallet".parse().unwrap(), "7", 1).unwrap();
    put(store.as_ref(), &"wallet/notes.txt".to_owned().try_into().unwrap(), "x").await.unwrap();
    let held = Listing::of_all(store.as_ref(), &"wallet".parse().unwrap()).await.unwrap();
    for (listing, layout) in held.iter().zip([&other, &layout()]) {
        let alone = Listing::take(store.as_ref(), layout).await.unwrap();
        assert_eq!((listing.layout(), listing.keys().collect::<Vec<_>>()), (layout, alone.keys().collect::<Vec<_>>()));
    }
    assert_eq!(held.len(), 2);
    assert!(Listing::of_all(store.as_ref(), &"other".parse().unwrap()).await.unwrap().is_empty());
}
