//! Holds the whole segments of a vault against the server's own archive of them.

use std::{collections::BTreeSet, fs, path::Path};

use age::x25519::Identity;
use lifeboat::{
    decide::recovery::{Selection, WalPiece},
    domain::{Lsn, RecoveryTarget, Segment, SegmentSize, Timeline},
    vault::{Fetch, Listing, SharedStore, WalName, fetch_wal},
};
use tokio_util::sync::CancellationToken;

/// Every segment in the vault is the server's byte for byte, none between the
/// first and the last is missing, and there is one history; answers how many.
pub(super) async fn compared(
    what: &str,
    store: SharedStore,
    identity: Identity,
    archive: &Path,
    size: SegmentSize,
    folder: &Path,
) -> usize {
    let histories = Listing::of_all(store.as_ref(), &"wallet".parse().unwrap()).await.unwrap();
    let [listing] = &histories[..] else { panic!("{what}: {} histories", histories.len()) };
    let whole = |key| match WalName::parse(listing.layout(), key, size) {
        Some(WalName::Whole(segment)) => Some(segment),
        _ => None,
    };
    let held: Vec<Segment> = listing.keys().filter_map(whole).collect();
    let selection = Selection {
        backup: "20010101t000000z-full-0000".parse().unwrap(),
        chain: Vec::new(),
        timeline: Timeline(1),
        segment_size: size,
        wal: held.iter().map(|segment| WalPiece { segment: *segment, tails: Vec::new() }).collect(),
        histories: Vec::new(),
        end: Lsn(0),
        target: RecoveryTarget::Latest,
    };
    let (sources, identities, stop) = ([store], [identity], CancellationToken::new());
    let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
    fetch_wal(&fetch, listing.layout(), &selection, folder, &|_| ()).await.unwrap();
    let names: BTreeSet<String> = held.iter().map(|segment| segment.file_name(size)).collect();
    for name in &names {
        let (stored, written) = (fs::read(folder.join(name)).unwrap(), fs::read(archive.join(name)).unwrap());
        assert!(stored == written, "{what}: {name} is not what the server wrote");
    }
    let (first, last) = (names.first().unwrap(), names.last().unwrap());
    let archived = fs::read_dir(archive).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let missing: Vec<String> =
        archived.filter(|name| name.len() == 24 && (first..=last).contains(&name) && !names.contains(name)).collect();
    assert!(missing.is_empty(), "{what}: {missing:?} are in the archive of the server alone");
    names.len()
}
