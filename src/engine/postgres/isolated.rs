//! A restored copy that runs apart from everything: its own network, mount,
//! process and user namespace where they can be had, a private Unix socket, no
//! TCP, no jobs, no archiving.
//!
//! It must never reach production, never count as recovered before its target
//! was reached, and never stay behind: dropping the handle kills it, and
//! `stop_in` ends what a crashed run left.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant as Moment},
};

use async_trait::async_trait;
use tokio::{process::Child, sync::Mutex};

use super::{
    Postgres,
    asked::{EndedRecovery, Session, catalogs},
    cluster::Binaries,
    restored::{ConfiguredRecovery, RECOVERY_FILE, file_error, make_private, program_error, unfit},
};
use crate::{
    decide::{
        answer::Answer,
        collation::Collation,
        indexes::LookedAt,
        memory,
        reading::{Pages, ReadThrough},
    },
    domain::{AnswerDigest, ByteSize, Check, ClusterParts, Lineage},
    engine::{Ask, CopiedBeats, EngineError, Instance, IsolatedParams},
    process::Program,
};

mod checks;
mod confinement;
mod credentials;
mod original;
mod processes;
mod reached;
mod reading;
mod session;
mod sockets;
mod ties;

pub use confinement::Confinement;
pub use processes::stop_in;
use session::Readiness;

/// What the C library, its loader and PostgreSQL say where an address space is used up.
const SHORT_OF_MEMORY: [&str; 4] =
    ["Cannot allocate memory", "cannot allocate memory", "failed to map segment", "out of memory"];

/// Words before a message of PostgreSQL that ends no server.
const PASSING: [&str; 11] = [
    "DEBUG",
    "LOG:  ",
    "INFO:  ",
    "NOTICE:  ",
    "WARNING:  ",
    "ERROR:  ",
    "DETAIL:  ",
    "HINT:  ",
    "CONTEXT:  ",
    "QUERY:  ",
    "STATEMENT:  ",
];

/// How soon a starting copy is asked again whether it is ready.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);

/// A running copy. Dropping it kills the server.
#[derive(Debug)]
pub struct IsolatedInstance {
    postgres: Postgres,
    folder: PathBuf,
    confinement: Confinement,
    /// The process at the root of the instance's own: `unshare`, or the server itself.
    root_pid: i32,
    child: Mutex<Child>,
    session: Session,
    configured: ConfiguredRecovery,
    lineage: Lineage,
    replay_seconds: Option<f64>,
    server_version: String,
}

/// Starts the configured copy in `params.folder`, confined as said, and waits
/// until it has reached its target and answers.
pub async fn start(
    postgres: &Postgres,
    params: &IsolatedParams,
    confinement: Confinement,
) -> Result<IsolatedInstance, EngineError> {
    let folder = params.folder.canonicalize().map_err(file_error("open", &params.folder))?;
    let data = folder.join("data");
    stop_in(&folder).await?;
    make_private(&folder, postgres.account.as_ref())?;
    make_private(&folder.join("socket"), postgres.account.as_ref())?;
    let configured = configured(&data)?;
    let log_path = folder.join("log");
    let log = fs::File::create(&log_path).map_err(file_error("make", &log_path))?;
    let server = server(postgres, &folder, &confinement, params.memory_max)?;
    let mut child = server.start(log).map_err(|error| program_error("postgres", error))?;
    let root_pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let Some(root_pid) = root_pid else {
        return Err(unfit("start", failure_line(&read_log(&log_path))));
    };
    let goal = format!("reach {}", configured.target);
    let ready = wait_until_ready(postgres, &folder, &mut child, params, &goal).await;
    let looked = match ready {
        Ok(session) => look(session, &data, &configured, &read_log(&log_path)).await,
        Err(error) => Err(error),
    };
    let replay_seconds = reached::replay_seconds(&read_log(&log_path));
    let (session, lineage, server_version) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            stop_in(&folder).await?;
            return Err(error);
        }
    };
    let (postgres, child) = (postgres.clone(), Mutex::new(child));
    Ok(IsolatedInstance {
        postgres,
        folder,
        confinement,
        root_pid,
        child,
        session,
        configured,
        lineage,
        replay_seconds,
        server_version,
    })
}

/// The server's command. It inherits none of our environment, which may hold secrets.
fn server(
    postgres: &Postgres,
    folder: &Path,
    confinement: &Confinement,
    memory_max: Option<ByteSize>,
) -> Result<Program, EngineError> {
    let binaries = Binaries::of(&folder.join("data"))?;
    let mut argv: Vec<OsString> = Vec::new();
    if let Some(limit) = memory_max {
        argv.extend(["prlimit".into(), format!("--as={}", limit.as_bytes()).into(), "--".into()]);
    }
    argv.extend(["env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C"].map(OsString::from));
    argv.extend([binaries.path("postgres").into_os_string(), "-D".into(), folder.join("data").into_os_string()]);
    for (name, value) in memory_max.iter().flat_map(|limit| memory::settings(*limit)) {
        argv.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    Ok(confinement.wrap(postgres, folder, &argv))
}

fn configured(data: &Path) -> Result<ConfiguredRecovery, EngineError> {
    let path = data.join(RECOVERY_FILE);
    let text = fs::read_to_string(&path).map_err(file_error("read", &path))?;
    let configured = serde_json::from_str(&text).map_err(|error| file_error("understand", &path)(error.into()))?;
    if data.join("recovery.signal").exists() {
        Ok(configured)
    } else {
        let why = format!("{} has no recovery.signal: it was started before; restore it anew", data.display());
        Err(unfit("start its recovery", why))
    }
}

async fn wait_until_ready(
    postgres: &Postgres,
    folder: &Path,
    child: &mut Child,
    params: &IsolatedParams,
    goal: &str,
) -> Result<Session, EngineError> {
    let (log, limit) = (folder.join("log"), params.recovery_timeout);
    let begun = Moment::now();
    loop {
        let ended = child.try_wait().map_err(file_error("watch the server of", folder))?;
        if ended.is_some() {
            return Err(failure(&read_log(&log), params.memory_max, goal));
        }
        match session::open(&folder.join("socket"), postgres).await? {
            Readiness::Ready(session) => return Ok(session),
            Readiness::NotYet if begun.elapsed() >= limit => {
                let last = failure_line(&read_log(&log));
                return Err(unfit(&format!("{goal} within {limit:?}"), last));
            }
            // Within 1 % of the duration, and without filling the log of a long recovery.
            Readiness::NotYet => tokio::time::sleep((begun.elapsed() / 100).clamp(POLL_MIN, POLL_MAX)).await,
        }
    }
}

/// What the copy reached, and that it is what was asked for.
async fn look(
    session: Session,
    data: &Path,
    configured: &ConfiguredRecovery,
    log: &str,
) -> Result<(Session, Lineage, String), EngineError> {
    let ended = session.recovered().await?;
    let lineage = reached::judge(&ended, data, configured, log)?;
    Ok((session, lineage, ended.server_version))
}

fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Why a server ended. Nothing but its own words tells that memory was short: before it
/// can load its libraries there is not even an SQLSTATE. What it went on after counts for
/// nothing: a record of garbage at the end of the WAL may claim any length.
fn failure(log: &str, memory_max: Option<ByteSize>, goal: &str) -> EngineError {
    let is_short = |line: &&str| SHORT_OF_MEMORY.iter().any(|words| line.contains(words));
    let short = log.lines().filter(|line| ends_server(line)).find(is_short);
    match (memory_max, short) {
        (Some(limit), Some(line)) => {
            EngineError::Memory { expected: goal.to_owned(), limit, log: line.trim().to_owned() }
        }
        _ => unfit(goal, failure_line(log)),
    }
}

/// Whether a server ended for what this line says: FATAL, PANIC, or none of its own log,
/// as the loader's and those of the programs around it.
fn ends_server(line: &str) -> bool {
    let is_fatal = line.contains("FATAL:  ") || line.contains("PANIC:  ");
    // Further lines of a message begin with a tab.
    is_fatal || !(line.starts_with('\t') || PASSING.iter().any(|word| line.contains(word)))
}

/// Why a server ended: what it could not make of its WAL where we know that, else
/// its first FATAL or PANIC that is not an answer to our own asking, else the last line.
fn failure_line(log: &str) -> String {
    let made = log.lines().find_map(|line| line.split_once(" for Tablespace/CREATE: ").map(|(_, told)| told));
    if let Some(path) = made.and_then(|told| told.split_once(' ')).map(|(_, path)| path.trim_matches('"')) {
        return format!(
            "the WAL makes a tablespace in {path}, outside of the instance's folder, which an isolated copy cannot have; take a full backup, which holds it"
        );
    }
    let fatal = |line: &&str| {
        (line.contains("FATAL:") || line.contains("PANIC:")) && !line.contains("FATAL:  the database system is ")
    };
    let last = || log.lines().rev().find(|line| !line.trim().is_empty());
    log.lines().find(fatal).or_else(last).unwrap_or("the server left no log").trim().to_owned()
}

#[async_trait]
impl Ask for IsolatedInstance {
    async fn query(&self, dbname: &str, sql: &str) -> Result<Answer, EngineError> {
        self.session.query(dbname, sql).await
    }

    async fn witness(&self, dbname: &str, sql: &str) -> Result<AnswerDigest, EngineError> {
        self.session.witness(dbname, sql).await
    }

    async fn parts(&self, settings: &BTreeSet<String>) -> Result<ClusterParts, EngineError> {
        original::parts(self, settings).await
    }

    async fn count(&self, dbname: &str, table: &str) -> Result<Option<u64>, EngineError> {
        catalogs::count(&self.session, dbname, table).await
    }

    async fn collations(&self) -> Result<Vec<Collation>, EngineError> {
        catalogs::collations(&self.session).await
    }

    async fn indexes(&self) -> Result<Vec<LookedAt>, EngineError> {
        catalogs::indexes(&self.session).await
    }

    async fn read_all(&self) -> Result<Vec<ReadThrough>, EngineError> {
        reading::read_all(self).await
    }

    async fn page_checksums(&self) -> Result<Pages, EngineError> {
        reading::page_checksums(self).await
    }
}

#[async_trait]
impl Instance for IsolatedInstance {
    fn lineage(&self) -> Lineage {
        self.lineage.clone()
    }

    fn server_version(&self) -> String {
        self.server_version.clone()
    }

    fn replay_seconds(&self) -> Option<f64> {
        self.replay_seconds
    }

    async fn isolation(&self) -> Result<Vec<Check>, EngineError> {
        checks::isolation(self).await
    }

    async fn heartbeats(&self) -> Result<CopiedBeats, EngineError> {
        let present = self.session.heartbeats(&self.postgres.login.dbname).await?;
        Ok(CopiedBeats { present })
    }

    async fn stop(&self) -> Result<(), EngineError> {
        stop_in(&self.folder).await?;
        // Reaps our child, so that not even a zombie is left.
        let mut child = self.child.lock().await;
        tokio::time::timeout(processes::KILL_LIMIT, child.wait())
            .await
            .map_err(|_| unfit("end", format!("process {} is still there", self.root_pid)))?
            .map(drop)
            .map_err(file_error("watch the server of", &self.folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_fatal_line_that_we_did_not_cause() {
        let log = "LOG:  starting\nFATAL:  the database system is starting up\n\
                   FATAL:  recovery ended before configured recovery target was reached\n\
                   LOG:  startup process (PID 7) exited with exit code 1\n";
        assert_eq!(failure_line(log), "FATAL:  recovery ended before configured recovery target was reached");
        assert_eq!(failure_line("unshare: no\n\n"), "unshare: no");
        for (line, is_memory) in [
            ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", true),
            (
                "postgres: error while loading shared libraries: libicudata.so.72: failed to map segment from shared object",
                true,
            ),
            ("FATAL:  recovery ended before configured recovery target was reached", false),
        ] {
            let before = "LOG:  starting\nLOG:  out of memory while trying to decode a record of length 4711\n\
                          ERROR:  could not execute\nSTATEMENT:  select\n\t'out of memory'\n";
            let told = |limit| failure(&format!("{before}{line}\n"), limit, "start");
            let limited = told(Some(ByteSize::from_bytes(1 << 26)));
            assert_eq!(matches!(&limited, EngineError::Memory { .. }), is_memory, "{line}");
            assert!(limited.to_string().contains(line) && matches!(told(None), EngineError::Recovery { .. }), "{line}");
        }
        let log = "FATAL:  could not set permissions on directory \"/a b\": Read-only file system\n\
                   CONTEXT:  WAL redo at 0/3000318 for Tablespace/CREATE: 16384 \"/a b\"\n";
        assert!(failure_line(log).starts_with("the WAL makes a tablespace in /a b, outside"));
    }
}
