//! Whatever is changed in a vault is noticed and named.

use std::path::PathBuf;

use lifeboat::{
    domain::BackupId,
    vault::{Catalog, Listing, VaultError, signature::Signer},
};

use super::fixture::{Fixture, layout};

async fn backup(fixture: &Fixture) -> BackupId {
    let members: Vec<_> = (0..40u8).map(|n| (format!("base/{n}"), vec![n; 20_000])).collect();
    fixture.small_backup("b", &members, 200_000).await;
    "b".parse().unwrap()
}

fn path(fixture: &Fixture, name: &str) -> PathBuf {
    fixture.vault().join(format!("{}backups/b/{name}", layout().prefix()))
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

/// Reads the catalog and restores; answers the first error and whether the catalog saw it.
async fn restore(fixture: &Fixture) -> Result<(), (bool, VaultError)> {
    let (_, mut catalog) = fixture.catalog(&layout()).await;
    if let Some(problem) = catalog.problems.pop() {
        return Err((true, problem.error));
    }
    let target = fixture.folder.path().join("target");
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
    fixture
        .fetch(&[], &catalog.entries[0], std::slice::from_ref(&fixture.identity), &target)
        .await
        .map(drop)
        .map_err(|error| (false, error))
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_named() {
    let fixture = Fixture::new();
    backup(&fixture).await;
    restore(&fixture).await.unwrap();
    let size = |name: &str| usize::try_from(std::fs::metadata(path(&fixture, name)).unwrap().len()).unwrap();
    for name in ["data/00000.tar.zst.age", "data/00002.tar.zst.age"] {
        for at in [3, 60, size(name) / 2, size(name) - 1] {
            flip(&path(&fixture, name), at);
            let (_, error) = restore(&fixture).await.unwrap_err();
            assert!(matches!(error, VaultError::Damaged { .. }) && error.to_string().contains(name), "{at}: {error}");
            flip(&path(&fixture, name), at);
        }
    }
    flip(&path(&fixture, "keys/0.age"), 150);
    let (_, error) = restore(&fixture).await.unwrap_err();
    assert!(error.to_string().contains("keys/0.age"), "{error}");
    flip(&path(&fixture, "keys/0.age"), 150);
    // What restores nothing, but stands beside the parts for people and for the next increment.
    for name in ["restore.sh", "RESTORE.md", "backup_manifest", "config.tar.zst.age"] {
        flip(&path(&fixture, name), 20);
        let (_, error) = restore(&fixture).await.unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. }) && error.to_string().contains(name), "{error}");
        flip(&path(&fixture, name), 20);
    }
    for (name, at) in [("manifest.json", 40), ("manifest.json.sig", 120)] {
        flip(&path(&fixture, name), at);
        let (in_catalog, error) = restore(&fixture).await.unwrap_err();
        assert!(in_catalog && matches!(error, VaultError::Signature(_)), "{name}: {error}");
        assert!(error.to_string().contains("manifest.json"), "{error}");
        flip(&path(&fixture, name), at);
    }
    restore(&fixture).await.unwrap();
}

#[tokio::test]
async fn a_part_cut_or_missing_is_named() {
    let fixture = Fixture::new();
    backup(&fixture).await;
    let part = path(&fixture, "data/00001.tar.zst.age");
    let whole = std::fs::read(&part).unwrap();
    std::fs::write(&part, &whole[..whole.len() - 1]).unwrap();
    let (in_catalog, error) = restore(&fixture).await.unwrap_err();
    assert!(in_catalog && error.to_string().contains("data/00001.tar.zst.age"), "{error}");
    std::fs::remove_file(&part).unwrap();
    let (_, error) = restore(&fixture).await.unwrap_err();
    assert!(matches!(error, VaultError::Missing { .. }) && error.to_string().contains("00001"), "{error}");
    // It vanishes between the listing and the fetch.
    std::fs::write(&part, &whole).unwrap();
    let (_, catalog) = fixture.catalog(&layout()).await;
    std::fs::remove_file(&part).unwrap();
    let target = fixture.folder.path().join("target");
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
    let error = fixture.fetch(&[], &catalog.entries[0], std::slice::from_ref(&fixture.identity), &target).await;
    assert!(matches!(error, Err(VaultError::Missing { .. })));
}

#[tokio::test]
async fn a_manifest_that_is_not_ours_makes_no_backup() {
    let fixture = Fixture::new();
    backup(&fixture).await;
    let (stranger, _) = Signer::load_or_create(&fixture.folder.path().join("stranger.key")).unwrap();
    let listing = Listing::take(fixture.store.as_ref(), &layout()).await.unwrap();
    let catalog = Catalog::read(&listing, fixture.store.as_ref(), &stranger.verifier()).await.unwrap();
    assert!(catalog.entries.is_empty());
    assert!(catalog.problems[0].error.to_string().contains("not by the trusted key"));

    // Forged: the stop LSN is changed and the old signature kept.
    let manifest = path(&fixture, "manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("0/2000100", "0/2000000")).unwrap();
    let (in_catalog, error) = restore(&fixture).await.unwrap_err();
    assert!(in_catalog && error.to_string().contains("changed after it was signed"), "{error}");
    std::fs::write(&manifest, &text).unwrap();

    // A whole signed backup under another name is not that backup.
    let (from, to) = (path(&fixture, ""), fixture.vault().join(format!("{}backups/c", layout().prefix())));
    std::fs::create_dir(&to).unwrap();
    for name in ["manifest.json", "manifest.json.sig"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let (_, catalog) = fixture.catalog(&layout()).await;
    assert_eq!(catalog.problems.len(), 1);
    assert!(catalog.problems[0].error.to_string().contains("its manifest is that of backup `b`"));

    std::fs::remove_file(from.join("manifest.json.sig")).unwrap();
    let (_, catalog) = fixture.catalog(&layout()).await;
    assert!(catalog.entries.is_empty(), "no signature, no backup");
}
