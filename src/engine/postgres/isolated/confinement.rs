//! What an isolated instance is locked into: its own user, mount, network,
//! process and IPC namespace, had without privileges. Where the system does not
//! give them, the instance runs without, and its isolation is not provable.
//!
//! A network namespace does not stop Unix sockets that have a path, so the
//! folders of production's sockets are covered with empty ones.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    engine::postgres::{Postgres, settings},
    process::{ProcessError, Program},
};

const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Arguments: the instance's folder, user, group, the folders to hide, `--`,
/// the command. The folder is held open, because a folder that is hidden may
/// lie above it; all other file systems become read-only where the system allows,
/// each with the options it has, which may not be taken away: a tablespace of
/// production's often has one to itself. PostgreSQL refuses user 0, hence the
/// second namespace.
const CONFINE: &str = r#"set -e
folder=$1 user=$2 group=$3
shift 3
exec 3<"$folder"
while [ "$1" != -- ]; do
  mount -t tmpfs -o mode=755 tmpfs "$1"
  shift
done
shift
mkdir -p "$folder"
mount -c --bind /proc/self/fd/3 "$folder"
exec 3<&-
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
const SEE: &str = r#"if [ -S "$1" ]; then echo reached; else echo unreachable; fi"#;

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
    Tcp { host: String, port: u16 },
    Socket(PathBuf),
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
                    .args(hidden_folders(postgres))
                    .arg("--")
                    .args(argv)
            }
        };
        program.account(postgres.account.clone()).folder(folder)
    }
}

/// The folders of production's sockets and the distributions' default one.
fn hidden_folders(postgres: &Postgres) -> BTreeSet<PathBuf> {
    let of_members = postgres.members.iter().map(|member| member.host.as_str()).filter(|host| host.starts_with('/'));
    ["/run/postgresql", "/var/run/postgresql"]
        .into_iter()
        .chain(of_members)
        .filter_map(|folder| Path::new(folder).canonicalize().ok())
        .collect()
}

impl Address {
    pub(super) fn of_member(member: &super::super::Member) -> Self {
        if member.host.starts_with('/') {
            Self::Socket(Path::new(&member.host).join(format!(".s.PGSQL.{}", member.port)))
        } else {
            Self::Tcp { host: member.host.clone(), port: member.port }
        }
    }

    /// The instance's own socket, which must be visible from inside.
    pub(super) fn own_socket(folder: &Path) -> Self {
        Self::Socket(folder.join("socket").join(format!(".s.PGSQL.{}", settings::ISOLATED_PORT)))
    }

    /// Whether it can be reached: from inside the namespaces of process `root`,
    /// or from where we are. An error says why the probe could not run.
    pub(super) async fn is_reached(&self, postgres: &Postgres, root: Option<i32>) -> Result<bool, String> {
        let (script, args): (_, Vec<OsString>) = match self {
            Self::Tcp { host, port } => (CONNECT, vec![host.into(), port.to_string().into()]),
            Self::Socket(path) => (SEE, vec![path.into()]),
        };
        let program = match root {
            Some(pid) => Program::new("nsenter").args([
                "-t",
                &pid.to_string(),
                "-U",
                "-n",
                "-m",
                "--preserve-credentials",
                "--",
                "bash",
            ]),
            None => Program::new("bash"),
        };
        let program = program.args(["-c", script, "probe"]).args(args).account(postgres.account.clone());
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
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}
