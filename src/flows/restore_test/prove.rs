//! *prove*: the copy recovers in isolation while its WAL is fetched, is asked for its heartbeats and
//! checks, and is stopped.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Chosen, Failed, Outcome, Test, checks::Asked, target};
use crate::{
    domain::{Check, Phase, RecoveryPoint, with_causes},
    durable,
    engine::{CopiedBeats, Instance},
    fault,
    flow::{Policy, Step, StepContext, StepError},
    flows::{
        output,
        restore::{self, Restored},
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
    /// The copy that was proven, where it was fetched a second time: after an
    /// interruption, or what an older version had fetched.
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
        let limit = self.0.fetch_limit() + self.0.config.limit.as_duration() + Duration::from_secs(600);
        Policy { limit, attempts: 1, ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let proven = match cx.output::<Option<Outcome<Restored>>>("fetch")? {
            None => return output(&None::<Outcome<Proof>>),
            Some(Outcome::Reached(restored)) => self.prove(&cx.output("choose")?, restored, cx).await,
            Some(Outcome::Exhausted { exhausted }) => Err(Failed::Exhausted(exhausted)),
        };
        output(&Outcome::of(proven)?)
    }
}

/// Whether an older version fetched it, which put aside nothing that the source kept in
/// its data folder.
fn is_of_before(fetched: &Restored) -> bool {
    fetched.chain_bytes.is_none()
}

impl Prove {
    /// `fetched` is what was restored into the folder, which may have moved on since.
    pub(super) async fn prove(&self, chosen: &Chosen, fetched: Restored, cx: &StepContext) -> Result<Proof, Failed> {
        let target = self.0.target.as_ref();
        // An earlier life may have left an instance, and data that has moved on.
        target.stop(&chosen.folder).await?;
        let is_stale = chosen.started_file().exists() || is_of_before(&fetched);
        let refetched = if is_stale { Some(self.0.fetch(chosen, cx).await?) } else { None };
        durable::replace(&chosen.started_file(), b"")
            .map_err(|error| StepError::transient(format!("cannot note that the copy is started: {error}")))?;
        cx.progress("recovering in an isolated instance", None, None);
        let begun = std::time::Instant::now();
        let restored = refetched.as_ref().unwrap_or(&fetched);
        let stop = cx.stop().child_token();
        let start = target.start(chosen, restored, cx, &stop);
        let instance = match target::within(target.passed(&chosen.folder), &stop, start).await {
            Ok(instance) => instance,
            Err(error) => {
                target.stop(&chosen.folder).await?;
                return Err(error);
            }
        };
        fault::point("restore_test.started");
        let recovery = Phase { name: "recover".to_owned(), seconds: begun.elapsed().as_secs_f64() };
        let proven = tokio::select! {
            proven = self.ask(instance.as_ref(), cx) => proven.map_err(Failed::from),
            () = cx.stop().cancelled() => Err(StepError::Stopped.into()),
            exhausted = target.passed(&chosen.folder) => Err(Failed::Exhausted(exhausted)),
        };
        instance.stop().await?;
        let mut proof = proven?;
        (proof.is_stopped, proof.refetched) = (true, refetched);
        proof.doubt = self.doubt(&fetched).await;
        proof.phases.insert(0, recovery);
        Ok(proof)
    }

    /// Looked for when everything is measured.
    async fn doubt(&self, restored: &Restored) -> Option<String> {
        match restore::doubt(&self.0.database, &restored.layout).await {
            Ok(unclear) => unclear.map(|unclear| unclear.to_string()),
            Err(error) => Some(format!("which clusters the vaults hold is not known: {}", with_causes(&error))),
        }
    }

    async fn ask(&self, instance: &dyn Instance, cx: &StepContext) -> Result<Proof, StepError> {
        let beats = instance.heartbeats().await?;
        let mut asked = self.0.questions().ask(instance, Some(&instance.lineage()), cx).await;
        let mut checked_at = cx.clock().now();
        cx.progress("probing the isolation", None, None);
        let begun = std::time::Instant::now();
        let isolation = instance.isolation().await?;
        asked.phases.push(Phase { name: "probe_isolation".to_owned(), seconds: begun.elapsed().as_secs_f64() });
        if self.0.questions().ask_files(instance, cx, &mut asked).await {
            checked_at = cx.clock().now();
        }
        let Asked { checks, phases } = asked;
        Ok(Proof {
            server_version: instance.server_version(),
            recovery_point: instance.lineage().reached,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Backup, BackupKind, BackupState, Lsn, Opener, RecoveryTarget, Timeline, record::Source},
        vault::Layout,
    };

    #[test]
    fn what_an_older_version_fetched_is_fetched_again() {
        let (at, region) = (Timestamp::UNIX_EPOCH, "mt".parse().unwrap());
        let backup = Backup {
            id: "20261101t000000z-full-0001".parse().unwrap(),
            database: "wallet".parse().unwrap(),
            kind: BackupKind::Full,
            state: BackupState::Uploaded,
            started_at: at,
            finished_at: at,
            size_bytes: 1,
            stored_bytes: 1,
            timeline: Timeline(1),
            start_lsn: Lsn(1),
            stop_lsn: Lsn(2),
            parent: None,
            from: None,
        };
        let source = Source {
            vault: "primary".to_owned(),
            region,
            region_verified: false,
            backup_id: backup.id.to_string(),
            backup_kind: "full".to_owned(),
            manifest_sha256: String::new(),
            size_bytes: 1,
            recipients: 1,
            from: None,
            snapshot: None,
        };
        let fetched = Restored {
            vault: "primary".to_owned(),
            layout: Layout::new(backup.database.clone(), "7713317621536039346", 1).unwrap(),
            backup,
            chain_bytes: Some(1),
            source,
            timeline: Timeline(1),
            target: RecoveryTarget::Latest,
            new_tablespaces: Vec::new(),
            opener: Opener::Node,
            opened_by: Vec::new(),
            phases: Vec::new(),
        };
        assert!(!is_of_before(&fetched));
        let mut journaled = serde_json::to_value(&fetched).unwrap();
        journaled.as_object_mut().unwrap().remove("chain_bytes").unwrap();
        assert!(is_of_before(&serde_json::from_value(journaled).unwrap()));
    }
}
