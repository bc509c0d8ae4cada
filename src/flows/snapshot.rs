//! A backup of a database that its provider runs: *check* → *snapshot* → *wait* → *copy* →
//! *copied* → *share*. From the moment that it is available a snapshot is a backup by
//! itself, whatever becomes of its copies; before that its undo removes it.
//!
//! What must never happen: a call that moves data to a region or account that the schedule
//! does not name or the residency does not allow; one that removes what is not ours.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ManagedDatabase, output};
use crate::{
    aws::Identity,
    decide::retention::snapshots,
    domain::{Region, RunId, Snapshot},
    engine::managed::{Duty, PREFIX, SnapshotCopy, SourceFacts, tag},
    flow::{Policy, Step, StepContext, StepError},
};

mod account;
mod copies;
mod make;
mod wait;

pub(super) use account::conclude;
use copies::{AwaitCopies, BeginCopies, Share};
use make::{Take, Wait};
pub(super) use wait::gone;

/// With pauses that double up to a minute: about five minutes.
const CHECK_ATTEMPTS: u32 = 10;

/// The states in which the provider takes a snapshot.
const SNAPSHOT_STATES: [&str; 2] = ["available", "storage-optimization"];

/// What all steps work on.
#[derive(Debug, Clone)]
struct At {
    database: Arc<ManagedDatabase>,
}

/// The steps of a backup; `is_asked_for` by a person, and not by a schedule.
pub(super) fn steps(database: &Arc<ManagedDatabase>, is_asked_for: bool) -> Vec<Box<dyn Step>> {
    let at = At { database: Arc::clone(database) };
    vec![
        Box::new(Check { at: at.clone(), is_asked_for }),
        Box::new(Take(at.clone())),
        Box::new(Wait(at.clone())),
        Box::new(BeginCopies(at.clone())),
        Box::new(AwaitCopies(at.clone())),
        Box::new(Share(at)),
    ]
}

/// What the first step records: a schedule that is edited while the run goes on changes
/// none of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Checked {
    /// Who the calls are made as.
    identity: Identity,
    source: SourceFacts,
    home: Region,
    /// The id of the snapshot that is to be made.
    id: String,
    copies: Vec<Planned>,
}

/// A copy that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    to: SnapshotCopy,
    share_with: Vec<String>,
}

/// The name of the first step.
const CHECK: &str = "check";

/// Is the database there and fit, are we who we should be, and may its data be where its
/// copies go?
struct Check {
    at: At,
    is_asked_for: bool,
}

impl Check {
    fn planned(&self, home: &Region, id: &str, cx: &StepContext) -> Vec<Planned> {
        let copies = self.at.database.schedule.config.snapshot_copies.iter();
        let planned = copies.map(|copy| Planned {
            to: SnapshotCopy {
                id: snapshots::copy_id(id, home, &copy.region),
                region: copy.region.clone(),
                kms_key: copy.kms_key.clone(),
                tags: tags(&self.at.database, cx.run_id()),
            },
            share_with: copy.share_with.clone(),
        });
        planned.collect()
    }
}

#[async_trait]
impl Step for Check {
    fn name(&self) -> &'static str {
        CHECK
    }

    /// A database that is being changed is fit again within minutes; the next date may be a
    /// day away. A person is answered at once.
    fn policy(&self) -> Policy {
        if self.is_asked_for {
            return Policy { limit: CALL_LIMIT, ..Policy::default() };
        }
        Policy { limit: CALL_LIMIT, attempts: CHECK_ATTEMPTS, backoff: Duration::from_secs(1), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        cx.progress("looking at the database", None, None);
        let database = &self.at.database;
        let home = database.source()?.region.clone();
        database.refuse_outside_residency(&home)?;
        let id = snapshots::id(PREFIX, database.name.as_str(), cx.run_id(), cx.created_at());
        let copies = self.planned(&home, &id, cx);
        for planned in &copies {
            database.refuse_outside_residency(&planned.to.region)?;
        }
        let identity = database.provider.identity(Duty::Backup).await?;
        let source = database.provider.source().await?;
        if !SNAPSHOT_STATES.contains(&source.status.as_str()) {
            return Err(StepError::transient(format!(
                "the provider says that `{}` is `{}`, and takes a snapshot of what is `available` alone; wait until what is done to it has ended",
                database.name, source.status
            )));
        }
        if source.settings.kms_key.is_some()
            && let Some(planned) =
                copies.iter().find(|planned| planned.to.kms_key.is_none() && planned.to.region != home)
        {
            return Err(StepError::permanent(format!(
                "`{}` is encrypted, and its key is of {home}: name a `kms_key` of {} under `snapshot_copies`",
                database.name, planned.to.region
            )));
        }
        output(&Checked { identity, source, home, id, copies })
    }
}

/// For a step of a few calls, each of which may be throttled.
const CALL_LIMIT: Duration = Duration::from_secs(300);

/// What every snapshot and copy of a run bears.
fn tags(database: &ManagedDatabase, run: &RunId) -> std::collections::BTreeMap<String, String> {
    [(tag::DATABASE.to_owned(), database.name.to_string()), (tag::RUN.to_owned(), run.to_string())].into()
}

/// The snapshot of this id in a region, where it is ours.
async fn found(
    database: &ManagedDatabase,
    region: &Region,
    id: &str,
) -> Result<Option<Snapshot>, crate::aws::AwsError> {
    let all = database.provider.snapshots(region).await?;
    Ok(all.into_iter().find(|one| one.id == id && one.origin == crate::domain::SnapshotOrigin::Ours))
}
