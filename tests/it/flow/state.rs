//! A state database for one test, and runners on it.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use lifeboat::{clock::Clock, db::Db, flow::Runner};

use super::toy::ToyFlow;
use crate::support::{Lab, scratch};

/// Where a test keeps its runs and effects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) url: String,
    pub(super) folder: tempfile::TempDir,
}

/// Leases in tests end soon, but not so soon that a busy machine loses them.
pub(super) const TTL: Duration = Duration::from_millis(1500);

impl State {
    pub(super) fn sqlite() -> Self {
        let folder = scratch();
        Self { url: format!("sqlite:{}", folder.path().join("state.db").display()), folder }
    }

    /// A database of its own on the lab's server.
    pub(super) async fn postgres(lab: &Lab, name: &str) -> Self {
        lab.psql(&format!("CREATE DATABASE \"{name}\"")).await;
        Self { url: format!("postgres://postgres@127.0.0.1:{}/{name}", lab.port), folder: scratch() }
    }

    pub(super) async fn db(&self) -> Db {
        Db::open(&self.url).await.unwrap()
    }

    /// A runner with pools of its own, as another process would have.
    pub(super) async fn runner(&self, node: &str) -> Arc<Runner> {
        runner(&self.url, node, TTL).await
    }
}

pub(super) async fn runner(url: &str, node: &str, ttl: Duration) -> Arc<Runner> {
    with_clock(url, node, ttl, Clock::system()).await
}

/// A clock that is wrong by so many hours.
pub(super) fn off_by(hours: i64) -> Clock {
    Clock::held_at(Clock::system().now() + SignedDuration::from_hours(hours))
}

pub(super) async fn with_clock(url: &str, node: &str, ttl: Duration, clock: Clock) -> Arc<Runner> {
    let runner = Runner::new(Db::open(url).await.unwrap(), node, clock, ttl);
    runner.register(Arc::new(ToyFlow { node: node.to_owned() }));
    runner
}

/// A daemon and a command that start together make the same tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_state_database_may_be_opened_by_many_at_once() {
    for _ in 0..5 {
        let state = State::sqlite();
        let opened = futures::future::join_all((0..8).map(|_| Db::open(&state.url))).await;
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    }
}
