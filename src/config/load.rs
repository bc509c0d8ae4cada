//! Reads `lifeboat.yaml` and, beside it, `schedules/*.yaml` and
//! `runbooks/*.yaml`, all of them before anything is reported.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    DaemonConfig, Problems, RunbookConfig, ScheduleConfig,
    check::{CheckConfig, SqlCheckConfig, SqlFile, SqlText},
    daemon::DnsConfig,
    problem::Place,
    rules,
    schedule::{LoginConfig, LoginUser},
    vocabulary::Document,
    walk::Walk,
    yaml::{self, Node, Spot},
};
use crate::domain::record::PlanFile;

/// Everything that is configured, free of problems. Paths in it are absolute.
#[derive(Debug, Clone)]
pub struct Estate {
    pub daemon: DaemonConfig,
    /// Where `lifeboat.yaml` is; what relative paths in YAML start from.
    pub folder: PathBuf,
    /// Sorted by file name; at least one.
    pub schedules: Vec<Arc<Loaded<ScheduleConfig>>>,
    /// Sorted by file name.
    pub runbooks: Vec<Loaded<RunbookConfig>>,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    pub config: T,
    pub file: PathBuf,
    /// Hex, of the file's bytes; evidence names it.
    pub sha256: String,
}

impl<T> Loaded<T> {
    /// What evidence calls the file: its name without the folders of this machine.
    pub fn plan_file(&self) -> PlanFile {
        let file = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        PlanFile { file, sha256: self.sha256.clone() }
    }
}

/// Larger files are not configuration, and would only cost memory.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Fewer files are not worth a thread.
const FILES_APART_MIN: usize = 64;

/// Reads and checks all files; reports all problems of all of them.
pub fn load(daemon_file: &Path) -> Result<Estate, Problems> {
    let mut problems = Problems::default();
    if let Err(error) = std::fs::metadata(daemon_file)
        && error.kind() == std::io::ErrorKind::NotFound
    {
        // Then neither are its folders, of which there would be much to say.
        problems.add(daemon_file, Place::START, "this file does not exist", "name the daemon's file with `--config`");
        return Err(problems);
    }
    let folder = folder_of(daemon_file);
    let daemon = read::<DaemonConfig>(Document::Daemon, &schema_of::<DaemonConfig>(), daemon_file, &mut problems);
    let schedules = read_all::<ScheduleConfig>(Document::Schedule, &folder.shown.join("schedules"), &mut problems);
    let runbooks = read_all::<RunbookConfig>(Document::Runbook, &folder.shown.join("runbooks"), &mut problems);
    if schedules.is_empty() {
        let remedy =
            format!("write a schedule per database as `{}`", folder.shown.join("schedules/NAME.yaml").display());
        problems.add(daemon_file, Place::START, "no database has a schedule", remedy);
    }
    rules::check(&daemon.tree(), &trees(&schedules), &trees(&runbooks), &mut problems);

    let config = daemon.config;
    let schedules: Option<Vec<_>> = schedules.into_iter().map(Written::loaded).collect();
    let runbooks: Option<Vec<_>> = runbooks.into_iter().map(Written::loaded).collect();
    problems.sort();
    match (config, schedules, runbooks) {
        (Some(mut daemon), Some(mut schedules), Some(runbooks)) if problems.is_empty() => {
            let folder = folder.absolute;
            anchor_daemon(&mut daemon, &folder);
            for schedule in &mut schedules {
                anchor_schedule(&mut schedule.config, &folder);
                daemon.objectives.fill(&mut schedule.config);
            }
            let schedules = schedules.into_iter().map(Arc::new).collect();
            Ok(Estate { daemon, folder, schedules, runbooks })
        }
        _ => Err(problems),
    }
}

/// The folder of `lifeboat.yaml`, as it was named and in full.
struct Folder {
    shown: PathBuf,
    absolute: PathBuf,
}

fn folder_of(file: &Path) -> Folder {
    let shown = file.parent().unwrap_or(Path::new("")).to_owned();
    let named = if shown.as_os_str().is_empty() { Path::new(".") } else { &shown };
    let absolute = std::fs::canonicalize(named).or_else(|_| std::path::absolute(named));
    Folder { absolute: absolute.unwrap_or_else(|_| named.to_owned()), shown }
}

/// A file as far as it could be read.
struct Written<T> {
    file: PathBuf,
    sha256: String,
    node: Option<Node>,
    config: Option<T>,
}

impl<T> Written<T> {
    fn tree(&self) -> rules::Tree<'_> {
        rules::Tree { file: &self.file, root: Spot::of(self.node.as_ref()) }
    }

    fn loaded(self) -> Option<Loaded<T>> {
        Some(Loaded { config: self.config?, file: self.file, sha256: self.sha256 })
    }
}

fn trees<T>(written: &[Written<T>]) -> Vec<rules::Tree<'_>> {
    written.iter().map(Written::tree).collect()
}

fn read_all<T: DeserializeOwned + JsonSchema + Send>(
    document: Document,
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Written<T>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.add(folder, Place::START, format!("this folder cannot be read ({error})"), "make it readable");
            return Vec::new();
        }
    };
    // Hidden files are what editors leave behind.
    let shown = |file: &PathBuf| !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(shown).collect();
    files.sort();
    files.retain(|file| match file.extension().and_then(|extension| extension.to_str()) {
        Some("yaml") => true,
        Some("yml") => {
            problems.add(file, Place::START, "this file is not read", "rename it to end in `.yaml`");
            false
        }
        _ => false,
    });
    read_apart(document, &files, problems)
}

/// Reads many files on all cores: nothing is protected before the last is read.
fn read_apart<T: DeserializeOwned + JsonSchema + Send>(
    document: Document,
    files: &[PathBuf],
    problems: &mut Problems,
) -> Vec<Written<T>> {
    let schema = schema_of::<T>();
    let read_some = |files: &[PathBuf]| {
        let mut problems = Problems::default();
        let written: Vec<_> = files.iter().map(|file| read(document, &schema, file, &mut problems)).collect();
        (written, problems)
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let chunks = files.chunks(files.len().div_ceil(cores).max(FILES_APART_MIN));
        let threads: Vec<_> = chunks.map(|files| scope.spawn(|| read_some(files))).collect();
        let mut all = Vec::with_capacity(files.len());
        for thread in threads {
            let (written, more) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(written);
            problems.extend(more);
        }
        all
    })
}

fn read<T: DeserializeOwned>(
    document: Document,
    schema: &serde_json::Value,
    file: &Path,
    problems: &mut Problems,
) -> Written<T> {
    let nothing = |sha256| Written { file: file.to_owned(), sha256, node: None, config: None };
    let bytes = match read_bytes(file) {
        Ok(bytes) => bytes,
        Err((what, remedy)) => {
            problems.add(file, Place::START, what, remedy);
            return nothing(String::new());
        }
    };
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default()).into_owned();
            let line = before.lines().count().max(1);
            let column = before.rsplit('\n').next().map_or(1, |line| line.chars().count() + 1);
            problems.add(file, Place { line, column }, "this is not UTF-8 text", "save the file as UTF-8");
            return nothing(sha256);
        }
    };
    let before = problems.len();
    let Some(node) = yaml::parse(text, file, problems) else { return nothing(sha256) };
    let value = Walk { document, schema, file, problems }.run(&node);
    let config = value.and_then(|value| match serde_json::from_value(value) {
        Ok(config) => Some(config),
        Err(error) => {
            // Reached only where the types ask for more than their schema says.
            problems.add(file, Place::START, format!("this file cannot be used ({error})"), "correct it");
            None
        }
    });
    let config = config.filter(|_| problems.len() == before);
    Written { file: file.to_owned(), sha256, node: Some(node), config }
}

fn read_bytes(file: &Path) -> Result<Vec<u8>, (String, String)> {
    let unreadable =
        |error: std::io::Error| (format!("this file cannot be read ({error})"), "make it readable".to_owned());
    let meta = std::fs::metadata(file).map_err(unreadable)?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(("this file is larger than 1 MiB".to_owned(), "split it".to_owned()));
    }
    std::fs::read(file).map_err(unreadable)
}

/// The JSON Schema of a kind of file.
pub fn schema_of<T: JsonSchema>() -> serde_json::Value {
    schemars::schema_for!(T).to_value()
}

fn anchor_daemon(daemon: &mut DaemonConfig, folder: &Path) {
    if let Some(scratch) = &mut daemon.node.scratch {
        anchor(scratch, folder);
    }
    if let Some(path) = daemon.state.url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        daemon.state.url = format!("sqlite:{}", folder.join(path).display());
    }
    anchor(&mut daemon.keys.signing.file, folder);
    for provider in daemon.dns.values_mut() {
        let DnsConfig::Embedded(embedded) = provider;
        if let Some(file) = &mut embedded.file {
            anchor(file, folder);
        }
    }
    for identity in [&mut daemon.keys.identity, &mut daemon.keys.escrow].into_iter().flatten() {
        identity.anchor(folder);
    }
    for vault in daemon.vaults.values_mut() {
        vault.anchor(folder);
    }
    for notifier in daemon.notify.values_mut() {
        notifier.anchor(folder);
    }
    daemon.aws.anchor(folder);
    daemon.secret_stores.anchor(folder);
}

fn anchor_schedule(schedule: &mut ScheduleConfig, folder: &Path) {
    let LoginConfig { user, password, sslrootcert, sslcert, sslkey, .. } = &mut schedule.login;
    if let LoginUser::Referred(user) = user {
        user.anchor(folder);
    }
    if let Some(password) = password {
        password.anchor(folder);
    }
    for file in [sslrootcert, sslcert, sslkey].into_iter().flatten() {
        anchor(file, folder);
    }
    for check in schedule.restore_test.iter_mut().flat_map(|test| &mut test.checks) {
        if let CheckConfig::Sql(SqlCheckConfig { sql: SqlText::Kept(SqlFile { file }), .. }) = check {
            anchor(file, folder);
        }
    }
}

/// Makes a path absolute; what is absolute already stays.
fn anchor(path: &mut PathBuf, folder: &Path) {
    *path = folder.join(&*path);
}
