//! restore.sh: a copy of the vault, an identity, and no Lifeboat.

use std::{path::Path, path::PathBuf, time::Duration};

use age::secrecy::ExposeSecret;
use lifeboat::{process::Program, vault::Layout};

use super::{
    backup::{digest, insert, lab_with_rows},
    fixture::{Fixture, query_restored},
};
use crate::support::{moved, scratch};

const DIGEST: &str = "select count(*) || ' ' || md5(string_agg(id || v, ',' order by id)) from t";

struct Copy {
    fixture: Fixture,
    layout: Layout,
    /// Holds the copied vault.
    vault: PathBuf,
    identity: PathBuf,
}

impl Copy {
    async fn of(fixture: Fixture, layout: Layout) -> Self {
        let vault = fixture.folder.path().join("elsewhere");
        Program::new("cp").arg("-r").arg(fixture.vault()).arg(&vault).output(Duration::from_secs(30)).await.unwrap();
        std::fs::remove_dir_all(fixture.vault()).unwrap();
        let identity = fixture.folder.path().join("identity");
        std::fs::write(&identity, format!("{}\n", fixture.identity.to_string().expose_secret())).unwrap();
        Self { fixture, layout, vault, identity }
    }

    fn backup(&self) -> PathBuf {
        self.vault.join(self.layout.backup_prefix(&"b".parse().unwrap()))
    }

    async fn restore(&self, target: &Path, more: &[&str]) -> Result<String, String> {
        Program::new("sh")
            .arg(self.backup().join("restore.sh"))
            .arg(&self.identity)
            .arg(target)
            .args(more)
            .output(Duration::from_secs(120))
            .await
            .map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_copy_of_the_vault_is_enough() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    let at_backup = digest(&lab).await;
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    insert(&lab, 20_001, 70_000).await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 70_001, 71_000).await;
    let at_end = digest(&lab).await;
    let mut wal = fixture.wal_writer();
    fixture.stream_from(&lab, &mut wal, manifest.start_lsn, 2_500_000).await;
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    let fingerprint = fixture.signer.verifier().fingerprint();
    let copy = Copy::of(fixture, layout).await;
    let folder = |name: &str| copy.fixture.folder.path().join(name);

    copy.restore(&folder("one/data"), &[&fingerprint]).await.unwrap();
    assert_eq!(query_restored(&folder("one"), DIGEST).await.unwrap(), at_backup);
    copy.restore(&folder("two/data"), &["latest", &fingerprint]).await.unwrap();
    assert_eq!(query_restored(&folder("two"), DIGEST).await.unwrap(), at_end);

    let again = copy.restore(&folder("two/data"), &[]).await.unwrap_err();
    assert!(again.contains("is not empty"), "{again}");
    let foreign = format!("SHA256:{}", "A".repeat(43));
    let error = copy.restore(&folder("three"), &[&foreign]).await.unwrap_err();
    assert!(error.contains("another key"), "{error}");

    // The WAL in the middle is gone: recovery must fail, not end early.
    let staged = folder("four/data/lifeboat_wal");
    copy.restore(&folder("four/data"), &["latest", &fingerprint]).await.unwrap();
    let mut segments: Vec<_> = std::fs::read_dir(&staged).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    std::fs::remove_file(segments.last().unwrap()).unwrap();
    let error = query_restored(&folder("four"), DIGEST).await.unwrap_err();
    assert!(error.contains("recovery ended before configured recovery target was reached"), "{error}");

    std::fs::write(copy.backup().join("RESTORE.md"), "swapped").unwrap();
    let error = copy.restore(&folder("five"), &[&fingerprint]).await.unwrap_err();
    assert!(error.contains("RESTORE.md: FAILED"), "{error}");
}

/// Names are meant from where the operator stands, and nothing is left decrypted
/// in the vault.
#[tokio::test]
async fn relative_names_are_the_operators_and_a_target_in_the_vault_is_refused() {
    let fixture = Fixture::new();
    let (layout, _) = fixture.small_backup("b", &[("PG_VERSION".to_owned(), b"15\n".to_vec())], 1 << 20).await;
    let copy = Copy::of(fixture, layout).await;
    let run = async |identity: &str, target: &str| {
        let script = copy.backup().join("restore.sh");
        let program = Program::new("sh").folder(copy.fixture.folder.path()).arg(script).args([identity, target]);
        program.output(Duration::from_secs(60)).await.map_err(|error| error.to_string())
    };
    // It has no WAL, of which it is told once the data is there.
    let error = run("identity", "new/data").await.unwrap_err();
    assert!(error.contains("data restored") && !error.contains("opens none of the keys of b"), "{error}");
    assert_eq!(std::fs::read(copy.fixture.folder.path().join("new/data/PG_VERSION")).unwrap(), b"15\n");
    assert!(!copy.backup().join("new").exists());
    let inside = copy.backup().join("restored/data");
    let error = run("identity", inside.to_str().unwrap()).await.unwrap_err();
    assert!(error.contains("lies in the vault") && !inside.exists(), "{error}");
    // What is no identity says so in age's own words.
    std::fs::write(copy.fixture.folder.path().join("public"), copy.fixture.identity.to_public().to_string()).unwrap();
    let error = run("public", "other").await.unwrap_err();
    assert!(error.contains("public") && error.contains("age: error"), "{error}");
    let error = run("missing", "other").await.unwrap_err();
    assert!(error.contains("/missing cannot be read"), "{error}");
}

/// WAL is missing in the vault itself: first a segment with newer ones behind it,
/// then a tail of the open one.
#[tokio::test]
async fn newer_wal_behind_a_gap_is_given_up_on_purpose_only() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    insert(&lab, 20_001, 30_000).await;
    let before = digest(&lab).await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 30_001, 31_000).await;
    let lost = lab.psql("select pg_walfile_name(pg_current_wal_insert_lsn())").await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 40_001, 70_000).await;
    let open = lab.psql("select pg_walfile_name(pg_current_wal_insert_lsn())").await;
    let mut wal = fixture.wal_writer();
    fixture.stream_from(&lab, &mut wal, manifest.start_lsn, 1_000_000).await;
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    let fingerprint = fixture.signer.verifier().fingerprint();
    let copy = Copy::of(fixture, layout).await;
    let folder = |name: &str| copy.fixture.folder.path().join(name);
    // A cluster that came after this one is told of.
    std::fs::create_dir(copy.vault.join("wallet/9000000000000000000")).unwrap();

    let aside = folder("aside");
    std::fs::create_dir(&aside).unwrap();
    let objects = |name: &str| {
        let entries = std::fs::read_dir(copy.vault.join(copy.layout.prefix()).join("wal/00000001")).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name));
        paths.sort();
        paths
    };
    let taken: Vec<_> = objects(&lost).into_iter().map(|path| (aside.join(path.file_name().unwrap()), path)).collect();
    assert!(taken.len() >= 2 && objects(&open).len() >= 3, "{lost}, {open}");
    for (aside, path) in &taken {
        moved(path, aside);
    }
    let newest = objects(&open).last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let error = copy.restore(&folder("one/data"), &["latest", &fingerprint]).await.unwrap_err();
    for word in [&format!("segment {lost} is missing"), &newest, "before-gap", "system id 9000000000000000000"] {
        assert!(error.contains(word), "`{word}`: {error}");
    }
    copy.restore(&folder("two/data"), &["before-gap", &fingerprint]).await.unwrap();
    assert_eq!(query_restored(&folder("two"), DIGEST).await.unwrap(), before);
    // The backup itself needs nothing of it.
    copy.restore(&folder("three/data"), &[&fingerprint]).await.unwrap();

    for (aside, path) in &taken {
        moved(aside, path);
    }
    std::fs::remove_file(&objects(&open)[1]).unwrap();
    let error = copy.restore(&folder("four/data"), &["latest", &fingerprint]).await.unwrap_err();
    assert!(error.contains(&format!("segment {open} is missing from")) && error.contains(&newest), "{error}");
    // The newest tail alone is no gap: nothing lies behind it, and nobody can know of it.
    for path in objects(&open).into_iter().skip(1) {
        std::fs::remove_file(path).unwrap();
    }
    copy.restore(&folder("five/data"), &["latest", &fingerprint]).await.unwrap();
}

/// To the backup's own end and to the latest: where the copy of the vault lacks a
/// segment the script says so, and where one goes afterwards the server ends.
#[tokio::test]
async fn a_missing_segment_is_an_error_to_every_point() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    let first = lab.psql(&format!("select pg_walfile_name('{}')", manifest.start_lsn)).await;
    insert(&lab, 20_001, 21_000).await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 21_001, 22_000).await;
    let middle = lab.psql("select pg_walfile_name(pg_current_wal_insert_lsn())").await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 22_001, 23_000).await;
    let mut wal = fixture.wal_writer();
    fixture.stream_from(&lab, &mut wal, manifest.start_lsn, 2_500_000).await;
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    let fingerprint = fixture.signer.verifier().fingerprint();
    let copy = Copy::of(fixture, layout).await;
    let folder = |name: String| copy.fixture.folder.path().join(name);
    let held = copy.vault.join(copy.layout.prefix()).join("wal/00000001");
    let never = "FATAL:  recovery ended before configured recovery target was reached";
    for (mode, segment, ends, words) in [
        (None, &first, "FATAL:  could not locate required checkpoint record", "the backup needs it up to"),
        (Some("latest"), &middle, never, "is missing"),
    ] {
        let name = mode.unwrap_or("end");
        let args: Vec<&str> = mode.into_iter().chain([fingerprint.as_str()]).collect();
        let restored = folder(format!("{name} staged"));
        copy.restore(&restored.join("data"), &args).await.unwrap();
        std::fs::remove_file(restored.join("data/lifeboat_wal").join(segment)).unwrap();
        query_restored(&restored, DIGEST).await.unwrap_err();
        let log = std::fs::read_to_string(restored.join("log")).unwrap();
        assert!(log.contains(ends), "{name}: {log}");
        let promoted = restored.join("data/pg_wal/00000002.history");
        assert!(!promoted.exists(), "{name}: it was promoted");

        let taken: Vec<PathBuf> = std::fs::read_dir(&held).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in taken.iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(segment)) {
            moved(path, folder(format!("aside {}", path.file_name().unwrap().to_str().unwrap())));
        }
        let error = copy.restore(&folder(format!("{name} lacking")), &args).await.unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
        for path in taken.iter().filter(|path| !path.exists()) {
            moved(folder(format!("aside {}", path.file_name().unwrap().to_str().unwrap())), path);
        }
    }
}

/// The backup is on timeline 1, the newest rows on timeline 3.
#[tokio::test]
async fn the_latest_lies_behind_two_promotions() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    // Nothing streams meanwhile, so the server must keep it.
    lab.psql("alter system set wal_keep_size = '1GB'").await;
    lab.psql("select pg_reload_conf()").await;
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    insert(&lab, 20_001, 30_000).await;
    let mut wal = fixture.wal_writer();
    let mut from = manifest.start_lsn;
    for timeline in 1..=2 {
        let fork = promoted(&lab, timeline + 1).await;
        let ours = lifeboat::domain::Timeline(timeline);
        fixture.stream_timeline(&lab, &mut wal, ours, from..fork, 2_500_000).await;
        let history = lab.cluster.data().join(format!("pg_wal/{:08X}.history", timeline + 1));
        let next = lifeboat::domain::Timeline(timeline + 1);
        wal.history(next, std::fs::read(history).unwrap().into());
        insert(&lab, timeline * 100_000, timeline * 100_000 + 5_000).await;
        from = fork;
    }
    let at_end = digest(&lab).await;
    let end = lab.psql("select pg_current_wal_flush_lsn()").await.parse().unwrap();
    fixture.stream_timeline(&lab, &mut wal, lifeboat::domain::Timeline(3), from..end, 2_500_000).await;
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    let fingerprint = fixture.signer.verifier().fingerprint();
    let copy = Copy::of(fixture, layout).await;
    let folder = |name: &str| copy.fixture.folder.path().join(name);
    copy.restore(&folder("one/data"), &["latest", &fingerprint]).await.unwrap();
    assert_eq!(query_restored(&folder("one"), DIGEST).await.unwrap(), at_end);
    // Without the history files nobody knows where the newest timeline began.
    for entry in std::fs::read_dir(copy.vault.join(copy.layout.prefix()).join("wal")).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "history") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let error = copy.restore(&folder("two/data"), &["latest", &fingerprint]).await.unwrap_err();
    assert!(error.contains("00000003.history is missing"), "{error}");
}

/// Restarts the server as a standby of nobody and promotes it; answers where the
/// new timeline begins.
async fn promoted(lab: &crate::support::Lab, timeline: u32) -> lifeboat::domain::Lsn {
    lab.cluster.stop("fast").await.unwrap();
    let signal = lab.cluster.data().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    super::fixture::give(&signal, lab.cluster.account.as_ref());
    lab.cluster.start(Duration::from_secs(60)).await.unwrap();
    assert_eq!(lab.psql("select pg_promote()").await, "t");
    let history = lab.cluster.data().join(format!("pg_wal/{timeline:08X}.history"));
    let text = std::fs::read_to_string(history).unwrap();
    text.lines().rev().find_map(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap()
}

#[tokio::test]
async fn a_swapped_script_a_damaged_part_and_missing_wal_are_refused() {
    let fixture = Fixture::new();
    let members: Vec<_> = (0..4u8).map(|n| (format!("base/{n}"), vec![n; 5000])).collect();
    let (layout, _) = fixture.small_backup("b", &members, 1 << 20).await;
    let fingerprint = fixture.signer.verifier().fingerprint();
    let copy = Copy::of(fixture, layout).await;
    let target = copy.fixture.folder.path().join("target");
    let error = copy.restore(&target, &[&fingerprint]).await.unwrap_err();
    assert!(error.contains("/wal/keys"), "no WAL, no restore: {error}");
    std::fs::remove_dir_all(&target).unwrap();

    let script = copy.backup().join("restore.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, format!("{text}# changed\n")).unwrap();
    let error = copy.restore(&target, &[&fingerprint]).await.unwrap_err();
    assert!(error.contains("restore.sh: FAILED") && !target.exists(), "{error}");
    std::fs::write(&script, text).unwrap();

    let part = copy.backup().join("data/00000.tar.zst.age");
    let mut bytes = std::fs::read(&part).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let error = copy.restore(&target, &[&fingerprint]).await.unwrap_err();
    assert!(error.contains("data/00000.tar.zst.age: FAILED") && !target.exists(), "{error}");
}

/// It would be production's own.
#[tokio::test]
async fn the_script_refuses_a_tablespace_that_the_wal_makes_in_a_folder_in_use() {
    let fixture = Fixture::new();
    let lab = lab_with_rows().await;
    let at_backup = digest(&lab).await;
    let (layout, manifest) = fixture.back_up(&lab, "b").await;
    let space = scratch();
    if let Some(account) = &lab.cluster.account {
        account.own(space.path()).unwrap();
    }
    lab.psql(&format!("create tablespace late location '{}'", space.path().display())).await;
    lab.psql("create table l tablespace late as select 42 as n").await;
    lab.psql("select pg_switch_wal()").await;
    insert(&lab, 20_001, 21_000).await;
    let mut wal = fixture.wal_writer();
    fixture.stream_from(&lab, &mut wal, manifest.start_lsn, 2_500_000).await;
    lab.cluster.stop("immediate").await.unwrap();
    std::fs::remove_dir_all(lab.cluster.folder.join("space")).unwrap();
    let copy = Copy::of(fixture, layout).await;
    let folder = |name: &str| copy.fixture.folder.path().join(name);

    let error = copy.restore(&folder("one/data"), &["latest"]).await.unwrap_err();
    for word in [space.path().to_str().unwrap(), "is not empty", "another machine"] {
        assert!(error.contains(word), "`{word}`: {error}");
    }
    assert!(!folder("one/data/recovery.signal").exists());
    // The backup's own end comes before it.
    copy.restore(&folder("two/data"), &[]).await.unwrap();
    assert_eq!(query_restored(&folder("two"), DIGEST).await.unwrap(), at_backup);
    for entry in std::fs::read_dir(space.path()).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    copy.restore(&folder("three/data"), &["latest"]).await.unwrap();
    assert_eq!(query_restored(&folder("three"), "select n from l").await.unwrap(), "42");
}
