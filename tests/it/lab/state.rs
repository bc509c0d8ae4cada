//! What the lab has of its own, by the names that moto gave: servers, copies, and how far
//! each is made or removed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lifeboat::process::Tasks;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    answer::Answer,
    call::Call,
    copies::Copy,
    faults::Faults,
    kind::{is_named, part},
    proxy::Asked,
    server::Server,
};
use crate::demo::processes_of;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Creating,
    Available,
    Deleting,
    Failed,
}

/// An instance of its own, or an Aurora cluster.
#[derive(Debug)]
pub(super) struct Database {
    pub phase: Phase,
    pub server: Option<Arc<Server>>,
    /// What points in time are restored from, and what its automated snapshot is.
    pub copy: Option<Arc<Copy>>,
    /// Held while its server is made, copied for the first time, or removed.
    pub work: Arc<tokio::sync::Mutex<()>>,
}

/// An instance of an Aurora cluster.
#[derive(Debug)]
pub(super) struct Member {
    pub phase: Phase,
    pub cluster: String,
}

#[derive(Debug)]
pub(super) struct Snapshot {
    pub phase: Phase,
    /// The ARN of the database that it is of.
    pub of: String,
    pub is_automated: bool,
    pub is_encrypted: bool,
    /// The ARN of the snapshot that it is a copy of.
    pub source: Option<String>,
    pub copy: Option<Arc<Copy>>,
    /// When it was made where it is.
    pub made_at: Option<Timestamp>,
}

/// All by ARN.
#[derive(Debug, Default)]
pub(super) struct State {
    pub databases: BTreeMap<String, Database>,
    pub members: BTreeMap<String, Member>,
    pub snapshots: BTreeMap<String, Snapshot>,
}

impl State {
    /// The server behind an instance or a cluster that is available.
    pub(super) fn server(&self, region: &str, kind: &str, id: &str) -> Option<Arc<Server>> {
        let is_it = |arn: &&String| is_named(arn, region, kind, id);
        let member = self.members.iter().find(|(arn, _)| is_it(arn)).map(|(_, member)| member);
        let database = match member {
            Some(member) if member.phase == Phase::Available => self.databases.get(&member.cluster),
            Some(_) => None,
            None => self.databases.iter().find(|(arn, _)| is_it(arn)).map(|(_, database)| database),
        };
        let database = database.filter(|database| database.phase == Phase::Available)?;
        database.server.clone()
    }

    /// The ARN of what a call names by an ARN, or by its name in the call's region.
    pub(super) fn arn(
        known: impl IntoIterator<Item = String>,
        region: &str,
        resource: &str,
        id: &str,
    ) -> Option<String> {
        known.into_iter().find(|arn| arn == id || is_named(arn, region, resource, id))
    }

    pub(super) fn snapshot_named(&self, region: &str, resource: &str, id: &str) -> Option<(String, &Snapshot)> {
        let arn = Self::arn(self.snapshots.keys().cloned(), region, resource, id)?;
        let snapshot = self.snapshots.get(&arn)?;
        Some((arn, snapshot))
    }

    pub(super) fn database_named(&self, region: &str, resource: &str, id: &str) -> Option<(String, &Database)> {
        let arn = Self::arn(self.databases.keys().cloned(), region, resource, id)?;
        let database = self.databases.get(&arn)?;
        Some((arn, database))
    }

    /// The members of a cluster.
    pub(super) fn members_of(&self, cluster: &str) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.cluster == cluster)
    }
}

/// All that the proxy and its tasks share.
#[derive(Debug)]
pub(super) struct Estate {
    pub folder: PathBuf,
    pub faults: Faults,
    pub tasks: Tasks,
    /// What changes something goes alone: nobody sees what moto knows and we do not yet.
    pub gate: tokio::sync::RwLock<()>,
    upstream: String,
    http: reqwest::Client,
    state: Mutex<State>,
    calls: Mutex<Vec<Call>>,
    failures: Mutex<Vec<String>>,
}

impl Estate {
    pub(super) fn new(folder: PathBuf, upstream: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            folder,
            faults: Faults::default(),
            tasks: Tasks::new(),
            gate: tokio::sync::RwLock::default(),
            upstream: upstream.to_owned(),
            http,
            state: Mutex::default(),
            calls: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub(super) fn record(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }

    pub(super) fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub(super) fn failed(&self, what: &str, error: &anyhow::Error) {
        self.failures.lock().unwrap().push(format!("{what}: {error:#}"));
    }

    /// Works beside the answers; what goes wrong with it is kept.
    pub(super) fn spawn(
        self: &Arc<Self>,
        what: String,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let estate = Arc::clone(self);
        let work = async move {
            if let Err(error) = work.await {
                estate.failed(&what, &error);
            }
        };
        self.tasks.spawn(self.tasks.stop().clone().run_until_cancelled_owned(work));
    }

    /// What moto says to this.
    pub(super) async fn forward(&self, asked: &Asked) -> anyhow::Result<Answer> {
        let path = asked.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = asked.head.headers.clone();
        for hop in ["content-length", "connection", "transfer-encoding", "expect"] {
            headers.remove(hop);
        }
        let request = self.http.request(asked.head.method.clone(), format!("{}{path}", self.upstream));
        let answer = request.headers(headers).body(asked.body.clone()).send().await?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        for hop in ["content-length", "connection", "transfer-encoding"] {
            headers.remove(hop);
        }
        Ok(Answer { status, headers, body: answer.bytes().await? })
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, mut is_so: impl FnMut(&State) -> bool) {
        while !is_so(&self.state()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A database in the region of another one's ARN.
    pub(super) fn region(arn: &str) -> &str {
        part(arn, 3)
    }

    /// Ends all servers, those also that are just being started: cleanly where they can,
    /// so that no shared memory is left.
    pub(super) fn end(&self) {
        let servers: Vec<Arc<Server>> = self.state().databases.values().filter_map(|one| one.server.clone()).collect();
        for pid in servers.iter().filter_map(|server| server.cluster.pid()) {
            // One that has ended by itself is what we want.
            let _ended = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let begun = Instant::now();
        loop {
            let left = processes_of(&self.folder);
            if left.is_empty() || begun.elapsed() > Duration::from_secs(10) {
                return;
            }
            if begun.elapsed() > Duration::from_secs(2) {
                for (pid, _) in left {
                    let _ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
