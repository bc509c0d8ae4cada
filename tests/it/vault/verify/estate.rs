//! A vault of a real cluster with everything in it that a vault can hold: two
//! backups, WAL over a promotion in segments of 1 MiB, heartbeats, a proof and
//! a verification.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat::{
    decide::recovery::gaps::Need,
    domain::{Beat, Lsn, Opener, RunId, Segment, SegmentSize, Timeline},
    vault::{
        Layout, Object, Proof, SharedStore, Verification, WalWriter, identities_from, ledger, put_proof,
        put_verification, read_sealed,
        verify::{Depth, Report, Retained, Verify, verify},
    },
};
use tokio_util::sync::CancellationToken;

use super::super::fixture::{Fixture, begin};
use crate::support::{Lab, eventually};

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn segment_size() -> SegmentSize {
    SegmentSize::try_from(MIB).unwrap()
}

/// Instants of the vault's making.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) struct Estate {
    pub(super) fixture: Fixture,
    pub(super) layout: Layout,
}

/// A primary with segments of 1 MiB.
pub(super) async fn small_segments() -> Lab {
    let lab = Lab::start("wal_keep_size = '200MB'").await;
    lab.cluster.stop("fast").await.unwrap();
    let reset = lab.cluster.binaries.program("pg_resetwal", lab.cluster.account.clone());
    reset.args(["--wal-segsize=1", "-D"]).arg(lab.cluster.data()).output(Duration::from_secs(30)).await.unwrap();
    lab.cluster.start(Duration::from_secs(30)).await.unwrap();
    lab
}

async fn write_rows(lab: &Lab, rows: u32) {
    lab.psql(&format!("insert into t (v) select repeat(md5(n::text), 8) from generate_series(1, {rows}) n")).await;
}

async fn flushed(lab: &Lab) -> Lsn {
    lab.psql("select pg_current_wal_flush_lsn()").await.parse().unwrap()
}

/// Streams the server's files from where the vault ends up to `end`, flushing
/// now and then, as the daemon does.
async fn stream(lab: &Lab, writer: &mut WalWriter, timeline: Timeline, from: Lsn, end: Lsn) {
    let size = segment_size();
    let system_id = lab.psql("select system_identifier from pg_control_system()").await;
    let mut at = begin(writer, &system_id, timeline, size, from).await.unwrap();
    while at < end {
        let segment = Segment::holding(timeline, at, size);
        let file = std::fs::read(lab.cluster.data().join("pg_wal").join(segment.file_name(size))).unwrap();
        let from = usize::try_from(size.offset(at)).unwrap();
        let room = (file.len() - from).min(usize::try_from(end.0 - at.0).unwrap()).min(400_000);
        writer.wal(at, Bytes::copy_from_slice(&file[from..from + room])).await.unwrap();
        at = at.forward(room as u64);
        writer.flush().await.unwrap();
    }
}

/// Promotes the cluster itself: it recovers as a standby of nobody first.
async fn promote(lab: &Lab) {
    lab.cluster.stop("fast").await.unwrap();
    let signal = lab.cluster.data().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    if let Some(account) = &lab.cluster.account {
        account.own(&signal).unwrap();
    }
    lab.cluster.start(Duration::from_secs(30)).await.unwrap();
    lab.psql("select pg_promote()").await;
    eventually("the promotion", Duration::from_secs(30), || async {
        lab.psql("select pg_is_in_recovery()").await == "f"
    })
    .await;
}

fn beat(seq: i64, commit_lsn: Lsn, timeline: u32) -> Beat {
    Beat { seq, acknowledged_at: at(2000 + seq), commit_lsn, timeline: Timeline(timeline) }
}

impl Estate {
    pub(super) async fn make() -> Self {
        let fixture = Fixture::new();
        let lab = small_segments().await;
        lab.psql("create table t (id bigint generated always as identity primary key, v text)").await;
        write_rows(&lab, 4000).await;
        let (layout, one) = fixture.back_up(&lab, "one").await;
        write_rows(&lab, 8000).await;
        let mut writer = fixture.wal_writer();
        let before = flushed(&lab).await;
        stream(&lab, &mut writer, Timeline(1), one.start_lsn, before).await;
        promote(&lab).await;
        let history = std::fs::read(lab.cluster.data().join("pg_wal/00000002.history")).unwrap();
        let text = String::from_utf8(history.clone()).unwrap();
        let fork: Lsn = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        stream(&lab, &mut writer, Timeline(1), one.start_lsn, fork).await;
        write_rows(&lab, 6000).await;
        let (_, two) = fixture.back_up(&lab, "two").await;
        write_rows(&lab, 7000).await;
        writer.history(Timeline(2), history.into());
        let end = flushed(&lab).await;
        stream(&lab, &mut writer, Timeline(2), fork, end).await;
        let estate = Self { fixture, layout };
        let recipients = [estate.fixture.identity.to_public()];
        for beats in [[beat(1, one.stop_lsn, 1), beat(2, before, 1)], [beat(3, two.stop_lsn, 2), beat(4, end, 2)]] {
            ledger::append(estate.fixture.store.as_ref(), &estate.layout, &recipients, &beats).await.unwrap();
        }
        estate.sign_off().await;
        estate
    }

    /// A proof of the first backup, and a verification of the second.
    async fn sign_off(&self) {
        let (_, catalog) = self.fixture.catalog(&self.layout).await;
        let entry = catalog.find(&"one".parse().unwrap()).unwrap();
        let run = RunId::from("restore_test/wallet/manual/x".to_owned());
        let manifest_sha256 = entry.manifest_sha256.clone();
        let proof = Proof {
            backup: "one".parse().unwrap(),
            manifest_sha256,
            run,
            proven_at: at(3000),
            opener: Opener::Node,
            opened_by: Vec::new(),
        };
        let (store, signer) = (self.fixture.store.as_ref(), &self.fixture.signer);
        put_proof(store, &self.layout, &proof, signer).await.unwrap();
        let report = self.full().await;
        for found in report.backups {
            let here = ("primary".parse().unwrap(), RunId::from("verify/wallet/primary/x".to_owned()));
            let verification = Verification::after(None, found, here, at(4000), 2_592_000);
            put_verification(store, &self.layout, &verification, signer).await.unwrap();
        }
    }

    pub(super) async fn full(&self) -> Report {
        self.verify(&self.fixture.store, Depth::Full, &[]).await
    }

    pub(super) async fn verify(&self, store: &SharedStore, depth: Depth, others: &[SharedStore]) -> Report {
        self.verify_with(std::slice::from_ref(&self.fixture.identity), store, depth, others).await
    }

    pub(super) async fn verify_with(
        &self,
        identities: &[age::x25519::Identity],
        store: &SharedStore,
        depth: Depth,
        others: &[SharedStore],
    ) -> Report {
        self.verify_retaining(identities, (store, depth), others, &|_| Need::Needed).await
    }

    /// The same where retention keeps this WAL.
    pub(super) async fn verify_retaining(
        &self,
        identities: &[age::x25519::Identity],
        (store, depth): (&SharedStore, Depth),
        others: &[SharedStore],
        retained: &Retained<'_>,
    ) -> Report {
        let what = Verify {
            store,
            layout: &self.layout,
            verifier: &self.fixture.signer.verifier(),
            identities,
            depth,
            others,
            lock_until: None,
            retained,
            now: at(1_000_000),
            stop: &CancellationToken::new(),
            done: Arc::default(),
        };
        verify(&what, &|_, _, _| {}).await.unwrap()
    }

    /// The file of an object, by its name after the prefix of the history.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.fixture.vault().join(format!("{}{name}", self.layout.prefix()))
    }

    /// All objects under a prefix, without it.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let root = self.fixture.vault().join(self.layout.prefix());
        let mut names: Vec<String> = walk(&root.join(prefix))
            .into_iter()
            .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Whole segments of a timeline.
    pub(super) fn whole(&self, timeline: u32) -> Vec<String> {
        let names = self.names(&format!("wal/{timeline:08X}"));
        names.into_iter().filter(|name| !name.contains(".tail.")).collect()
    }

    /// Seals bytes so that the key of the stretch that wrote `name` opens them.
    pub(super) async fn seal_like(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        for key in self.names("wal/keys") {
            let key = lifeboat::vault::ObjectKey::new(format!("{}{key}", self.layout.prefix())).unwrap();
            let store = self.fixture.store.as_ref();
            let text = read_sealed(store, &key, false, std::slice::from_ref(&self.fixture.identity)).await.unwrap();
            let identity = identities_from(std::str::from_utf8(&text).unwrap()).unwrap().remove(0);
            let object = lifeboat::vault::ObjectKey::new(format!("{}{name}", self.layout.prefix())).unwrap();
            if read_sealed(store, &object, true, std::slice::from_ref(&identity)).await.is_ok() {
                return Object::seal(plain, true, &[identity.to_public()]).unwrap().stored.to_vec();
            }
        }
        panic!("no key opens {name}");
    }

    /// The plain bytes of a WAL object.
    pub(super) async fn plain(&self, name: &str) -> Vec<u8> {
        let store = self.fixture.store.as_ref();
        let mut identities = Vec::new();
        for key in self.names("wal/keys") {
            let key = lifeboat::vault::ObjectKey::new(format!("{}{key}", self.layout.prefix())).unwrap();
            let text = read_sealed(store, &key, false, std::slice::from_ref(&self.fixture.identity)).await.unwrap();
            identities.extend(identities_from(std::str::from_utf8(&text).unwrap()).unwrap());
        }
        let object = lifeboat::vault::ObjectKey::new(format!("{}{name}", self.layout.prefix())).unwrap();
        read_sealed(store, &object, true, &identities).await.unwrap()
    }
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
