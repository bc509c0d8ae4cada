//! WAL fanned out to vaults: whole segments, tails, restarts, vaults that fail.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use lifeboat::{
    decide::recovery::{Coverage, Selection, WalPiece},
    domain::{Lsn, RecoveryTarget, Segment, SegmentSize, Timeline},
    vault::{Fetch, Layout, Listing, ObjectKey, SharedStore, VaultError, WalTarget, WalWriter, fetch_wal, put, seal},
};
use tokio_util::sync::CancellationToken;

use super::{
    faulty::Faulty,
    fixture::{layout, memory, named_memory},
};
use crate::support::scratch;

const T1: Timeline = Timeline(1);
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
        WalWriter::new("wallet".parse().unwrap(), vec![self.identity.to_public()], self.targets.clone())
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
        fetch_wal(&Fetch { sources: &sources, identities, stop }, &layout(), selection, folder.path()).await?;
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
    let rig = Rig::new(vec![(memory(), true), (memory(), false)]);
    let mut writer = rig.writer();
    let server = Lsn(0x30_1234);
    let start = writer.begin(SYSTEM, T1, size(), server).await.unwrap();
    assert_eq!(start, Lsn(0x30_0000), "an empty vault begins with the server's segment");
    let mut at = start;
    for length in [500_000, 600_000, 100_000, 900_001] {
        writer.wal(at, content(at, length)).await.unwrap();
        at = at.forward(length);
        assert_eq!(writer.flush().await.unwrap(), at);
    }
    assert!(matches!(writer.wal(at.forward(1), content(at, 1)).await, Err(VaultError::WalOrder { .. })));
    rig.compare(0, start, at).await;
    rig.compare(1, start, at).await;
    assert_eq!(writer.status().snapshot().received, at);

    // The daemon dies and comes back: the open segment is received anew, and
    // what its tails held already is durable at once.
    let mut writer = rig.writer();
    let from = writer.begin(SYSTEM, T1, size(), at.forward(77)).await.unwrap();
    assert_eq!(from, size().floor(at));
    assert_eq!(writer.flush().await.unwrap(), at);
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
    let start = writer.begin(SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
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
        assert_eq!(writer.begin(SYSTEM, T1, size(), at).await.unwrap(), at);
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
    let start = writer.begin(SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    lax_faults.down.store(true, Ordering::SeqCst);
    writer.wal(start, content(start, 1000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(1000), "a best-effort vault blocks nothing");
    let status = writer.status().snapshot();
    assert_eq!(status.vaults[&"dr".parse().unwrap()].error, None);
    let lax = &status.vaults[&"lax".parse().unwrap()];
    assert!(lax.durable == start && lax.error.as_ref().is_some_and(|error| error.contains("reset")), "{lax:?}");

    required_faults.down.store(true, Ordering::SeqCst);
    writer.wal(start.forward(1000), content(start.forward(1000), 1000)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), start.forward(1000), "a required one holds the position");
    rig.compare(0, start, start.forward(2000)).await;
    required_faults.down.store(false, Ordering::SeqCst);
    lax_faults.down.store(false, Ordering::SeqCst);
    assert_eq!(writer.flush().await.unwrap(), start.forward(2000), "what was pending is caught up");
    rig.compare(1, start, start.forward(2000)).await;
    rig.compare(2, start, start.forward(2000)).await;

    // Down for longer than memory holds: the stream must begin anew.
    required_faults.down.store(true, Ordering::SeqCst);
    let mut at = start.forward(2000);
    for _ in 0..40 {
        writer.wal(at, content(at, size().bytes())).await.unwrap();
        at = at.forward(size().bytes());
        assert_eq!(writer.flush().await.unwrap(), start.forward(2000));
    }
    required_faults.down.store(false, Ordering::SeqCst);
    assert!(matches!(writer.flush().await, Err(VaultError::Behind { .. })));
    assert_eq!(writer.begin(SYSTEM, T1, size(), at).await.unwrap(), start);
    let length = at.0 - start.0;
    writer.wal(start, content(start, length)).await.unwrap();
    assert_eq!(writer.flush().await.unwrap(), at, "what the others hold already is a success retried");
    rig.compare(1, start, at).await;
}

#[tokio::test]
async fn a_new_timeline_begins_with_the_segment_of_its_fork() {
    let rig = Rig::new(vec![(memory(), true)]);
    let mut writer = rig.writer();
    let start = writer.begin(SYSTEM, T1, size(), Lsn(0x30_0000)).await.unwrap();
    writer.wal(start, content(start, 3_000_000)).await.unwrap();
    writer.flush().await.unwrap();
    let fork = start.forward(1_500_000);
    writer.history(Timeline(2), format!("1\t{fork}\tno recovery target specified\n").into()).await.unwrap();
    let server = start.forward(9_000_000);
    assert_eq!(writer.begin(SYSTEM, Timeline(2), size(), server).await.unwrap(), size().floor(fork));
    // A process that is new hands the history in before it begins.
    let mut new = rig.writer();
    new.history(Timeline(3), format!("1\t{fork}\tx\n2\t{server}\tx\n").into()).await.unwrap();
    new.begin(SYSTEM, Timeline(3), size(), server).await.unwrap();
    let (listing, _) = rig.coverage(0).await;
    assert!(listing.histories(rig.targets[0].store.as_ref()).await.unwrap().contains_key(&Timeline(3)));
    // Another process knows it from the vault.
    assert_eq!(rig.writer().begin(SYSTEM, Timeline(2), size(), server).await.unwrap(), size().floor(fork));
    let (listing, _) = rig.coverage(0).await;
    let histories = listing.histories(rig.targets[0].store.as_ref()).await.unwrap();
    assert_eq!(histories[&Timeline(2)], [(T1, fork)]);
}

#[tokio::test]
async fn another_history_under_the_same_names_is_alarmed() {
    let rig = Rig::new(vec![(memory(), true)]);
    let start = Lsn(0x30_0000);
    // Both begin before either has written: neither sees the other.
    let mut writers = [rig.writer(), rig.writer()];
    for writer in &mut writers {
        writer.begin(SYSTEM, T1, size(), start).await.unwrap();
    }
    for (writer, (shift, conflicts)) in writers.iter_mut().zip([(0, false), (1, true)]) {
        let result = writer.wal(start, content(start.forward(shift), size().bytes())).await;
        assert_eq!(matches!(result, Err(VaultError::Conflict { .. })), conflicts, "{result:?}");
    }
}

#[tokio::test]
async fn the_vault_tells_which_histories_it_holds() {
    let rig = Rig::new(vec![(memory(), true)]);
    rig.writer().begin(SYSTEM, T1, size(), Lsn(0)).await.unwrap();
    let store = &rig.targets[0].store;
    rig.writer().begin("7", T1, size(), Lsn(0)).await.unwrap();
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
