//! Backups that are restored: byte for byte, and as a server that starts.

use std::{path::Path, sync::Arc, sync::atomic::Ordering};

use bytes::Bytes;
use lifeboat::{
    decide::recovery::{Facts, choose},
    domain::{BackupState, ByteSize, Opener, RecoveryTarget, RunId, SegmentSize},
    vault::{
        BackupWriter, Fetch, Proof, StoreError, VaultError, commit, fetch_wal, ledger, put_proof, put_read_back, sweep,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    faulty::Faulty,
    fixture::{Fixture, layout, memory, query_restored, taken, tar_of, upload},
};
use crate::support::Lab;

/// Many small files and a big one, of bytes that do not compress away.
fn members() -> Vec<(String, Vec<u8>)> {
    let noise = |seed: usize, length: usize| -> Vec<u8> {
        let mut state = seed as u64 + 1;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(length)
        .collect()
    };
    let mut members: Vec<_> = (0..300).map(|n| (format!("base/{}/{n}", n % 7), noise(n, n * 13))).collect();
    members.push(("base/big".to_owned(), noise(1, 5 << 20)));
    members.push(("global/pg_control".to_owned(), noise(2, 8192)));
    members
}

fn assert_same(target: &Path, members: &[(String, Vec<u8>)]) {
    for (name, content) in members {
        assert!(std::fs::read(target.join(name)).unwrap() == *content, "{name} differs");
    }
}

#[tokio::test]
async fn a_backup_comes_back_byte_for_byte() {
    let fixture = Fixture::new();
    let members = members();
    let (_, entry) = fixture.small_backup("b", &members, 200_000).await;
    let parts = entry.manifest.objects.iter().filter(|object| object.name.starts_with("data/")).count();
    assert!(parts >= 3, "{parts} parts");
    let target = fixture.folder.path().join("target");
    let identities = [fixture.identity.clone()];
    let fetched = fixture.fetch(&[], &entry, &identities, &target).await.unwrap();
    assert_same(&target, &members);
    assert_eq!(fetched.plain_bytes, members.iter().map(|(_, content)| content.len() as u64).sum::<u64>());
    let again = fixture.fetch(&[], &entry, &identities, &target).await.unwrap_err();
    assert!(matches!(again, VaultError::NotEmpty { .. }));
    let stranger = [age::x25519::Identity::generate()];
    let target = fixture.folder.path().join("other");
    let error = fixture.fetch(&[], &entry, &stranger, &target).await.unwrap_err();
    assert!(matches!(error, VaultError::NoIdentity { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_is_invisible_until_committed_and_can_be_swept() {
    let fixture = Fixture::new();
    let layout = layout();
    let manifest = upload(&fixture, &layout, "b", &tar_of(&members()), 1 << 20).await;
    let (_, catalog) = fixture.catalog(&layout).await;
    assert!(catalog.entries.is_empty() && catalog.problems.is_empty());
    assert_eq!(catalog.uncommitted, ["b".parse().unwrap()]);
    commit(fixture.store.as_ref(), &layout, &manifest, &fixture.signer).await.unwrap();
    commit(fixture.store.as_ref(), &layout, &manifest, &fixture.signer).await.unwrap();
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries.len(), 1);
    let swept = sweep(fixture.store.as_ref(), &layout, &"b".parse().unwrap()).await;
    assert!(matches!(swept, Err(VaultError::Committed { .. })));

    upload(&fixture, &layout, "c", &tar_of(&members()), 1 << 20).await;
    assert!(sweep(fixture.store.as_ref(), &layout, &"c".parse().unwrap()).await.unwrap() > 5);
    let (_, catalog) = fixture.catalog(&layout).await;
    assert!(catalog.uncommitted.is_empty());
    assert_eq!(catalog.entries.len(), 1, "the sweep of one backup touches no other");
}

#[tokio::test]
async fn a_full_vault_ends_the_backup_with_its_own_error() {
    let fixture = Fixture::new();
    let faulty = Faulty::new(memory());
    faulty.faults.full.store(true, Ordering::SeqCst);
    let recipients = vec![fixture.identity.to_public()];
    let part = ByteSize::from_bytes(1 << 20);
    let mut writer = BackupWriter::begin(Arc::new(faulty), layout(), "b".parse().unwrap(), recipients, part).unwrap();
    writer.archive(None).await.unwrap();
    let mut result = Ok(());
    for chunk in tar_of(&members()).chunks(64 << 10) {
        result = writer.data(Bytes::copy_from_slice(chunk)).await;
        if result.is_err() {
            break;
        }
    }
    let error = match result {
        Ok(()) => writer.finish(taken()).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, VaultError::Store(StoreError::Full { .. })), "{error}");
}

/// Rows whose digest tells whether a copy is the same.
const DIGEST: &str = "select count(*) || ' ' || md5(string_agg(id || v, ',' order by id)) from t";

pub(super) async fn lab_with_rows() -> Lab {
    let lab = Lab::start("allow_in_place_tablespaces = off").await;
    let space = lab.cluster.folder.join("space");
    std::fs::create_dir(&space).unwrap();
    if let Some(account) = &lab.cluster.account {
        account.own(&space).unwrap();
    }
    lab.psql(&format!("create tablespace s location '{}'", space.display())).await;
    lab.psql("create table t (id int primary key, v text) tablespace s").await;
    insert(&lab, 1, 20_000).await;
    lab
}

pub(super) async fn insert(lab: &Lab, from: u32, to: u32) {
    lab.psql(&format!("insert into t select n, md5(n::text) from generate_series({from}, {to}) n")).await;
}

pub(super) async fn digest(lab: &Lab) -> String {
    lab.psql(DIGEST).await
}

#[tokio::test]
async fn a_restored_server_has_the_same_rows() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    let mut wal = fixture.wal_writer();
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Uploaded, "its WAL is not there yet");
    insert(&lab, 20_001, 50_000).await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 50_001, 60_000).await;
    let expected = digest(&lab).await;
    // The writer begins with the segment of the server's position, so the WAL of the backup is fed by hand.
    let end = fixture.stream_from(&lab, &mut wal, manifest.start_lsn, 3_000_000).await;
    let (listing, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Uploaded, "its WAL is listed, and was not read back");
    let (store, entry) = (fixture.store.as_ref(), &catalog.entries[0]);
    let run = (RunId::from("backup/wallet/manual/1".to_owned()), manifest.finished_at, 86_400);
    let keys = (&fixture.signer, &fixture.signer.verifier());
    put_read_back(store, &listing, (&entry.manifest, &entry.manifest_sha256), &[], run, keys).await.unwrap();
    let (listing, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::WalComplete);

    let size = SegmentSize::DEFAULT;
    let facts = Facts {
        backups: catalog.entries.iter().map(lifeboat::vault::CatalogEntry::candidate).collect(),
        coverage: listing.coverage(size),
        histories: listing.histories(fixture.store.as_ref()).await.unwrap(),
        segment_size: size,
        not_after: None,
    };
    let chosen = choose(&facts, &RecoveryTarget::Latest, None).unwrap();
    assert_eq!(chosen.end, end);
    let folder = fixture.folder.path().join("restored");
    let data = folder.join("data");
    let identities = [fixture.identity.clone()];
    fixture.fetch(&[], &catalog.entries[0], &identities, &data).await.unwrap();
    let (sources, stop) = ([fixture.store.clone()], CancellationToken::new());
    let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
    fetch_wal(&fetch, listing.layout(), &chosen, &data.join("lifeboat_wal"), &|_| ()).await.unwrap();
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    let settings = "\nrestore_command = 'cp \"lifeboat_wal/%f\" \"%p\"'\nrecovery_target_timeline = 'current'\n";
    std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
    // Production's tablespace is gone: a copy that leaned on it could not start.
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    assert_eq!(query_restored(&folder, DIGEST).await.unwrap(), expected);
    assert!(std::fs::read_link(data.join("pg_tblspc")).is_err());
    let link = std::fs::read_dir(data.join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_link(&link).unwrap().starts_with("../tblspc"));

    let proof = Proof {
        backup: "b".parse().unwrap(),
        manifest_sha256: catalog.entries[0].manifest_sha256.clone(),
        run: RunId::new("restore_test", "wallet", "manual", "20261121t043728z-1"),
        proven_at: jiff::Timestamp::from_second(5000).unwrap(),
        opener: Opener::Node,
        opened_by: vec![fixture.identity.to_public().to_string()],
    };
    put_proof(
        fixture.store.as_ref(),
        &layout,
        &Proof { manifest_sha256: "0".repeat(64), ..proof.clone() },
        &fixture.signer,
    )
    .await
    .unwrap();
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::WalComplete, "a proof of another manifest proves nothing");
    let run = RunId::new("restore_test", "wallet", "manual", "20261121t043728z-2");
    put_proof(fixture.store.as_ref(), &layout, &Proof { run, ..proof }, &fixture.signer).await.unwrap();
    let (_, catalog) = fixture.catalog(&layout).await;
    assert_eq!(catalog.entries[0].state, BackupState::Proven);
}

#[tokio::test]
async fn heartbeats_come_back_in_order_and_once() {
    let fixture = Fixture::new();
    let beat = |seq| lifeboat::domain::Beat {
        seq,
        acknowledged_at: jiff::Timestamp::from_second(seq).unwrap(),
        commit_lsn: lifeboat::domain::Lsn(100),
        timeline: lifeboat::domain::Timeline(1),
    };
    let recipients = [fixture.identity.to_public()];
    for (first, last) in [(1, 9), (10, 12), (5, 10)] {
        let beats: Vec<_> = (first..=last).map(beat).collect();
        ledger::append(fixture.store.as_ref(), &layout(), &recipients, &beats).await.unwrap();
        ledger::append(fixture.store.as_ref(), &layout(), &recipients, &beats).await.unwrap();
    }
    let identities = std::slice::from_ref(&fixture.identity);
    let since = async |second| {
        let at = jiff::Timestamp::from_second(second).unwrap();
        ledger::read_since(fixture.store.as_ref(), &layout(), identities, at).await.unwrap()
    };
    assert_eq!(since(1).await, (1..=12).map(beat).collect::<Vec<_>>());
    assert_eq!(since(11).await, (5..=12).map(beat).collect::<Vec<_>>(), "whole objects, and no older ones");
}

/// Prints time and peak memory of 1 GiB (in a release build) through the pipeline and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_stream_stays_within_bounded_memory() {
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok()).unwrap()
    };
    let fixture = Fixture::new();
    let recipients = vec![fixture.identity.to_public()];
    let mut writer = BackupWriter::begin(
        fixture.store.clone(),
        layout(),
        "b".parse().unwrap(),
        recipients,
        lifeboat::vault::PART_SIZE,
    )
    .unwrap();
    writer.archive(None).await.unwrap();
    let block: Bytes =
        (0..1u32 << 18).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 12).to_le_bytes()).collect::<Vec<_>>().into();
    // Unoptimised code is so slow that an eighth must do.
    let member_mib = if cfg!(debug_assertions) { 16 } else { 128 };
    let before = peak_kib();
    let begun = std::time::Instant::now();
    for member in 0..8 {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("base/1/{member}")).unwrap();
        header.set_mode(0o600);
        header.set_size(member_mib << 20);
        header.set_cksum();
        writer.data(Bytes::copy_from_slice(header.as_bytes())).await.unwrap();
        for _ in 0..member_mib {
            writer.data(block.clone()).await.unwrap();
        }
    }
    writer.manifest(Bytes::from_static(b"{}")).await.unwrap();
    let manifest = writer.finish(taken()).await.unwrap();
    let written = begun.elapsed();
    commit(fixture.store.as_ref(), &layout(), &manifest, &fixture.signer).await.unwrap();
    let (_, catalog) = fixture.catalog(&layout()).await;
    let target = fixture.folder.path().join("target");
    let begun = std::time::Instant::now();
    fixture.fetch(&[], &catalog.entries[0], std::slice::from_ref(&fixture.identity), &target).await.unwrap();
    let grown = (peak_kib() - before) / 1024;
    println!(
        "{} MiB: stored {} MiB in {written:?}, restored in {:?}, peak memory grew by {grown} MiB",
        8 * member_mib,
        manifest.stored_bytes >> 20,
        begun.elapsed()
    );
    assert_eq!(std::fs::metadata(target.join("base/1/7")).unwrap().len(), member_mib << 20);
    assert!(grown < 256, "{grown} MiB");
}
