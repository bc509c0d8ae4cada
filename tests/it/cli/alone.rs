//! Nothing is left but a vault and an identity: no lifeboat.yaml, no schedule, no
//! daemon, no state database, no signing key. And what a vault has lost is named.

#![allow(clippy::disallowed_methods, reason = "the program under test is a child of the test itself")]

use lifeboat::{clock::Clock, domain::Lsn, vault::signature::Signer};
use tokio::process::{Child, Command};

use super::{
    journey::{backed_up, streaming},
    site::{DIGEST, Ran, Site, finished, recovered, wallet},
    streaming::{SOON, bet, caught_up},
};
use crate::support::{
    Lab, eventually,
    moto::{KEY_ID, Kind, Moto, REGION, SECRET},
    moved, scratch,
};

pub(super) async fn ended(daemon: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(daemon.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().await.unwrap().success());
}

/// The program in an empty folder that is its own, with nothing of ours around.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(scratch())
    }

    async fn restore(&self, args: &[&str], envs: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(["--json", "restore", "wallet", "--to", "restored"]).args(args);
        command.current_dir(self.0.path()).env("HOME", self.0.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(envs.iter().copied()).kill_on_drop(true);
        finished(command).await
    }

    /// What was restored, which goes away again.
    async fn rows(&self, lab: &Lab) -> String {
        let rows = recovered(lab, &self.0.path().join("restored"), DIGEST).await;
        std::fs::remove_dir_all(self.0.path().join("restored")).unwrap();
        rows
    }

    #[track_caller]
    fn is_empty(&self) {
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), 0);
    }
}

/// One that was streamed to its end, and is gone.
struct Lost {
    lab: Lab,
    site: Site,
    backup: String,
    /// A transaction, when it was committed, and the rows before it and with it.
    xid: String,
    at: String,
    before: String,
    with: String,
    /// A segment behind it, and points behind that.
    middle: String,
    later_xid: String,
    later_lsn: String,
    latest: String,
    fingerprint: String,
}

impl Lost {
    async fn new() -> Self {
        let lab = wallet("track_commit_timestamp = on").await;
        let site = Site::write(lab.port);
        let backup = backed_up(&site).await;
        let mut daemon = site.serve(&[]);
        eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
        let spend = "WITH bet AS (INSERT INTO bets (stake) VALUES (7)) SELECT pg_current_xact_id()::text";
        let rows = async || lab.psql_in("wallet", DIGEST).await;
        let before = rows().await;
        let xid = lab.psql_in("wallet", spend).await;
        let with = rows().await;
        let utc = "AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";
        let at = lab.psql(&format!("SELECT to_char(pg_xact_commit_timestamp('{xid}'::xid) {utc})")).await;
        bet(&lab, 10).await;
        lab.psql("SELECT pg_switch_wal()").await;
        bet(&lab, 10).await;
        let middle = lab.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await;
        lab.psql("SELECT pg_switch_wal()").await;
        bet(&lab, 10).await;
        let later_xid = lab.psql_in("wallet", spend).await;
        lab.psql("SELECT pg_create_restore_point('later')").await;
        let later_lsn = lab.psql("SELECT pg_current_wal_insert_lsn()").await;
        bet(&lab, 10).await;
        let latest = rows().await;
        caught_up(&lab, &site).await;
        ended(&mut daemon).await;
        lab.cluster.stop("immediate").await.unwrap();
        let fingerprint = Signer::load_or_create(&site.path("signing.key")).unwrap().0.verifier().fingerprint();
        Self { lab, site, backup, xid, at, before, with, middle, later_xid, later_lsn, latest, fingerprint }
    }

    fn vault(&self) -> String {
        self.site.path("vault").display().to_string()
    }

    /// The identity that lay in the safe.
    fn identity(&self) -> String {
        self.site.path("escrow.age").display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_and_an_identity_are_enough_and_what_is_lost_is_named() {
    let (lost, machine) = (Lost::new().await, Machine::new());
    let (vault, identity, fingerprint) = (lost.vault(), lost.identity(), lost.fingerprint.as_str());
    let given = ["--vault", &vault, "--identity", &identity, "--signed-by", fingerprint];
    let restore = async |args: &[&str]| machine.restore(&[&given[..], args].concat(), &[]).await;
    for (args, rows) in [
        (&["--latest"][..], &lost.latest),
        (&["--at", &lost.at], &lost.with),
        (&["--at", &lost.at, "--exclusive"], &lost.before),
        (&["--xid", &lost.xid], &lost.with),
        (&["--xid", &lost.xid, "--exclusive"], &lost.before),
    ] {
        restore(args).await.json(0);
        assert_eq!(machine.rows(&lost.lab).await, *rows, "{args:?}");
    }
    machine.is_empty();
    for args in [&["--latest", "--exclusive"][..], &["--name", "later", "--exclusive"], &["--exclusive"]] {
        restore(args).await.refused(2, &["`--exclusive`", "`--at`, `--lsn` or `--xid`"]);
    }
    // Behind the last commit, before the end of time.
    let now = Clock::system().now().to_string();
    let bounds =
        ["no commit is held that is later", "the oldest recovery point is", "with the last commit at", "`--latest`"];
    restore(&["--at", &now]).await.refused(2, &bounds);
    incomplete(&lost, &machine).await;
    a_gap(&lost, &machine, &given).await;
    machine.is_empty();
}

/// Each thing that is not given, or of no use, is one sentence.
async fn incomplete(lost: &Lost, machine: &Machine) {
    let (vault, identity, fingerprint) = (lost.vault(), lost.identity(), lost.fingerprint.as_str());
    lost.site.new_identity("stranger.age");
    let stranger = lost.site.path("stranger.age").display().to_string();
    let missing = lost.site.path("missing").display().to_string();
    let empty = lost.site.path("tmp").display().to_string();
    for (args, words) in [
        (&["--vault", &vault, "--signed-by", fingerprint][..], &["`--identity FILE`"][..]),
        (&["--vault", &vault, "--identity", &missing], &["--identity", "missing", "put it there"]),
        (&["--vault", &vault, "--identity", &stranger, "--signed-by", fingerprint], &["none of the given identities"]),
        (&["--vault", &vault, "--identity", &identity], &["belongs to the key", fingerprint, "DR kit", "--signed-by"]),
        (&["--vault", &missing, "--identity", &identity], &["there is no folder", "missing"]),
        (&["--vault", &empty, "--identity", &identity], &["`vault.json` is not there"]),
        (&["--vault", &vault, "--identity", &identity, "--region", REGION], &["`--region`", &vault, "leave it out"]),
        (&["--vault", "s3://backups", "--identity", &identity], &["`--region`", "`backups`"]),
        (
            &[
                "--vault",
                "s3://backups",
                "--region",
                REGION,
                "--endpoint",
                "http://127.0.0.1:9",
                "--identity",
                &identity,
            ],
            &["no credentials for `backups`", "`AWS_ACCESS_KEY_ID`", "`AWS_PROFILE`"],
        ),
        (&["--latest"], &["there is no", "lifeboat.yaml", "`--vault ADDRESS --identity FILE`"]),
        (&["--vault", "ftp://backups", "--identity", &identity], &["ftp://backups", "s3://BUCKET/PREFIX"]),
        (&["--identity", &identity], &["`--identity`", "`--vault ADDRESS`"]),
    ] {
        machine.restore(args, &[]).await.refused(2, words);
        machine.is_empty();
    }
    let to = lost.site.path("mistyped").display().to_string();
    let given = ["--vault", &vault, "--identity", &identity, "--signed-by", fingerprint];
    let mistyped = lost.site.run(&[&["restore", "walet", "--to", &to][..], &given].concat()).await;
    mistyped.refused(2, &["holds no backup of `walet`", "it holds databases: wallet"]);
    // Signed by somebody else, nothing in it is a backup.
    let other = format!("SHA256:{}", "A".repeat(43));
    let args = ["--vault", &vault, "--identity", &identity, "--signed-by", &other];
    let told = machine.restore(&args, &[]).await;
    assert_eq!(told.code, 1, "{told:?}");
    told.tells(&["holds no backup of `wallet` that can be believed", "the fingerprint in the DR kit"]);
    // What is given by mistake may be secret.
    let private = lost.site.path("signing.key");
    let args = ["--vault", &vault, "--identity", &identity, "--signed-by", private.to_str().unwrap()];
    let told = machine.restore(&args, &[]).await;
    told.refused(2, &["cannot trust", "no OpenSSH Ed25519 public key"]);
    assert!(!told.stderr.contains("PRIVATE KEY"), "{told:?}");
    machine.is_empty();
}

/// A segment in the middle is lost: no point behind it, and each that lies before it.
async fn a_gap(lost: &Lost, machine: &Machine, given: &[&str]) {
    let restore = async |args: &[&str]| machine.restore(&[given, args].concat(), &[]).await;
    let held = |name: &str| -> Vec<std::path::PathBuf> {
        let files = lost.site.files_in("vault").into_iter();
        files.filter(|path| path.to_string_lossy().contains(&format!("/{name}"))).collect()
    };
    let remove = |name: &str| held(name).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    remove(&lost.middle);
    let now = Clock::system().now().to_string();
    let gap = ["from", "on is missing", &lost.backup, "the oldest recovery point"];
    for args in [&["--latest"][..], &["--backup", &lost.backup], &["--lsn", &lost.later_lsn]] {
        restore(args).await.refused(1, &gap);
    }
    restore(&["--at", &now]).await.refused(1, &[&gap[..], &["the last commit before it is of"]].concat());
    for args in [["--xid", &lost.later_xid], ["--name", "later"]] {
        restore(&args).await.refused(2, &["is nowhere in the WAL", "WAL is missing from", "the newest lies before"]);
    }
    restore(&["--at", &lost.at]).await.json(0);
    assert_eq!(machine.rows(&lost.lab).await, lost.with);
    // What the backup itself needs.
    let listed = lost.site.run(&["backups"]).await.json(0);
    let start: Lsn = listed[0]["start_lsn"].as_str().unwrap().parse().unwrap();
    remove(&format!("00000001{:016X}", start.0 >> 24));
    for args in [&["--immediate"][..], &["--at", &lost.at], &["--xid", &lost.xid], &["--backup", &lost.backup]] {
        restore(args).await.refused(1, &gap[1..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_and_an_identity_are_enough() {
    let moto = Moto::start().await;
    let client = moto.bucket("backups", Kind::Plain).await;
    let (lost, machine) = (Lost::new().await, Machine::new());
    let vault = lost.site.path("vault");
    for file in lost.site.files_in("vault") {
        let key = format!("prod/{}", file.strip_prefix(&vault).unwrap().display());
        let body = std::fs::read(&file).unwrap().into();
        client.put_object().bucket("backups").key(key).body(body).send().await.unwrap();
    }
    moved(&vault, lost.site.path("gone"));
    let (identity, fingerprint) = (lost.identity(), lost.fingerprint.as_str());
    let given =
        ["--vault", "s3://backups/prod", "--region", REGION, "--endpoint", &moto.endpoint, "--identity", &identity];
    let envs = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    machine.restore(&given, &envs).await.refused(2, &["belongs to the key", fingerprint, "DR kit"]);
    let signed = [&given[..], &["--signed-by", fingerprint]].concat();
    machine.restore(&signed, &envs).await.json(0);
    assert_eq!(machine.rows(&lost.lab).await, lost.latest);
    machine.is_empty();
}
