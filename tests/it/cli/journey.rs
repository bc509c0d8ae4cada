//! From the first look to a running copy: backups of a live primary, then
//! restores to every kind of point with the primary and the state database gone.

use std::{path::Path, time::Duration};

use lifeboat::{clock::Clock, domain::Lsn, vault::signature::Signer};
use serde_json::Value;

use super::site::{DIGEST, PASSWORD, Site, recovered, wallet};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Rows at the points that are restored later, and how to name the points.
pub(super) struct Points {
    pub(super) first_backup: String,
    pub(super) at_first_backup: String,
    pub(super) at_lsn: (String, String),
    pub(super) at_time: (String, String),
    pub(super) latest: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_to_every_kind_of_point_without_primary_and_state() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    let looked = site.run(&["check", "--connect"]).await.json(0);
    assert_eq!(looked["problems"], serde_json::json!([]));
    assert_eq!(site.run(&["backups"]).await.json(0), serde_json::json!([]), "no backup yet");
    refused_while_nothing_is_there(&site).await;
    let first = backed_up(&site).await;
    let points = lived(&lab, &site, first).await;
    lab.cluster.stop("fast").await.unwrap();
    for entry in std::fs::read_dir(site.path("")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().contains(".db") {
            std::fs::remove_file(path).unwrap();
        }
    }
    tokio::join!(
        restored(&lab, &site, "latest", ["--latest"], &points.latest),
        restored(&lab, &site, "lsn", ["--lsn", &points.at_lsn.0], &points.at_lsn.1),
        restored(&lab, &site, "time", ["--at", &points.at_time.0], &points.at_time.1),
    );
    let first = &points.first_backup;
    tokio::join!(
        restored(&lab, &site, "immediate", ["--immediate", "--backup", first], &points.at_first_backup),
        restored(&lab, &site, "old backup", ["--backup", first], &points.latest),
    );
    assert!(!site.path("lifeboat.db").exists(), "a restore needs no state");
    refused(&site, first).await;
    nothing_tells_the_password(&site);
}

async fn refused_while_nothing_is_there(site: &Site) {
    let to = site.path("nothing");
    let ran = site.run(&["restore", "wallet", "--to", to.to_str().unwrap()]).await;
    // A restoring node needs the key that its backups were signed with.
    ran.refused(1, &["vault `primary`: there is no vault", "take the first backup with `lifeboat backup`"]);
    assert!(!to.exists());
}

/// Takes a backup and answers its id.
pub(super) async fn backed_up(site: &Site) -> String {
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    assert_eq!(backup["database"], "wallet");
    assert_eq!(backup["kind"], "full");
    assert_eq!(backup["state"], "WAL_COMPLETE");
    assert_eq!(backup["parent"], Value::Null);
    assert_eq!(backup["verdict"], "PASS");
    let lsn = |name: &str| backup[name].as_str().unwrap().parse::<Lsn>().unwrap();
    assert!(lsn("start_lsn") < lsn("stop_lsn"));
    let instant = |name: &str| backup[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(instant("started_at") < instant("finished_at"));
    let bytes = |name: &str| backup[name].as_u64().unwrap();
    assert!(bytes("size_bytes") > 10_000_000 && bytes("stored_bytes") < bytes("size_bytes"), "{backup}");
    assert!(backup["evidence"]["index"].is_u64() && backup["evidence"]["leaf_hash"].is_string(), "{backup}");
    let listed = site.run(&["backups", "wallet"]).await.json(0);
    let entry = listed.as_array().unwrap().iter().find(|listed| listed["id"] == backup["id"]).unwrap();
    for name in ["database", "kind", "state", "started_at", "finished_at", "size_bytes", "stored_bytes", "start_lsn"] {
        assert_eq!(entry[name], backup[name], "{name}");
    }
    backup["id"].as_str().unwrap().to_owned()
}

/// The wallet lives on while the daemon streams, and is backed up once more.
pub(super) async fn lived(lab: &Lab, site: &Site, first_backup: String) -> Points {
    let at_first_backup = lab.psql_in("wallet", DIGEST).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || async { streaming(site).await }).await;
    bet(lab, 10).await;
    let lsn = lab.psql("SELECT pg_current_wal_insert_lsn()").await;
    let at_lsn = (lsn, lab.psql_in("wallet", DIGEST).await);
    bet(lab, 20).await;
    let at_time = (Clock::system().now().to_string(), lab.psql_in("wallet", DIGEST).await);
    bet(lab, 30).await;
    backed_up(site).await;
    bet(lab, 40).await;
    let latest = lab.psql_in("wallet", DIGEST).await;
    let end: Lsn = lab.psql("SELECT pg_current_wal_insert_lsn()").await.parse().unwrap();
    eventually("the vault has the last bet", SOON, || async {
        let status = site.get_json("/api/v1/status").await;
        let held = status["databases"][0]["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse().ok());
        held.is_some_and(|held: Lsn| held > end)
    })
    .await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id().unwrap().try_into().unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(daemon.wait().await.unwrap().success());
    Points { first_backup, at_first_backup, at_lsn, at_time, latest }
}

pub(super) async fn streaming(site: &Site) -> bool {
    let Some((200, body)) = site.get("/api/v1/status").await else { return false };
    let status: Value = serde_json::from_str(&body).unwrap();
    status["databases"][0]["wal_streaming"]["state"] == "streaming"
}

pub(super) async fn bet(lab: &Lab, stake: u32) {
    lab.psql_in("wallet", &format!("INSERT INTO bets (stake) SELECT {stake} FROM generate_series(1, 100)")).await;
}

/// Restores, starts PostgreSQL on the folder, and finds exactly the rows of that point.
pub(super) async fn restored<const N: usize>(lab: &Lab, site: &Site, name: &str, target: [&str; N], rows: &str) {
    let data = site.path(&format!("restored {name}"));
    let args = [&["restore", "wallet", "--to", data.to_str().unwrap()][..], &target[..]].concat();
    let told = site.run(&args).await.json(0);
    assert_eq!(told["vault"], "primary", "{told}");
    assert_eq!(recovered(lab, &data, DIGEST).await, rows, "{name}");
}

/// What cannot be restored is refused with one sentence, and leaves nothing.
async fn refused(site: &Site, backup: &str) {
    let to = site.path("refused");
    let try_with = async |args: &[&str]| {
        site.run(&[&["restore", "wallet", "--to", to.to_str().unwrap()][..], args].concat()).await
    };
    let bounds = ["the oldest recovery point is", backup, "the newest lies before LSN"];
    let future = (Clock::system().now() + jiff::SignedDuration::from_hours(1)).to_string();
    try_with(&["--at", &future]).await.refused(2, &bounds);
    try_with(&["--at", "2001-01-01T00:00:00Z"]).await.refused(2, &bounds);
    try_with(&["--lsn", "FF/0"]).await.refused(2, &bounds);
    try_with(&["--at", "2026-11-21 14:05:00"]).await.refused(2, &["2026-11-21 14:05:00", "with a zone"]);
    let unknown = "20010101t000000z-full-0000";
    try_with(&["--backup", unknown]).await.refused(2, &[unknown, "lifeboat backups"]);
    try_with(&["--from", "elsewhere"]).await.refused(2, &["elsewhere", "it has: primary"]);
    assert!(!to.exists());
    let ran = site.run(&["restore", "walet", "--to", to.to_str().unwrap()]).await;
    ran.refused(2, &["`walet`", "there are: wallet"]);
    // An empty folder stays, and stays empty; a folder with something in it is
    // not touched, whatever else is wrong.
    std::fs::create_dir(&to).unwrap();
    try_with(&["--at", &future]).await.refused(2, &bounds);
    assert_eq!(entries(&to), 0);
    std::fs::write(to.join("precious"), "mine").unwrap();
    for target in [&["--latest"][..], &["--at", &future], &["--backup", unknown]] {
        try_with(target).await.refused(2, &["is not empty", to.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(to.join("precious")).unwrap(), "mine");
    }
    std::fs::remove_file(to.join("precious")).unwrap();
    // Identities: none, one that is no recipient, one that is not there.
    let written = site.text("lifeboat.yaml");
    site.new_identity("stranger.age");
    site.edit("lifeboat.yaml", "{file: identity.age}", "{file: stranger.age}");
    try_with(&[]).await.refused(2, &["none of the given identities opens"]);
    assert_eq!(entries(&to), 0, "what was restored so far is removed");
    site.edit("lifeboat.yaml", "{file: stranger.age}", "{file: missing.age}");
    try_with(&[]).await.refused(2, &["keys.identity", "missing.age"]);
    site.edit("lifeboat.yaml", "  identity: {file: missing.age}\n", "");
    try_with(&[]).await.refused(2, &["schedules/wallet.yaml:", "a restore test needs an age identity"]);
    let schedule = site.text("schedules/wallet.yaml");
    site.put("schedules/wallet.yaml", schedule.split_once("restore_test:").unwrap().0);
    try_with(&[]).await.refused(2, &["holds no age identity", "keys"]);
    site.put("schedules/wallet.yaml", &schedule);
    assert_eq!(entries(&to), 0);
    site.put("lifeboat.yaml", &written);
    // Without the key that they are signed with, nothing in the vault is believed.
    let (signer, _) = Signer::load_or_create(&site.path("signing.key")).unwrap();
    let fingerprint = signer.verifier().fingerprint();
    std::fs::remove_file(site.path("signing.key")).unwrap();
    try_with(&[]).await.refused(2, &["signing key", "signing.key", "--signed-by"]);
    try_with(&["--signed-by", "SHA256:nonsense"]).await.refused(2, &["SHA256:nonsense", "fingerprint"]);
    // Its fingerprint is enough, and the server's password is not needed.
    std::fs::remove_file(site.path("wallet.password")).unwrap();
    try_with(&["--signed-by", &fingerprint]).await.json(0);
    assert!(to.join("PG_VERSION").exists());
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn nothing_tells_the_password(site: &Site) {
    for path in site.files_in("vault").into_iter().chain([site.path("log")]) {
        let content = std::fs::read(&path).unwrap();
        let holds = content.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
        assert!(!holds, "{} holds the password", path.display());
    }
}
