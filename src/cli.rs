//! The command line: one file per subcommand. With `--json` a command prints
//! one JSON document on standard output, `{"error": …}` where it has no result;
//! logs go to standard error, and the error for people too. Exit codes:
//! 0 pass, 1 fail, 2 wrong usage or configuration, 3 inconclusive.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::{
    app::{App, Role, SetUpError},
    clock::Clock,
    config::{self, Problems},
    domain::with_causes,
    flows::{KeyError, restore::RestoreError},
    secrets,
    vault::signature::Signer,
};

pub mod backup;
pub mod check;
pub mod demo;
pub mod drill;
pub mod evidence;
pub mod interrupt;
pub mod keygen;
pub mod lever;
pub mod output;
pub mod plan;
pub mod progress;
pub mod report;
pub mod restore;
pub mod restore_test;
pub mod runs;
pub mod schema;
pub mod self_test;
pub mod serve;
pub mod status;
pub mod vault;

/// The daemon's file where nobody names one.
const CONFIG: &str = "lifeboat.yaml";
/// Where help lists what every command takes.
const GLOBAL: &str = "Global options";

/// Takes backups, restores them, rehearses failovers, and proves the recovery
/// time and point really achieved.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, about, max_term_width = 100)]
pub struct Arguments {
    /// The daemon's file, or its folder; `schedules/` and `runbooks/` lie beside it.
    #[arg(long, short, global = true, default_value = CONFIG, value_name = "FILE", help_heading = GLOBAL)]
    config: PathBuf,
    /// Print one JSON document on standard output.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Log more; twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole story on a throw-away estate, in about a minute.
    Demo(demo::Options),
    /// The daemon: schedules, WAL streaming, runs, status API and page.
    Serve,
    /// Validate all files; with --connect look at servers and vaults too.
    Check(check::Options),
    /// What will run when, and what would expire.
    Plan {
        /// How many runs to show.
        #[arg(long, default_value_t = 20)]
        next: usize,
    },
    /// JSON Schemas of the files, for editors.
    Schema,
    /// Take a backup now.
    Backup(backup::Options),
    /// List backups with state, size and age.
    Backups(backup::ListOptions),
    /// Bring a recovery point back into an empty folder; needs no daemon and no state database.
    Restore(Box<restore::Options>),
    /// Restore into an isolated instance, check, measure, tear down.
    RestoreTest(restore_test::Options),
    /// Plant faults into a restore test: each has to turn red, or restore tests prove nothing.
    SelfTest(self_test::Options),
    /// Run a drill.
    Drill(drill::Options),
    /// Approve a run that waits for it.
    Approve(runs::SignalOptions),
    /// End a run and undo what it did.
    Abort(runs::SignalOptions),
    /// Help a holding run forward, after what stopped it was mended.
    Resume(runs::SignalOptions),
    /// Show or turn the safety lever: while it is on, no drill runs.
    Lever(lever::Options),
    /// List runs, or show one.
    Runs(runs::Options),
    /// Are we recoverable?
    Status,
    /// What a person must fix.
    Findings,
    /// The RTO/RPO report.
    Report(report::Options),
    /// Verify, export or show evidence.
    #[command(subcommand)]
    Evidence(evidence::Command),
    /// Care of the vaults.
    #[command(subcommand)]
    Vault(vault::Command),
    /// Make an age identity, or show the signing key's fingerprint.
    Keygen(keygen::Options),
}

/// What every command is told.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub config: PathBuf,
    pub json: bool,
}

impl Invocation {
    /// Prints `value` with `--json`, else what `text` makes of it.
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        if self.json {
            output::print(&serde_json::to_string_pretty(value)?)?;
        } else {
            output::print(&text(value))?;
        }
        Ok(())
    }
}

/// A mistake of whoever called: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// A file that cannot be made where it was named.
    fn cannot_make(path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "make its folder first, or name another one",
            io::ErrorKind::AlreadyExists => "name a file that does not exist yet",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "name a folder that you may write to"
            }
            io::ErrorKind::IsADirectory => "name a file in it",
            io::ErrorKind::NotADirectory => "name a folder, and a file in it",
            _ => "name a file elsewhere",
        };
        Self(format!("cannot make {}: {error}; {remedy}", path.display()))
    }
}

/// Runs what the arguments ask for.
pub async fn run(arguments: Arguments) -> ExitCode {
    let invocation = Invocation { config: file_of(arguments.config), json: arguments.json };
    let ended = Box::pin(dispatch(arguments.command, &invocation)).await;
    secrets::give_back_all().await;
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = with_causes(error.as_ref());
            if invocation.json
                && let Err(error) = output::print(&serde_json::json!({"error": text}).to_string())
            {
                output::say(&format!("lifeboat: {error}"));
            }
            output::say(&format!("lifeboat: {text}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Whoever names a folder means the file in it.
fn file_of(config: PathBuf) -> PathBuf {
    if config.is_dir() { config.join(CONFIG) } else { config }
}

impl Arguments {
    /// From where on our own log lines are shown: the daemon tells what it does,
    /// a command only what is wrong, unless asked for more. One that drives a run
    /// prints what went wrong with it as its result, and not twice.
    pub fn log_level(&self) -> &'static str {
        match (self.verbose, &self.command) {
            (0, Command::Serve) | (1, _) => "info",
            (
                0,
                Command::Backup(_)
                | Command::RestoreTest(_)
                | Command::SelfTest(_)
                | Command::Drill(_)
                | Command::Vault(_),
            ) => "error",
            (0, _) => "warn",
            (_, _) => "debug",
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_callers = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<Problems>()
            || cause.is::<SetUpError>()
            || cause.is::<KeyError>()
            || cause.downcast_ref::<RestoreError>().is_some_and(RestoreError::is_callers)
    });
    if is_callers { 2 } else { 1 }
}

async fn dispatch(command: Command, invocation: &Invocation) -> anyhow::Result<u8> {
    match command {
        Command::Demo(options) => demo::run(options, invocation).await,
        Command::Serve => serve::run(invocation).await,
        Command::Check(options) => check::run(&options, invocation, Clock::system().now(), &mut output::stdout()).await,
        Command::Plan { next } => {
            let now = Clock::system().now();
            Ok(plan::run(&invocation.config, next, now, invocation.json, &mut output::stdout()).await?)
        }
        Command::Schema => Ok(schema::run(&mut output::stdout())?),
        Command::Backup(options) => backup::run(options, invocation).await,
        Command::Backups(options) => backup::list(options, invocation).await,
        Command::Restore(options) => restore::run(*options, invocation).await,
        Command::RestoreTest(options) => restore_test::run(options, invocation).await,
        Command::SelfTest(options) => self_test::run(&options, invocation).await,
        Command::Drill(options) => drill::run(options, invocation).await,
        Command::Approve(options) => runs::signal("approve", options, invocation).await,
        Command::Abort(options) => runs::signal("abort", options, invocation).await,
        Command::Resume(options) => runs::signal("resume", options, invocation).await,
        Command::Lever(options) => lever::run(options, invocation).await,
        Command::Runs(options) => runs::run(options, invocation).await,
        Command::Status => status::run(invocation).await,
        Command::Findings => status::findings(invocation).await,
        Command::Report(options) => report::run(options, invocation).await,
        Command::Evidence(command) => evidence::run(command, invocation).await,
        Command::Vault(command) => vault::run(command, invocation).await,
        Command::Keygen(options) => keygen::run(&options, invocation),
    }
}

/// Reads the files and opens everything that they name.
async fn open(invocation: &Invocation, role: Role) -> anyhow::Result<std::sync::Arc<App>> {
    let estate = config::load(&invocation.config)?;
    Ok(App::open(estate, Clock::system(), role).await?)
}

/// The signing key, which is read and never made here.
fn signing_key(estate: &config::Estate) -> anyhow::Result<Signer> {
    let key = &estate.daemon.keys.signing.file;
    if !key.exists() {
        let what = format!("there is no signing key at {} yet; start the daemon or take a backup first", key.display());
        return Err(UsageError(what).into());
    }
    Ok(Signer::load_or_create(key)?.0)
}

/// Who called, for the journal and the evidence: the login name.
pub fn who() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| "unknown".to_owned(), |user| user.name)
}

/// Everything that is wrong, the same way for every command that reads configuration.
fn print_problems(problems: &Problems, json: bool, out: &mut impl io::Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::json!({ "problems": problems }));
    }
    writeln!(out, "{problems}")?;
    let plural = if problems.len() == 1 { "" } else { "s" };
    writeln!(out, "{} problem{plural}; nothing was started", problems.len())
}

/// A table as all commands print it.
fn table<const N: usize>(header: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}

/// An age for people: `3 s`, `12 min`, `5 h`, `9 d`.
pub fn age(age: jiff::SignedDuration) -> String {
    match age.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds if seconds < 172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
