//! A restore test in one go, for self-tests: every part is the one that real tests are
//! made of, and whoever calls plants a fault between two of them.
//!
//! What must never happen: that it leaves a record, a proof or a finding of a restore
//! test. It is none.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Choose, Chosen, Failed, Params, Point, Proof, Prove, Test, account, target};
use crate::{
    config::schedule::RestoreTestConfig,
    domain::{BackupId, Beat, Check, EvidenceRecord, RecoveryTarget},
    flow::{StepContext, StepError},
    flows::{
        Database, Resources,
        restore::{RestoreError, Restored},
    },
};

/// Stops what runs in the folder of a test and removes it with everything in it. Idempotent.
pub(in crate::flows) async fn tear_down(
    database: &Arc<Database>,
    config: &RestoreTestConfig,
    folder: &Path,
) -> Result<(), StepError> {
    target::of(database, config)?.tear_down(folder).await
}

/// A restore test under way, in a folder of its own.
pub(in crate::flows) struct Trial {
    test: Arc<Test>,
    chosen: Chosen,
}

/// What a copy told, for the judgement.
pub(in crate::flows) struct Told {
    restored: Restored,
    proof: Proof,
}

/// The disaster that a copy is judged against, and what was acknowledged before it.
pub(in crate::flows) struct Disaster<'a> {
    pub(in crate::flows) at: Timestamp,
    pub(in crate::flows) acknowledged: &'a [Beat],
}

impl Trial {
    /// Makes the folder anew and freezes what the vault holds, to restore to `point` from
    /// `backup`, or from the one that a restore would choose.
    pub(in crate::flows) async fn begin(
        (database, resources): (Arc<Database>, Arc<Resources>),
        config: RestoreTestConfig,
        (folder, point, backup): (PathBuf, RecoveryTarget, Option<BackupId>),
        cx: &StepContext,
    ) -> Result<Self, StepError> {
        let target = target::of(&database, &config)?;
        let test = Arc::new(Test { resources, database, config, target });
        let choose = Choose { test: Arc::clone(&test), point: Point::Asked(point) };
        let chosen = Chosen { backup, ..choose.begin(folder, None, cx).await? };
        Ok(Self { test, chosen })
    }

    /// Where the data folder of the copy lies.
    pub(in crate::flows) fn data(&self) -> PathBuf {
        self.chosen.data()
    }

    /// Fetches; the inner error is that of the restore.
    pub(in crate::flows) async fn fetch(&self, cx: &StepContext) -> Result<Result<Restored, RestoreError>, StepError> {
        match self.test.fetch(&self.chosen, cx).await {
            Ok(restored) => Ok(Ok(restored)),
            Err(Failed::Restore(error)) => Ok(Err(error)),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Recovers the copy, asks it and stops it.
    pub(in crate::flows) async fn prove(&self, restored: Restored, cx: &StepContext) -> Result<Told, StepError> {
        let proof = Prove(Arc::clone(&self.test)).prove(&self.chosen, restored.clone(), cx).await?;
        Ok(Told { restored, proof })
    }

    /// What a restore test would say of the copy. The checks that `is_counted` leaves out
    /// were not made; against a disaster the recovery point is judged. That its folder is
    /// there still is no fault of the copy: whoever began the trial judges its clean-up.
    pub(in crate::flows) fn judge(
        &self,
        told: &Told,
        is_counted: impl Fn(&Check) -> bool,
        disaster: Option<Disaster<'_>>,
        cx: &StepContext,
    ) -> EvidenceRecord {
        let mut proof = told.proof.clone();
        proof.checks.retain(is_counted);
        let database = &self.test.database;
        let told = account::Told {
            turn: None,
            chosen: Some(Chosen { disaster_at: disaster.as_ref().map(|disaster| disaster.at), ..self.chosen.clone() }),
            restored: Some(told.restored.clone()),
            proof: Some(proof),
            exhausted: None,
            is_gone: true,
        };
        let point = Point::Asked(self.chosen.target.clone());
        let params = Params { database: database.name.clone(), point, due_at: None };
        let acknowledged = disaster.map_or(&[][..], |disaster| disaster.acknowledged);
        told.record(Some(database), &params, cx, acknowledged)
    }
}

impl Told {
    /// The sequence numbers of the heartbeats in the copy.
    pub(in crate::flows) fn present(&self) -> &[i64] {
        &self.proof.beats.present
    }
}
