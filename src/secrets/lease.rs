//! What is ours for a time: credentials that a store made for us, or the token that it
//! let us in with. Kept alive by a task of its own until it can be no longer, or nobody
//! wants it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hashicorp::{HashicorpError, Server};
use crate::{decide::lease, domain::with_causes};

/// Something that ends unless it is renewed.
pub(super) struct Lease {
    /// Its name at the store; of a token what it is for.
    id: String,
    granted: Duration,
    is_renewable: bool,
    /// With which it ends.
    token: Option<Arc<Lease>>,
    state: Mutex<State>,
}

struct State {
    ends_at: Instant,
    /// Whether another one is to be taken: this one cannot be renewed, or is not wanted.
    is_ending: bool,
}

impl Lease {
    pub(super) fn new(id: String, granted: Duration, is_renewable: bool, token: Option<Arc<Self>>) -> Arc<Self> {
        let state = Mutex::new(State { ends_at: Instant::now() + granted, is_ending: false });
        Arc::new(Self { id, granted, is_renewable, token, state })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn granted(&self) -> Duration {
        self.granted
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be used from now on.
    pub(super) fn goes_on(&self) -> bool {
        let is_alive = {
            let state = self.state();
            !state.is_ending && state.ends_at > Instant::now()
        };
        is_alive && self.token.as_ref().is_none_or(|token| token.goes_on())
    }

    /// Whether it is over at the store, too.
    pub(super) fn is_over(&self) -> bool {
        self.state().ends_at <= Instant::now()
    }

    /// Has it end by itself.
    pub(super) fn end(&self) {
        self.state().is_ending = true;
    }

    fn left(&self) -> Option<Duration> {
        let state = self.state();
        (!state.is_ending).then(|| state.ends_at.saturating_duration_since(Instant::now()))
    }

    fn renewed(&self, left: Duration) {
        let mut state = self.state();
        state.ends_at = Instant::now() + left;
        state.is_ending |= !lease::goes_on(self.granted, left);
    }
}

/// Renews it in time, until it ends or `stop`.
pub(super) async fn keep(server: Arc<Server>, lease: Arc<Lease>, stop: CancellationToken) {
    while let Some(pause) = lease.left().and_then(lease::pause) {
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        if !lease.is_renewable {
            break;
        }
        match server.renew(&lease).await {
            Ok(left) => {
                lease.renewed(left);
                tracing::debug!(lease = lease.id, seconds = left.as_secs(), "renewed a lease");
            }
            Err(error) => {
                tracing::warn!(lease = lease.id, error = with_causes(&error), "a lease is not renewed");
                if HashicorpError::is_permanent(&error) {
                    break;
                }
            }
        }
    }
    lease.end();
}
