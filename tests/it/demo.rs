//! `lifeboat demo`, the real binary: told whole, and interrupted at any moment.
//! Afterwards neither a process nor a folder of it is left.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use lifeboat::process::Program;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::support::{eventually, scratch};

/// The whole story on a busy machine.
const STORY: Duration = Duration::from_secs(150);
/// How long a demo that was interrupted may take to leave nothing behind.
const BOUND: Duration = Duration::from_secs(20);
/// How many demos run at the same time.
const AT_ONCE: usize = 3;

/// A running demo in a process group of its own, like a command of a terminal.
struct Demo {
    child: tokio::process::Child,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start(more: &[&str]) -> Self {
        let folder = scratch();
        let program = Program::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["demo", "--json", "--report"])
            .arg(folder.path().join("report.html"))
            .args(more)
            .folder(folder.path());
        let child = program.start(std::fs::File::create(folder.path().join("said")).unwrap()).unwrap();
        Self { child, folder }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).unwrap()
    }

    /// Its own folder, which its first line names.
    fn estate(&self) -> PathBuf {
        let said = self.said();
        let line = said.lines().find(|line| line.starts_with("Lifeboat demo")).unwrap();
        PathBuf::from(line.split_once(" in ").unwrap().1)
    }

    async fn until_said(&mut self, what: &str) {
        let begun = std::time::Instant::now();
        while !self.said().contains(what) {
            assert!(self.child.try_wait().unwrap().is_none(), "ended before `{what}`: {}", self.said());
            assert!(begun.elapsed() < STORY, "`{what}` was not said: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// To the whole group, as a terminal does.
    fn send(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            panic!("did not end within {limit:?}: {}", self.said())
        };
        status.unwrap()
    }

    /// Nothing of it is there any more.
    async fn is_gone(&self, estate: &Path) {
        assert!(!estate.exists(), "{} is left: {}", estate.display(), self.said());
        eventually("no process of the demo is left", Duration::from_secs(2), || async {
            processes_of(estate).is_empty()
        })
        .await;
    }
}

/// Processes that name the folder, or work in it.
pub(crate) fn processes_of(folder: &Path) -> Vec<(i32, String)> {
    let ours = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let is_ours = command.contains(folder.to_str()?) || cwd.starts_with(folder);
        is_ours.then_some((pid, command))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| ours(entry.ok()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_story_passes_and_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.until_said("Lifeboat demo").await;
    let estate = demo.estate();
    let status = demo.ended(STORY).await;
    let said = demo.said();
    assert!(status.success(), "{said}");
    // Both outputs go to one file: the document begins with the first line that is a brace.
    let shown: Value =
        serde_json::Deserializer::from_str(&said[said.find("\n{").unwrap()..]).into_iter().next().unwrap().unwrap();
    assert_eq!(shown["verdict"], "PASS");
    let objectives = shown["objectives"].as_array().unwrap();
    let judged: Vec<&Value> = objectives.iter().filter(|row| !row["verdict"].is_null()).collect();
    assert!(judged.len() >= 4 && judged.iter().all(|row| row["verdict"] == "PASS"), "{objectives:?}");
    let acknowledged = shown["bets_acknowledged"].as_u64().unwrap();
    assert!(acknowledged > 0 && shown["bets_held"].as_u64().unwrap() >= acknowledged, "{shown}");
    let report = std::fs::read_to_string(demo.folder.path().join("report.html")).unwrap();
    assert!(report.contains("RPO") && report.contains("RTO"));
    demo.is_gone(&estate).await;
}

/// Nobody hears the story; it ends as it would have, and takes its servers with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_nobody_listens_to_leaves_nothing() {
    let folder = scratch();
    let script = format!(
        "TMPDIR={0} '{1}' demo --json --report {0}/report.html 2>{0}/said | true; echo ${{PIPESTATUS[0]}}",
        folder.path().display(),
        env!("CARGO_BIN_EXE_lifeboat"),
    );
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let said = Program::new("bash").args(["-c", &script]).output(STORY).await.unwrap();
    assert_eq!(said.trim(), "0", "{}", std::fs::read_to_string(folder.path().join("said")).unwrap());
    assert!(processes_of(folder.path()).is_empty());
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("lifeboat-demo-")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_kept_answers_and_goes_at_ctrl_c() {
    let mut demo = Demo::start(&["--keep"]);
    demo.until_said("Ctrl-C removes it all").await;
    let (estate, said) = (demo.estate(), demo.said());
    let address = said.split_once("status page on http://").unwrap().1.split('/').next().unwrap();
    let page = get(address).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("wallet"), "{page}");
    demo.send(Signal::SIGINT);
    let status = demo.ended(BOUND).await;
    assert!(status.success(), "Ctrl-C is how a kept demo ends: {}", demo.said());
    demo.is_gone(&estate).await;
}

async fn get(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut page = Vec::new();
    connection.read_to_end(&mut page).await.unwrap();
    String::from_utf8_lossy(&page).into_owned()
}

/// After which line, within how many milliseconds, by which signal.
const MOMENTS: [(&str, u64, Signal); 10] = [
    ("Lifeboat demo", 1, Signal::SIGINT),
    ("Lifeboat demo", 1_500, Signal::SIGINT),
    ("Lifeboat demo", 6_000, Signal::SIGTERM),
    ("\u{2714} estate", 50, Signal::SIGINT),
    ("\u{2714} estate", 1_500, Signal::SIGINT),
    ("\u{2714} WAL streaming", 8_000, Signal::SIGINT),
    ("\u{2714} WAL streaming", 8_000, Signal::SIGTERM),
    ("\u{2714} restore test", 1_500, Signal::SIGINT),
    ("\u{2714} restore test", 6_000, Signal::SIGINT),
    ("\u{2714} switchover drill", 100, Signal::SIGINT),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_at_any_moment_leaves_nothing() {
    use futures::StreamExt;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let moments = MOMENTS.map(|(line, within, signal)| (line, random.random_range(0..within), signal));
    let interrupted = moments.map(|(line, after, signal)| async move {
        let mut demo = Demo::start(&[]);
        demo.until_said(line).await;
        tokio::time::sleep(Duration::from_millis(after)).await;
        let estate = demo.estate();
        if demo.child.try_wait().unwrap().is_some() {
            // The stage was quicker than the delay that was drawn.
            return demo.is_gone(&estate).await;
        }
        let was_over = demo.said().contains("\n{");
        demo.send(signal);
        let status = demo.ended(BOUND).await;
        println!("{signal} {after} ms after `{line}`: {status}");
        assert!(was_over || !status.success() || demo.said().contains("\n{"), "{}", demo.said());
        demo.is_gone(&estate).await;
    });
    futures::stream::iter(interrupted).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
