//! A database whose schedule is looked at, whoever runs it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    config::ScheduleConfig,
    domain::{DatabaseName, Placement, SnapshotState, with_causes},
    flows::{Database, ManagedDatabase, prune_snapshots, restore_test},
};

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) enum Scheduled {
    Own(Arc<Database>),
    Managed(Arc<ManagedDatabase>),
}

impl Scheduled {
    pub(super) fn name(&self) -> &DatabaseName {
        match self {
            Self::Own(database) => &database.name,
            Self::Managed(database) => &database.name,
        }
    }

    pub(super) fn config(&self) -> &ScheduleConfig {
        match self {
            Self::Own(database) => &database.schedule.config,
            Self::Managed(database) => &database.schedule.config,
        }
    }

    /// Where a backup or a self-test may be driven.
    pub(super) fn placement(&self) -> Placement {
        match self {
            Self::Own(database) => database.placement_at_first(),
            Self::Managed(database) => database.placement(),
        }
    }

    /// Where a restore test by schedule may be driven.
    pub(super) fn test_placement(&self) -> Placement {
        match self {
            Self::Own(database) => restore_test::placement(database, &restore_test::Point::Scheduled),
            Self::Managed(database) => database.placement(),
        }
    }

    /// Whether there was something to restore at that time: a backup in the first vault, or
    /// what its provider keeps.
    pub(super) async fn has_backup_before(&self, due_at: Timestamp) -> Result<bool, String> {
        match self {
            Self::Own(database) => has_backup_before(database, due_at).await,
            Self::Managed(database) => has_snapshot_before(database, due_at).await,
        }
    }
}

/// Whether the first vault held a backup at that time.
pub async fn has_backup_before(database: &Database, due_at: Timestamp) -> Result<bool, String> {
    let Some(vault) = database.vault(None) else { return Ok(false) };
    let histories = database.histories(vault).await.map_err(|error| with_causes(&error))?;
    Ok(histories.iter().flat_map(|held| &held.catalog.entries).any(|entry| entry.manifest.finished_at <= due_at))
}

/// Whether a provider could restore something at that time.
pub async fn has_snapshot_before(database: &ManagedDatabase, due_at: Timestamp) -> Result<bool, String> {
    let source = database.provider.source().await.map_err(|error| with_causes(&error))?;
    if source.earliest_restorable.is_some_and(|at| at <= due_at) {
        return Ok(true);
    }
    for region in prune_snapshots::regions(database).map_err(|error| error.to_string())? {
        let all = database.provider.snapshots(&region).await.map_err(|error| with_causes(&error))?;
        let is_one = |at: Option<Timestamp>| at.is_some_and(|at| at <= due_at);
        if all.iter().any(|one| one.state == SnapshotState::Available && is_one(one.taken_at)) {
            return Ok(true);
        }
    }
    Ok(false)
}
