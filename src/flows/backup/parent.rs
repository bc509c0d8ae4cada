//! The step that finds upon what an increment or a differential is built. Where it
//! can be built upon nothing a full backup is taken: a day without a backup would be
//! worse.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{Database, output, stream},
    source::{self, Manner},
};
use crate::{
    decide::parent::{self, Candidate, Nothing},
    domain::{BackupId, BackupKind},
    engine::{EngineError, MemberFacts, Parent, ParentManifest},
    flow::{Step, StepContext, StepError},
    vault::{self, Catalog, Layout, Listing, SharedStore, VaultError},
};

/// Its name, first part of what the journal holds of it.
pub(super) const NAME: &str = "parent";

/// What the step found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Parentage {
    /// None where a full backup is taken.
    pub(super) parent: Option<BackupId>,
    /// Why that is so.
    pub(super) instead: Option<String>,
}

impl Parentage {
    fn full(why: impl Into<String>) -> Self {
        Self { parent: None, instead: Some(why.into()) }
    }

    /// What a person should know of it who asked for a backup of this kind.
    pub(super) fn finding(&self, wanted: BackupKind) -> Option<String> {
        self.instead.as_ref().map(|why| instead_of(wanted, why))
    }
}

/// That a full backup was taken, and why.
pub(super) fn instead_of(wanted: BackupKind, why: &str) -> String {
    let wanted = if wanted == BackupKind::Incremental { "an increment" } else { "a differential" };
    format!("a full backup was taken instead of {wanted}: {why}")
}

pub(super) struct ChooseParent {
    pub(super) database: Arc<Database>,
    /// Of the backup that is to be taken.
    pub(super) kind: BackupKind,
    pub(super) manner: Manner,
}

#[async_trait]
impl Step for ChooseParent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let primary: MemberFacts = cx.output("check")?;
        cx.progress("choosing the backup to build upon", None, None);
        let Self { database, kind, manner } = self;
        let layout = stream::newest_layout(database, &primary.system_id).await?;
        let store = database.first_vault()?.as_ref();
        let listing = Listing::take(store, &layout).await?;
        let catalog = Catalog::read(&listing, store, &database.keys.verifier).await?;
        let candidates: Vec<Candidate> = catalog
            .entries
            .iter()
            .map(|entry| Candidate {
                id: entry.manifest.backup.clone(),
                kind: entry.manifest.kind,
                standalone: entry.manifest.standalone,
                timeline: entry.manifest.timeline,
                stop_lsn: entry.manifest.stop_lsn,
                may_carry: catalog.may_carry(entry),
            })
            .collect();
        let chosen = parent::choose(*kind, &candidates, primary.timeline, &listing.histories(store).await?);
        let vault = &store.place().vault;
        let entry = match chosen.map(|chosen| catalog.find(&chosen.id)) {
            Ok(Some(entry)) => entry,
            Err(Nothing::NoHistory(timeline)) => {
                let why = format!("the history of timeline {timeline} is not yet in vault `{vault}`");
                return output(&Parentage::full(why));
            }
            Err(Nothing::NoneSound) | Ok(None) => {
                return output(&Parentage::full(format!("vault `{vault}` holds no sound backup to build upon")));
            }
        };
        let parent = Parentage { parent: Some(entry.manifest.backup.clone()), instead: None };
        // A differential is taken of whatever the server sends.
        if *kind == BackupKind::Differential {
            return output(&parent);
        }
        let upon = Parent { timeline: entry.manifest.timeline, start_lsn: entry.manifest.start_lsn };
        let from = manner.from(database);
        if let Some(hindrance) = source::increment_hindrance(database, from, &primary, Some(upon)).await? {
            return output(&Parentage::full(hindrance));
        }
        output(&parent)
    }
}

/// The manifest of the parent as the engine takes it.
pub(super) async fn manifest(
    database: &Database,
    store: &SharedStore,
    layout: &Layout,
    parent: &BackupId,
) -> Result<ParentManifest<'static>, VaultError> {
    let (manifest, _) = vault::signed_manifest(layout, store.as_ref(), &database.keys.verifier, parent).await?;
    let bytes = vault::server_manifest(store, layout, &manifest).await?;
    let failed =
        |error: VaultError| EngineError::Parent { is_permanent: error.is_permanent(), source: Box::new(error) };
    Ok(bytes.map_err(failed).boxed())
}

/// A backup without its parent is none: refused before it is committed.
pub(super) async fn still_there(store: &SharedStore, layout: &Layout, parent: &BackupId) -> Result<(), StepError> {
    if vault::stat(store.as_ref(), &layout.manifest(parent)).await?.is_some() {
        return Ok(());
    }
    Err(StepError::permanent(format!(
        "backup `{parent}`, which this one builds upon, was deleted meanwhile; take the backup again"
    )))
}
