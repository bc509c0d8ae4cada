//! Differentials: each restored over its full backup and compared, with Lifeboat and
//! without, through tables, databases and tablespaces that come and go; files whose
//! times lie; and a full backup that is gone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lifeboat::{clock::Clock, process::Program};
use serde_json::Value;

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, recovered, wallet, wallet_on},
};
use crate::support::{Lab, scratch};

const SOON: Duration = Duration::from_secs(60);

async fn differential(site: &Site) -> Value {
    site.run(&["backup", "wallet", "--kind", "differential"]).await.json(0)
}

fn text<'a>(backup: &'a Value, name: &str) -> &'a str {
    backup[name].as_str().unwrap_or_default()
}

async fn live_bets(lab: &Lab) {
    lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT 7 FROM generate_series(1, 300)").await;
}

/// As if nothing had changed for an hour: what changes from here on does so long after.
async fn aged(lab: &Lab) {
    lab.cluster.stop("fast").await.unwrap();
    let hour_ago = SystemTime::from(Clock::system().now()) - Duration::from_secs(3600);
    for path in super::site::walk(&lab.cluster.data()) {
        if path.is_file() {
            dated(&path, hour_ago);
        }
    }
    lab.cluster.start(SOON).await.unwrap();
}

fn dated(path: &Path, at: SystemTime) {
    std::fs::File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
}

/// Folders for tablespaces.
struct Spaces(tempfile::TempDir);

impl Spaces {
    fn new() -> Self {
        Self(scratch())
    }

    async fn make(&self, lab: &Lab, name: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir(&path).unwrap();
        lab.cluster.account.as_ref().map_or(Ok(()), |account| account.own(&path)).unwrap();
        lab.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", path.display())).await;
    }
}

/// What is there at the full backup.
async fn first(lab: &Lab, spaces: &Spaces) {
    for name in ["near", "far"] {
        spaces.make(lab, name).await;
    }
    lab.psql("CREATE DATABASE gone").await;
    lab.psql_in(
        "wallet",
        "CREATE TABLE in_near (id int, n int) TABLESPACE near;
         INSERT INTO in_near SELECT g, 1 FROM generate_series(1, 5000) g;
         CREATE TABLE in_far (id int) TABLESPACE far;
         CREATE TABLE still AS SELECT g AS id, repeat('s', 80) AS v FROM generate_series(1, 20000) g;
         CREATE TABLE cut AS SELECT g AS id, repeat('c', 80) AS v FROM generate_series(1, 20000) g;
         CREATE TABLE packed AS SELECT g AS id, repeat('p', 80) AS v FROM generate_series(1, 20000) g;
         CREATE TABLE dropped AS SELECT 1 AS id;
         CREATE UNLOGGED TABLE spare AS SELECT g AS id FROM generate_series(1, 1000) g;",
    )
    .await;
}

/// What happens until the first differential, and between it and the second.
async fn live(lab: &Lab, spaces: &Spaces, nth: u32) {
    let sql = format!(
        "INSERT INTO bets (stake) SELECT {nth} FROM generate_series(1, 3000);
         UPDATE bets SET stake = stake + 1 WHERE id % 97 = {nth};
         UPDATE in_near SET n = n + 1 WHERE id % 11 = {nth};
         CREATE TABLE made_{nth} AS SELECT g AS id, repeat('x', 50) AS v FROM generate_series(1, 2000) g;"
    );
    lab.psql_in("wallet", &sql).await;
    if nth == 1 {
        lab.psql_in("wallet", "DROP TABLE dropped; TRUNCATE cut; INSERT INTO cut VALUES (7, 'after'); DELETE FROM packed WHERE id % 3 > 0").await;
        lab.psql_in("wallet", "VACUUM FULL packed").await;
        lab.psql("DROP DATABASE gone").await;
        lab.psql("CREATE DATABASE fresh").await;
    } else {
        lab.psql_in("wallet", "DROP TABLE in_far; DROP TABLE made_1").await;
        lab.psql("DROP TABLESPACE far").await;
        spaces.make(lab, "third").await;
        lab.psql_in("wallet", "CREATE TABLE in_third TABLESPACE third AS SELECT 3 AS id").await;
    }
}

/// The rows of all tables, and which tables, databases and tablespaces there are.
const ALL: &str = "select (select count(*) || md5(string_agg(b::text, ',' order by id)) from bets b)
    || (select count(*) || md5(string_agg(n::text, ',' order by id)) from in_near n)
    || (select count(*) || md5(string_agg(s::text, ',' order by id)) from still s)
    || (select count(*) || md5(string_agg(c::text, ',' order by id)) from cut c)
    || (select count(*) || md5(string_agg(p::text, ',' order by id)) from packed p)
    || (select string_agg(relname, ',' order by relname) from pg_class where relnamespace = 'public'::regnamespace)
    || (select string_agg(datname, ',' order by datname) from pg_database)
    || (select string_agg(spcname, ',' order by spcname) from pg_tablespace)";

/// That, and what an unlogged table is after a restore.
fn all_and_spare(rows: &str) -> (String, String) {
    (format!("select ({ALL}) || ' spare ' || (select count(*) from spare)"), format!("{rows} spare 0"))
}

async fn restored_to_the_rows_of_each(major: u32) {
    let lab = wallet_on(major, "").await;
    let (site, spaces) = (Site::write(lab.port), Spaces::new());
    first(&lab, &spaces).await;
    aged(&lab).await;
    // There is nothing to build upon yet.
    let full = differential(&site).await;
    assert_eq!((text(&full, "kind"), full["parent"].is_null()), ("full", true), "{full}");
    let why = full["findings"][0].as_str().unwrap();
    assert!(why.contains("instead of a differential") && why.contains("holds no sound backup"), "{why}");
    let mut taken = vec![(text(&full, "id").to_owned(), lab.psql_in("wallet", ALL).await)];
    for nth in 1..=2 {
        live(&lab, &spaces, nth).await;
        let rows = lab.psql_in("wallet", ALL).await;
        let backup = differential(&site).await;
        assert_eq!((text(&backup, "kind"), text(&backup, "state")), ("differential", "WAL_COMPLETE"), "{backup}");
        assert_eq!(text(&backup, "parent"), taken[0].0, "upon the full backup, not the differential before");
        assert_eq!(backup["findings"], serde_json::json!([]), "{backup}");
        let bytes = |one: &Value| one["size_bytes"].as_u64().unwrap();
        assert!(bytes(&backup) * 3 < bytes(&full) * 2, "{backup} {full}");
        taken.push((text(&backup, "id").to_owned(), rows));
    }
    let verified = site.run(&["vault", "verify", "wallet", "--full"]).await.json(0);
    assert_eq!(verified["verdict"], "PASS", "{verified}");
    lab.cluster.stop("immediate").await.unwrap();
    // The copy must not lean upon the source's own files.
    drop(spaces);

    for (id, rows) in &taken {
        let data = site.path(&format!("restored {id}"));
        let to = data.to_str().unwrap();
        site.run(&["restore", "wallet", "--to", to, "--backup", id, "--immediate"]).await.json(0);
        assert_eq!(names(&data), named(&site, id), "{id}");
        let (sql, rows) = all_and_spare(rows);
        assert_eq!(recovered(&lab, &data, &sql).await, rows, "{id}");
    }
    by_script(&lab, &site, &taken).await;
    without_its_full_backup(&lab, &site, &taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differentials_are_restored_to_the_rows_of_each() {
    restored_to_the_rows_of_each(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differentials_are_restored_to_the_rows_of_each_on_16() {
    restored_to_the_rows_of_each(16).await;
}

/// Relation files of a restored folder, by the names that PostgreSQL has for them.
fn names(data: &Path) -> BTreeSet<String> {
    let relative = |path: PathBuf| path.strip_prefix(data).unwrap().to_str().unwrap().to_owned();
    let all = super::site::walk(data).into_iter().map(relative);
    let relations = |name: &String| ["base/", "global/", "tblspc/"].iter().any(|folder| name.starts_with(folder));
    all.filter(relations).map(|name| name.replacen("tblspc/", "pg_tblspc/", 1)).collect()
}

/// The same by the backup's own `backup_manifest`.
fn named(site: &Site, id: &str) -> BTreeSet<String> {
    let manifest = std::fs::read(backup_folder(site, id).join("backup_manifest")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["Files"].as_array().unwrap().iter().map(|file| text(file, "Path").to_owned());
    let relations = |name: &String| ["base/", "global/", "pg_tblspc/"].iter().any(|folder| name.starts_with(folder));
    files.filter(relations).collect()
}

fn backup_folder(site: &Site, id: &str) -> PathBuf {
    let manifest = site.files_in("vault").into_iter().find(|path| path.ends_with(format!("{id}/manifest.json")));
    manifest.unwrap().parent().unwrap().to_owned()
}

async fn script(lab: &Lab, site: &Site, id: &str, data: &Path, verify: &str) -> Result<String, String> {
    let program = Program::new("sh").arg(backup_folder(site, id).join("restore.sh")).arg(site.path("identity.age"));
    let verify = if verify.is_empty() { lab.cluster.binaries.path("pg_verifybackup") } else { verify.into() };
    let program = program.arg(data).env("PG_VERIFYBACKUP", verify.to_str().unwrap());
    program.output(Duration::from_secs(120)).await.map_err(|error| error.to_string())
}

/// Without Lifeboat, from each differential's own folder.
async fn by_script(lab: &Lab, site: &Site, taken: &[(String, String)]) {
    for (id, rows) in taken.iter().skip(1) {
        let data = site.path(&format!("by script {id}"));
        script(lab, site, id, &data, "").await.unwrap();
        assert_eq!(names(&data), named(site, id), "{id}");
        let empty = |path: &Path| path.is_dir() && path.read_dir().unwrap().next().is_none();
        let folders = std::fs::read_dir(data.join("base")).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(folders.filter(|path| empty(path)).collect::<Vec<_>>(), Vec::<PathBuf>::new());
        if let Some(account) = &lab.cluster.account {
            let chown = Program::new("chown").arg("-R").arg(&account.name).arg(&data);
            chown.output(SOON).await.unwrap();
        }
        let (sql, rows) = all_and_spare(rows);
        assert_eq!(recovered(lab, &data, &sql).await, rows, "{id}");
    }
    // What pg_verifybackup does not like is not handed over.
    let fails = site.path("fails");
    let version = format!("echo 'pg_verifybackup (PostgreSQL) {}.0'", lab.cluster.binaries.major());
    std::fs::write(&fails, format!("#!/bin/sh\ncase $1 in --version) {version} ;; *) echo unlike; exit 1 ;; esac\n"))
        .unwrap();
    std::fs::set_permissions(&fails, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = script(lab, site, &taken[1].0, &site.path("unlike"), fails.to_str().unwrap()).await.unwrap_err();
    assert!(error.contains("are not those of backup_manifest: unlike"), "{error}");
}

/// The full backup is gone: what is built upon it is no backup any more.
async fn without_its_full_backup(lab: &Lab, site: &Site, taken: &[(String, String)]) {
    let (lost, newest) = (&taken[0].0, &taken[2].0);
    std::fs::remove_dir_all(backup_folder(site, lost)).unwrap();
    let verified = site.run(&["vault", "verify", "wallet", "--quick"]).await;
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.stdout.contains(&format!("builds upon backup `{lost}`")), "{}", verified.stdout);
    let to = site.path("broken");
    let to = to.to_str().unwrap();
    let refused = site.run(&["restore", "wallet", "--to", to, "--backup", newest]).await;
    refused.refused(1, &[newest, lost, "choose another backup"]);
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    assert!(listed.as_array().unwrap().iter().all(|one| one["state"] == "UPLOADED"), "{listed}");
    let plan = site.shown(&["vault", "prune", "wallet"]).await;
    assert!(plan.contains(&format!("{newest} needs {lost}")), "{plan}");
    let error = script(lab, site, newest, &site.path("broken script"), "").await.unwrap_err();
    assert!(error.contains(&format!("backup {lost} is not there")), "{error}");
}

/// Of the file of a table: where it lies, when it was changed, how long it is.
async fn file_of(lab: &Lab, table: &str) -> (PathBuf, SystemTime, u64) {
    let path = lab.psql_in("wallet", &format!("SELECT pg_relation_filepath('{table}')")).await;
    let path = lab.cluster.data().join(path);
    let found = path.metadata().unwrap();
    (path, found.modified().unwrap(), found.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_time_lies_ends_in_a_full_backup() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    aged(&lab).await;
    let first = backed_up(&site).await;
    let (path, modified, length) = file_of(&lab, "bets").await;
    // In place: no page is added.
    lab.psql_in("wallet", "UPDATE bets SET stake = 99 WHERE id = 1").await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    lab.cluster.stop("fast").await.unwrap();
    assert!(path.metadata().unwrap().modified().unwrap() > modified && path.metadata().unwrap().len() == length);
    dated(&path, modified);
    lab.cluster.start(SOON).await.unwrap();
    let backup = differential(&site).await;
    assert_eq!((text(&backup, "kind"), backup["parent"].is_null()), ("full", true), "{backup}");
    assert_eq!((text(&backup, "state"), text(&backup, "verdict")), ("WAL_COMPLETE", "PASS"), "{backup}");
    let why = backup["findings"][0].as_str().unwrap();
    for word in ["instead of a differential", path.file_name().unwrap().to_str().unwrap(), &first] {
        assert!(why.contains(word), "{word}: {why}");
    }
    let id = text(&backup, "id");
    assert!(id.contains("full"), "{id}");
    let half_made = |path: &PathBuf| path.to_string_lossy().contains("differential");
    assert_eq!(site.files_in("vault").into_iter().filter(half_made).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    // The next one is built upon what was taken instead.
    live_bets(&lab).await;
    let rows_after = lab.psql_in("wallet", DIGEST).await;
    let next = differential(&site).await;
    assert_eq!((text(&next, "kind"), text(&next, "parent")), ("differential", id), "{next}");
    restored(&lab, &site, "full", ["--backup", id, "--immediate"], &rows).await;
    restored(&lab, &site, "next", ["--backup", text(&next, "id"), "--immediate"], &rows_after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_taken_of_any_version_and_upon_full_backups_that_carry() {
    let lab = wallet_on(18, "summarize_wal = on").await;
    let site = Site::write(lab.port);
    aged(&lab).await;
    let full = backed_up(&site).await;
    site.run(&["backup", "wallet", "--kind", "incremental"]).await.json(0);
    site.run(&["backup", "wallet", "--standalone"]).await.json(0);
    live_bets(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let backup = differential(&site).await;
    assert_eq!((text(&backup, "kind"), text(&backup, "parent")), ("differential", full.as_str()), "{backup}");
    restored(&lab, &site, "differential", ["--backup", text(&backup, "id"), "--immediate"], &rows).await;
    // And nothing is built upon it.
    let next = site.run(&["backup", "wallet", "--kind", "incremental"]).await.json(0);
    assert_ne!(text(&next, "parent"), text(&backup, "id"), "{next}");
    let verified = site.run(&["vault", "verify", "wallet", "--full"]).await.json(0);
    assert_eq!(verified["verdict"], "PASS", "{verified}");
    let lines = "  - {kind: full, cron: \"0 2 29 2 *\", keep: {yearly: 3}}\n";
    site.edit("schedules/wallet.yaml", lines, &format!("{lines}  - {{kind: differential, cron: \"0 3 29 2 *\"}}\n"));
    let found = site.run(&["check", "--connect"]).await.json(0);
    assert!(found["findings"][0].as_str().unwrap().contains("gives increments, which read and store less"), "{found}");
}
