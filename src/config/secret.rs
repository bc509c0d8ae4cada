//! References to secrets. A secret itself never stands in a file of ours, and
//! never in an error: those name the reference only.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use crate::process::{ProcessError, Program};

/// Where a secret is found: `{env: NAME}`, `{file: PATH}` or `{command: [argv]}`.
/// A trailing newline of a file or output is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file that only this process's user should be able to read.
    File(PathBuf),
    /// A program by its absolute path and its arguments; what it prints within 10 s.
    Command(Vec<String>),
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment variable `{0}` is not set, or not text; set it before starting")]
    Env(String),
    #[error("cannot read the secret in {}; {}", file.display(), remedy(source))]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the command for a secret is empty; write `[/path/to/program, …]`")]
    NoProgram,
    #[error("`{program}` did not print a secret ({reason}); run it by hand to see why")]
    Command { program: String, reason: String },
    #[error("the secret from {0} is empty; store it there")]
    Empty(String),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "put it there, or correct the path",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => "name a file",
        io::ErrorKind::InvalidData => "store it as text",
        _ => "make it readable for this process's user only",
    }
}

/// A secret store that takes longer is not available.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

impl SecretRef {
    /// Makes a path in it absolute; it starts from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        if let Self::File(file) = self {
            *file = folder.join(&*file);
        }
    }

    /// Reads it now; nothing is kept, so that a rotated secret is found.
    pub async fn read(&self) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::Env(name) => from_env(name)?,
            Self::File(file) => from_file(file).await?,
            Self::Command(argv) => from_command(argv).await?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(SecretError::Empty(self.origin()));
        }
        Ok(SecretString::from(text))
    }

    /// Where it comes from, for messages.
    pub fn origin(&self) -> String {
        match self {
            Self::Env(name) => format!("the environment variable `{name}`"),
            Self::File(file) => file.display().to_string(),
            // Arguments may name more than the operator wants in a log.
            Self::Command(argv) => format!("`{}`", argv.first().map_or("", String::as_str)),
        }
    }
}

fn from_env(name: &str) -> Result<String, SecretError> {
    #[expect(clippy::disallowed_methods, reason = "configuration owns the environment")]
    std::env::var(name).map_err(|_| SecretError::Env(name.to_owned()))
}

async fn from_file(file: &Path) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::File { file: file.to_owned(), source };
    let mode = tokio::fs::metadata(file).await.map_err(unreadable)?.permissions().mode();
    if mode & 0o004 != 0 && is_news(file) {
        tracing::warn!(file = %file.display(), "every user of this machine can read this secret; run chmod o-r on it");
    }
    tokio::fs::read_to_string(file).await.map_err(unreadable)
}

/// Whether this process has not warned of the file yet.
fn is_news(file: &Path) -> bool {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned())
}

async fn from_command(argv: &[String]) -> Result<String, SecretError> {
    let (program, arguments) = argv.split_first().ok_or(SecretError::NoProgram)?;
    Program::new(program).args(arguments).output(COMMAND_LIMIT).await.map_err(|error| SecretError::Command {
        program: program.clone(),
        // What it said on standard error may hold the secret.
        reason: match error {
            ProcessError::Failed { status, .. } => status.to_string(),
            ProcessError::TimedOut { limit, .. } => format!("not within {limit:?}"),
            ProcessError::Start { source, .. } => source.to_string(),
            ProcessError::NoAccount => "no account".to_owned(),
        },
    })
}
