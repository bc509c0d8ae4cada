//! The commands that start a restored server and log in to it, as a person copies
//! them: they must be true as they stand, beside other servers too.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use super::STARTUP_LOG;
use crate::{engine::postgres::cluster::Binaries, process::Account};

/// PostgreSQL's own, and what is tried where somebody listens there.
const PORTS: std::ops::Range<u16> = 5432..5532;
/// A socket's whole path may have 107 bytes, with `/.s.PGSQL.5432` at its end.
const SOCKET_FOLDER_MAX: usize = 90;

/// How the server of a restored folder is started and reached.
pub(super) struct Start {
    data: PathBuf,
    /// What precedes a command so that the folder's owner runs it.
    runs_as: String,
    /// Where its socket is made: nobody else's comes there.
    socket: PathBuf,
    port: u16,
}

impl Start {
    pub(super) fn of(data: &Path) -> Self {
        let account = Account::for_postgres().ok().flatten();
        let is_short = data.as_os_str().len() <= SOCKET_FOLDER_MAX;
        Self {
            data: data.to_owned(),
            runs_as: account.map_or_else(String::new, |account| format!("runuser -u {} -- ", account.name)),
            socket: if is_short { data.to_owned() } else { PathBuf::from("/tmp") },
            port: PORTS.into_iter().find(|port| is_free(*port)).unwrap_or(PORTS.start),
        }
    }

    /// What starts PostgreSQL of the folder's version on it, as the user that owns it.
    pub(super) fn server(&self) -> String {
        let Self { data, runs_as, socket, port } = self;
        let options = quoted(&format!("-p {port} -k {}", quoted(&shown(socket))));
        format!(
            "{runs_as}{} -D {} -l {} -o {options} -w -t 3600 start",
            self.program("pg_ctl"),
            quoted(&shown(data)),
            quoted(&shown(&data.join(STARTUP_LOG))),
        )
    }

    /// What logs in to it as its superuser, without a password.
    pub(super) fn login(&self) -> String {
        let Self { runs_as, socket, port, .. } = self;
        format!("{runs_as}{} -h {} -p {port} -U postgres -d postgres", self.program("psql"), quoted(&shown(socket)))
    }

    fn program(&self, name: &str) -> String {
        let path = Binaries::of(&self.data).map_or_else(|_| PathBuf::from(name), |binaries| binaries.path(name));
        quoted(&shown(&path))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A text as a shell reads it as one word.
fn quoted(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@%".contains(c));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
