//! Which runs this node takes, and how: what it knows and may drive, by priority,
//! under a lease that one node alone gets.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use super::Runner;
use crate::{
    db::{
        DbError,
        runs::{self, Claim},
    },
    decide::priority::{self, Priority},
    domain::{Placement, RunId},
    fault,
    flow::{
        Flow, Signal,
        event::Event,
        journal::nonce,
        lease::{Lease, call_limit, millis},
    },
};

/// A run that this node could take.
pub(super) struct Candidate {
    pub(super) id: RunId,
    pub(super) flow: Arc<dyn Flow>,
    pub(super) placement: Placement,
    /// How long ago the time passed in which it could begin.
    pub(super) late: Option<Duration>,
}

impl Runner {
    /// What this node could take now: by priority, then the oldest first. A flow
    /// that it does not know is left to nodes that do.
    pub(super) async fn in_order(&self) -> Result<Vec<Candidate>, DbError> {
        let listed = self.db.within(call_limit(self.ttl), "look for runs to drive", runs::claimable(&self.db)).await?;
        let mut known: Vec<(Priority, Candidate)> = listed
            .into_iter()
            .filter(|run| self.is_near(&run.placement))
            .filter_map(|run| {
                let flow = self.flow(&run.flow)?;
                let late = run.late_ms.map(|late| Duration::from_millis(late.unsigned_abs()));
                let priority = priority::of(&run.flow);
                Some((priority, Candidate { id: RunId::from(run.id), flow, placement: run.placement, late }))
            })
            .collect();
        // Stable: the age stays the order within each.
        known.sort_by_key(|(priority, _)| *priority);
        Ok(known.into_iter().map(|(_, candidate)| candidate).collect())
    }

    /// Has a run that waited for its turn until its start window had passed end before
    /// its first step. It is driven all the same, as it concludes and is recorded.
    pub(super) async fn let_pass(&self, run_id: &RunId, late: Duration) -> Result<(), DbError> {
        let payload = json!({ "reason": format!("its start window ended {} s ago", late.as_secs()) });
        let signal = Signal { name: "abort".to_owned(), who: "schedule".to_owned(), payload };
        let event = Event::Signalled(signal).to_json()?;
        // Two nodes that look at the same moment say it once.
        let nonce = format!("late {run_id}");
        let call = runs::append_signal(&self.db, run_id.as_str(), &nonce, &event);
        self.db.within(call_limit(self.ttl), "let a late run pass", call).await.map(drop)
    }

    /// Whether a run may be driven where this node stands.
    fn is_near(&self, placement: &Placement) -> bool {
        self.station.region.as_ref().is_none_or(|region| placement.allows(region))
    }

    /// Claims one run, if it may be driven here.
    pub(super) async fn claim_alone(&self, run_id: &RunId) -> Result<Option<Lease>, DbError> {
        let call = runs::placement(&self.db, run_id.as_str());
        match self.db.within(call_limit(self.ttl), "read where a run may be driven", call).await? {
            Some(placement) if self.is_near(&placement) => self.claim(run_id, &placement).await,
            _ => Ok(None),
        }
    }

    pub(super) async fn claim(&self, run_id: &RunId, placement: &Placement) -> Result<Option<Lease>, DbError> {
        let claimed_at = Instant::now();
        let event = Event::Taken { node: self.station.node.clone() };
        fault::point("flow.taken.before");
        let (json, nonce) = (event.to_json()?, nonce());
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let has_room = |driven: &[Placement]| limits.leave_room(placement, driven);
        let claim = Claim {
            id: run_id.as_str(),
            owner: &self.station.node,
            ttl_ms: millis(self.ttl),
            nonce: &nonce,
            event: &json,
        };
        let claim = runs::claim(&self.db, claim, limits.concern(placement).then_some(&has_room));
        let fence = self.db.within(call_limit(self.ttl), "take the lease of a run", claim).await?;
        if fence.is_some() {
            fault::point("flow.taken.after");
        }
        Ok(fence.map(|fence| Lease::new(self.db.clone(), run_id.clone(), fence, self.ttl, claimed_at)))
    }
}
