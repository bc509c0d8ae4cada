//! A process that drives one run, and is killed or comes to its end: this test binary,
//! started again with only `the_child_drives_its_run`. It opens the estate's files as
//! every command does, so that what it drives is the real flow.

use std::{collections::HashMap, path::PathBuf};

use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    domain::RunId,
    flow::RunSummary,
    process::Program,
};
use tokio::process::Child;

use super::lab::{LIMIT, Lab};
use crate::flow::generic::{Trouble, Troubled};

const CONFIG: &str = "LIFEBOAT_TEST_CONFIG";
const RUN: &str = "LIFEBOAT_TEST_RUN";
const FAILS: &str = "LIFEBOAT_TEST_FAILS_AFTER";

/// Does nothing unless this process is a child of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn the_child_drives_its_run() {
    let (Some(config), Some(run)) = (std::env::var_os(CONFIG), std::env::var_os(RUN)) else { return };
    let estate = config::load(&PathBuf::from(config)).unwrap();
    let app = App::open(estate, Clock::system(), Role::Everything).await.unwrap();
    if let Some(step) = std::env::var_os(FAILS) {
        let trouble = Trouble::FailAfter(step.into_string().unwrap());
        for flow in app.runner.flows() {
            app.runner.register(std::sync::Arc::new(Troubled::new(flow, trouble.clone())));
        }
    }
    app.settle().await.unwrap();
    app.runner.drive(&RunId::from(run.into_string().unwrap())).await.unwrap();
    app.runner.shut_down().await;
}

/// Starts such processes.
pub(super) struct Driver<'a> {
    pub(super) lab: &'a Lab,
    /// The step that fails for good once it has done all it does.
    pub(super) fails_after: Option<&'a str>,
}

impl Driver<'_> {
    fn log(&self) -> PathBuf {
        self.lab.estate.folder().join("child.log")
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn start(&self, run: &RunId, fault: Option<&str>) -> Child {
        let mut program = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::driver::the_child_drives_its_run"])
            .env(CONFIG, self.lab.estate.config_file().to_str().unwrap())
            .env(RUN, run.as_str())
            .folder(self.lab.estate.folder());
        for (name, value) in [(FAILS, self.fails_after), ("LIFEBOAT_FAULT", fault)] {
            if let Some(value) = value {
                program = program.env(name, value);
            }
        }
        program.start(std::fs::File::create(self.log()).unwrap()).unwrap()
    }

    async fn driven(&self, run: &RunId, fault: Option<&str>) -> RunSummary {
        let mut child = self.start(run, fault);
        let Ok(status) = tokio::time::timeout(LIMIT, child.wait()).await else {
            panic!("{run} does not end: {:?}", self.lab.journal(run).await)
        };
        assert!(status.unwrap().success(), "{}", self.logged());
        self.lab.app.runner.get(run).await.unwrap()
    }

    /// Drives a run to its end, whoever had begun it.
    pub(super) async fn to_the_end(&self, run: &RunId) -> RunSummary {
        self.driven(run, None).await
    }

    /// The same; answers also the fault points that were passed, in order, each with how
    /// often its name had been passed by then: `NAME:NTH`.
    pub(super) async fn traced(&self, run: &RunId) -> (RunSummary, Vec<String>) {
        let file = self.lab.estate.folder().join("trace");
        let _was_there = std::fs::remove_file(&file);
        let run = self.driven(run, Some(&format!("trace@{}", file.display()))).await;
        let mut passed = HashMap::<String, u32>::new();
        let traced = std::fs::read_to_string(&file).unwrap();
        let points = traced.lines().map(|name| {
            let nth = passed.entry(name.to_owned()).or_default();
            *nth += 1;
            format!("{name}:{nth}")
        });
        (run, points.collect())
    }

    /// Drives a run up to a fault point, where a SIGKILL ends the process.
    pub(super) async fn killed_at(&self, point: &str, run: &RunId) {
        let mut child = self.start(run, Some(&format!("kill@{point}")));
        let Ok(status) = tokio::time::timeout(LIMIT, child.wait()).await else {
            panic!("{point} is not passed: {:?}", self.lab.journal(run).await)
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status.unwrap());
        assert_eq!(signal, Some(9), "{point} was not passed: {:?}\n{}", self.lab.journal(run).await, self.logged());
    }
}
