//! One operator's site: a primary with a least-privilege role, and the folder
//! with everything that the operator wrote.

#![allow(clippy::disallowed_methods, reason = "the program under test is a child of the test itself")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::support::{Lab, eventually, free_port, scratch};

/// Recognisable wherever it should not be.
pub(crate) const PASSWORD: &str = "Pa55-never-to-be-shown-0123456789";
/// No command may take longer; a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(60);

/// The operator's files. Everything lies in one folder that goes with it.
#[derive(Debug)]
pub(crate) struct Site {
    folder: tempfile::TempDir,
    pub(super) api: u16,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(super) code: i32,
    pub(crate) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The one JSON document on standard output, after the exit code that is expected.
    #[track_caller]
    pub(crate) fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One clear error on standard error: exactly one line that holds all of
    /// `words`, tells nothing twice and no password; the same and no result on
    /// standard output.
    #[track_caller]
    pub(super) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let document: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let text = document["error"].as_str().unwrap();
        assert_eq!(self.stderr.trim_end(), format!("lifeboat: {text}"), "a refusal prints no result: {document}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "one error, one line: {}", self.stderr);
        self.tells(words);
    }

    /// Standard error holds all of `words`, and tells nothing twice and no password.
    #[track_caller]
    pub(super) fn tells(&self, words: &[&str]) {
        tells(&self.stderr, words);
    }
}

/// The text holds all of `words`, and tells nothing twice and no password.
#[track_caller]
pub(super) fn tells(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains(PASSWORD), "{text}");
    let mut parts: Vec<&str> = text.split([':', ';', '\n']).map(str::trim).filter(|part| part.len() > 20).collect();
    let all = parts.len();
    parts.sort_unstable();
    parts.dedup();
    assert_eq!(parts.len(), all, "it says something twice: {text}");
}

impl Site {
    /// Writes everything that protects the wallet on `port`.
    pub(crate) fn write(port: u16) -> Self {
        let site = Self { folder: scratch(), api: free_port() };
        for folder in ["schedules", "scratch", "tmp"] {
            fs::create_dir(site.path(folder)).unwrap();
        }
        fs::set_permissions(site.path("scratch"), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let recipients = ["identity.age", "escrow.age"].map(|name| site.new_identity(name));
        site.put_private("wallet.password", PASSWORD);
        site.put("lifeboat.yaml", &site.daemon_yaml(&recipients));
        site.put("schedules/wallet.yaml", &schedule_yaml(port));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn put_private(&self, name: &str, text: &str) {
        self.put(name, text);
        fs::set_permissions(self.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a passage of a file; it must be there.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.text(name);
        assert!(text.contains(from), "`{from}` is not in {name}");
        self.put(name, &text.replace(from, to));
    }

    /// Writes a new age identity and answers its public key.
    pub(super) fn new_identity(&self, name: &str) -> String {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        self.put_private(name, identity.to_string().expose_secret());
        identity.to_public().to_string()
    }

    fn daemon_yaml(&self, recipients: &[String; 2]) -> String {
        let [ours, escrow] = recipients;
        format!(
            r#"node: {{name: test, region: eu-south-1, scratch: scratch}}
state: {{url: "sqlite:lifeboat.db"}}
keys:
  recipients: [{ours}, {escrow}]
  identity: {{file: identity.age}}
  signing: {{file: signing.key}}
vaults:
  primary: {{kind: directory, path: vault, region: eu-south-1, durable: required}}
api: {{listen: "127.0.0.1:{}"}}
"#,
            self.api
        )
    }

    /// Gives the site a further vault, which WAL may lack for a while.
    pub(super) fn add_vault(&self) {
        let more = "durable: required}\n  dr: {kind: directory, path: dr, region: eu-central-1, durable: best_effort}";
        self.edit("lifeboat.yaml", "durable: required}", more);
        self.edit("schedules/wallet.yaml", "vaults: [primary]", "vaults: [primary, dr]");
    }

    /// A command on this site's files, with `--json`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.arg("--json").args(args);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        // Elsewhere than the files, so that what they name is found from them alone.
        command.args([Path::new("--config"), &self.path("lifeboat.yaml")]).current_dir("/").kill_on_drop(true);
        command.env("TMPDIR", self.path("tmp")).env_remove("RUST_LOG").stdin(Stdio::null());
    }

    /// A command as a person gives it, without `--json`; all that it prints.
    pub(super) async fn shown(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(args);
        self.prepare(&mut command);
        let ran = finished(command).await;
        ran.stderr + &ran.stdout
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        finished(self.command(args)).await
    }

    /// A command in a mount namespace of its own, after `setup` has mounted
    /// things there; `after` runs behind it, its output follows on standard output.
    pub(super) async fn run_mounted(&self, setup: &str, args: &[&str], after: &str) -> Ran {
        let mut command = Command::new("unshare");
        let script = format!("{setup}\n\"$@\"; code=$?\n{after}\nexit $code");
        command.args(["--mount", "--propagation=private", "sh", "-eu", "-c"]);
        command.arg(script.replace("\"$@\"; code=$?", "code=0; \"$@\" || code=$?"));
        command.args(["sh", env!("CARGO_BIN_EXE_lifeboat"), "--json"]).args(args);
        self.prepare(&mut command);
        finished(command).await
    }

    /// Starts `lifeboat serve`; its log goes to the file `log`.
    pub(crate) fn serve(&self, args: &[&str]) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command(args);
        command.arg("serve").stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Status and body of what the daemon answers; none while nobody listens.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.api)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// What the daemon answers in JSON.
    pub(super) async fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// All files below a folder of the site.
    pub(crate) fn files_in(&self, folder: &str) -> Vec<PathBuf> {
        walk(&self.path(folder))
    }

    /// No run left anything behind: no object of a backup, no folder of a test.
    #[track_caller]
    pub(super) fn nothing_half_made(&self) {
        let objects: Vec<_> =
            self.files_in("vault").into_iter().filter(|path| path.to_string_lossy().contains("/backups/")).collect();
        assert_eq!(objects, Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(self.path("scratch")).unwrap().count(), 0);
    }
}

/// Starts PostgreSQL on a restored folder, waits until recovery has ended, and
/// answers a query in the wallet; the server is stopped again.
pub(super) async fn recovered(lab: &Lab, data: &Path, sql: &str) -> String {
    let socket = scratch();
    if let Some(account) = &lab.cluster.account {
        account.own(socket.path()).unwrap();
    }
    let program = |name: &str| lab.cluster.binaries.program(name, lab.cluster.account.clone());
    let pg_ctl = |args: &[&str]| program("pg_ctl").arg("-D").arg(data).args(["-w", "-t", "60"]).args(args);
    let options = format!("-k {} -p 5432 -c listen_addresses=", socket.path().display());
    let log = socket.path().join("log");
    pg_ctl(&["-l", log.to_str().unwrap(), "-o", &options, "start"])
        .output(LIMIT)
        .await
        .unwrap_or_else(|error| panic!("{}: {error}: {:?}", data.display(), fs::read_to_string(&log)));
    let ask = async |sql: &str| {
        let psql = program("psql").args(["-X", "-A", "-t", "-q", "-U", "postgres", "-d", "wallet", "-p", "5432", "-h"]);
        psql.arg(socket.path()).args(["-c", sql]).output(LIMIT).await.unwrap_or_default().trim().to_owned()
    };
    let what = format!("{}: recovery ends", data.display());
    let is_over = || async {
        let runs = data.join("postmaster.pid").exists();
        assert!(runs, "{what} by a failure: {}", fs::read_to_string(&log).unwrap());
        ask("SELECT pg_is_in_recovery()").await == "f"
    };
    eventually(&what, LIMIT, is_over).await;
    let answer = ask(sql).await;
    pg_ctl(&["-m", "immediate", "stop"]).output(LIMIT).await.unwrap();
    answer
}

/// Runs a command to its end.
pub(super) async fn finished(mut command: Command) -> Ran {
    let ran = tokio::time::timeout(LIMIT, command.output()).await;
    Ran::of(ran.unwrap_or_else(|_| panic!("longer than {LIMIT:?}: {:?}", command.as_std())).unwrap())
}

pub(super) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

fn schedule_yaml(port: u16) -> String {
    format!(
        r#"database: wallet
engine: postgres
connection: {{host: 127.0.0.1, port: {port}}}
login: {{user: lifeboat, password: {{file: wallet.password}}, sslmode: disable, dbname: wallet}}
objectives: {{rto: 60s, rpo: 15s}}
vaults: [primary]
verify: {{every: 365d, sample: 100%, period: 365d}}
timezone: Europe/Malta
backups:
  - {{kind: full, cron: "0 2 29 2 *", keep: {{yearly: 3}}}}
wal: {{stream: true, window: 31d, flush_every: 1s}}
restore_test:
  cron: "0 5 29 2 *"
  recovery_point: {{algorithm: latest_at_disaster}}
  checks:
    - heartbeat
    - {{sql: "select count(*) > 0 from bets", dbname: wallet, expect: "t"}}
"#
    )
}

/// What makes the rows of two copies equal.
pub(super) const DIGEST: &str = "select count(*) || ' ' || md5(string_agg(b::text, ',' order by id)) from bets b";

/// A primary with the wallet and the role that the README describes.
pub(crate) async fn wallet(extra: &str) -> Lab {
    wallet_on(15, extra).await
}

/// The same on another major version.
pub(super) async fn wallet_on(major: u32, extra: &str) -> Lab {
    wallet_in(Lab::start_major(major, extra).await).await
}

/// Makes the wallet in a primary.
pub(super) async fn wallet_in(lab: Lab) -> Lab {
    furnish(&lab).await;
    lab
}

/// Makes the wallet and its role in a cluster that has neither.
pub(super) async fn furnish(lab: &Lab) {
    lab.let_in("lifeboat").await;
    lab.psql("CREATE DATABASE wallet").await;
    lab.psql_in("wallet", &crate::readme::role_sql(PASSWORD)).await;
    lab.psql_in("wallet", WALLET).await;
}

pub(crate) const WALLET: &str = "
CREATE TABLE bets (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stake numeric(12,2) NOT NULL);
INSERT INTO bets (stake) SELECT n % 50 FROM generate_series(1, 2000) AS n;";
