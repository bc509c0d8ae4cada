//! Differentials without a server: what is left out, how it is laid over the full
//! backup, and what is refused.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use lifeboat::{
    decide::recovery::gaps::Need,
    domain::{BackupId, BackupKind, ByteSize},
    vault::{
        BackupWriter, Base, CatalogEntry, EmptyFolder, Fetch, Layout, Overlay, TakenBackup, VaultError, commit,
        verify::{Depth, Fault, Verify, verify},
    },
};
use sha2::Digest;
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, layout, taken};

/// Before this the server began to send the full backup.
const BEGUN: u64 = 1_000_000;

/// Name, content, time.
type File = (&'static str, &'static [u8], u64);

const FULL: &[File] = &[
    ("backup_label", b"the full one's", BEGUN),
    ("base/1/same", b"same", 100),
    ("base/1/changed", b"old", 100),
    ("base/1/cut", b"much of it", 100),
    ("base/1/vanished", b"vanished", 100),
    ("base/1/racy", b"racy", BEGUN - 1),
    ("base/2/of_a_dropped_database", b"x", 100),
    ("base/1/empty", b"", 100),
    ("global/pg_control", b"same", 100),
];

const DIFFERENTIAL: &[File] = &[
    ("backup_label", b"its own", BEGUN + 500),
    ("base/1/same", b"same", 100),
    ("base/1/changed", b"new", BEGUN + 400),
    ("base/1/cut", b"", BEGUN + 400),
    ("base/1/racy", b"racy", BEGUN - 1),
    ("base/1/empty", b"", 100),
    ("base/3/new", b"new", BEGUN + 400),
    ("global/pg_control", b"same", 100),
];

fn tar_of(files: &[File]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut folders: Vec<&Path> = files.iter().filter_map(|(name, ..)| Path::new(name).parent()).collect();
    folders.retain(|folder| !folder.as_os_str().is_empty());
    folders.dedup();
    for folder in folders {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o700);
        header.set_size(0);
        builder.append_data(&mut header, folder, std::io::empty()).unwrap();
    }
    for (name, content, modified) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_mtime(*modified);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// As PostgreSQL writes it.
fn server_manifest(files: &[File]) -> String {
    let file = |(name, content, modified): &File| {
        let at = jiff::Timestamp::from_second(i64::try_from(*modified).unwrap()).unwrap();
        let at = at.strftime("%Y-%m-%d %H:%M:%S GMT");
        let (size, sum) = (content.len(), hex::encode(crc_fast::crc32_iscsi(content).to_le_bytes()));
        format!(
            r#"{{ "Path": "{name}", "Size": {size}, "Last-Modified": "{at}", "Checksum-Algorithm": "CRC32C", "Checksum": "{sum}" }}"#
        )
    };
    let files = files.iter().map(file).collect::<Vec<_>>().join(",\n");
    let lines = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}\n],\n");
    let sum = hex::encode(sha2::Sha256::digest(lines.as_bytes()));
    format!("{lines}\"Manifest-Checksum\": \"{sum}\"}}\n")
}

/// Takes and commits a backup of these files, as a differential where it has a parent.
async fn taken_of(
    fixture: &Fixture,
    id: &str,
    files: &[File],
    parent: Option<(&CatalogEntry, &str)>,
) -> Result<CatalogEntry, VaultError> {
    let (layout, backup): (Layout, BackupId) = (layout(), id.parse().unwrap());
    let size = ByteSize::from_bytes(2048);
    let recipients = vec![fixture.identity.to_public()];
    let mut writer = BackupWriter::begin(fixture.store.clone(), layout.clone(), backup.clone(), recipients, size)?;
    if let Some((base, _)) = parent {
        writer = writer.upon(Base::read(&fixture.store, &layout, &base.manifest).await?);
    }
    writer.archive(None).await?;
    for chunk in tar_of(files).chunks(700) {
        if let Err(error) = writer.data(Bytes::copy_from_slice(chunk)).await {
            writer.abandon().await;
            return Err(error);
        }
    }
    writer.manifest(server_manifest(files).into()).await?;
    let kind = if parent.is_some() { BackupKind::Differential } else { BackupKind::Full };
    let parent = parent.map(|(_, parent)| parent.parse().unwrap());
    let manifest = writer.finish(TakenBackup { kind, parent, ..taken() }).await?;
    commit(fixture.store.as_ref(), &layout, &manifest, &fixture.signer).await?;
    let (_, catalog) = fixture.catalog(&layout).await;
    Ok(catalog.find(&backup).unwrap().clone())
}

/// Restores one over the other.
async fn laid(
    fixture: &Fixture,
    full: &CatalogEntry,
    differential: &CatalogEntry,
    name: &str,
) -> Result<BTreeMap<String, Vec<u8>>, VaultError> {
    let target = fixture.folder.path().join(name);
    let (sources, identities) = ([fixture.store.clone()], [fixture.identity.clone()]);
    let stop = CancellationToken::new();
    let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
    Overlay::read(&fetch, full, differential).await?.lay(EmptyFolder::open(&target)?, |_| {}).await?;
    let mut found = BTreeMap::new();
    let mut open = vec![target.clone()];
    while let Some(folder) = open.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(&target).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                open.push(path);
                found.insert(format!("{name}/"), Vec::new());
            } else {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    Ok(found)
}

/// What a verification finds in the manifests that is not true.
async fn lies(fixture: &Fixture) -> Vec<String> {
    let what = Verify {
        store: &fixture.store,
        layout: &layout(),
        verifier: &fixture.signer.verifier(),
        identities: std::slice::from_ref(&fixture.identity),
        depth: Depth::Full,
        others: &[],
        lock_until: None,
        retained: &|_| Need::Needed,
        now: jiff::Timestamp::from_second(1_000_000).unwrap(),
        stop: &CancellationToken::new(),
        done: Arc::default(),
    };
    let report = verify(&what, &|_, _, _| {}).await.unwrap();
    let lies = report.defects.into_iter().filter(|defect| defect.fault == Fault::LyingManifest);
    lies.map(|defect| defect.to_string()).collect()
}

#[tokio::test]
async fn it_is_exactly_what_the_server_had() {
    let fixture = Fixture::new();
    let full = taken_of(&fixture, "full", FULL, None).await.unwrap();
    let differential = taken_of(&fixture, "diff", DIFFERENTIAL, Some((&full, "full"))).await.unwrap();
    let mut wanted: BTreeMap<String, Vec<u8>> =
        DIFFERENTIAL.iter().map(|(name, content, _)| ((*name).to_owned(), content.to_vec())).collect();
    wanted.extend(["base/", "base/1/", "base/3/", "global/"].map(|folder| (folder.to_owned(), Vec::new())));
    assert_eq!(laid(&fixture, &full, &differential, "laid").await.unwrap(), wanted);
    assert_eq!(lies(&fixture).await, Vec::<String>::new());
    // Alone it holds what is not the full backup's, or must be stored, and nothing else.
    let target = fixture.folder.path().join("alone");
    fixture.fetch(&[], &differential, std::slice::from_ref(&fixture.identity), &target).await.unwrap();
    let mut alone: Vec<String> = Vec::new();
    for (name, ..) in DIFFERENTIAL {
        alone.extend(target.join(name).exists().then(|| (*name).to_owned()));
    }
    let stored = ["backup_label", "base/1/changed", "base/1/cut", "base/1/racy", "base/3/new", "global/pg_control"];
    assert_eq!(alone, stored);
}

#[tokio::test]
async fn a_file_that_is_not_what_it_seems_ends_the_upload() {
    let fixture = Fixture::new();
    let full = taken_of(&fixture, "full", FULL, None).await.unwrap();
    let lying: Vec<File> = DIFFERENTIAL
        .iter()
        .map(|file| if file.0 == "base/1/same" { (file.0, b"SAME".as_slice(), file.2) } else { *file })
        .collect();
    let error = taken_of(&fixture, "diff", &lying, Some((&full, "full"))).await.unwrap_err();
    assert!(error.is_permanent() && matches!(error, VaultError::Unlike { .. }), "{error}");
    assert!(error.to_string().contains("`base/1/same` has changed since backup `full`"), "{error}");
}

#[tokio::test]
async fn over_another_full_backup_it_is_refused() {
    let fixture = Fixture::new();
    let full = taken_of(&fixture, "full", FULL, None).await.unwrap();
    let with = |content: Option<&'static [u8]>| -> Vec<File> {
        let same = |file: &File| match content {
            Some(content) if file.0 == "base/1/same" => Some((file.0, content, file.2)),
            None if file.0 == "base/1/same" => None,
            _ => Some(*file),
        };
        FULL.iter().filter_map(same).collect()
    };
    for (id, content, told) in [
        ("without", None, "1 file(s) that it names are in no part of it or of `without`: `base/1/same`"),
        ("other", Some(b"SAME".as_slice()), "`base/1/same`, which does not belong into a backup (its checksum"),
        ("longer", Some(b"same and more".as_slice()), "(its size is not what `backup_manifest` says)"),
    ] {
        let other = taken_of(&fixture, id, &with(content), None).await.unwrap();
        let name = format!("upon-{id}");
        // Signed as one upon that other, although it was taken upon the first.
        let differential = taken_of(&fixture, &name, DIFFERENTIAL, Some((&full, id))).await.unwrap();
        let error = laid(&fixture, &other, &differential, &name).await.unwrap_err().to_string();
        assert!(error.contains(told), "{id}: {error}");
    }
    let lies = lies(&fixture).await;
    let told = "1 file(s) that neither a part nor the full backup holds: `base/1/same`";
    assert!(lies.len() == 3 && lies.iter().all(|lie| lie.contains(told)), "{lies:#?}");
}
