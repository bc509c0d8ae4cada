//! What the vaults of a database hold before a stretch of WAL begins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::timeout;

use super::target::{SILENCE_MAX, Target};
use crate::{
    decide::{recovery::History, stretch::Held},
    domain::{SegmentSize, Timeline},
    vault::{Layout, Listing, ObjectKey, SharedStore, VaultError},
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
    pub(super) async fn at(targets: &[Arc<Target>], layout: Layout) -> Result<Self, VaultError> {
        let looks = targets.iter().map(|target| {
            let layout = &layout;
            async move {
                let look = look(&target.store, layout);
                if target.is_required {
                    return look.await;
                }
                timeout(LOOK_LIMIT, look).await.unwrap_or_else(|_| {
                    let what = format!("it has not answered for {} s", LOOK_LIMIT.as_secs());
                    Err(VaultError::Refused { vault: target.store.place().vault.clone(), what })
                })
            }
        });
        let mut seen = join_all(looks).await;
        let none = seen.iter().all(Result::is_err);
        let fatal = targets.iter().zip(&seen).position(|(target, seen)| seen.is_err() && (target.is_required || none));
        match fatal.map(|nth| seen.swap_remove(nth)) {
            Some(Err(error)) => Err(error),
            _ => Ok(Self { layout, seen }),
        }
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
            Some(Held { is_required: target.is_required, coverage: listing?.coverage(size) })
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

async fn look(store: &SharedStore, layout: &Layout) -> Seen {
    let listing = Listing::take(store.as_ref(), layout).await?;
    let histories = listing.histories(store.as_ref()).await?;
    Ok((listing, histories))
}
