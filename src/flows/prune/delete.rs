//! Deletes what a plan names. A backup's manifest goes first, so that one that is
//! half deleted is not offered to anybody; what a crash leaves of it is swept.
//! Keys go last, after all that they open.

use serde::{Deserialize, Serialize};

use crate::{
    decide::retention::{Expiry, SegmentRun},
    domain::{BackupId, SegmentSize},
    fault,
    flow::{StepContext, StepError},
    vault::{Layout, ObjectKey, SharedStore, StoreError, signature_of, stat},
};

/// How often progress is told.
const TOLD_EVERY: u64 = 256;

/// What was deleted, and what stood in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// In the attempt that ended; an earlier one may have deleted more.
    pub objects: u64,
    /// The vault refuses to delete these yet; each with the end of its lock.
    pub locked: Vec<(String, jiff::Timestamp)>,
    /// Why nothing more was deleted.
    pub stopped_by: Vec<String>,
}

/// Deletes object by object through one store.
pub(super) struct Deleting<'a> {
    cx: &'a StepContext,
    store: SharedStore,
    layout: &'a Layout,
    size: SegmentSize,
    deleted: Deleted,
}

impl<'a> Deleting<'a> {
    pub(super) fn new(cx: &'a StepContext, store: SharedStore, layout: &'a Layout, size: SegmentSize) -> Self {
        Self { cx, store, layout, size, deleted: Deleted::default() }
    }

    /// Everything, or as far as the vault answers. An error is this node's alone.
    pub(super) async fn all(mut self, expire: &Expiry, half_deleted: &[BackupId]) -> Result<Deleted, StepError> {
        if let Err(error) = self.in_order(expire, half_deleted).await {
            self.cx.guard().await?;
            self.deleted.stopped_by.push(crate::domain::with_causes(&error));
        }
        Ok(self.deleted)
    }

    async fn in_order(&mut self, expire: &Expiry, half_deleted: &[BackupId]) -> Result<(), StoreError> {
        for backup in half_deleted.iter().chain(&expire.uploads) {
            // It may have been committed since.
            if stat(self.store.as_ref(), &self.layout.manifest(backup)).await?.is_none() {
                self.under(backup).await?;
            }
        }
        for backup in &expire.backups {
            self.backup(backup).await?;
        }
        for segment in expire.segments.iter().flat_map(SegmentRun::segments) {
            self.object(&self.layout.segment(segment, self.size)).await?;
        }
        for tail in &expire.tails {
            self.object(&self.layout.tail(tail.segment, self.size, tail.from, tail.to)).await?;
        }
        for timeline in &expire.histories {
            self.object(&self.layout.history(*timeline)).await?;
        }
        for key in &expire.wal_keys {
            self.object(&self.layout.wal_key(key.first, self.size, key.number)).await?;
        }
        Ok(())
    }

    async fn backup(&mut self, backup: &BackupId) -> Result<(), StoreError> {
        let manifest = self.layout.manifest(backup);
        if !self.object(&manifest).await? {
            return Ok(());
        }
        fault::point("prune.manifest_deleted");
        self.object(&signature_of(&manifest)).await?;
        self.under(backup).await
    }

    /// All of a backup, and what was verified of it.
    async fn under(&mut self, backup: &BackupId) -> Result<(), StoreError> {
        for prefix in [self.layout.backup_prefix(backup), self.layout.verifications_prefix(backup)] {
            for object in self.store.list(&prefix).await? {
                self.object(&object.key).await?;
            }
        }
        Ok(())
    }

    /// Whether it is gone.
    async fn object(&mut self, key: &ObjectKey) -> Result<bool, StoreError> {
        match self.store.delete(key).await {
            Ok(()) => {}
            Err(StoreError::Locked { key, until, .. }) => {
                self.deleted.locked.push((key.to_string(), until));
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        fault::point("prune.deleted");
        self.deleted.objects += 1;
        if self.deleted.objects.is_multiple_of(TOLD_EVERY) {
            self.cx.progress(format!("deleted {} objects", self.deleted.objects), None, None);
        }
        Ok(true)
    }
}
