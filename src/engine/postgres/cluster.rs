//! PostgreSQL clusters on this machine that we make and own ourselves: isolated
//! instances, the demo's estate, the lab of the tests. A cluster that was there
//! already is never touched.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    engine::EngineError,
    process::{Account, ProcessError, Program},
};

/// Where PostgreSQL's programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    major: u32,
    folder: PathBuf,
}

/// `15` of `15.14 (Debian 15.14-0+deb12u1)`.
pub(super) fn major(server_version: &str) -> Option<u32> {
    server_version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The first version that gives increments.
pub(super) const INCREMENTS_SINCE: u32 = 17;

/// Whether servers of this version give increments.
pub fn gives_increments(server_version: &str) -> bool {
    major(server_version).is_some_and(|version| version >= INCREMENTS_SINCE)
}

/// Where the programs of a major version are found: Debian's packages, PostgreSQL's
/// own for Red Hat and its like, and what was installed by hand.
fn folders(major: u32) -> [PathBuf; 3] {
    [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/usr/local/lib/postgresql/{major}/bin"),
    ]
    .map(PathBuf::from)
}

impl Binaries {
    /// Finds the programs of this major version.
    pub fn find(major: u32) -> Result<Self, EngineError> {
        folders(major)
            .into_iter()
            .map(|folder| Self { major, folder })
            .find(|binaries| binaries.path("postgres").exists())
            .ok_or_else(|| EngineError::MissingProgram {
                program: format!("postgres {major}"),
                remedy: format!(
                    "install PostgreSQL {major}'s server package (`apt-get install postgresql-{major}` on Debian), or link its programs as {}",
                    folders(major).map(|folder| folder.display().to_string()).join(" or ")
                ),
            })
    }

    /// The programs of the version that a data folder was made by.
    pub fn of(data: &Path) -> Result<Self, EngineError> {
        let path = data.join("PG_VERSION");
        let failed = |source| EngineError::File { action: "read", path: path.clone(), source };
        let text = fs::read_to_string(&path).map_err(failed)?;
        let major = text.trim().parse().map_err(|error| failed(std::io::Error::other(error)))?;
        Self::find(major)
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// A program of PostgreSQL's, to be run as `account`.
    pub fn program(&self, name: &str, account: Option<Account>) -> Program {
        Program::new(self.path(name)).account(account)
    }
}

/// A cluster of ours: its data folder, its socket folder, its log.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    pub binaries: Binaries,
    pub account: Option<Account>,
    /// Holds `data`, `socket` and `log`.
    pub folder: PathBuf,
}

impl LocalCluster {
    /// Describes a cluster in `folder`; does nothing yet.
    pub fn new(binaries: Binaries, account: Option<Account>, folder: impl Into<PathBuf>) -> Self {
        Self { binaries, account, folder: folder.into() }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn socket_folder(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Makes `folder` and its socket folder, owned by the account that runs the server.
    pub fn make_folders(&self) -> Result<(), EngineError> {
        for folder in [self.folder.clone(), self.socket_folder()] {
            let failed = |source| EngineError::File { action: "make the folder", path: folder.clone(), source };
            fs::create_dir_all(&folder).map_err(failed)?;
            if let Some(account) = &self.account {
                account.own(&folder).map_err(failed)?;
            }
            fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes a new, empty cluster with data checksums and the superuser `postgres`.
    /// Local logins need no password; `pg_hba.conf` can be replaced afterwards.
    pub async fn init(&self) -> Result<(), EngineError> {
        self.init_with(&[]).await
    }

    /// The same with further options of `initdb`.
    pub async fn init_with(&self, options: &[&str]) -> Result<(), EngineError> {
        self.make_folders()?;
        self.binaries
            .program("initdb", self.account.clone())
            .args([
                "--username=postgres",
                "--auth=trust",
                "--data-checksums",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .args(options.iter().copied())
            .arg("-D")
            .arg(self.data())
            .output(Duration::from_secs(60))
            .await
            .map(drop)
            .map_err(|error| self.failed("make", &error))
    }

    /// Appends lines to `postgresql.conf`.
    pub fn configure(&self, lines: &str) -> Result<(), EngineError> {
        let path = self.data().join("postgresql.conf");
        let failed = |source| EngineError::File { action: "write", path: path.clone(), source };
        let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(failed)?;
        std::io::Write::write_all(&mut file, lines.as_bytes()).map_err(failed)
    }

    /// Starts the server and waits until it accepts connections.
    pub async fn start(&self, limit: Duration) -> Result<(), EngineError> {
        self.ctl(["start", "--wait", "--silent"])
            .arg("-l")
            .arg(self.log())
            .arg("-t")
            .arg(limit.as_secs().to_string())
            .output(limit + Duration::from_secs(5))
            .await
            .map(drop)
            .map_err(|error| self.failed("start", &error))
    }

    /// Stops the server: `fast` finishes cleanly, `immediate` does not. A
    /// server that does not run is a success.
    pub async fn stop(&self, mode: &str) -> Result<(), EngineError> {
        if !self.is_running() {
            return Ok(());
        }
        match self.ctl(["stop", "--wait", "--silent", "--mode", mode]).output(Duration::from_secs(60)).await {
            Ok(_) => Ok(()),
            Err(_) if !self.is_running() => Ok(()),
            Err(error) => Err(self.failed("stop", &error)),
        }
    }

    /// The server's process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        let pid: i32 =
            fs::read_to_string(self.data().join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).ok().map(|()| pid)
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    fn ctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        self.binaries.program("pg_ctl", self.account.clone()).args(args).arg("-D").arg(self.data())
    }

    fn failed(&self, verb: &str, error: &ProcessError) -> EngineError {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
        EngineError::Recovery { expected: format!("{verb} in {}: {error}", self.folder.display()), log: tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_as_distributions_write_it() {
        for (text, version) in
            [("15.14 (Debian 15.14-0+deb12u1)", Some(15)), ("18beta1", Some(18)), ("9.6.24", Some(9)), ("", None)]
        {
            assert_eq!(major(text), version, "{text}");
        }
    }
}
