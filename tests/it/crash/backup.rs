//! A backup whose daemon is killed, or that is aborted, in the middle of the stream,
//! where no journal is written: in the end exactly one committed backup or none, never
//! a part of one.

use std::time::Duration;

use lifeboat::{app::Role, flow::RunState, process::Program};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::lab::{LIMIT, Lab};
use crate::demo::processes_of;

/// A backup in the middle of its stream: the server sends no more of it. Goes
/// on when dropped.
struct Frozen(Pid);

impl Frozen {
    async fn upload(lab: &Lab) -> Self {
        let begun = std::time::Instant::now();
        loop {
            assert!(begun.elapsed() < LIMIT, "no upload has begun: {}", lab.logged());
            let found = processes_of(lab.estate.folder());
            if let Some((pid, _)) = found.into_iter().find(|(_, name)| name.contains("sending backup")) {
                kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
                return Self(Pid::from_raw(pid));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have ended together with its client.
        let _ended = kill(self.0, Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_off_in_the_middle_of_its_stream_is_one_backup_or_none() {
    let mut lab = Lab::start(Role::WithoutDns).await;
    lab.serve(None);
    lab.protected().await;
    // In the middle of the stream, where no journal is written.
    let before = lab.backups().await;
    let run = lab.submit(lab.backup()).await;
    let frozen = Frozen::upload(&lab).await;
    lab.kill().await;
    drop(frozen);
    assert_eq!(lab.backups().await, before, "it was killed in the middle of an upload");
    lab.serve(None);
    let run = lab.ended(&run).await;
    lab.assert_ended("mid-upload", &run, RunState::Done, "PASS").await;
    assert_eq!(lab.backups().await, before + 1);

    // Aborted in the middle of the stream.
    let run = lab.submit(lab.backup()).await;
    let frozen = Frozen::upload(&lab).await;
    lab.app.runner.abort(&run, "tester", "a test").await.unwrap();
    let run = lab.ended(&run).await;
    drop(frozen);
    let record = lab.assert_ended("aborted upload", &run, RunState::Unwound, "ABORTED").await;
    assert!(record["findings"][0].as_str().unwrap().contains("aborted by tester"), "{record}");
    assert_eq!(lab.backups().await, before + 1, "an aborted backup leaves nothing");

    interrupted_command(&lab, before + 1).await;
    lab.tear_down().await;
}

/// Ctrl-C of `lifeboat backup`: it returns only when everything is undone.
async fn interrupted_command(lab: &Lab, before: usize) {
    // The daemon may drive the run as well as the command: both know the abort.
    let program = Program::new(env!("CARGO_BIN_EXE_lifeboat"))
        .arg("--config")
        .arg(lab.estate.config_file())
        .args(["backup", "wallet", "--json"]);
    let said = lab.estate.folder().join("said");
    let mut command = program.start(std::fs::File::create(&said).unwrap()).unwrap();
    let _frozen = Frozen::upload(lab).await;
    kill(Pid::from_raw(command.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(LIMIT, command.wait()).await.unwrap().unwrap();
    assert!(!status.success(), "{}", std::fs::read_to_string(&said).unwrap());
    assert_eq!(lab.backups().await, before, "an interrupted backup leaves nothing");
    let newest = lab.app.runner.list(1).await.unwrap().remove(0);
    lab.assert_ended("interrupted command", &newest, RunState::Unwound, "ABORTED").await;
}
