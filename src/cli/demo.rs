//! `lifeboat demo`: the whole story on a throw-away estate, in about a minute:
//! real PostgreSQL primary and standby, full backup, WAL streaming, a restore
//! test at a random instant, a switchover drill, report and verified evidence.
//! Ctrl-C at any moment leaves no process and no folder behind.

use std::{
    io,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use futures::FutureExt;
use serde::Serialize;

use super::{Invocation, UsageError, interrupt::Interrupt, output, progress::Line};
use crate::{
    app::{App, live::Live},
    domain::{Phase, Verdict},
    process::{self, Tasks},
};

pub mod estate;
pub mod story;
pub mod workload;

use estate::Estate;

/// How long what is under way may take to stop by itself.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Options {
    /// Leave the estate and the status page up until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Where the HTML report goes.
    #[arg(long, value_name = "FILE", default_value = "lifeboat-demo-report.html")]
    report: PathBuf,
}

/// What the demo showed.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub verdict: Verdict,
    pub objectives: Vec<Achieved>,
    pub phases: Vec<Phase>,
    pub report: PathBuf,
    /// Bets that clients saw acknowledged, and that the service holds in the end.
    pub bets_acknowledged: u64,
    pub bets_held: u64,
    /// Largest resident memory of this process, without the database servers.
    pub peak_memory_bytes: Option<u64>,
}

/// One row of the final table.
#[derive(Debug, Serialize)]
pub struct Achieved {
    pub objective: String,
    pub promised: String,
    pub achieved: String,
    pub verdict: Option<Verdict>,
}

/// Tells the stages as they happen and keeps how long each took.
#[derive(Debug)]
pub struct Narrator {
    line: Line,
    phases: Vec<Phase>,
    begun: Instant,
}

impl Narrator {
    fn new() -> Self {
        Self { line: Line::start("making the estate"), phases: Vec::new(), begun: Instant::now() }
    }

    /// The stage that begins now.
    pub fn begin(&mut self, doing: &str) {
        self.begun = Instant::now();
        self.line.say(doing);
    }

    pub fn say(&self, message: impl Into<String>) {
        self.line.say(message);
    }

    /// The stage ended: one line that stays.
    pub fn done(&mut self, name: &str, what: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.line.keep(&format!("  \u{2714} {name:<17} {what}  ({seconds:.1} s)"));
        self.phases.push(Phase { name: name.to_owned(), seconds });
    }
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    check_place(&options.report)?;
    // Heard from here on: there is nothing yet that an early Ctrl-C could leave behind.
    let mut interrupt = Interrupt::listen()?;
    let estate = Estate::plan()?;
    let tasks = Tasks::new();
    let mut narrator = Narrator::new();
    narrator.line.keep(&format!("Lifeboat demo: a throw-away estate in {}", estate.folder().display()));
    let told = async {
        let (app, shown) = tokio::select! {
            told = story::tell(&estate, &tasks, &mut narrator, &options.report) => told?,
            () = interrupt.heard() => anyhow::bail!("interrupted; nothing is left behind"),
        };
        show(&app, &shown, &estate, &tasks, &options, invocation, &mut interrupt).await
    };
    // Servers outlive whoever started them: nothing may leave this function before they are stopped.
    let told = AssertUnwindSafe(told).catch_unwind().await;
    narrator.line.say("tearing the estate down");
    let torn_down = tear_down(&estate, &tasks).await;
    narrator.line.clear();
    let verdict = told.unwrap_or_else(|panic| resume_unwind(panic))?;
    torn_down?;
    Ok(verdict.exit_code())
}

/// Whether the report can be made there, as far as that can be known without
/// making it: the story takes a minute.
fn check_place(report: &Path) -> Result<(), UsageError> {
    let folder = report.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let refused = if report.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).map_err(io::Error::from)
    };
    refused.map_err(|error| UsageError::cannot_make(report, &error))
}

/// Prints what was shown; with `--keep` waits until somebody has seen enough.
async fn show(
    app: &Arc<App>,
    shown: &Shown,
    estate: &Estate,
    tasks: &Tasks,
    options: &Options,
    invocation: &Invocation,
    interrupt: &mut Interrupt,
) -> Result<Verdict> {
    invocation.print(shown, summary)?;
    if options.keep {
        let listen = super::serve::start_api(&Live::new(Arc::clone(app)), tasks).await?;
        output::say(&format!(
            "The estate stays up: status page on http://{listen}/ , files in {}. Ctrl-C removes it all.",
            estate.folder().display()
        ));
        interrupt.heard().await;
    }
    Ok(shown.verdict)
}

/// Stops everything that was started, whatever state it is in, and removes the folder.
async fn tear_down(estate: &Estate, tasks: &Tasks) -> Result<()> {
    // A step may be in the middle of a command of minutes: then its processes
    // end first, and it with them.
    if tokio::time::timeout(GRACE, tasks.shut_down()).await.is_err() {
        process::end_all_of(estate.folder()).await.context("end the demo's processes")?;
        tasks.shut_down().await;
    }
    estate.tear_down().await
}

fn summary(shown: &Shown) -> String {
    let mut table = super::table(["measured", "objective", "achieved", "verdict"]);
    for row in &shown.objectives {
        let verdict = row.verdict.map_or("measured", Verdict::as_str);
        table.add_row([row.objective.as_str(), row.promised.as_str(), row.achieved.as_str(), verdict]);
    }
    format!(
        "\n{table}\n\n{}: {} bets were acknowledged to clients, {} are there in the end.\nReport: {}",
        shown.verdict,
        shown.bets_acknowledged,
        shown.bets_held,
        shown.report.display()
    )
}

/// The largest resident memory of this process so far.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}
