//! Each defect is planted in a vault that is sound, found, and taken out again.

use std::sync::Arc;

use lifeboat::{
    decide::recovery::gaps::Need,
    domain::{BackupState, Lsn, Verdict},
    vault::{
        Catalog, Listing, Manifest, ObjectKey, SharedStore, Store, WalName,
        signature::Signer,
        verify::{Depth, Fault, Verify, verify},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    super::versioned::Versioned,
    estate::{Estate, at, segment_size, small_segments},
    planted::Planted,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_defect_is_named_and_nothing_else() {
    let estate = Estate::make().await;
    sound(&estate).await;
    flipped_bits(&estate).await;
    cut_and_missing(&estate).await;
    histories(&estate).await;
    foreign(&estate).await;
    lying_manifests(&estate).await;
    versions_and_locks(&estate).await;
    without_an_identity(&estate).await;
    let report = estate.full().await;
    assert_eq!((report.verdict(), &report.defects[..]), (Verdict::Pass, &[][..]), "all was taken out again");
}

async fn sound(estate: &Estate) {
    for depth in [Depth::Quick, Depth::Full] {
        let report = estate.verify(&estate.fixture.store, depth, &[]).await;
        assert_eq!(report.defects, [], "{report:#?}");
        assert_eq!(report.unchecked, [""; 0]);
        assert_eq!(report.verdict(), Verdict::Pass);
        println!("{:#?}", report.objects);
    }
    assert!(estate.whole(1).len() >= 3 && estate.whole(2).len() >= 3, "WAL on both timelines");
    let report = estate.full().await;
    assert!(report.objects.values().all(|tally| tally.listed == tally.read), "{:#?}", report.objects);
    assert_eq!(report.objects.len(), 10, "every kind: {:?}", report.objects.keys());
    let (_, catalog) = estate.fixture.catalog(&estate.layout).await;
    let states: Vec<BackupState> = catalog.entries.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [BackupState::Proven, BackupState::Verified]);
}

async fn flipped_bits(estate: &Estate) {
    let first = |prefix: &str, end: &str| {
        let names = estate.names(prefix);
        names.into_iter().find(|name| name.ends_with(end)).unwrap_or_else(|| panic!("{prefix} {end}"))
    };
    let (segment, tail) = (estate.whole(1)[1].clone(), first("wal/00000002", ".tail.zst.age"));
    for (name, fault) in [
        ("backups/one/data/00000.tar.zst.age".to_owned(), Fault::Damaged),
        ("backups/one/keys/0.age".to_owned(), Fault::Damaged),
        ("backups/one/config.tar.zst.age".to_owned(), Fault::Damaged),
        ("backups/one/backup_manifest".to_owned(), Fault::Damaged),
        ("backups/one/RESTORE.md".to_owned(), Fault::Damaged),
        ("backups/one/restore.sh".to_owned(), Fault::Damaged),
        ("backups/one/manifest.json".to_owned(), Fault::Signature),
        ("wal/00000002.history".to_owned(), Fault::History),
        (segment, Fault::Damaged),
        (tail, Fault::Damaged),
        (first("wal/keys", ".age"), Fault::Damaged),
        (first("heartbeats", ".age"), Fault::Damaged),
        (first("proofs", ".json"), Fault::Signature),
        (first("verifications", ".json"), Fault::Signature),
    ] {
        estate.finds(Planted::flip(estate.path(&name)), fault, &name, &[]).await;
    }
    // What is wrong with a signature is told of what it signs.
    for name in ["backups/one/manifest.json.sig".to_owned(), first("proofs", ".sig"), first("verifications", ".sig")] {
        let signed = name.trim_end_matches(".sig");
        estate.finds(Planted::flip(estate.path(&name)), Fault::Signature, signed, &[]).await;
    }
}

async fn cut_and_missing(estate: &Estate) {
    let part = "backups/two/data/00000.tar.zst.age";
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 10);
    estate.finds(Planted::change(estate.path(part), cut), Fault::Size, part, &["lifeboat vault copy"]).await;
    estate.finds(Planted::remove(estate.path(part)), Fault::Missing, part, &["lifeboat vault copy"]).await;
    for name in ["backups/two/manifest.json.sig", "backups/two/manifest.json"] {
        estate.finds(Planted::remove(estate.path(name)), Fault::Missing, name, &[]).await;
    }
    let key = "backups/two/keys/0.age";
    estate.finds(Planted::remove(estate.path(key)), Fault::Missing, key, &[]).await;
    // Which objects a WAL key opened is known no more when it is gone.
    let key = estate.names("wal/keys").pop().unwrap();
    let words = ["no key object of this vault opens it", "more", "copy the key objects"];
    estate.finds(Planted::remove(estate.path(&key)), Fault::NoKey, ".zst.age", &words).await;
    let segment = estate.whole(1)[1].clone();
    estate.finds(Planted::change(estate.path(&segment), cut), Fault::Damaged, &segment, &[]).await;
    let gone = Planted::remove(estate.path(&segment));
    // Tails of a segment that is whole stay, and cover it still.
    let covered = estate.full().await.defects.is_empty();
    drop(gone);
    if !covered {
        let words = ["WAL of timeline 1 from", "backup one", "take a new backup"];
        estate.finds(Planted::remove(estate.path(&segment)), Fault::Gap, &segment, &words).await;
    }
    let extra = "backups/two/data/99999.tar.zst.age";
    estate.finds(Planted::write(estate.path(extra), b"age-encryption.org/v1\n"), Fault::Extra, extra, &[]).await;
    let stray = "wal/00000001/notes.txt";
    estate.finds(Planted::write(estate.path(stray), b"hello"), Fault::Extra, stray, &[]).await;
    // A segment with all its tails, on each timeline; a lost tail of the open one.
    for (timeline, of) in [(1, 1), (2, 1)] {
        let segment = estate.whole(timeline)[of].clone();
        let stem = segment.trim_end_matches(".zst.age").to_owned();
        let all: Vec<Planted> = estate
            .names(&format!("wal/{timeline:08X}"))
            .iter()
            .filter(|name| name.starts_with(&stem))
            .map(|name| Planted::remove(estate.path(name)))
            .collect();
        let report = estate.verify(&estate.fixture.store, Depth::Quick, &[]).await;
        drop(all);
        let [gap] = &report.defects[..] else { panic!("{:#?}", report.defects) };
        assert!(gap.fault == Fault::Gap && gap.object.ends_with(&segment), "{gap}");
        assert!(gap.to_string().contains(&format!("timeline {timeline} from")), "{gap}");
    }
    super::expired::is_no_defect(estate).await;
    let open: Vec<String> = estate.names("wal/00000002").into_iter().filter(|name| name.contains(".tail.")).collect();
    let last = open.last().unwrap().split('.').next().unwrap().to_owned();
    let of_open: Vec<&String> = open.iter().filter(|name| name.starts_with(&last)).collect();
    if of_open.len() > 1 {
        let object = format!("{last}.zst.age");
        estate.finds(Planted::remove(estate.path(of_open[0])), Fault::Gap, &object, &["timeline 2"]).await;
    }
}

async fn histories(estate: &Estate) {
    let name = "wal/00000002.history";
    let text = std::fs::read_to_string(estate.path(name)).unwrap();
    let fork: Lsn = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let moved =
        |lsn: Lsn| Planted::write(estate.path(name), format!("1\t{lsn}\tno recovery target specified\n").as_bytes());
    let size = segment_size();
    // Where a record's header fits into its page; elsewhere nobody can tell.
    let fits = |at: &u64| (1..=8192 - 24).contains(&(at % 8192));
    let later = (1..9).map(|words| fork.0 + 8 * words).find(fits).unwrap();
    let earlier = (1..9).map(|words| fork.0 - 8 * words).find(fits).unwrap();
    for (lsn, why) in [
        (Lsn(later), "by a few bytes"),
        (Lsn(earlier), "by a few bytes"),
        (Lsn(fork.0 - 3 * 8192), "by some pages"),
        (Lsn(fork.0 - 2 * size.bytes()), "another cluster's, earlier"),
        (Lsn(fork.0 + 2 * size.bytes()), "another cluster's, later"),
    ] {
        println!("history moved {why}");
        estate.finds(moved(lsn), Fault::History, name, &["lifeboat vault copy"]).await;
    }
    estate.finds(Planted::write(estate.path(name), b"7\t0/0\tx\n"), Fault::History, name, &["in order"]).await;
    estate.finds(Planted::write(estate.path(name), b"rubbish"), Fault::History, name, &["no history file"]).await;
    estate.finds(Planted::remove(estate.path(name)), Fault::Missing, name, &["where the timeline began"]).await;
    // The reason's text says nothing of WAL: what was verified before tells that
    // it changed, or another vault.
    let reworded = || Planted::write(estate.path(name), text.replace("recovery", "recovers").as_bytes());
    estate.finds(reworded(), Fault::History, name, &["not what it was when the run verify/wallet"]).await;
    let other: SharedStore = Arc::new(Versioned::copy_of("dr", estate.fixture.store.as_ref()).await);
    let planted = reworded();
    let report = estate.verify(&estate.fixture.store, Depth::Full, std::slice::from_ref(&other)).await;
    drop(planted);
    let [defect] = &report.defects[..] else { panic!("{:#?}", report.defects) };
    assert!(defect.fault == Fault::History && defect.what.contains("`dr`"), "{defect}");
    let report = estate.verify(&estate.fixture.store, Depth::Full, &[other]).await;
    assert_eq!(report.defects, []);
}

async fn foreign(estate: &Estate) {
    let part = "backups/one/data/00000.tar.zst.age";
    let length = std::fs::metadata(estate.path(part)).unwrap().len();
    let plain = vec![b'x'; usize::try_from(length).unwrap()];
    estate.finds(Planted::write(estate.path(part), &plain), Fault::NotEncrypted, part, &["not encrypted"]).await;
    let segment = estate.whole(2)[1].clone();
    let ours = estate.plain(&segment).await;
    estate.finds(Planted::write(estate.path(&segment), &ours), Fault::NotEncrypted, &segment, &[]).await;
    // Another cluster's WAL under our name, sealed for us.
    let stranger = small_segments().await;
    let theirs = stranger.psql("select pg_walfile_name(pg_current_wal_lsn())").await;
    let theirs = std::fs::read(stranger.cluster.data().join("pg_wal").join(theirs)).unwrap();
    let sealed = estate.seal_like(&segment, &theirs).await;
    estate
        .finds(Planted::write(estate.path(&segment), &sealed), Fault::ForeignWal, &segment, &["another cluster"])
        .await;
    // Our own, of another place.
    let other = estate.plain(&estate.whole(2)[2]).await;
    let sealed = estate.seal_like(&segment, &other).await;
    estate.finds(Planted::write(estate.path(&segment), &sealed), Fault::ForeignWal, &segment, &["its name says"]).await;
    let mut elsewhere = ours.clone();
    elsewhere[4] = 9;
    let sealed = estate.seal_like(&segment, &elsewhere).await;
    let stem = segment.trim_end_matches("zst.age");
    let tails: Vec<Planted> = estate
        .names("wal/00000002")
        .iter()
        .filter(|name| name.starts_with(stem) && name.contains(".tail."))
        .map(|name| Planted::remove(estate.path(name)))
        .collect();
    estate.finds(Planted::write(estate.path(&segment), &sealed), Fault::ForeignWal, &segment, &["timeline 9"]).await;
    drop(tails);
    // A tail that says otherwise than its segment.
    let tail = estate.names("wal/00000002").into_iter().rfind(|name| name.contains(".tail.")).unwrap();
    let key = ObjectKey::new(format!("{}{tail}", estate.layout.prefix())).unwrap();
    let Some(WalName::Tail { segment: of, from, .. }) = WalName::parse(&estate.layout, &key, segment_size()) else {
        panic!("{tail}")
    };
    let mut piece = estate.plain(&tail).await;
    let last = piece.len() - 1;
    piece[last] ^= 1;
    let to = from + piece.len() as u64 - 1;
    let shorter = estate.layout.tail(of, segment_size(), from, to);
    let name = shorter.as_str().strip_prefix(&estate.layout.prefix()).unwrap().to_owned();
    piece[last - 1] ^= 1;
    piece.truncate(last);
    let sealed = estate.seal_like(&tail, &piece).await;
    estate.finds(Planted::write(estate.path(&name), &sealed), Fault::Disagrees, &tail, &["does not agree"]).await;
}

async fn lying_manifests(estate: &Estate) {
    let honest = estate.manifest("two");
    // It names the manifest that was verified, so any other one is noticed by it too.
    let verified: Vec<Planted> =
        estate.names("verifications/two").iter().map(|name| Planted::remove(estate.path(name))).collect();
    let signer = &estate.fixture.signer;
    let mut lies: Vec<(Manifest, &str)> = Vec::new();
    let lie = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = honest.clone();
        change(&mut manifest);
        manifest
    };
    lies.push((lie(&|manifest| manifest.size_bytes += 1), "its parts are"));
    lies.push((lie(&|manifest| manifest.stored_bytes -= 1), "its objects are"));
    lies.push((lie(&|manifest| manifest.objects[0].plain_size += 7), "before compression"));
    for name in ["data/00000.tar.zst.age", "config.tar.zst.age"] {
        let told = lie(&|manifest| {
            let of = manifest.objects.iter_mut().find(|object| object.name == name).unwrap();
            of.plain_sha256 = Some("0".repeat(64));
        });
        lies.push((told, "before compression"));
    }
    lies.push((lie(&|manifest| manifest.start_lsn = Lsn(manifest.start_lsn.0 - 8)), "`backup_label` says"));
    lies.push((lie(&|manifest| manifest.stop_lsn = Lsn(manifest.stop_lsn.0 + (900 << 20))), "`backup_manifest` says"));
    lies.push((lie(&|manifest| "7000000000000000007".clone_into(&mut manifest.system_id)), "7000000000000000007"));
    for (manifest, words) in lies {
        let [signature, json] = estate.sign(&manifest, signer);
        estate.finds(json, Fault::LyingManifest, "backups/two/manifest.json", &[words]).await;
        drop(signature);
    }
    // Without reading, the listing shows that no WAL reaches that far.
    let beyond = lie(&|manifest| manifest.stop_lsn = Lsn(manifest.stop_lsn.0 + (900 << 20)));
    let planted = estate.sign(&beyond, signer);
    let report = estate.verify(&estate.fixture.store, Depth::Quick, &[]).await;
    drop(planted);
    assert!(report.defects.iter().any(|defect| defect.fault == Fault::Gap), "{:#?}", report.defects);
    drop(verified);
    // Somebody else's signature, and a manifest that was changed after it was signed.
    let [signature, json] = estate.sign(&honest, &Signer::ephemeral());
    estate.finds(json, Fault::ForeignSignature, "backups/two/manifest.json", &["not by the trusted key"]).await;
    drop(signature);
}

async fn versions_and_locks(estate: &Estate) {
    let store = Versioned::copy_of("primary", estate.fixture.store.as_ref()).await;
    let shared: SharedStore = Arc::new(store.clone());
    assert_eq!(estate.verify(&shared, Depth::Full, &[]).await.defects, []);
    let key = |name: &str| ObjectKey::new(format!("{}{name}", estate.layout.prefix())).unwrap();
    let (over, hidden) = (key("backups/one/data/00000.tar.zst.age"), key(&estate.whole(1)[0]));
    store.put_over(&over, "another content");
    store.mark_deleted(&hidden);
    for depth in [Depth::Quick, Depth::Full] {
        let report = estate.verify(&shared, depth, &[]).await;
        let found: Vec<(Fault, &str)> = report.defects.iter().map(|d| (d.fault, d.object.as_str())).collect();
        let wanted = [(Fault::LaterVersion, over.as_str()), (Fault::DeleteMarker, hidden.as_str())];
        assert_eq!(found, wanted);
    }
    let (listing, verifier) = (Listing::take(&store, &estate.layout).await.unwrap(), estate.fixture.signer.verifier());
    let catalog = Catalog::read(&listing, &store, &verifier).await.unwrap();
    assert_eq!(catalog.entries[1].state, BackupState::Verified, "what lies over the first version hides nothing");
    // Locks: the backup must be kept for a while, and one object of it is not.
    let store = Versioned::copy_of("primary", estate.fixture.store.as_ref()).await;
    let prefix = estate.layout.backup_prefix(&"two".parse().unwrap());
    let short = key("backups/two/restore.sh");
    for object in store.list(&prefix).await.unwrap() {
        let until = if object.key == short { at(4_999_999) } else { at(5_000_000) };
        store.locks().unwrap().lock(&object.key, until).await.unwrap();
    }
    let lock_until = |key: &ObjectKey| key.as_str().starts_with(&prefix).then(|| at(5_000_000));
    let shared: SharedStore = Arc::new(store);
    let what = Verify {
        store: &shared,
        layout: &estate.layout,
        verifier: &verifier,
        identities: &[],
        depth: Depth::Quick,
        others: &[],
        lock_until: Some(&lock_until),
        retained: &|_| Need::Needed,
        now: at(1_000_000),
        stop: &CancellationToken::new(),
        done: Arc::default(),
    };
    let report = verify(&what, &|_, _, _| {}).await.unwrap();
    let [defect] = &report.defects[..] else { panic!("{:#?}", report.defects) };
    assert!(defect.fault == Fault::Lock && defect.object == short.as_str(), "{defect}");
}

async fn without_an_identity(estate: &Estate) {
    let store = &estate.fixture.store;
    let report = estate.verify_with(&[], store, Depth::Full, &[]).await;
    assert_eq!(report.defects, []);
    assert_eq!(report.verdict(), Verdict::Inconclusive);
    assert!(report.unchecked.iter().any(|what| what.contains("nothing was decrypted")), "{:?}", report.unchecked);
    assert!(report.backups.iter().all(|found| !found.sound.contains("data/00000.tar.zst.age")));
    assert_eq!(estate.verify_with(&[], store, Depth::Quick, &[]).await.verdict(), Verdict::Pass);
    // What was not opened is no proof that a defect inside is gone.
    let opened = estate.full().await;
    let (segment, beats) = (estate.whole(1)[1].clone(), estate.names("heartbeats").remove(0));
    for (name, compared) in [
        ("backups/one/data/00000.tar.zst.age", true),
        ("backups/one/keys/0.age", true),
        (segment.as_str(), false),
        (beats.as_str(), false),
        ("backups/one/manifest.json", true),
        ("wal/00000002.history", true),
    ] {
        let object = format!("{}{name}", estate.layout.prefix());
        assert_eq!(report.would_show(Fault::Damaged, &object), compared, "{name}");
        for inside in [Fault::Structure, Fault::LyingManifest, Fault::ForeignWal, Fault::History, Fault::Heartbeats] {
            assert!(!report.would_show(inside, &object), "{inside:?} of {name}");
            assert!(opened.would_show(inside, &object), "{inside:?} of {name} with an identity");
        }
    }
    assert!(report.backups.iter().all(|found| !found.sound.contains("manifest.json")));
    // Digests are compared still.
    let part = "backups/one/data/00000.tar.zst.age";
    let planted = Planted::flip(estate.path(part));
    let report = estate.verify_with(&[], store, Depth::Full, &[]).await;
    drop(planted);
    let [defect] = &report.defects[..] else { panic!("{:#?}", report.defects) };
    assert!(defect.fault == Fault::Damaged && defect.object.ends_with(part), "{defect}");
    // A stranger's identity opens nothing, and that is no defect of the vault.
    let stranger = [age::x25519::Identity::generate()];
    let report = estate.verify_with(&stranger, store, Depth::Full, &[]).await;
    assert_eq!((report.verdict(), &report.defects[..]), (Verdict::Inconclusive, &[][..]));
}
