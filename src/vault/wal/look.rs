//! What the vaults of a database hold before a stretch of WAL begins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::timeout;

use super::target::{SILENCE_MAX, Target};
use crate::{
    decide::{recovery::History, stretch::Held},
    domain::{SegmentSize, Timeline},
    vault::{Layout, Listing, ObjectKey, VaultError},
};

/// How long the beginning waits for a vault that it can do without.
pub const LOOK_LIMIT: Duration = SILENCE_MAX;

/// One vault, or why it could not be looked at.
type Seen = Result<(Listing, BTreeMap<Timeline, History>), VaultError>;

/// What each vault holds, in the order of the writer's targets.
pub struct Looked {
    pub(super) layout: Layout,
    pub(super) seen: Vec<Seen>,
}

impl Looked {
    /// Looks at all of them at once. A required one is waited for, and its failure
    /// is an error, as the server must keep all that it may lack; another one's is
    /// kept, and so is its silence. Where none can be looked at, that is an error.
    ///
    /// `layout` tells the system id; looked at is the newest incarnation that any
    /// of them holds.
    pub(super) async fn at(targets: &[Arc<Target>], layout: Layout) -> Result<Self, VaultError> {
        let listings = targets.iter().map(|target| {
            let store = target.store.as_ref();
            answered(target, Listing::of_system(store, layout.database(), layout.system_id()))
        });
        let listings = needed(targets, join_all(listings).await)?;
        let newest = listings.iter().flatten().flatten().map(Listing::layout).chain([&layout]);
        let layout = newest.max_by_key(|layout| layout.incarnation()).unwrap_or(&layout).clone();
        let seen = targets.iter().zip(listings).map(|(target, listings)| async {
            let listing = listings?.pop().filter(|listing| *listing.layout() == layout);
            let listing = listing.unwrap_or_else(|| Listing::empty(layout.clone()));
            let histories = answered(target, listing.histories(target.store.as_ref())).await?;
            Ok((listing, histories))
        });
        let seen = needed(targets, join_all(seen).await)?;
        Ok(Self { layout, seen })
    }

    /// The listings, in order; none for a vault that could not be looked at.
    pub fn listings(&self) -> impl Iterator<Item = Option<&Listing>> {
        self.seen.iter().map(|seen| seen.as_ref().ok().map(|(listing, _)| listing))
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn held(&self, targets: &[Arc<Target>], size: SegmentSize) -> Vec<Option<Held>> {
        let held = |(target, listing): (&Arc<Target>, Option<&Listing>)| {
            Some(Held { is_required: target.is_required, coverage: listing?.coverage_by_name(size) })
        };
        targets.iter().zip(self.listings()).map(held).collect()
    }

    pub(super) fn histories(&self) -> impl Iterator<Item = (Timeline, &History)> {
        let all = self.seen.iter().filter_map(|seen| seen.as_ref().ok());
        all.flat_map(|(_, histories)| histories.iter().map(|(timeline, history)| (*timeline, history)))
    }

    pub(super) fn is_taken(&self, key: &ObjectKey) -> bool {
        self.listings().flatten().any(|listing| listing.holds(key))
    }
}

/// Waits for a required vault, and for another one as long as it may take.
async fn answered<T>(target: &Target, look: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
    if target.is_required {
        return look.await;
    }
    timeout(LOOK_LIMIT, look).await.unwrap_or_else(|_| {
        let what = format!("it has not answered for {} s", LOOK_LIMIT.as_secs());
        Err(VaultError::Refused { vault: target.store.place().vault.clone(), what })
    })
}

/// The error of a required vault, or the first where there is nothing else.
fn needed<T>(
    targets: &[Arc<Target>],
    mut seen: Vec<Result<T, VaultError>>,
) -> Result<Vec<Result<T, VaultError>>, VaultError> {
    let none = seen.iter().all(Result::is_err);
    let fatal = targets.iter().zip(&seen).position(|(target, seen)| seen.is_err() && (target.is_required || none));
    match fatal.map(|nth| seen.swap_remove(nth)) {
        Some(Err(error)) => Err(error),
        _ => Ok(seen),
    }
}
