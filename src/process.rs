//! The sole owner of child processes and background tasks: nothing that is
//! started here outlives its owner.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::unistd::User;
use tokio::io::AsyncWriteExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Who children that refuse to run as root run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// What can go wrong with a child process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start `{program}`; install it or add its folder to PATH")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("`{program}` failed with {status}: {stderr}")]
    Failed { program: String, status: ExitStatus, stderr: String },
    #[error("`{program}` did not end within {limit:?} and was killed")]
    TimedOut { program: String, limit: Duration },
    #[error(
        "this process runs as root and no user `postgres` exists to run PostgreSQL as; install the distribution's PostgreSQL package"
    )]
    NoAccount,
}

impl Account {
    /// The user that PostgreSQL runs as: `postgres` when we are root, else none
    /// other than ourselves.
    pub fn for_postgres() -> Result<Option<Self>, ProcessError> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let user = User::from_name("postgres").ok().flatten().ok_or(ProcessError::NoAccount)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Gives a file or folder to this account.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}

/// A command that is not started yet: a program, its arguments, and who runs it.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<std::ffi::OsString>,
    envs: Vec<(String, String)>,
    account: Option<Account>,
    folder: Option<PathBuf>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), envs: Vec::new(), account: None, folder: None }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it as this user; as ourselves when none.
    #[must_use]
    pub fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn command(&self) -> tokio::process::Command {
        // `setpriv` sets the supplementary groups too, which needs unsafe code otherwise.
        #[expect(clippy::disallowed_methods, reason = "this is its owner")]
        let mut command = match &self.account {
            Some(account) => {
                let mut command = tokio::process::Command::new("setpriv");
                command
                    .arg(format!("--reuid={}", account.uid))
                    .arg(format!("--regid={}", account.gid))
                    .arg("--init-groups")
                    .arg("--")
                    .arg(&self.path);
                command.env("HOME", "/");
                command
            }
            None => tokio::process::Command::new(&self.path),
        };
        command.args(&self.args).envs(self.envs.iter().map(|(k, v)| (k, v)));
        command.current_dir(self.folder.as_deref().unwrap_or(Path::new("/")));
        command.kill_on_drop(true);
        command
    }

    /// Runs it to its end and answers what it printed; a status other than 0 is an error.
    pub async fn output(&self, limit: Duration) -> Result<String, ProcessError> {
        self.output_with_input(limit, None).await
    }

    /// The same with bytes on standard input.
    pub async fn output_with_input(&self, limit: Duration, input: Option<&[u8]>) -> Result<String, ProcessError> {
        let started = |source| ProcessError::Start { program: self.name(), source };
        let mut command = self.command();
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        // A group of its own: a Ctrl-C on the terminal is ours to handle, and what
        // the program started itself ends with it.
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(started)?;
        let group = Group::of(&child);
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input).await.map_err(started)?;
        }
        let output = tokio::time::timeout(limit, child.wait_with_output())
            .await
            .map_err(|_| ProcessError::TimedOut { program: self.name(), limit })?
            .map_err(started)?;
        group.ended();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(ProcessError::Failed { program: self.name(), status: output.status, stderr })
        }
    }

    /// Starts it in a process group of its own, its output into `log`. Killed
    /// when the handle is dropped.
    pub fn start(&self, log: std::fs::File) -> Result<tokio::process::Child, ProcessError> {
        let started = |source| ProcessError::Start { program: self.name(), source };
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(started)?).stderr(log).process_group(0);
        command.spawn().map_err(started)
    }
}

/// The process group of a program that runs; killed when dropped before it ended.
struct Group(Option<nix::unistd::Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw))
    }

    /// The program ended by itself; a server that it left running is meant to stay.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0
            && let Err(error) = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)
        {
            tracing::debug!(%error, "the program's processes had ended");
        }
    }
}

/// Kills every process that works in `folder` or whose command line names it, and
/// waits until none is left: servers that were just being started when they were
/// no longer wanted. It must be a folder that we made ourselves.
pub async fn end_all_of(folder: &Path) -> io::Result<()> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut quiet_looks = 0;
    while quiet_looks < 2 {
        let found = processes_of(folder)?;
        quiet_looks = if found.is_empty() { quiet_looks + 1 } else { 0 };
        for pid in found {
            // One that ended meanwhile is what we want.
            let pid = nix::unistd::Pid::from_raw(pid);
            match nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if std::time::Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes of {} do not end", folder.display()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Other processes whose command line names `folder`, or whose working folder
/// lies in it, such as a server's children; dead ones that nobody has waited for
/// have neither.
fn processes_of(folder: &Path) -> io::Result<Vec<i32>> {
    use std::os::unix::ffi::OsStrExt;
    let wanted = folder.as_os_str().as_bytes();
    let ourselves = nix::unistd::Pid::this().as_raw();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that ends while we look has no file any more.
        let Ok(command_line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let works_inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if pid != ourselves && (works_inside || command_line.windows(wanted.len()).any(|window| window == wanted)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Background tasks with one owner: they are asked to stop together and awaited.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the tasks are to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn(task)
    }

    /// Asks all tasks to stop and waits until they have.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
