//! The lease of a run. It ends by the database's clock; whoever takes it over
//! raises the fence number, and a raised fence shuts the former owner out of
//! the journal. Between renewals the owner trusts only its monotonic clock,
//! counted from when it *sent* the last renewal that succeeded: that is never
//! later than the database's count.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Db, runs},
    domain::RunId,
};

/// The right to drive one run.
#[derive(Debug)]
pub(super) struct Lease {
    db: Db,
    run_id: RunId,
    fence: i64,
    ttl: Duration,
    /// When the last successful renewal was sent.
    renewed_at: watch::Sender<Instant>,
    lost: CancellationToken,
}

impl Lease {
    /// `claimed_at` is when the claim was sent.
    pub(super) fn new(db: Db, run_id: RunId, fence: i64, ttl: Duration, claimed_at: Instant) -> Self {
        Self { db, run_id, fence, ttl, renewed_at: watch::Sender::new(claimed_at), lost: CancellationToken::new() }
    }

    pub(super) fn run_id(&self) -> &RunId {
        &self.run_id
    }

    pub(super) fn fence(&self) -> i64 {
        self.fence
    }

    /// How long one call to the database may take before it counts as unanswered.
    pub(super) fn call_limit(&self) -> Duration {
        call_limit(self.ttl)
    }

    /// Until when an effect may begin; a fifth of the ttl is left for it to arrive.
    fn valid_until(&self) -> Instant {
        *self.renewed_at.borrow() + self.ttl * 4 / 5
    }

    /// Renews every third of the ttl until the fence is found raised. To be
    /// dropped when the run needs no lease any more.
    pub(super) async fn keep(&self) {
        let mut pause = self.ttl / 3;
        loop {
            tokio::time::sleep(pause).await;
            let sent_at = Instant::now();
            let call = runs::renew(&self.db, self.run_id.as_str(), self.fence, millis(self.ttl));
            match self.db.within(self.call_limit(), "renew the lease of a run", call).await {
                Ok(true) => {
                    self.renewed_at.send_replace(sent_at);
                    pause = self.ttl / 3;
                }
                Ok(false) => return self.lose(),
                Err(error) => {
                    tracing::warn!(run_id = %self.run_id, error = &error as &dyn std::error::Error,
                        "cannot renew the lease; effects pause until it is renewed");
                    pause = (self.ttl / 20).min(Duration::from_millis(500));
                }
            }
        }
    }

    /// Marks that another node owns the run now.
    pub(super) fn lose(&self) {
        tracing::warn!(run_id = %self.run_id, fence = self.fence, "another node owns this run now");
        self.lost.cancel();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Returns when another node owns the run.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns while this node surely owns the run, after a blip when it is
    /// renewed; never when it is lost.
    pub(super) async fn valid(&self) {
        let mut renewed = self.renewed_at.subscribe();
        while self.is_lost() || Instant::now() >= self.valid_until() {
            if renewed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Gives the lease back, so that the next owner need not wait for its end.
    pub(super) async fn release(&self) {
        let call = runs::release(&self.db, self.run_id.as_str(), self.fence);
        if let Err(error) = self.db.within(self.call_limit(), "release the lease of a run", call).await {
            tracing::warn!(run_id = %self.run_id, error = &error as &dyn std::error::Error,
                "cannot release the lease; it ends by itself");
        }
    }
}

/// A third of the ttl, at least a second.
pub(super) fn call_limit(ttl: Duration) -> Duration {
    (ttl / 3).max(Duration::from_secs(1))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
