//! What a run starts goes away again.

use std::path::PathBuf;

use lifeboat::{
    domain::RecoveryTarget,
    engine::{
        Recover,
        postgres::isolated::{self, Confinement},
    },
};

use super::copy::{Copy, processes_in};
use crate::support::{Lab, eventually};

#[tokio::test]
async fn a_stop_and_a_dropped_handle_leave_no_process() {
    let lab = Lab::start("").await;
    for dropped in [false, true] {
        let copy = Copy::of(&lab).await;
        copy.archive(&lab, 0).await;
        let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
        assert!(!processes_in(&copy.folder).is_empty(), "the probe sees the instance");
        if dropped {
            drop(instance);
            let gone = || async { processes_in(&copy.folder).is_empty() };
            eventually("the instance is gone", std::time::Duration::from_secs(10), gone).await;
        } else {
            instance.stop().await.unwrap();
            assert!(processes_in(&copy.folder).is_empty());
            instance.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_instance_whose_parent_is_killed_leaves_no_process() {
    let lab = Lab::start("").await;
    let copy = Copy::of(&lab).await;
    copy.archive(&lab, 0).await;
    let instance = copy.recover(RecoveryTarget::Immediate).await.unwrap();
    let ours = std::process::id().to_string();
    let is_child = |process: &PathBuf| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, tail)| tail.split_whitespace().nth(1)) == Some(ours.as_str())
    };
    let found = processes_in(&copy.folder);
    let parent = found.iter().find(|process| is_child(process)).unwrap_or_else(|| panic!("{found:?}"));
    let pid = parent.file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert!(found.len() > 4, "the server and its children: {found:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let gone = || async { processes_in(&copy.folder).is_empty() };
    eventually("the instance is gone", std::time::Duration::from_secs(30), gone).await;
    assert!(instance.query("postgres", "select 1").await.is_err());
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_crashed_run_left_is_stopped_and_nothing_else() {
    let lab = Lab::start("").await;
    for confinement in [None, Some(Confinement::None { reason: "switched off".to_owned() })] {
        let copy = Copy::of(&lab).await;
        copy.archive(&lab, 0).await;
        copy.configure(RecoveryTarget::Immediate).await.unwrap();
        let confinement = match confinement {
            Some(confinement) => confinement,
            None => Confinement::probe(&copy.postgres, &copy.folder).await,
        };
        // A handle that is never dropped is what kill -9 leaves.
        std::mem::forget(isolated::start(&copy.postgres, &copy.params(), confinement).await.unwrap());
        assert!(!processes_in(&copy.folder).is_empty());
        copy.postgres.stop_isolated(&copy.folder).await.unwrap();
        assert!(processes_in(&copy.folder).is_empty());
        copy.postgres.stop_isolated(&copy.folder).await.unwrap();
        assert!(lab.cluster.is_running());
    }
    let nowhere = std::path::Path::new("/nonexistent/lifeboat");
    super::copy::protected(&lab).stop_isolated(nowhere).await.unwrap();
}
