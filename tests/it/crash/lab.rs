//! An estate like the demo's, with a daemon that can be killed, or with WAL and
//! heartbeats kept going by the test itself. The test submits runs and reads states
//! through the same state database, as any command does.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lifeboat::{
    app::{App, Role},
    cli::demo::estate::{ADDRESSES, Estate, SITES},
    clock::Clock,
    config,
    db::{Db, evidence, heartbeats},
    domain::{BackupKind, DatabaseName, RecoveryTarget, RunId, SegmentSize, with_causes},
    flow::{NewRun, RunState, RunSummary},
    flows::{backup, drill, restore_test},
    process::{Program, Tasks},
    tasks,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::witness::Witness;
use crate::{demo::processes_of, support::eventually};

/// So that a crash is over soon; long enough for a busy machine to keep it.
const LEASE: &str = "2s";
/// No run takes longer here, disturbed or not.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Lab {
    pub(super) estate: Estate,
    pub(super) app: Arc<App>,
    daemon: Option<tokio::process::Child>,
    protecting: Option<Tasks>,
    witness: Option<Witness>,
}

/// What a test that failed leaves behind.
impl Drop for Lab {
    fn drop(&mut self) {
        for (pid, _) in processes_of(self.estate.folder()) {
            // One that has ended by itself is what we want.
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _gone = std::fs::remove_dir_all(self.estate.folder());
    }
}

pub(super) fn wallet() -> DatabaseName {
    "wallet".parse().unwrap()
}

/// Changes a file of the estate; answers what it says now.
pub(super) fn edit(folder: &Path, name: &str, changes: &[(&str, &str)]) -> String {
    let file = folder.join(name);
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{name} has no {old}");
        text = text.replace(old, new);
    }
    std::fs::write(&file, &text).unwrap();
    text
}

/// Every file below a folder, which may come and go meanwhile.
pub(super) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { &mut folders } else { &mut files }.push(entry.path());
        }
    }
    files
}

/// `one` for `other` and the other way round.
pub(super) fn swapped(text: &str, one: &str, other: &str) -> String {
    text.replace(one, "\u{0}").replace(other, one).replace('\u{0}', other)
}

impl Lab {
    /// Servers, files and an app that submits and looks; no daemon yet.
    pub(super) async fn start(role: Role) -> Self {
        Self::start_with(role, |_| {}).await
    }

    /// The same with files that were changed in the estate's folder.
    pub(super) async fn start_with(role: Role, change: impl FnOnce(&Path)) -> Self {
        Self::start_planned(Estate::plan().unwrap(), role, change).await
    }

    /// The same with another estate than the demo's.
    pub(super) async fn start_planned(estate: Estate, role: Role, change: impl FnOnce(&Path)) -> Self {
        estate.password().unwrap();
        estate.write_files().unwrap();
        estate.start_servers().await.unwrap();
        Self::hasten(&estate);
        change(estate.folder());
        let app = App::open(config::load(&estate.config_file()).unwrap(), Clock::system(), role).await.unwrap();
        Self { estate, app, daemon: None, protecting: None, witness: None }
    }

    /// Takes over what was edited in the files.
    pub(super) async fn reopen(&mut self) {
        let estate = config::load(&self.estate.config_file()).unwrap();
        self.app = App::open(estate, Clock::system(), Role::WithoutDns).await.unwrap();
    }

    /// Keeps WAL and heartbeats going in this process, as a node beside the one that is killed.
    pub(super) fn protect(&mut self) {
        let tasks = Tasks::new();
        tasks::protect(&self.app, &tasks);
        self.protecting = Some(tasks);
    }

    pub(super) async fn unprotect(&mut self) {
        if let Some(tasks) = self.protecting.take() {
            tasks.shut_down().await;
        }
    }

    /// From now on somebody looks whether two servers take writes; the end tells.
    pub(super) fn watch_primaries(&mut self) {
        self.witness = Some(Witness::start(self));
    }

    /// Short lease and hold, and a runbook for the way back.
    fn hasten(estate: &Estate) {
        let edit = |name: &str, changes: &[(&str, &str)]| edit(estate.folder(), name, changes);
        // Nothing that nobody asked for: a daemon catches up on what was due while it was down.
        let rarely = "database: wallet\nverify: {every: 365d, sample: 100%, period: 365d}\n";
        let schedule = [("0 2 * * *", "0 2 29 2 *"), ("0 5 1 * *", "0 5 29 2 *"), ("database: wallet\n", rarely)];
        edit("schedules/wallet.yaml", &schedule);
        edit("lifeboat.yaml", &[("scratch: scratch", &format!("scratch: scratch, lease: {LEASE}"))]);
        let there = edit("runbooks/wallet-switchover.yaml", &[("hold: 5s", "hold: 500ms"), ("5m", "30s")]);
        let back = swapped(&there, SITES[0], SITES[1]).replace("wallet-switchover", "wallet-switchback");
        let back = back.replace("-a]", "-b]").replace(&ADDRESSES[1].to_string(), &ADDRESSES[0].to_string());
        std::fs::write(estate.folder().join("runbooks/wallet-switchback.yaml"), back).unwrap();
        for name in ["fence", "release", "rejoin"] {
            let script = std::fs::read_to_string(estate.folder().join(format!("{name}-a"))).unwrap();
            Self::script_in(estate, &format!("{name}-b"), &swapped(&script, SITES[0], SITES[1]));
        }
    }

    fn script_in(estate: &Estate, name: &str, text: &str) -> PathBuf {
        let path = estate.folder().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// An executable file in the estate's folder.
    pub(super) fn script(&self, name: &str, body: &str) -> PathBuf {
        Self::script_in(&self.estate, name, &format!("#!/bin/sh\nset -e\n{body}\n"))
    }

    /// Starts the daemon, to be killed at `fault` where there is one.
    pub(super) fn serve(&mut self, fault: Option<&str>) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut program = Program::new(env!("CARGO_BIN_EXE_lifeboat"))
            .arg("--config")
            .arg(self.estate.config_file())
            .arg("serve")
            .folder(self.estate.folder());
        if let Some(fault) = fault {
            program = program.env("LIFEBOAT_FAULT", fault);
        }
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(program.start(log).unwrap());
    }

    fn log(&self) -> PathBuf {
        self.estate.folder().join("daemon.log")
    }

    pub(super) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// What a command on the estate's files prints, or why it failed.
    pub(super) async fn command(&self, args: &[&str]) -> Result<String, String> {
        let program = Program::new(env!("CARGO_BIN_EXE_lifeboat")).arg("--config").arg(self.estate.config_file());
        program.args(args).folder(self.estate.folder()).output(LIMIT).await.map_err(|error| with_causes(&error))
    }

    /// The status with which the daemon answers a JSON document.
    pub(super) async fn post(&self, path: &str, body: &Value) -> u16 {
        let address = self.app.estate.daemon.api.as_ref().unwrap().listen;
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Kills the daemon with SIGKILL.
    pub(super) async fn kill(&mut self) {
        self.daemon.take().unwrap().kill().await.unwrap();
    }

    /// Waits until the daemon was killed by its fault.
    pub(super) async fn died(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let status = tokio::time::timeout(LIMIT, daemon.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("the fault point was not passed: {}", self.logged())).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{}", self.logged());
    }

    /// A heartbeat that a daemon sent which just started is in the vault.
    pub(super) async fn protected(&self) {
        let since = self.app.clock.now();
        let newest = async || heartbeats::newest(&self.app.resources.db, &wallet()).await.unwrap();
        eventually("heartbeats are acknowledged", LIMIT, || async {
            newest().await.is_some_and(|beat| beat.acknowledged_at > since)
        })
        .await;
        let sent = newest().await.unwrap();
        let database = self.app.database(&wallet()).unwrap();
        eventually("WAL is in the vault", LIMIT, || async {
            let held = database.histories(database.vault(None).unwrap()).await.unwrap();
            held.iter().any(|held| {
                let coverage = held.listing.coverage(SegmentSize::DEFAULT);
                coverage.tip(sent.timeline, SegmentSize::DEFAULT).is_some_and(|tip| tip >= sent.commit_lsn)
            })
        })
        .await;
    }

    /// The server of this site follows the other one.
    pub(super) async fn follows(&self, site: usize) {
        let engine = &self.app.database(&wallet()).unwrap().engine;
        let member = ["a", "b"][site].parse().unwrap();
        eventually("the standby follows", LIMIT, || async { matches!(engine.is_following(&member).await, Ok(true)) })
            .await;
    }

    pub(super) fn new_run(&self, flow: &str, subject: &str, params: &impl serde::Serialize) -> NewRun {
        let id = RunId::new(flow, subject, "manual", &self.app.stamp());
        NewRun::new(id, subject, params, "tester").unwrap()
    }

    pub(super) fn backup(&self) -> NewRun {
        self.backup_of(BackupKind::Full)
    }

    pub(super) fn backup_of(&self, kind: BackupKind) -> NewRun {
        let params = backup::Params {
            database: wallet(),
            kind,
            standalone: false,
            manner: backup::Manner::default(),
            due_at: None,
        };
        self.new_run(backup::NAME, "wallet", &params)
    }

    pub(super) fn restore_test(&self) -> NewRun {
        self.restore_test_of(restore_test::Point::Scheduled)
    }

    pub(super) fn restore_test_of(&self, point: restore_test::Point) -> NewRun {
        let params = restore_test::Params { database: wallet(), point, due_at: None };
        self.new_run(restore_test::NAME, "wallet", &params)
    }

    /// The drill of this name, with its runbook changed.
    pub(super) fn drill(&self, name: &str, change: impl FnOnce(&mut config::RunbookConfig)) -> NewRun {
        let runbook = self.app.runbook(&name.parse().unwrap()).unwrap();
        let mut params = drill::DrillParams::manual(runbook, None);
        change(&mut params.runbook);
        self.new_run(drill::NAME, name, &params)
    }

    pub(super) async fn submit(&self, run: NewRun) -> RunId {
        let id = run.id.clone();
        self.app.runner.submit(run).await.unwrap();
        id
    }

    /// Drives a run here, which must pass.
    pub(super) async fn passed(&self, run: NewRun) -> Value {
        let id = self.submit(run).await;
        let Ok(run) = tokio::time::timeout(LIMIT, self.app.runner.drive(&id)).await else {
            panic!("{id} does not end: {:?}", self.journal(&id).await)
        };
        self.assert_ended("undisturbed", &run.unwrap(), RunState::Done, "PASS").await
    }

    /// What the vault holds can be restored to its end.
    pub(super) async fn restored(&self) {
        let latest = restore_test::Point::Asked(RecoveryTarget::Latest);
        self.passed(self.restore_test_of(latest)).await;
    }

    /// Waits for the end of a run that a daemon drives.
    pub(super) async fn ended(&self, id: &RunId) -> RunSummary {
        let Ok(run) = tokio::time::timeout(LIMIT, self.app.runner.wait(id)).await else {
            panic!("{id} does not end: {:?}\n{}", self.app.runner.get(id).await, self.logged())
        };
        run.unwrap()
    }

    /// Waits until a run has come to a step, which may be over soon after.
    pub(super) async fn until_step(&self, id: &RunId, step: &str) {
        eventually(&format!("{id} came to step {step}"), LIMIT, || async {
            let begun = |event: &Value| event["event"] == "step_started" && event["step"] == step;
            self.journal(id).await.iter().any(begun)
        })
        .await;
    }

    /// As if the lease of a run had passed whose driver was killed.
    pub(super) async fn end_lease(&self, id: &RunId) {
        let Db::Sqlite { state, .. } = &self.app.resources.db else { panic!("a lab is one machine") };
        let ended = sqlx::query("UPDATE runs SET lease_until_ms = 0 WHERE id = $1").bind(id.as_str());
        ended.execute(state).await.unwrap();
    }

    /// Ends here what a daemon left that was killed.
    pub(super) async fn finish_runs(&self) {
        for run in self.app.runner.list(100).await.unwrap().into_iter().filter(|run| !run.state.is_final()) {
            tokio::time::timeout(LIMIT, self.app.runner.drive(&run.run_id)).await.unwrap().unwrap();
        }
    }

    /// Drives a run with a daemon that is killed at `fault`, and with another
    /// one to its end.
    pub(super) async fn killed_at(&mut self, fault: &str, run: NewRun) -> RunSummary {
        let begun = Instant::now();
        self.serve(Some(&format!("kill@{fault}")));
        self.protected().await;
        let id = self.submit(run).await;
        self.died().await;
        let died = begun.elapsed();
        self.serve(None);
        let run = self.ended(&id).await;
        self.kill().await;
        println!("{fault}: died after {died:.1?}, ended after {:.1?}: {:?}", begun.elapsed(), run.state);
        run
    }

    /// The one evidence record of a run.
    pub(super) async fn record(&self, id: &RunId) -> Value {
        let rows = evidence::rows_from(&self.app.resources.db, 0).await.unwrap();
        let mut entries: Vec<Value> = rows.iter().map(|row| serde_json::from_str(&row.entry).unwrap()).collect();
        entries.retain(|entry| entry["record"]["run_id"] == id.as_str());
        assert_eq!(entries.len(), 1, "records of {id}: {entries:?}");
        entries.remove(0)["record"].take()
    }

    /// The run ended this way, its record says so, and it is the only one.
    pub(super) async fn assert_ended(&self, what: &str, run: &RunSummary, state: RunState, verdict: &str) -> Value {
        let record = self.record(&run.run_id).await;
        assert_eq!((run.state, record["verdict"].as_str()), (state, Some(verdict)), "{what}: {run:#?}\n{record:#}");
        record
    }

    /// Every folder under `backups/` is a committed backup; answers how many.
    pub(super) async fn backups(&self) -> usize {
        let database = self.app.database(&wallet()).unwrap();
        let mut committed = Vec::new();
        for held in database.histories(database.vault(None).unwrap()).await.unwrap() {
            assert!(held.catalog.problems.is_empty(), "{:?}", held.catalog.problems);
            committed.extend(held.catalog.entries.iter().map(|entry| entry.manifest.backup.to_string()));
        }
        committed.sort();
        let stored = self.stored_backups();
        assert_eq!(stored, committed, "what is stored under backups/ is a committed backup: {:?}", self.stored_files());
        committed.len()
    }

    /// The backups of which at least one object is stored.
    pub(super) fn stored_backups(&self) -> Vec<String> {
        self.named_under("/backups/")
    }

    /// The backups that the vaults offer, in the order of the history.
    pub(super) async fn backups_in_order(&self) -> Vec<String> {
        let database = self.app.database(&wallet()).unwrap();
        let mut found = BTreeSet::new();
        for vault in &database.vaults {
            for held in database.histories(vault).await.unwrap() {
                let manifests = held.catalog.entries.iter().map(|entry| &entry.manifest);
                found.extend(manifests.map(|of| (of.timeline, of.stop_lsn, of.backup.to_string())));
            }
        }
        found.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Has the vault hold no more than the first backups.
    pub(super) fn forget_backups(&self, but: usize) {
        let files = self.stored_files();
        for backup in self.stored_backups().into_iter().skip(but) {
            let of_it = format!("/{backup}/");
            for file in files.iter().filter(|file| file.to_string_lossy().contains(&of_it)) {
                std::fs::remove_file(file).unwrap();
            }
        }
    }

    /// The backups that a proof says were restored.
    pub(super) fn proven_backups(&self) -> Vec<String> {
        self.named_under("/proofs/")
    }

    fn named_under(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .stored_files()
            .iter()
            .filter_map(|file| Some(file.to_str()?.split_once(folder)?.1.split('/').next()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn stored_files(&self) -> Vec<PathBuf> {
        files_in(&self.estate.folder().join("vault"))
    }

    /// Neither an instance nor a folder of a restore test is left.
    pub(super) fn assert_no_copy_is_left(&self, what: &str) {
        let scratch = self.estate.folder().join("scratch");
        let left: Vec<_> = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
        assert_eq!(processes_of(&scratch), [], "{what}");
    }

    /// Whether the server of this site takes a write.
    pub(super) async fn writes(&self, site: usize) -> bool {
        let engine = &self.app.database(&wallet()).unwrap().engine;
        engine.look_at(ADDRESSES[site].into(), self.estate.port, "wallet").await.is_ok_and(|answer| answer.wrote)
    }

    /// Every heartbeat that was ever acknowledged is on the primary.
    pub(super) async fn assert_no_heartbeat_lost(&self, what: &str) {
        let (db, from) = (&self.app.resources.db, Timestamp::UNIX_EPOCH);
        let kept = heartbeats::between(db, &wallet(), from, self.app.clock.now()).await.unwrap();
        let present = self.app.database(&wallet()).unwrap().engine.heartbeats().await.unwrap().present;
        let lost: Vec<i64> = kept.iter().map(|beat| beat.seq).filter(|seq| !present.contains(seq)).collect();
        assert!(!kept.is_empty() && lost.is_empty(), "{what}: {lost:?} of {} are lost", kept.len());
    }

    pub(super) async fn journal(&self, id: &RunId) -> Vec<Value> {
        let (_, entries) = lifeboat::db::runs::journal(&self.app.resources.db, id.as_str()).await.unwrap();
        entries.iter().map(|entry| serde_json::from_str(&entry.event).unwrap()).collect()
    }

    pub(super) async fn tear_down(mut self) {
        if let Some(witness) = self.witness.take() {
            assert_eq!(witness.told().await, Vec::<String>::new());
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().await.unwrap();
        }
        self.unprotect().await;
        self.app.runner.shut_down().await;
        self.app.resources.db.close().await;
        self.estate.tear_down().await.unwrap();
    }
}
