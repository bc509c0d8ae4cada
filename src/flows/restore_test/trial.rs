//! A restore test in one go, for self-tests: every part is the one that real tests are
//! made of, and whoever calls plants a fault between two of them.
//!
//! What must never happen: that it leaves a record, a proof or a finding of a restore
//! test. It is none.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use super::{Choose, Chosen, Params, Point, Proof, Prove, Test, account};
use crate::{
    config::schedule::RestoreTestConfig,
    domain::{Beat, Check, EvidenceRecord, RecoveryTarget},
    flow::{StepContext, StepError},
    flows::{
        Database,
        restore::{RestoreError, Restored},
    },
};

/// How long a folder may still be written to that is to be removed.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// Stops what runs in the folder of a test and removes it with everything in it. Idempotent.
pub(in crate::flows) async fn tear_down(database: &Database, folder: &Path) -> Result<(), StepError> {
    database.engine.stop_isolated(folder).await?;
    let begun = std::time::Instant::now();
    loop {
        match tokio::fs::remove_dir_all(folder).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A fetch that was told to stop ends its last write.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && begun.elapsed() < REMOVE_LIMIT => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                return Err(StepError::transient(format!("cannot remove {}: {error}", folder.display())));
            }
        }
    }
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
    /// Makes the folder anew and freezes what the vault holds, to restore to `target`.
    pub(in crate::flows) async fn begin(
        database: Arc<Database>,
        config: RestoreTestConfig,
        (folder, target): (PathBuf, RecoveryTarget),
        cx: &StepContext,
    ) -> Result<Self, StepError> {
        let test = Arc::new(Test { database, config });
        let choose = Choose { test: Arc::clone(&test), point: Point::Asked(target) };
        Ok(Self { chosen: choose.begin(folder, cx).await?, test })
    }

    /// Where the data folder of the copy lies.
    pub(in crate::flows) fn data(&self) -> PathBuf {
        self.chosen.data()
    }

    /// Fetches; the inner error is that of the restore.
    pub(in crate::flows) async fn fetch(&self, cx: &StepContext) -> Result<Result<Restored, RestoreError>, StepError> {
        match self.test.restore(&self.chosen, cx).await? {
            Err(_) if cx.stop().is_cancelled() => Err(StepError::Stopped),
            restored => Ok(restored),
        }
    }

    /// Recovers the copy, asks it and stops it.
    pub(in crate::flows) async fn prove(&self, restored: Restored, cx: &StepContext) -> Result<Told, StepError> {
        let proof = Prove(Arc::clone(&self.test)).prove(&self.chosen, restored.clone(), cx).await?;
        Ok(Told { restored, proof })
    }

    /// What a restore test would say of the copy. The checks that `is_counted` leaves out
    /// were not made; against a disaster the recovery point is judged.
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
            chosen: Some(Chosen { disaster_at: disaster.as_ref().map(|disaster| disaster.at), ..self.chosen.clone() }),
            restored: Some(told.restored.clone()),
            proof: Some(proof),
            is_gone: false,
        };
        let point = Point::Asked(self.chosen.target.clone());
        let params = Params { database: database.name.clone(), point, due_at: None };
        let acknowledged = disaster.map_or(&[][..], |disaster| disaster.acknowledged);
        told.record(Some(database.as_ref()), &params, cx, acknowledged)
    }
}

impl Told {
    /// The sequence numbers of the heartbeats in the copy.
    pub(in crate::flows) fn present(&self) -> &[i64] {
        &self.proof.beats.present
    }
}
