//! The tasks of a daemon that serves, as one edit of its files after the other
//! changes what they work on. Those that protect a database belong to it: an edit
//! that leaves the database as it is leaves its WAL stream and heartbeats alone.
//!
//! What must never happen: two streams of this process for one database. Those of
//! before have ended when the next begin.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{announce, ask, care, exposure, forget, lever, near, protect_one, schedule, stranded};
use crate::{
    app::App,
    domain::{DatabaseName, NodeRole},
    flows::Database,
    process::Tasks,
};

/// How long a look that is under way may hold up the next ones.
const PATIENCE: Duration = Duration::from_secs(30);

/// All that runs beside the runs.
#[derive(Debug, Default)]
pub struct Running {
    /// What protects each database, with the database that it works on.
    protected: BTreeMap<DatabaseName, (Arc<Database>, Tasks)>,
    /// All the others.
    others: Tasks,
    /// Of before an edit, and not ended yet.
    ending: Vec<Tasks>,
}

impl Running {
    pub fn start(app: &Arc<App>) -> Self {
        let mut running = Self::default();
        running.begin(app);
        running
    }

    /// Ends what does not go on, and begins what is new. Answers the databases whose
    /// streams were not touched.
    pub async fn turn_to(&mut self, app: &Arc<App>) -> usize {
        let goes_on = |name: &DatabaseName, database: &Arc<Database>| {
            app.resources.databases.get(name).is_some_and(|now| Arc::ptr_eq(now, database))
        };
        let ended = self.protected.extract_if(.., |name, (database, _)| !goes_on(name, database));
        let ended: Vec<Tasks> = ended.map(|(_, (_, tasks))| tasks).collect();
        let untouched = self.protected.len();
        let others = std::mem::take(&mut self.others);
        others.stop().cancel();
        join_all(ended.iter().map(Tasks::shut_down)).await;
        if tokio::time::timeout(PATIENCE, others.shut_down()).await.is_err() {
            tracing::warn!("a look at the vaults that began before the edit still goes on");
            self.ending.push(others);
        }
        self.begin(app);
        untouched
    }

    /// What the roles of this node are for.
    fn begin(&mut self, app: &Arc<App>) {
        let has = |role| app.estate.daemon.node.roles.contains(&role);
        for database in near(app).filter(|_| has(NodeRole::Worker)) {
            self.protected.entry(database.name.clone()).or_insert_with(|| {
                let tasks = Tasks::new();
                protect_one(app, database, &tasks);
                (Arc::clone(database), tasks)
            });
        }
        let (tasks, stop) = (&self.others, self.others.stop());
        tasks.spawn(stranded::run(Arc::clone(app), stop.clone()));
        tasks.spawn(lever::run(Arc::clone(app), stop.clone()));
        if has(NodeRole::Worker) || has(NodeRole::Api) {
            tasks.spawn(exposure::run(Arc::clone(app), stop.clone()));
        }
        if has(NodeRole::Worker) {
            care(app, tasks);
        }
        if has(NodeRole::Scheduler) {
            ask(app, tasks);
            tasks.spawn(announce::run(Arc::clone(app), stop.clone()));
            tasks.spawn(forget::run(Arc::clone(app), stop.clone()));
            let scheduled = schedule::run(Arc::clone(app), stop.clone());
            tasks.spawn(async move {
                if let Err(error) = scheduled.await {
                    tracing::error!(%error, "the scheduler stopped; restart the daemon");
                }
            });
        }
    }

    /// Ends everything.
    pub async fn shut_down(&self) {
        let protected = self.protected.values().map(|(_, tasks)| tasks);
        join_all(protected.chain([&self.others]).chain(&self.ending).map(Tasks::shut_down)).await;
    }
}
