//! *prove*: the copy recovers in isolation while its WAL is fetched, is asked for its heartbeats and
//! checks, and is stopped.

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, future::FusedFuture};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{Chosen, FETCH_LIMIT, Test, checks::Asked};
use crate::{
    domain::{Check, Phase, RecoveryPoint, with_causes},
    durable,
    engine::{CopiedBeats, Instance, IsolatedParams},
    fault,
    flow::{Policy, Step, StepContext, StepError},
    flows::{
        output,
        restore::{self, Ahead, Restored},
    },
};

/// What the isolated instance told before it was stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Proof {
    pub(super) server_version: String,
    pub(super) recovery_point: RecoveryPoint,
    /// How long the replay of WAL took, as the server tells.
    #[serde(default)]
    pub(super) replay_seconds: Option<f64>,
    pub(super) isolation: Vec<Check>,
    pub(super) beats: CopiedBeats,
    pub(super) checks: Vec<Check>,
    /// T5: all checks are done.
    pub(super) checked_at: Timestamp,
    pub(super) phases: Vec<Phase>,
    /// No process of the instance was left when it had stopped.
    pub(super) is_stopped: bool,
    /// The copy that was proven, where it was fetched a second time after an interruption.
    pub(super) refetched: Option<Restored>,
    /// Why the cluster that was restored may not be the one that goes on.
    #[serde(default)]
    pub(super) doubt: Option<String>,
}

/// Recovers, probes the isolation, checks the data, stops.
pub(super) struct Prove(pub(super) Arc<Test>);

#[async_trait]
impl Step for Prove {
    fn name(&self) -> &'static str {
        "prove"
    }

    fn policy(&self) -> Policy {
        let limit = FETCH_LIMIT + self.0.config.limit.as_duration() + Duration::from_secs(600);
        Policy { limit, attempts: 1, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let chosen: Chosen = cx.output("choose")?;
        let engine = &self.0.database.engine;
        // An earlier life may have left an instance, and data that has moved on.
        engine.stop_isolated(&chosen.folder).await?;
        let refetched = if chosen.started_file().exists() { Some(self.0.fetch(&chosen, cx).await?) } else { None };
        durable::replace(&chosen.started_file(), b"")
            .map_err(|error| StepError::transient(format!("cannot note that the copy is started: {error}")))?;
        cx.progress("recovering in an isolated instance", None, None);
        let begun = std::time::Instant::now();
        let restored = refetched.clone().map_or_else(|| cx.output("fetch"), Ok)?;
        let instance = match self.recover(&chosen, &restored, cx).await {
            Ok(instance) => instance,
            Err(error) => {
                engine.stop_isolated(&chosen.folder).await?;
                return Err(error);
            }
        };
        fault::point("restore_test.started");
        let recovery = Phase { name: "recover".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        let proven = tokio::select! {
            proven = self.ask(instance.as_ref(), cx) => proven,
            () = cx.stop().cancelled() => Err(StepError::Stopped),
        };
        instance.stop().await?;
        let mut proof = proven?;
        (proof.is_stopped, proof.refetched) = (true, refetched);
        proof.doubt = self.doubt(cx).await?;
        proof.phases.insert(0, recovery);
        output(&proof)
    }
}

impl Prove {
    /// Starts the copy, and fetches the rest of its WAL while it recovers. Nothing is
    /// fetched any more when this returns.
    async fn recover(
        &self,
        chosen: &Chosen,
        restored: &Restored,
        cx: &StepContext,
    ) -> Result<Box<dyn Instance>, StepError> {
        let database = &self.0.database;
        database.refuse_outside_residency(&database.region)?;
        let vault = database.vault(None).ok_or_else(|| StepError::permanent("the database has no vault"))?;
        let stop = cx.stop().child_token();
        let say = |message: &str, done, total| cx.progress(message, done, total);
        let mut ahead = Ahead::take_up(&chosen.wal())?;
        // Where the system does not keep the copy inside its folder, none of its WAL may lead out.
        let unconfined = database.engine.unconfined(&chosen.folder).await?;
        let is_wal_searched = match (&unconfined, ahead.take_if(|_| unconfined.is_some())) {
            (Some(reason), Some(ahead)) => {
                let searched = ahead.fetch_and_search(database, vault, (restored, reason), &stop, &say).await;
                searched.map_err(|error| if cx.stop().is_cancelled() { StepError::Stopped } else { error.into() })?;
                true
            }
            _ => false,
        };
        // The limit is replay's own: it counts from when nothing is left to be fetched.
        let limit = self.0.config.limit.as_duration();
        let recovery_timeout = FETCH_LIMIT + limit;
        let params = IsolatedParams { folder: chosen.folder.clone(), recovery_timeout, is_wal_searched };
        let mut over = pin!(tokio::time::sleep(limit));
        let fetch = async {
            match ahead {
                Some(ahead) => ahead.fetch(database, vault, chosen.opener, &stop, &say).await,
                None => Ok(()),
            }
        };
        let mut fetching = pin!(fetch.fuse());
        let mut starting = pin!(database.engine.start_isolated(&params));
        let started = loop {
            tokio::select! {
                biased;
                () = cx.stop().cancelled() => break Err(StepError::Stopped),
                // Why the copy lacks WAL says more than that it does.
                fetched = &mut fetching, if !fetching.is_terminated() => match fetched {
                    Ok(()) => over.as_mut().reset(Instant::now() + limit),
                    Err(error) => break Err(error.into()),
                },
                () = &mut over, if fetching.is_terminated() => {
                    let what = format!("the copy did not reach its target within {limit:?} although all WAL was there");
                    break Err(StepError::permanent(what));
                }
                started = &mut starting => break started.map_err(StepError::from),
            }
        };
        // One that has reached its target needs no more.
        stop.cancel();
        if !fetching.is_terminated() {
            drop(fetching.await);
        }
        started
    }

    /// Looked for when everything is measured.
    async fn doubt(&self, cx: &StepContext) -> Result<Option<String>, StepError> {
        let restored: Restored = cx.output("fetch")?;
        Ok(match restore::doubt(&self.0.database, &restored.layout).await {
            Ok(unclear) => unclear.map(|unclear| unclear.to_string()),
            Err(error) => Some(format!("which clusters the vaults hold is not known: {}", with_causes(&error))),
        })
    }

    async fn ask(&self, instance: &dyn Instance, cx: &StepContext) -> Result<Proof, StepError> {
        // The recovery point is read before anything writes to the copy.
        let recovery_point = instance.recovery_point().await?;
        let beats = instance.heartbeats().await?;
        let mut asked = self.0.ask(instance, cx).await;
        let mut checked_at = cx.clock().now();
        cx.progress("probing the isolation", None, None);
        let begun = std::time::Instant::now();
        let isolation = instance.isolation().await?;
        asked.phases.push(Phase { name: "probe_isolation".to_owned(), seconds: begun.elapsed().as_secs_f64() });
        if self.0.ask_files(instance, cx, &mut asked).await {
            checked_at = cx.clock().now();
        }
        let Asked { checks, phases } = asked;
        Ok(Proof {
            server_version: instance.server_version(),
            recovery_point,
            replay_seconds: instance.replay_seconds(),
            isolation,
            beats,
            checks,
            checked_at,
            phases,
            is_stopped: false,
            refetched: None,
            doubt: None,
        })
    }
}
