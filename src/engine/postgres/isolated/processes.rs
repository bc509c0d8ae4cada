//! The processes of an instance, found by where they work, and their end.
//!
//! Only a process whose working folder lies in the instance's folder and whose
//! program is one that we start there is ever signalled: a person's shell that
//! happens to stand there is not.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant as Moment},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::engine::{EngineError, postgres::restored::unfit};

/// How long the kernel may take to end what was killed.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Asked politely first: fast shutdown, then immediate, then killed.
const ESCALATION: [(Signal, bool, Duration); 3] = [
    (Signal::SIGINT, true, Duration::from_secs(20)),
    (Signal::SIGQUIT, true, Duration::from_secs(5)),
    (Signal::SIGKILL, false, KILL_LIMIT),
];
const OURS: [&str; 3] = ["postgres", "unshare", "setpriv"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    program: String,
}

/// Stops every process of the instance in `folder` and proves that none is
/// left. No folder and no process are a success.
pub async fn stop_in(folder: &Path) -> Result<(), EngineError> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    for (signal, servers_only, limit) in ESCALATION {
        let begun = Moment::now();
        for pid in targets(&working_in(&folder), servers_only) {
            // A process that ended meanwhile is what we want.
            kill(Pid::from_raw(pid), signal).ok();
        }
        while begun.elapsed() < limit {
            if working_in(&folder).is_empty() {
                return Ok(());
            }
            if servers_only && targets(&working_in(&folder), true).is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let left: Vec<String> = working_in(&folder).iter().map(|p| format!("{} ({})", p.pid, p.program)).collect();
    if left.is_empty() { Ok(()) } else { Err(unfit("end", format!("processes are left: {}", left.join(", ")))) }
}

/// The server of the instance: the one whose parent is not a server too.
pub(super) fn server_of(folder: &Path) -> Option<i32> {
    targets(&working_in(folder), true).first().copied()
}

fn targets(found: &[Process], servers_only: bool) -> Vec<i32> {
    if !servers_only {
        return found.iter().map(|process| process.pid).collect();
    }
    let is_server = |process: &&Process| process.program == "postgres";
    let servers: Vec<i32> = found.iter().filter(is_server).map(|process| process.pid).collect();
    found.iter().filter(is_server).filter(|p| !servers.contains(&p.parent)).map(|p| p.pid).collect()
}

/// All processes of ours that work in `folder`, which is canonical. A zombie works nowhere.
fn working_in(folder: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| working_folder(*pid).is_some_and(|at| at.starts_with(folder)))
        .filter_map(process)
        .filter(|process| OURS.contains(&process.program.as_str()))
        .collect()
}

fn working_folder(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

fn process(pid: i32) -> Option<Process> {
    // `pid (program) state parent …`; a program's name may hold spaces and parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let program = head.split_once('(')?.1.to_owned();
    let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent, program })
}
