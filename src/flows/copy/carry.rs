//! Carries the objects of a plan over, group by group. One that is damaged or in
//! conflict is named and left out, with what builds on it; the others go on.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::Semaphore;

use super::{Route, look::History};
use crate::{
    decide::copy::{Group, Item, Of},
    domain::{BackupId, with_causes},
    fault,
    flow::{StepContext, StepError},
    flows::{Resources, guarded::guarded, locks},
    vault::{self, CatalogEntry, Expected, ObjectKey, SharedStore, VaultError},
};

/// Objects copied at the same time.
const AT_ONCE: usize = 8;
/// Stored MiB that may be on their way: a store keeps what it may have to send
/// again, up to 64 MiB per object.
const BUDGET_MIB: u32 = 128;
const OBJECT_MIB_MAX: u64 = 64;

/// Copies everything that the histories' plans name, and answers what could not
/// be copied and why. An error is one that may pass.
pub(super) async fn all(
    resources: &Resources,
    route: &Route,
    histories: &[History],
    cx: &StepContext,
) -> Result<Vec<String>, StepError> {
    let total = histories.iter().map(|history| history.plan.bytes()).sum();
    let carrier = Carrier {
        resources,
        route,
        cx,
        target: guarded(&route.target.store, cx),
        budget: Semaphore::new(BUDGET_MIB as usize),
        done: AtomicU64::new(0),
        total,
    };
    let mut refused = Vec::new();
    for history in histories {
        let mut left_out = BTreeSet::new();
        for group in &history.plan.groups {
            // What was damaged of a backup keeps it from being committed, and with it what builds on it.
            if let Of::Backup(id) | Of::Commit(id) = &group.of {
                let parent = history.entries.get(id).and_then(|entry| entry.manifest.parent.clone());
                if left_out.contains(id) || parent.is_some_and(|parent| left_out.contains(&parent)) {
                    left_out.insert(id.clone());
                    continue;
                }
            }
            let failed = carrier.group(history, group).await?;
            if let (false, Of::Backup(id)) = (failed.is_empty(), &group.of) {
                left_out.insert(id.clone());
            }
            refused.extend(failed);
        }
    }
    Ok(refused)
}

struct Carrier<'a> {
    resources: &'a Resources,
    route: &'a Route,
    cx: &'a StepContext,
    target: SharedStore,
    budget: Semaphore,
    done: AtomicU64,
    total: u64,
}

impl Carrier<'_> {
    /// Answers what cannot be copied. All of a group are tried before an error counts.
    async fn group(&self, history: &History, group: &Group) -> Result<Vec<String>, StepError> {
        if let Of::Commit(id) = &group.of {
            return self.commit(history, group, id).await;
        }
        let entry = match &group.of {
            Of::Backup(id) => history.entries.get(id),
            _ => None,
        };
        let (mut waiting, mut running, mut failed) = (group.items.iter(), FuturesUnordered::new(), Vec::new());
        loop {
            running.extend(waiting.by_ref().take(AT_ONCE - running.len()).map(|item| self.item(history, entry, item)));
            match running.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => failed.push(error),
                None => return self.sorted(failed),
            }
        }
    }

    /// What is permanent is told; what may pass is an error, after the others were tried.
    fn sorted(&self, errors: Vec<VaultError>) -> Result<Vec<String>, StepError> {
        let (mut refused, mut missing, mut failed) = (Vec::new(), None, None);
        for error in errors {
            match error {
                VaultError::Damaged { .. } | VaultError::Conflict { .. } => refused.push(with_causes(&error)),
                // It was listed: something expired meanwhile, and the next look knows.
                VaultError::Missing { .. } => missing = Some(StepError::transient(with_causes(&error))),
                VaultError::Stopped => return Err(StepError::Stopped),
                error => failed = Some(error),
            }
        }
        if self.cx.stop().is_cancelled() {
            return Err(StepError::Stopped);
        }
        failed.map(StepError::from).or(missing).map_or(Ok(refused), Err)
    }

    /// One object, from the first source that has it sound. Where another one had
    /// to give it, the damage is in the log and in the source's own verification.
    async fn item(&self, history: &History, entry: Option<&CatalogEntry>, item: &Item) -> Result<(), VaultError> {
        let mebibytes = u32::try_from((item.size >> 20).min(OBJECT_MIB_MAX)).unwrap_or(BUDGET_MIB) + 1;
        let _room = self.budget.acquire_many(mebibytes).await.map_err(|_| VaultError::Pipeline)?;
        let mut first = None;
        for at in &item.sources {
            let Some((source, _)) = history.sources.get(*at) else { continue };
            self.pass()?;
            match self.object(history, entry, item, source).await {
                Ok(()) => {
                    let done = self.done.fetch_add(item.size, Ordering::Relaxed) + item.size;
                    let message = format!("copying to {}", self.target.place().vault);
                    self.cx.progress(message, Some(done), Some(self.total));
                    fault::point("copy.object");
                    return Ok(());
                }
                Err(VaultError::Stopped) => return Err(VaultError::Stopped),
                Err(error) => {
                    let vault = &source.place().vault;
                    tracing::warn!(%vault, error = %with_causes(&error), "an object cannot be copied from this vault");
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asked before each object's call: may data still go there, and are we to go on?
    fn pass(&self) -> Result<(), VaultError> {
        let vault = self.target.place().vault.clone();
        self.route
            .refuse_outside_residency()
            .map_err(|error| VaultError::Refused { vault, what: error.to_string() })?;
        if self.cx.stop().is_cancelled() { Err(VaultError::Stopped) } else { Ok(()) }
    }

    async fn object(
        &self,
        history: &History,
        entry: Option<&CatalogEntry>,
        item: &Item,
        source: &SharedStore,
    ) -> Result<(), VaultError> {
        let (from, to) = (source.as_ref(), self.target.as_ref());
        let key = ObjectKey::new(format!("{}{}", history.layout.prefix(), item.name))?;
        let record = entry.and_then(|entry| {
            let name = key.as_str().strip_prefix(&history.layout.backup_prefix(&entry.manifest.backup))?;
            entry.manifest.objects.iter().find(|record| record.name == name)
        });
        let expected = match record {
            Some(record) => Expected::Named(record.clone()),
            None if item.name.strip_suffix(".age").is_some() => Expected::Sealed(item.size),
            None => {
                let verifier = &self.route.database.keys.verifier;
                return vault::copy_plain(from, to, &key, verifier).await.map(drop);
            }
        };
        vault::copy_object(from, to, &key, &expected, self.cx.stop()).await.map(drop)
    }

    /// The manifest and its signature, in one piece, from the first source that has
    /// both; then the copy is locked.
    async fn commit(&self, history: &History, group: &Group, id: &BackupId) -> Result<Vec<String>, StepError> {
        let verifier = &self.route.database.keys.verifier;
        let mut outcome = Ok(());
        for (source, holding) in &history.sources {
            if !holding.backups.contains_key(id) {
                continue;
            }
            self.pass()?;
            let (from, to) = (source.as_ref(), self.target.as_ref());
            outcome = vault::copy_manifest(from, to, &history.layout, id, verifier).await.map(drop);
            if outcome.is_ok() {
                self.done.fetch_add(group.items.iter().map(|item| item.size).sum(), Ordering::Relaxed);
                fault::point("copy.committed");
                let committed = (&history.layout, id);
                locks::lock_committed(self.resources, &self.route.database, to, committed, self.cx).await?;
                break;
            }
        }
        self.sorted(outcome.err().into_iter().collect())
    }
}
