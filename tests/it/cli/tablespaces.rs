//! Tablespaces that are made after the backup: the WAL brings them back in
//! production's own folder, which no restore on that machine may touch.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lifeboat::clock::Clock;
use sha2::{Digest, Sha256};

use super::{
    journey::{backed_up, bet, restored, streaming},
    points::is_held,
    site::{DIGEST, Site, recovered, tells, walk, wallet},
};
use crate::support::{Lab, eventually, scratch};

const SOON: Duration = Duration::from_secs(60);
const IN_SPACE: &str = "SELECT count(*) || ' ' || sum(n) FROM in_space";

/// Folders for tablespaces, of the server's account.
fn folders(lab: &Lab, root: &Path) -> [PathBuf; 2] {
    ["space", "gone"].map(|name| {
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap();
        lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&folder)).unwrap();
        folder
    })
}

/// All that is in a folder, bit for bit.
fn content(folder: &Path) -> Vec<(PathBuf, String)> {
    let digest = |path: PathBuf| {
        let digest = hex::encode(Sha256::digest(fs::read(&path).unwrap()));
        (path, digest)
    };
    let mut found: Vec<_> = walk(folder).into_iter().map(digest).collect();
    found.sort();
    found
}

/// A table in a tablespace of its own, to which the server writes no more by itself.
async fn make_space(lab: &Lab, space: &Path) {
    lab.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display())).await;
    let table = "CREATE TABLE in_space (n int) WITH (autovacuum_enabled = off) TABLESPACE space";
    lab.psql_in("wallet", table).await;
    lab.psql_in("wallet", "INSERT INTO in_space SELECT generate_series(1, 20000)").await;
    lab.psql_in("wallet", "VACUUM (FREEZE) in_space").await;
    lab.psql("CHECKPOINT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_the_wal_makes_never_touches_productions_folder() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let root = scratch();
    let [space, gone] = folders(&lab, root.path());
    let first = backed_up(&site).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    lab.psql(&format!("CREATE TABLESPACE gone LOCATION '{}'", gone.display())).await;
    lab.psql("DROP TABLESPACE gone").await;
    bet(&lab, 1).await;
    let (at, rows) = (Clock::system().now().to_string(), lab.psql_in("wallet", DIGEST).await);
    let next = lab.psql_in("wallet", "WITH b AS (INSERT INTO bets (stake) VALUES (7)) SELECT pg_current_xact_id()");
    let xid = next.await;
    lab.psql("SELECT pg_create_restore_point('noon')").await;
    let before = lab.psql_in("wallet", DIGEST).await;
    let second = backed_up(&site).await;
    make_space(&lab, &space).await;
    bet(&lab, 2).await;
    is_held(&lab, &site).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    let unchanged = content(&space);
    assert!(!unchanged.is_empty());

    let lsn = refused(&site, &space).await;
    assert_eq!(content(&space), unchanged);
    let to = site.path("older");
    let older = site.run(&["restore", "wallet", "--to", to.to_str().unwrap(), "--backup", &first]).await;
    older.refused(2, &[&lsn, "is not empty"]);
    restored(&lab, &site, "at", ["--at", &at], &rows).await;
    let behind_second = ["--lsn", &lsn, "--exclusive", "--backup", &second];
    restored(&lab, &site, "exclusive", behind_second, &before).await;
    for point in [["--xid", &xid], ["--name", "noon"]] {
        let to = site.path(point[0]);
        let told = site.run(&[&["restore", "wallet", "--to", to.to_str().unwrap()][..], &point].concat()).await.json(0);
        let wanted = &told["new_tablespaces"];
        assert_eq!(
            (&wanted[0]["path"], &wanted[0]["exists"]),
            (&gone.to_str().unwrap().into(), &true.into()),
            "{told}"
        );
        assert_eq!((wanted.as_array().unwrap().len(), &told["backup"]["id"]), (1, &first.clone().into()), "{told}");
    }
    let to = site.path("shown");
    let shown = site.shown(&["restore", "wallet", "--to", to.to_str().unwrap(), "--name", "noon"]).await;
    tells(&shown, &["Before it is started, the folder", gone.to_str().unwrap(), "it is there, and empty"]);
    elsewhere(&site, root.path()).await;
    assert_eq!(content(&space), unchanged);

    tested(&site, &space).await;
    assert_eq!(content(&space), unchanged, "an isolated copy wrote to production's tablespace");
    assert_eq!(lab.psql_in("wallet", IN_SPACE).await, "20000 200010000");

    let third = backed_up(&site).await;
    let to = site.path("behind");
    let told = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await.json(0);
    assert_eq!((told["backup"]["id"].as_str(), &told["new_tablespaces"]), (Some(&*third), &serde_json::json!([])));
    assert_eq!(recovered(&lab, &to, IN_SPACE).await, "20000 200010000");
    let links: Vec<_> = fs::read_dir(to.join("pg_tblspc")).unwrap().map(|link| link.unwrap().path()).collect();
    assert!(links.len() == 1 && links[0].canonicalize().unwrap().starts_with(&to), "{links:?}");
    assert_eq!(site.run(&["restore-test", "wallet", "--latest"]).await.json(0)["verdict"], "PASS");
    let apart = site.run_mounted(NO_NAMESPACES, &["restore-test", "wallet", "--latest"], "").await.json(3);
    assert_eq!(
        (&apart["verdict"], apart["isolation"][0]["verdict"].as_str()),
        (&"INCONCLUSIVE".into(), Some("INCONCLUSIVE"))
    );
    assert_eq!(content(&space), unchanged);
}

/// To the latest state on production's machine. Answers where the WAL makes it.
async fn refused(site: &Site, space: &Path) -> String {
    let to = site.path("refused");
    let ran = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await;
    ran.refused(2, &[space.to_str().unwrap(), "is not empty", "another machine", "--exclusive", "--backup ID"]);
    assert!(!to.exists());
    let lsn = ran.stderr.split_once("`--lsn ").unwrap().1.split_once(' ').unwrap().0;
    lsn.to_owned()
}

/// Where production's folders are not there, or are there and empty.
async fn elsewhere(site: &Site, root: &Path) {
    let root = root.display();
    for (setup, exists) in [("", false), ("mkdir \"$root/space\"", true)] {
        let setup = format!("root='{root}'; mount -t tmpfs tmpfs \"$root\"\n{setup}");
        let to = site.path(&format!("elsewhere {exists}"));
        let told = site.run_mounted(&setup, &["restore", "wallet", "--to", to.to_str().unwrap()], "").await.json(0);
        let wanted: Vec<_> = told["new_tablespaces"].as_array().unwrap().iter().map(|one| &one["exists"]).collect();
        assert_eq!(wanted, [exists], "{told}");
    }
}

/// Takes the program away that makes them.
const NO_NAMESPACES: &str = "mount --bind /bin/false \"$(command -v unshare)\"";

/// In isolation, where production's tablespace is on the file system of the rest, and
/// where it has one of its own; and where the system isolates nothing.
async fn tested(site: &Site, space: &Path) {
    let space = space.to_str().unwrap();
    for setup in [String::new(), format!("mount --bind '{space}' '{space}'")] {
        let ran = site.run_mounted(&setup, &["restore-test", "wallet", "--latest"], "").await;
        assert_eq!(ran.code, 1, "{ran:?}");
        let words = ["the WAL makes a tablespace in", "which an isolated copy cannot have; take a full backup"];
        for word in words.iter().chain([&space]) {
            assert!((ran.stderr.clone() + &ran.stdout).contains(word), "{word}: {ran:?}");
        }
    }
    let ran = site.run_mounted(NO_NAMESPACES, &["restore-test", "wallet", "--latest"], "").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let words = ["the WAL makes a tablespace in", space, "keep the copy from writing there", "take a full backup"];
    tells(&(ran.stderr + &ran.stdout), &words);
}
