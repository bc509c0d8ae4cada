//! What an isolated instance is locked into: its own user, mount, network,
//! process and IPC namespace, had without privileges. Where the system does not
//! give them, the instance runs without, and its isolation is not provable.
//!
//! A network namespace does not stop Unix sockets that have a path, so the
//! folders of PostgreSQL's sockets are covered with empty ones, and every other
//! socket on which somebody listens with nothing.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{IsolatedInstance, sockets};
use crate::{
    domain::with_causes,
    engine::postgres::{Postgres, cluster::Binaries, settings},
    process::{ProcessError, Program},
};

const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Arguments: the instance's folder, user, group, the folders and sockets to hide,
/// `--`, the command. The folder is held open, because a folder that is hidden may
/// lie above it; one that is gone by now, or a socket that cannot be covered, holds
/// nothing up, as each is tried once the server runs. What is kept of the source's own
/// files is hidden, too. All other file systems become read-only where the system allows,
/// each with the options it has, which may not be taken away: a tablespace of
/// production's often has one to itself. PostgreSQL refuses user 0, hence the
/// second namespace.
const CONFINE: &str = r#"set -e
folder=$1 user=$2 group=$3
shift 3
exec 3<"$folder"
while [ "$1" != -- ]; do
  if [ -S "$1" ]; then mount -c --bind /dev/null "$1" 2>/dev/null || :
  else mount -t tmpfs -o mode=755 tmpfs "$1" || [ ! -d "$1" ]; fi
  shift
done
shift
mkdir -p "$folder"
mount -c --bind /proc/self/fd/3 "$folder"
exec 3<&-
[ ! -d "$folder/of_source" ] || mount -t tmpfs -o mode=755 tmpfs "$folder/of_source"
cat /proc/self/mountinfo | while read -r _ _ _ _ at options _; do
  at=$(printf '%b' "$at")
  case $at in "$folder" | /proc | /proc/* | /sys | /sys/* | /dev | /dev/*) continue ;; esac
  timeout 5 mount -c -o "remount,bind,$options,ro" "$at" 2>/dev/null || :
done
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
"#;

/// Prints what a probe found, so that a probe that could not run is told apart.
const CONNECT: &str = r#"if timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null
then echo reached; else echo unreachable; fi"#;
/// Connects as a client does; a server that is starting up answers, too.
const ASK: &str = r#""$1" -q -t 5 -h "$2" -p "$3"
case $? in 0 | 1) echo reached ;; 2) echo unreachable ;; *) echo "pg_isready ended with $?" ;; esac"#;

/// What keeps the instance apart from the rest of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    Namespaces,
    /// Nothing does; the reason goes into the verdict.
    None {
        reason: String,
    },
}

/// Something that might be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    /// Of a PostgreSQL server, in this folder.
    Socket {
        folder: PathBuf,
        port: u16,
    },
}

impl Confinement {
    /// Tries to confine a command that does nothing.
    pub async fn probe(postgres: &Postgres, folder: &Path) -> Self {
        let attempt = Self::Namespaces.wrap(postgres, folder, &["true".into()]);
        match attempt.output(PROBE_LIMIT).await {
            Ok(_) => Self::Namespaces,
            Err(ProcessError::Failed { stderr, .. }) => {
                Self::None { reason: format!("namespaces are refused: {stderr}") }
            }
            Err(error) => Self::None { reason: error.to_string() },
        }
    }

    /// The command so that it runs confined, as the account, in the folder.
    pub(super) fn wrap(&self, postgres: &Postgres, folder: &Path, argv: &[OsString]) -> Program {
        let program = match self {
            Self::None { .. } => {
                let mut argv = argv.iter();
                Program::new(argv.next().cloned().unwrap_or_default()).args(argv)
            }
            Self::Namespaces => {
                let (user, group) = match &postgres.account {
                    Some(account) => (account.uid, account.gid),
                    None => (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
                };
                Program::new("unshare")
                    .args(["--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"])
                    .args(["--", "sh", "-c", CONFINE, "confine"])
                    .arg(folder)
                    .args([user.to_string(), group.to_string()])
                    .args(hidden(postgres))
                    .arg("--")
                    .args(argv)
            }
        };
        program.account(postgres.account.clone()).folder(folder)
    }
}

/// Where PostgreSQL's sockets lie when nobody says otherwise, also those that come later.
const DEFAULT_FOLDERS: [&str; 3] = ["/run/postgresql", "/var/run/postgresql", "/tmp"];

/// The folders of PostgreSQL's sockets, production's and any other's, the default ones,
/// and each further socket of this machine.
fn hidden(postgres: &Postgres) -> Vec<PathBuf> {
    let of_members =
        postgres.members.iter().map(|member| PathBuf::from(&member.host)).filter(|host| host.is_absolute());
    // What cannot be listed is told by the probe, which lists it again.
    let listening = sockets::listening().unwrap_or_default();
    let (of_servers, others): (Vec<_>, Vec<_>) =
        listening.into_iter().partition(|path| sockets::of_server(path).is_some());
    let found: BTreeSet<PathBuf> = DEFAULT_FOLDERS
        .into_iter()
        .map(PathBuf::from)
        .chain(of_members)
        .chain(of_servers.iter().filter_map(|socket| socket.parent().map(Path::to_owned)))
        .filter_map(|folder| folder.canonicalize().ok())
        .filter(|folder| folder.parent().is_some())
        .collect();
    let is_below = |path: &Path| path.ancestors().skip(1).any(|above| found.contains(above));
    let folders = found.iter().filter(|folder| !is_below(folder)).cloned();
    let others = others.into_iter().filter_map(|socket| socket.canonicalize().ok()).filter(|socket| !is_below(socket));
    folders.chain(others).collect()
}

impl Address {
    pub(super) fn of_member(member: &super::super::Member) -> Self {
        if member.host.starts_with('/') {
            Self::Socket { folder: PathBuf::from(&member.host), port: member.port }
        } else {
            Self::Tcp { host: member.host.clone(), port: member.port }
        }
    }

    /// The instance's own socket, which must be reached from inside. The path goes by
    /// where its server works, as the address of a socket is at most 107 bytes long.
    pub(super) fn own_socket(server: i32) -> Self {
        let folder = PathBuf::from(format!("/proc/{server}/cwd")).join(settings::ISOLATED_SOCKET);
        Self::Socket { folder, port: settings::ISOLATED_PORT }
    }

    /// Whether it can be reached: from inside the namespaces of process `root`,
    /// or from where we are. An error says why the probe could not run.
    pub(super) async fn is_reached(&self, instance: &IsolatedInstance, root: Option<i32>) -> Result<bool, String> {
        let argv: Vec<OsString> = match self {
            Self::Tcp { host, port } => {
                let connect = ["bash", "-c", CONNECT, "probe", host.as_str()].map(OsString::from);
                connect.into_iter().chain([port.to_string().into()]).collect()
            }
            Self::Socket { folder, port } => {
                let ask = ["sh", "-c", ASK, "probe"].map(OsString::from);
                let binaries = Binaries::of(&instance.folder.join("data")).map_err(|error| with_causes(&error))?;
                let program = binaries.path("pg_isready").into_os_string();
                ask.into_iter().chain([program, folder.into(), port.to_string().into()]).collect()
            }
        };
        let mut argv = argv.into_iter();
        let program = match root {
            Some(pid) => {
                Program::new("nsenter").args(["-t", &pid.to_string(), "-U", "-n", "-m", "--preserve-credentials", "--"])
            }
            None => Program::new(argv.next().unwrap_or_default()),
        };
        let program = program.args(argv).account(instance.postgres.account.clone());
        match program.output(PROBE_LIMIT).await.map_err(|error| error.to_string())?.trim() {
            "reached" => Ok(true),
            "unreachable" => Ok(false),
            other => Err(format!("the probe answered `{other}`")),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket { folder, port } => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}
