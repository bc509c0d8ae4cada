//! The evidence log on real SQLite files, real PostgreSQL and real folders:
//! every way to tamper is detected and named, public tools agree, and a vault
//! that fails loses nothing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat::{
    clock::Clock,
    db::Db,
    domain::Verdict,
    durable,
    evidence::{self, EvidenceError, EvidenceLog, Filter, StoredCheckpoint, StoredEntry, VerifyReport, verify},
    process::Program,
    vault::{
        ObjectInfo, ObjectKey, ObjectReader, ObjectWriter, Place, SharedStore, Store, StoreError, signature::Signer,
    },
};

use crate::{sample, support::Lab};

/// A vault in a folder that can be told to fail.
#[derive(Debug)]
struct Folder {
    place: Place,
    root: PathBuf,
    broken: AtomicBool,
}

impl Folder {
    fn new(root: PathBuf) -> Arc<Self> {
        let place = Place {
            vault: "primary".parse().unwrap(),
            kind: "directory",
            region: "eu-south-1".parse().unwrap(),
            region_verified: false,
        };
        Arc::new(Self { place, root, broken: AtomicBool::new(false) })
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            Err(StoreError::Full { vault: self.place.vault.clone() })
        } else {
            Ok(())
        }
    }
}

struct Writing {
    path: PathBuf,
    place: Place,
    key: ObjectKey,
    bytes: Vec<u8>,
}

#[async_trait]
impl Store for Folder {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.check()?;
        Ok(Box::new(Writing { path: self.path(key), place: self.place.clone(), key: key.clone(), bytes: Vec::new() }))
    }

    async fn read(&self, key: &ObjectKey) -> Result<ObjectReader, StoreError> {
        self.check()?;
        Ok(Box::pin(std::io::Cursor::new(std::fs::read(self.path(key)).unwrap())))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.check()?;
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let name = entry.path().strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned();
                if name.starts_with(prefix) {
                    let size_bytes = entry.metadata().unwrap().len();
                    found.push(ObjectInfo::new(ObjectKey::new(name).unwrap(), size_bytes));
                }
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        std::fs::remove_file(self.path(key)).unwrap();
        Ok(())
    }

    async fn probe(&self) -> Result<Vec<String>, StoreError> {
        self.check().map(|()| Vec::new())
    }
}

#[async_trait]
impl ObjectWriter for Writing {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        durable::create_folder(self.path.parent().unwrap()).unwrap();
        match durable::create_private(&self.path, &self.bytes) {
            Ok(()) => Ok(ObjectInfo::new(self.key, self.bytes.len() as u64)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(StoreError::AlreadyExists { vault: self.place.vault, key: self.key })
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A log of five records with one vault, on a real SQLite file.
struct World {
    folder: tempfile::TempDir,
    vault: Arc<Folder>,
    log: EvidenceLog,
    db: Db,
}

impl World {
    async fn new(records: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = Folder::new(folder.path().join("vault"));
        let (db, log) = Self::open(folder.path(), "state.db", &vault).await;
        for record in sample::month().iter().take(records) {
            log.append(record).await.unwrap();
        }
        Self { folder, vault, log, db }
    }

    async fn open(folder: &Path, state: &str, vault: &Arc<Folder>) -> (Db, EvidenceLog) {
        let db = Db::open(&format!("sqlite:{}", folder.join(state).display())).await.unwrap();
        let (signer, _) = Signer::load_or_create(&folder.join("key")).unwrap();
        let store: SharedStore = vault.clone();
        let clock = Clock::held_at(sample::at("2026-11-21T06:00:00Z"));
        (db.clone(), EvidenceLog::new(db, signer, vec![(store, String::new())], clock))
    }

    /// A log in `db` as it was before a vault was configured.
    fn without_vault(folder: &Path, db: &Db) -> EvidenceLog {
        let (signer, _) = Signer::load_or_create(&folder.join("key")).unwrap();
        EvidenceLog::new(db.clone(), signer, Vec::new(), Clock::held_at(sample::at("2026-11-21T06:00:00Z")))
    }

    async fn sql(&self, statement: &'static str) {
        let Db::Sqlite { evidence: pool, .. } = &self.db else { panic!("this is SQLite") };
        let done = sqlx::query(statement).execute(pool).await.unwrap();
        assert!(done.rows_affected() > 0, "changed nothing: {statement}");
    }

    async fn verify(&self) -> VerifyReport {
        let (checkpoints, failed) = self.log.checkpoints().await;
        assert!(failed.is_empty());
        let file = self.folder.path().join("state.db");
        verify(&evidence::from_file(&file).await.unwrap(), &checkpoints, &self.log.signer().verifier())
    }
}

#[tokio::test]
async fn a_sound_log_passes_from_the_file_the_vault_and_the_bundle() {
    let world = World::new(5).await;
    let report = world.verify().await;
    assert_eq!((report.problems.as_slice(), report.size, report.checkpoints), (&[][..], 5, 5));
    assert_eq!(report.verdict(), Verdict::Pass);

    let verifier = world.log.signer().verifier();
    let vault = evidence::from_folder(&world.folder.path().join("vault")).unwrap();
    assert_eq!(verify(&vault.entries, &vault.checkpoints, &verifier).verdict(), Verdict::Pass);
    assert_eq!(evidence::from_store(&*world.vault, "").await.unwrap().entries, vault.entries);

    let bundle = world.folder.path().join("bundle");
    assert_eq!(evidence::export(&world.log, Some("2026-11".parse().unwrap()), &bundle).await.unwrap(), 5);
    let exported = evidence::from_folder(&bundle).unwrap();
    let again = verify(&exported.entries, &exported.checkpoints, &verifier);
    assert_eq!((again.verdict(), again.head), (Verdict::Pass, report.head));

    let nothing = verify(&[], &[], &verifier);
    assert_eq!(nothing.verdict(), Verdict::Inconclusive, "nothing to check is not a pass");
}

#[tokio::test]
async fn every_way_to_tamper_with_the_state_database_is_named() {
    const EDIT: &str = "UPDATE evidence SET entry = replace(entry, 'PASS', 'FAIL') WHERE idx = 0";
    const SIGNATURE: &str = "UPDATE evidence SET signature = replace(signature, 'U1NIU0lH', 'U1NIU0lI') WHERE idx = 2";
    const FOREIGN_SIGNATURE: &str =
        "UPDATE evidence SET signature = (SELECT signature FROM evidence WHERE idx = 1) WHERE idx = 2";
    const HASH: &str = "UPDATE evidence SET leaf_hash = replace(leaf_hash, 'a', 'b') WHERE idx = 2";
    const DELETE: &str = "DELETE FROM evidence WHERE idx = 2";
    const DELETE_FIRST: &str = "DELETE FROM evidence WHERE idx = 0";
    const CUT: &str = "DELETE FROM evidence WHERE idx >= 3";
    const RUN: &str = "UPDATE evidence SET run_id = 'backup/other' WHERE idx = 2";
    const INSERT: &str = "INSERT INTO evidence SELECT 5, 'x', entry, leaf_hash, signature FROM evidence WHERE idx = 4";
    const REORDER: &str = "UPDATE evidence SET idx = CASE idx WHEN 1 THEN -2 ELSE -1 END WHERE idx IN (1, 2)";
    const REORDER_BACK: &str = "UPDATE evidence SET idx = -idx WHERE idx < 0";
    for (what, statements, expected) in [
        ("edited entry", &[EDIT][..], "entry 0: does not fit its signature"),
        ("edited signature", &[SIGNATURE], "entry 2: its signature was edited or cut"),
        ("swapped signature", &[FOREIGN_SIGNATURE], "entry 2: does not fit its signature"),
        ("edited hash", &[HASH], "entry 2: its leaf hash does not fit its bytes"),
        ("deleted row", &[DELETE], "entry 2 is missing: it was deleted"),
        ("deleted first row", &[DELETE_FIRST], "entry 0 is missing: it was deleted"),
        ("cut tail", &[CUT], "the log has 3: its tail was cut off, or an old copy of the log was put back"),
        ("edited run", &[RUN], "entry 2: is filed under another run"),
        ("inserted row", &[INSERT], "entry 5: was signed as entry 4: reordered, inserted or copied"),
        ("reordered rows", &[REORDER, REORDER_BACK], "entry 1: was signed as entry 2: reordered"),
    ] {
        let world = World::new(5).await;
        assert_eq!(world.verify().await.verdict(), Verdict::Pass);
        for statement in statements {
            world.sql(statement).await;
        }
        let report = world.verify().await;
        assert_eq!(report.verdict(), Verdict::Fail, "{what}");
        assert!(report.problems.iter().any(|problem| problem.contains(expected)), "{what}: {:#?}", report.problems);
    }
}

/// However many checkpoints know the entry that is missing.
#[tokio::test]
async fn one_broken_link_is_one_problem() {
    let world = World::new(5).await;
    world.sql("DELETE FROM evidence WHERE idx = 2").await;
    let report = world.verify().await;
    let [problem] = &report.problems[..] else { panic!("{:#?}", report.problems) };
    assert!(problem.ends_with("is missing: it was deleted"), "{problem}");
}

#[tokio::test]
async fn a_foreign_key_is_named() {
    let world = World::new(2).await;
    let (other, _) = Signer::load_or_create(&world.folder.path().join("other-key")).unwrap();
    let mut entries = evidence::from_db(&world.db).await.unwrap();
    entries[1].signature = other.sign("lifeboat-evidence", entries[1].text.as_bytes()).unwrap();
    let report = verify(&entries, &[], &world.log.signer().verifier());
    let [problem] = report.problems.as_slice() else { panic!("{:#?}", report.problems) };
    assert!(problem.starts_with("entry 1: is signed by the foreign key SHA256:"), "{problem}");
}

#[tokio::test]
async fn an_old_database_put_back_is_named_and_does_not_overwrite_the_vault() {
    let world = World::new(2).await;
    let old = world.folder.path().join("old.db");
    let Db::Sqlite { evidence: pool, .. } = &world.db else { panic!("this is SQLite") };
    sqlx::query("VACUUM INTO $1")
        .bind(lifeboat::db::evidence_file(&old).to_str().unwrap())
        .execute(pool)
        .await
        .unwrap();
    for record in &sample::month()[2..5] {
        world.log.append(record).await.unwrap();
    }
    let (checkpoints, _) = world.log.checkpoints().await;
    let verifier = world.log.signer().verifier();
    let report = verify(&evidence::from_file(&old).await.unwrap(), &checkpoints, &verifier);
    assert!(report.problems.iter().any(|p| p.contains("knew 5 entries")), "{:#?}", report.problems);

    // The old database is used again: the vault notices at start.
    let (db, log) = World::open(world.folder.path(), "old.db", &world.vault).await;
    let failed = log.mirror().await;
    assert!(matches!(failed.as_slice(), [(_, EvidenceError::Behind { vault_size: 5, size: 2, .. })]), "{failed:?}");

    // And when it has grown past the vault, the checkpoints disagree, whoever holds the key.
    for day in 1..=4 {
        let record = sample::record("backup", "other", &format!("2026-12-0{day}T02:00:00Z"), 5, Verdict::Pass);
        log.append(&record).await.unwrap();
    }
    let failed = log.mirror().await;
    assert!(matches!(failed.as_slice(), [(_, EvidenceError::Diverged { .. })]), "{failed:?}");
    let report = verify(&evidence::from_db(&db).await.unwrap(), &checkpoints, &verifier);
    let [problem] = &report.problems[..] else { panic!("{:#?}", report.problems) };
    assert!(problem.contains("entry 2 was another one") && problem.contains("cut off and written anew"), "{problem}");
    assert!(problem.contains("2 more checkpoints disagree"), "{problem}");
    let kept = evidence::from_folder(&world.folder.path().join("vault")).unwrap();
    assert_eq!(verify(&kept.entries, &kept.checkpoints, &verifier).verdict(), Verdict::Pass);
}

#[tokio::test]
async fn tampering_with_a_vault_is_named() {
    type Case = (&'static str, fn(&Path), &'static str);
    let expectations: [Case; 4] = [
        ("edited", |folder| edit(&folder.join("00000001.json")), "entry 1: does not fit its signature"),
        ("deleted", |folder| remove(&folder.join("00000001.json")), "entry 1 is missing"),
        ("unsigned", |folder| remove(&folder.join("00000001.json.sig")), "entry 1: has no signature"),
        ("checkpoint", |folder| edit(&folder.join("checkpoints/00000002.json")), "does not fit its signature"),
    ];
    for (what, tamper, expected) in expectations {
        let world = World::new(3).await;
        let folder = world.folder.path().join("vault");
        tamper(&folder.join("evidence"));
        let log = evidence::from_folder(&folder).unwrap();
        let report = verify(&log.entries, &log.checkpoints, &world.log.signer().verifier());
        assert!(report.problems.iter().any(|problem| problem.contains(expected)), "{what}: {:#?}", report.problems);
    }
}

fn edit(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap().replace("2026", "2025");
    std::fs::write(path, text).unwrap();
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_vault_that_fails_is_caught_up_and_loses_nothing() {
    let world = World::new(1).await;
    world.vault.broken.store(true, Ordering::SeqCst);
    for record in &sample::month()[1..4] {
        world.log.append(record).await.unwrap();
    }
    assert!(matches!(world.log.mirror().await.as_slice(), [(_, EvidenceError::Vault(_))]));
    world.vault.broken.store(false, Ordering::SeqCst);
    assert!(world.log.mirror().await.is_empty());
    let copy = evidence::from_folder(&world.folder.path().join("vault")).unwrap();
    assert_eq!((copy.entries.len(), copy.checkpoints.len()), (4, 4));
    assert_eq!(verify(&copy.entries, &copy.checkpoints, &world.log.signer().verifier()).verdict(), Verdict::Pass);

    // A new process finds an object missing in the middle and writes it anew, byte for byte.
    remove(&world.folder.path().join("vault/evidence/00000001.json"));
    let (_, log) = World::open(world.folder.path(), "state.db", &world.vault).await;
    assert!(log.mirror().await.is_empty());
    assert_eq!(evidence::from_folder(&world.folder.path().join("vault")).unwrap(), copy);
}

#[tokio::test]
async fn a_run_has_one_entry_however_often_it_is_appended() {
    let world = World::new(3).await;
    let first = world.log.append(&sample::month()[1]).await.unwrap();
    assert_eq!(first.index, 1);
    let entry = world.log.get(&sample::month()[1].run_id).await.unwrap().unwrap();
    assert_eq!((&entry.evidence, &entry.record), (&first, &sample::month()[1]));
    assert_eq!(world.log.get("1").await.unwrap().unwrap(), entry);
    assert_eq!(world.log.get("nobody/ran/this").await.unwrap(), None);
    let json = serde_json::to_value(&entry).unwrap();
    assert_eq!(json["evidence"]["leaf_hash"], first.leaf_hash);
    assert_eq!(json["run_id"], entry.record.run_id);
    assert_eq!(world.verify().await.size, 3);
    let filter = Filter { kind: Some("backup".into()), limit: Some(1), ..Filter::default() };
    let [newest] = world.log.records(&filter).await.unwrap().try_into().unwrap();
    assert_eq!(newest.evidence.index, 1);
}

#[tokio::test]
async fn a_lost_or_old_state_database_gets_its_log_back_from_a_vault() {
    let world = World::new(4).await;
    for kept in [0, 2] {
        let (db, log) = World::open(world.folder.path(), &format!("kept-{kept}.db"), &world.vault).await;
        let alone = World::without_vault(world.folder.path(), &db);
        for record in sample::month().iter().take(kept) {
            alone.append(record).await.unwrap();
        }
        assert!(matches!(log.mirror().await.as_slice(), [(_, EvidenceError::Behind { vault_size: 4, .. })]));
        assert!(log.settle().await.is_empty());
        assert!(log.settle().await.is_empty(), "may be repeated");
        assert_eq!(evidence::from_db(&db).await.unwrap(), evidence::from_db(&world.db).await.unwrap());
    }
}

#[tokio::test]
async fn a_forged_log_in_a_vault_is_not_taken_over() {
    let world = World::new(4).await;
    let entry = world.folder.path().join("vault/evidence/00000002.json");
    let forged = std::fs::read_to_string(&entry).unwrap().replace("PASS", "FAIL");
    std::fs::write(&entry, forged).unwrap();
    let (db, log) = World::open(world.folder.path(), "new.db", &world.vault).await;
    assert!(matches!(log.settle().await.as_slice(), [(_, EvidenceError::Unsound { .. })]));
    assert!(evidence::from_db(&db).await.unwrap().is_empty());
}

#[tokio::test]
async fn public_tools_accept_the_bundle_and_refuse_a_changed_one() {
    let world = World::new(2).await;
    let bundle = world.folder.path().join("bundle");
    evidence::export(&world.log, None, &bundle).await.unwrap();
    let limit = Duration::from_secs(20);
    let sums = Program::new("sha256sum").args(["-c", "--quiet", "SHA256SUMS"]).folder(&bundle);
    sums.output(limit).await.unwrap();

    let check = |namespace: &str, name: &str| {
        Program::new("ssh-keygen")
            .args(["-Y", "verify", "-f", "allowed_signers", "-I", "lifeboat", "-n", namespace, "-s"])
            .arg(format!("{name}.sig"))
            .folder(&bundle)
    };
    for (namespace, name) in
        [("lifeboat-evidence", "evidence/00000001.json"), ("lifeboat-checkpoint", "evidence/checkpoints/00000002.json")]
    {
        let bytes = std::fs::read(bundle.join(name)).unwrap();
        let said = check(namespace, name).output_with_input(limit, Some(&bytes)).await.unwrap();
        assert!(said.contains("Good"), "{said}");
        let changed = String::from_utf8(bytes).unwrap().replace("2026", "2025");
        assert!(check(namespace, name).output_with_input(limit, Some(changed.as_bytes())).await.is_err());
    }
    // The hash recipe of the README gives what the next entry calls `previous`.
    let recipe = "{ printf '\\0'; cat evidence/00000000.json; } | sha256sum";
    let hash = Program::new("sh").args(["-c", recipe]).folder(&bundle).output(limit).await.unwrap();
    let next: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bundle.join("evidence/00000001.json")).unwrap()).unwrap();
    assert_eq!(hash.split(' ').next(), next["previous"].as_str());
}

#[tokio::test]
async fn two_nodes_on_one_postgresql_never_fork_the_log() {
    let lab = Lab::start("").await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", lab.port);
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let (signer, _) = Signer::load_or_create(&folder.path().join("key")).unwrap();
        let db = Db::open(&url).await.unwrap();
        nodes.push(EvidenceLog::new(db, signer, Vec::new(), Clock::system()));
    }
    let record = |i: usize| sample::record("backup", "wallet", &format!("2026-11-01T02:{i:02}:00Z"), 5, Verdict::Pass);
    let records: Vec<_> = (0..20).map(record).collect();
    // Each record is appended by both nodes, all at once.
    let appends = records.iter().flat_map(|record| nodes.iter().map(move |node| node.append(record)));
    let answers = futures::future::join_all(appends).await;
    for pair in answers.chunks(2) {
        assert_eq!(pair[0].as_ref().unwrap(), pair[1].as_ref().unwrap());
    }
    let db = Db::open(&url).await.unwrap();
    let entries: Vec<StoredEntry> = evidence::from_db(&db).await.unwrap();
    let report = verify(&entries, &Vec::<StoredCheckpoint>::new(), &nodes[0].signer().verifier());
    assert_eq!((report.size, report.problems.as_slice()), (20, &[][..]));
    assert_eq!(report.verdict(), Verdict::Inconclusive, "without a checkpoint a cut tail cannot be excluded");
}
