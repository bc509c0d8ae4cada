//! Samples: one period of them reads everything, and adds up to VERIFIED.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use lifeboat::{
    decide::sample::Rotation,
    domain::{BackupState, RunId},
    vault::{Verification, put_verification, verify::Depth},
};

use super::super::fixture::{Fixture, layout};
use super::estate::{Estate, at};

const DAY: u64 = 86_400;

fn rotation(share: &str) -> Rotation {
    let (every, period) = (Duration::from_secs(DAY), Duration::from_secs(30 * DAY));
    Rotation { every, share: share.parse().unwrap(), period }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_samples_reads_everything_once_and_verifies() {
    let estate = Estate::make().await;
    let store = &estate.fixture.store;
    std::fs::remove_dir_all(estate.path("verifications")).unwrap();
    let all: BTreeSet<String> = estate.full().await.read.into_keys().collect();
    let mut read: BTreeSet<String> = BTreeSet::new();
    let mut known: Option<Verification> = None;
    for day in 0..4 {
        let (_, catalog) = estate.fixture.catalog(&estate.layout).await;
        let is_wal_read = known.as_ref().is_some_and(|known| known.wal_read_back_at.is_some());
        let state = if is_wal_read { BackupState::WalComplete } else { BackupState::Uploaded };
        assert_eq!(catalog.entries[1].state, state, "day {day}");
        let due = at(1_000_000) + SignedDuration::from_hours(24 * day);
        let depth = Depth::Sample { rotation: rotation("25%"), name: "wallet/primary".to_owned(), at: due };
        let report = estate.verify(store, depth, &[]).await;
        assert_eq!((report.defects.len(), report.unchecked.len()), (0, 0), "{report:#?}");
        read.extend(report.read.into_keys().filter(|name| !name.contains("/verifications/")));
        let found = report.backups.into_iter().find(|found| found.backup.as_str() == "two").unwrap();
        let here = ("primary".parse().unwrap(), RunId::from(format!("verify/wallet/primary/{day}")));
        let verification = Verification::after(known.as_ref(), found, here, due, 30 * DAY);
        put_verification(store.as_ref(), &estate.layout, &verification, &estate.fixture.signer).await.unwrap();
        known = Some(verification);
    }
    assert_eq!(read, all);
    let (_, catalog) = estate.fixture.catalog(&estate.layout).await;
    assert_eq!(catalog.entries[1].state, BackupState::Verified);
    assert_eq!(catalog.entries[1].verification, known);
}

#[tokio::test]
async fn what_another_vault_was_found_to_hold_says_nothing_of_this_one() {
    let fixture = Fixture::new();
    let members: Vec<_> = (0..4u8).map(|n| (format!("base/{n}"), vec![n; 5000])).collect();
    let (_, entry) = fixture.small_backup("b", &members, 1 << 20).await;
    let found = lifeboat::vault::Found {
        backup: "b".parse().unwrap(),
        manifest_sha256: entry.manifest_sha256.clone(),
        sound: entry.manifest.objects.iter().map(|object| object.name.clone()).collect(),
        damaged: BTreeSet::new(),
        histories: std::collections::BTreeMap::new(),
        needed_wal: BTreeSet::new(),
        is_wal_read_back: false,
    };
    for (vault, counts) in [("dr", false), ("primary", true)] {
        let here = (vault.parse().unwrap(), RunId::from(format!("verify/wallet/{vault}/x")));
        let verification = Verification::after(None, found.clone(), here, at(5000), 30 * DAY);
        put_verification(fixture.store.as_ref(), &layout(), &verification, &fixture.signer).await.unwrap();
        let (_, catalog) = fixture.catalog(&layout()).await;
        assert_eq!(catalog.entries[0].verification.is_some(), counts, "{vault}");
    }
}
