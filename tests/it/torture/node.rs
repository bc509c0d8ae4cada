//! One PostgreSQL server in a mount namespace of its own, where the folder of
//! tablespaces is its own too: several servers on one machine replay the same
//! `CREATE TABLESPACE`, as if each were on a machine of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lifeboat::{
    domain::Lsn,
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::{Account, ProcessError, Program, end_all_of},
};

use crate::support::{eventually, free_port};

pub(super) const SOON: Duration = Duration::from_secs(120);
/// How many places there are for tablespaces.
pub(super) const SPACES: u64 = 4;

/// Killed when dropped.
pub(super) struct Node {
    pub(super) cluster: LocalCluster,
    pub(super) port: u16,
    /// The path of all servers' tablespaces, and what this one finds there.
    spaces: PathBuf,
    own_spaces: PathBuf,
}

impl Node {
    /// Describes a server below `estate`, with empty places for tablespaces.
    pub(super) fn new(major: u32, estate: &Path, name: &str) -> Self {
        let account = Account::for_postgres().unwrap();
        let cluster = LocalCluster::new(Binaries::find(major).unwrap(), account, estate.join(name));
        cluster.make_folders().unwrap();
        let (spaces, own_spaces) = (estate.join("spaces"), cluster.folder.join("spaces"));
        fs::create_dir_all(&spaces).unwrap();
        let node = Self { cluster, port: free_port(), spaces, own_spaces };
        for nth in 0..SPACES {
            let place = node.own_spaces.join(nth.to_string());
            fs::create_dir_all(&place).unwrap();
            node.cluster.account.iter().for_each(|account| account.own(&place).unwrap());
        }
        node
    }

    /// The path of a tablespace, as every server knows it.
    pub(super) fn space(&self, nth: u64) -> PathBuf {
        self.spaces.join(nth.to_string())
    }

    pub(super) fn program(&self, name: &str) -> Program {
        self.cluster.binaries.program(name, self.cluster.account.clone())
    }

    /// A program that sees the tablespaces as the server does.
    fn inside(&self, name: &str) -> Program {
        let program = Program::new("unshare").args(["--mount", "--propagation=private", "sh", "-euc"]);
        let program = program.arg("mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"").arg("sh");
        let program = program.arg(&self.own_spaces).arg(&self.spaces);
        let program = match &self.cluster.account {
            Some(Account { uid, gid, .. }) => {
                program.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--init-groups", "--"])
            }
            None => program,
        };
        program.arg(self.cluster.binaries.path(name))
    }

    pub(super) async fn init(&self, settings: &str, more: &[&str]) {
        let initdb = self.program("initdb").args(["--username=postgres", "--auth=trust", "--data-checksums"]);
        let initdb = initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]).args(more);
        initdb.arg("-D").arg(self.cluster.data()).output(SOON).await.unwrap();
        self.cluster.configure(settings).unwrap();
    }

    /// Makes it a copy of a running server; with `args` such as `-R`.
    pub(super) async fn copy(&self, of: &Self, args: &[&str]) {
        let copy = self.inside("pg_basebackup").args(["-X", "stream", "--checkpoint=fast", "--no-sync"]).args(args);
        let copy = copy.args(["-U", "postgres", "-p", &of.port.to_string(), "-h"]).arg(of.cluster.socket_folder());
        copy.arg("-D").arg(self.cluster.data()).output(SOON).await.unwrap();
    }

    /// Makes it what another one is that does not run, byte for byte.
    pub(super) async fn duplicate(&self, of: &Self) {
        for (from, to) in [(of.cluster.data(), self.cluster.data()), (of.own_spaces.clone(), self.own_spaces.clone())] {
            let copy = Program::new("cp").args(["-a", "-T"]).args([&from, &to]);
            copy.output(SOON).await.unwrap();
        }
    }

    /// Starts it, with more `options` for the server.
    pub(super) async fn start(&self, options: &str) {
        let socket = self.cluster.socket_folder();
        let options = format!("-p {} -k {} -c listen_addresses=127.0.0.1 {options}", self.port, socket.display());
        let start = self.inside("pg_ctl").args(["start", "-w", "-s", "-t", "120", "-o", &options, "-l"]);
        let started = start.arg(self.cluster.log()).arg("-D").arg(self.cluster.data()).output(SOON).await;
        started.unwrap_or_else(|error| panic!("{error}: {}", self.log_tail()));
    }

    /// Starts a copy, and waits until it has recovered to its target.
    pub(super) async fn recover(&self) {
        // What it works on goes away with it.
        self.start("-c fsync=off -c archive_mode=off -c shared_buffers=32MB").await;
        let ended = async || match self.psql("postgres", "SELECT pg_is_in_recovery()").await {
            Ok(answer) => answer == "f",
            Err(error) => {
                assert!(self.cluster.is_running(), "{error}: {}", self.log_tail());
                false
            }
        };
        eventually(&format!("{} recovers", self.cluster.folder.display()), SOON, ended).await;
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.cluster.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Kills all its processes at once, and leaves nothing that keeps it from starting.
    pub(super) async fn kill(&self) {
        end_all_of(&self.cluster.data()).await.unwrap();
        let socket = self.cluster.socket_folder().join(format!(".s.PGSQL.{}.lock", self.port));
        for lock in [self.cluster.data().join("postmaster.pid"), socket] {
            // It may have been starting, or ended by itself.
            let _gone = fs::remove_file(lock);
        }
    }

    fn client(&self, dbname: &str) -> Program {
        let psql = self.program("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", dbname, "-h"]);
        psql.arg(self.cluster.socket_folder()).args(["-p", &self.port.to_string()])
    }

    /// psql's unaligned output for one command.
    pub(super) async fn psql(&self, dbname: &str, sql: &str) -> Result<String, ProcessError> {
        Ok(self.client(dbname).args(["-c", sql]).output(SOON).await?.trim().to_owned())
    }

    /// The same for a script, each command in a transaction of its own.
    pub(super) async fn feed(&self, dbname: &str, script: &str) -> Result<String, ProcessError> {
        self.client(dbname).output_with_input(SOON, Some(script.as_bytes())).await
    }

    /// A position in its WAL.
    pub(super) async fn lsn(&self, function: &str) -> Lsn {
        self.psql("postgres", &format!("SELECT {function}()")).await.unwrap().parse().unwrap()
    }

    /// Lets the role `lifeboat` in over TCP with a password, the superuser by its socket.
    pub(super) fn write_hba(&self) {
        let hba = "local all postgres trust\nlocal replication postgres trust\n\
                   host all lifeboat 127.0.0.0/8 scram-sha-256\nhost replication lifeboat 127.0.0.0/8 scram-sha-256\n";
        fs::write(self.cluster.data().join("pg_hba.conf"), hba).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(pid) = self.cluster.pid() {
            // One that has ended by itself is what we want.
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
    }
}
