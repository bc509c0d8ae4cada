//! A vault in a temporary folder, keys, and backups made of what `pg_basebackup` writes.

use std::{
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use age::x25519::Identity;
use bytes::Bytes;
use jiff::Timestamp;
use lifeboat::{
    decide::stretch::Source,
    domain::{BackupId, BackupKind, ByteSize, Lsn, Segment, SegmentSize, Timeline},
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::{Account, Tasks},
    vault::{
        BackupWriter, Catalog, CatalogEntry, DirectoryStore, EmptyFolder, Fetch, Fetched, Layout, Listing, Manifest,
        MemoryStore, SharedStore, TakenBackup, Uploads, VaultError, WalTarget, WalWriter, commit, fetch_backup,
        signature::Signer,
    },
};

use sha2::Digest;
use tokio_util::sync::CancellationToken;

use crate::support::{Lab, scratch};

/// A vault with its keys.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) store: SharedStore,
    pub(super) identity: Identity,
    pub(super) signer: Signer,
}

pub(super) fn memory() -> SharedStore {
    named_memory("memory")
}

pub(super) fn named_memory(name: &str) -> SharedStore {
    Arc::new(MemoryStore::new(name.parse().unwrap(), "lab".parse().unwrap()))
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = scratch();
        let store = Arc::new(DirectoryStore::new(
            "primary".parse().unwrap(),
            folder.path().join("vault"),
            "lab".parse().unwrap(),
        ));
        let (signer, _) = Signer::load_or_create(&folder.path().join("signing.key")).unwrap();
        Self { folder, store, identity: Identity::generate(), signer }
    }

    pub(super) fn vault(&self) -> PathBuf {
        self.folder.path().join("vault")
    }

    /// Restores a backup from this vault and the given others.
    pub(super) async fn fetch(
        &self,
        others: &[SharedStore],
        entry: &CatalogEntry,
        identities: &[Identity],
        target: &Path,
    ) -> Result<Fetched, VaultError> {
        let sources: Vec<SharedStore> = std::iter::once(&self.store).chain(others).cloned().collect();
        let stop = CancellationToken::new();
        fetch_backup(&Fetch { sources: &sources, identities, stop: &stop }, entry, EmptyFolder::open(target)?, |_| {})
            .await
    }

    pub(super) async fn catalog(&self, layout: &Layout) -> (Listing, Catalog) {
        let listing = Listing::take(self.store.as_ref(), layout).await.unwrap();
        let catalog = Catalog::read(&listing, self.store.as_ref(), &self.signer.verifier()).await.unwrap();
        (listing, catalog)
    }

    /// Uploads and commits a small backup made of the given members.
    pub(super) async fn small_backup(
        &self,
        id: &str,
        members: &[(String, Vec<u8>)],
        part_size: u64,
    ) -> (Layout, CatalogEntry) {
        let layout = layout();
        let manifest = upload(self, &layout, id, &tar_of(members), part_size).await;
        commit(self.store.as_ref(), &layout, &manifest, &self.signer).await.unwrap();
        let (_, catalog) = self.catalog(&layout).await;
        (layout, catalog.find(&id.parse().unwrap()).unwrap().clone())
    }

    /// Takes a backup of a running cluster through `pg_basebackup`.
    pub(super) async fn back_up(&self, lab: &Lab, id: &str) -> (Layout, Manifest) {
        let system_id = lab.psql("select system_identifier from pg_control_system()").await;
        let layout = Layout::new("wallet".parse().unwrap(), &system_id, 1).unwrap();
        let output = self.folder.path().join(format!("base-{id}"));
        std::fs::create_dir(&output).unwrap();
        if let Some(account) = &lab.cluster.account {
            account.own(&output).unwrap();
        }
        lab.cluster
            .binaries
            .program("pg_basebackup", lab.cluster.account.clone())
            .args(["-F", "tar", "-X", "none", "-c", "fast", "--no-sync", "-U", "postgres", "-h"])
            .arg(lab.cluster.socket_folder())
            .args(["-p", &lab.port.to_string(), "-D"])
            .arg(&output)
            .output(Duration::from_secs(60))
            .await
            .unwrap();
        let mut writer = BackupWriter::begin(
            self.store.clone(),
            layout.clone(),
            id.parse().unwrap(),
            vec![self.identity.to_public()],
            ByteSize::from_bytes(8 << 20),
        )
        .unwrap();
        let mut archives: Vec<PathBuf> =
            std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path()).collect();
        archives.sort_by_key(|path| path.file_stem().unwrap() != "base");
        for archive in archives.iter().filter(|path| path.extension().is_some_and(|extension| extension == "tar")) {
            writer.archive(archive.file_stem().unwrap().to_str().unwrap().parse().ok()).await.unwrap();
            for chunk in std::fs::read(archive).unwrap().chunks(70_001) {
                writer.data(Bytes::copy_from_slice(chunk)).await.unwrap();
            }
        }
        let server_manifest = std::fs::read(output.join("backup_manifest")).unwrap();
        writer.manifest(server_manifest.clone().into()).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&server_manifest).unwrap();
        let range = &json["WAL-Ranges"][0];
        let segment_size = lab.psql("select setting from pg_settings where name = 'wal_segment_size'").await;
        let taken = TakenBackup {
            timeline: serde_json::from_value(range["Timeline"].clone()).unwrap(),
            segment_size: SegmentSize::try_from(segment_size.parse::<u64>().unwrap()).unwrap(),
            start_lsn: range["Start-LSN"].as_str().unwrap().parse().unwrap(),
            stop_lsn: range["End-LSN"].as_str().unwrap().parse().unwrap(),
            server_version: lab.psql("show server_version").await,
            config_files: vec![("postgresql.conf".to_owned(), "port = 1\n".to_owned())],
            required_settings: [("max_connections".to_owned(), lab.psql("show max_connections").await)].into(),
            ..taken()
        };
        let manifest = writer.finish(taken).await.unwrap();
        commit(self.store.as_ref(), &layout, &manifest, &self.signer).await.unwrap();
        (layout, manifest)
    }

    /// Streams the WAL files of a cluster into the vault, from the segment of
    /// `from` up to the server's flushed position, with a flush every `step`
    /// bytes. Answers that position.
    pub(super) async fn stream_from(&self, lab: &Lab, writer: &mut WalWriter, from: Lsn, step: usize) -> Lsn {
        let end: Lsn = lab.psql("select pg_current_wal_flush_lsn()").await.parse().unwrap();
        self.stream_timeline(lab, writer, Timeline(1), from..end, step).await
    }

    /// The same of one timeline up to a position.
    pub(super) async fn stream_timeline(
        &self,
        lab: &Lab,
        writer: &mut WalWriter,
        timeline: Timeline,
        Range { start: from, end }: Range<Lsn>,
        step: usize,
    ) -> Lsn {
        let system_id = lab.psql("select system_identifier from pg_control_system()").await;
        let size = SegmentSize::DEFAULT;
        let mut at = begin(writer, &system_id, timeline, size, from).await.unwrap();
        while at < end {
            let segment = Segment::holding(timeline, at, size);
            let file = std::fs::read(lab.cluster.data().join("pg_wal").join(segment.file_name(size))).unwrap();
            let from = usize::try_from(size.offset(at)).unwrap();
            let room = (file.len() - from).min(usize::try_from(end.0 - at.0).unwrap()).min(step);
            writer.wal(at, Bytes::copy_from_slice(&file[from..from + room])).await.unwrap();
            at = at.forward(room as u64);
            writer.flush().await.unwrap();
        }
        assert_eq!(writer.flush().await.unwrap(), end);
        end
    }

    pub(super) fn wal_writer(&self) -> WalWriter {
        let target = WalTarget { store: self.store.clone(), required: true };
        running(WalWriter::new(vec![self.identity.to_public()], vec![target]))
    }
}

/// A writer beside which its uploads run.
pub(crate) fn running((writer, uploads): (WalWriter, Uploads)) -> WalWriter {
    // They end soon after the writer is dropped.
    Tasks::new().spawn(uploads.run());
    writer
}

/// Begins where the vaults end, on a server that is ahead of them all.
pub(crate) async fn begin(
    writer: &mut WalWriter,
    system_id: &str,
    timeline: Timeline,
    segment_size: SegmentSize,
    wanted: Lsn,
) -> Result<Lsn, VaultError> {
    let layout = Layout::new("wallet".parse().unwrap(), system_id, 1).unwrap();
    let looked = writer.look(layout).await?;
    writer.begin(&looked, &Source { timeline, segment_size, wanted, written: None, fork: None, oldest: None })
}

pub(super) fn layout() -> Layout {
    Layout::new("wallet".parse().unwrap(), "7412345678901234567", 1).unwrap()
}

pub(super) fn taken() -> TakenBackup {
    TakenBackup {
        kind: BackupKind::Full,
        timeline: Timeline(1),
        segment_size: SegmentSize::DEFAULT,
        start_lsn: Lsn(0x0200_0028),
        stop_lsn: Lsn(0x0200_0100),
        server_version: "15.18".to_owned(),
        from: None,
        started_at: Timestamp::from_second(1000).unwrap(),
        finished_at: Timestamp::from_second(1010).unwrap(),
        damaged: false,
        parent: None,
        standalone: false,
        required_settings: [("max_connections".to_owned(), "100".to_owned())].into(),
        config_files: vec![("postgresql.conf".to_owned(), "port = 1\n".to_owned())],
    }
}

pub(super) fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Uploads a tar as a backup, uncommitted.
pub(super) async fn upload(fixture: &Fixture, layout: &Layout, id: &str, tar: &[u8], part_size: u64) -> Manifest {
    let id: BackupId = id.parse().unwrap();
    let recipients = vec![fixture.identity.to_public()];
    let part_size = ByteSize::from_bytes(part_size);
    let mut writer = BackupWriter::begin(fixture.store.clone(), layout.clone(), id, recipients, part_size).unwrap();
    writer.archive(None).await.unwrap();
    for chunk in tar.chunks(60_000) {
        writer.data(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.manifest(server_manifest(tar).into()).await.unwrap();
    writer.finish(taken()).await.unwrap()
}

/// What PostgreSQL would say of the files in a tar.
fn server_manifest(tar: &[u8]) -> String {
    let mut archive = tar::Archive::new(tar);
    let mut files = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let (name, mut content) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut content).unwrap();
            let sum = hex::encode(crc_fast::crc32_iscsi(&content).to_le_bytes());
            let (size, algorithm) = (content.len(), "CRC32C");
            files.push(
                serde_json::json!({"Path": name, "Size": size, "Checksum-Algorithm": algorithm, "Checksum": sum})
                    .to_string(),
            );
        }
    }
    let files = files.join(",\n");
    let lines = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}\n],\n");
    let sum = hex::encode(sha2::Sha256::digest(lines.as_bytes()));
    format!("{lines}\"Manifest-Checksum\": \"{sum}\"}}\n")
}

/// Gives a tree to the account that PostgreSQL runs as.
pub(super) fn give(path: &Path, account: Option<&Account>) {
    let Some(account) = account else { return };
    std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), Some(account));
        }
    }
}

/// Starts a restored data folder `<folder>/data` and answers a query; the
/// server is stopped again.
pub(super) async fn query_restored(folder: &Path, sql: &str) -> Result<String, String> {
    let account = Account::for_postgres().unwrap();
    let cluster = LocalCluster::new(Binaries::find(15).unwrap(), account.clone(), folder);
    cluster.make_folders().unwrap();
    give(folder, account.as_ref());
    let options = format!(
        "\nport = 5432\nlisten_addresses = ''\nunix_socket_directories = '{}'\n",
        cluster.socket_folder().display()
    );
    cluster.configure(&options).unwrap();
    cluster.start(Duration::from_secs(60)).await.map_err(|error| error.to_string())?;
    let psql = |sql: &str| {
        cluster
            .binaries
            .program("psql", account.clone())
            .args(["-X", "-A", "-t", "-q", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(cluster.socket_folder())
            .args(["-c", sql])
    };
    let limit = Duration::from_secs(30);
    let begun = std::time::Instant::now();
    // Until recovery has ended it may answer "not accepting connections"; a failed one ends the server.
    while cluster.is_running()
        && psql("select pg_is_in_recovery()").output(limit).await.map_or(true, |state| state.trim() != "f")
    {
        assert!(begun.elapsed() < limit, "recovery did not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = |error| format!("{error}: {}", std::fs::read_to_string(cluster.log()).unwrap());
    let answer = psql(sql).output(limit).await.map_err(told);
    cluster.stop("fast").await.unwrap();
    answer.map(|text| text.trim().to_owned())
}
