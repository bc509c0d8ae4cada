//! Looks for breaks in the chain of a database: gathers what all vaults hold
//! together of each history, has `decide::chain` say where it is broken, and
//! adds when that was, by the acknowledged heartbeats. Reads and changes nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Database, Vault, restore, retention};
use crate::{
    db::{Db, heartbeats},
    decide::{
        chain::{self, Break, History, Name},
        recovery, retention as retained,
    },
    domain::{BeatRange, Segment, SegmentSize},
    flow::StepError,
    vault::{self, Inventory, Layout, Listing},
};

/// What the vaults that answer hold, each with all its histories.
pub type Found<'a> = [(&'a Vault, &'a [Inventory])];

/// The history of a layout.
pub fn name(layout: &Layout) -> Name {
    Name { system_id: layout.system_id().to_owned(), incarnation: layout.incarnation() }
}

/// All breaks of a database, oldest first.
pub async fn breaks(db: &Db, database: &Database, found: &Found<'_>, now: Timestamp) -> Result<Vec<Break>, StepError> {
    let layouts: BTreeSet<&Layout> =
        found.iter().flat_map(|(_, held)| held.iter()).map(|held| held.listing.layout()).collect();
    let mut layouts: Vec<&Layout> = layouts.into_iter().collect();
    layouts.sort_by_key(|layout| name(layout).age());
    let entries = found.iter().flat_map(|(_, held)| held.iter()).flat_map(|held| &held.catalog.entries);
    let usual = entries.last().map_or(SegmentSize::DEFAULT, |entry| entry.manifest.segment_size);
    let mut histories = Vec::new();
    for layout in &layouts {
        let is_newest = layouts.last() == Some(layout);
        histories.push(history(database, found, layout, usual, is_newest.then_some(now)).await?);
    }
    let mut breaks = chain::breaks(&histories);
    for broken in &mut breaks {
        // Where another history goes on, what was last is the older one's.
        let mut last = layouts.iter().map(|layout| (name(layout), *layout)).filter(|(name, _)| {
            if broken.begins_history() { name.age() < broken.history.age() } else { *name == broken.history }
        });
        let Some((_, layout)) = last.next_back() else { continue };
        if let Some(range) = beats_of(found, layout) {
            let beat = heartbeats::last_until(db, &database.name, range, (broken.timeline, broken.from)).await?;
            broken.after = beat.map(|beat| beat.acknowledged_at).into_iter().chain(broken.after).max();
        }
    }
    Ok(breaks)
}

/// What the vaults hold together of one history. `now` where it is the one that
/// goes on; an older one was pruned last when it had its newest backup.
async fn history<'a>(
    database: &Database,
    found: &Found<'_>,
    layout: &Layout,
    usual: SegmentSize,
    now: Option<Timestamp>,
) -> Result<History<'a>, StepError> {
    let same: Vec<(&Vault, &Inventory)> = found
        .iter()
        .filter_map(|(vault, held)| Some((*vault, held.iter().find(|held| held.listing.layout() == layout)?)))
        .collect();
    let facts = match restore::facts(&same, now.unwrap_or(Timestamp::MAX)).await? {
        Some(facts) => facts,
        None => recovery::Facts {
            backups: Vec::new(),
            coverage: coverage(&same, usual),
            histories: [].into(),
            segment_size: usual,
            not_after: None,
        },
    };
    let mut kept: Option<retained::Facts> = None;
    for (vault, held) in &same {
        let Some(facts) = retention::facts(held, &vault.store).await? else { continue };
        kept = Some(match kept {
            Some(kept) => kept.with(facts),
            None => facts,
        });
    }
    let policy = retention::policy(&database.schedule.config)?;
    let pruned_at = now.or_else(|| facts.backups.iter().map(|backup| backup.finished_at).max());
    let needs = kept.zip(pruned_at).map(|(kept, at)| retained::needs(&retention::whole(kept), &policy, at));
    let is_unlogged = is_unlogged(database, &same, layout).await;
    let is_kept = move |segment: Segment| needs.as_ref().is_none_or(|needs| needs.wal(segment));
    let entries = same.iter().flat_map(|(_, held)| &held.catalog.entries);
    let complete = entries.filter(|entry| entry.has_wal()).map(|entry| entry.manifest.backup.clone()).collect();
    Ok(History { name: name(layout), is_unlogged, facts, complete, is_kept: Box::new(is_kept) })
}

/// What the vaults say of why this history began. Where none says it, or what is said
/// cannot be read, the server was set back.
async fn is_unlogged(database: &Database, same: &[(&Vault, &Inventory)], layout: &Layout) -> bool {
    let document = layout.incarnation_document();
    for (vault, _) in same.iter().filter(|(_, held)| held.listing.holds(&document)) {
        if let Ok(why) = vault::why(vault.store.as_ref(), layout, &database.keys.verifier).await {
            return why == vault::Why::WalLevel;
        }
    }
    false
}

fn coverage(same: &[(&Vault, &Inventory)], size: SegmentSize) -> recovery::Coverage {
    let mut coverage = recovery::Coverage::default();
    for (_, held) in same {
        held.listing.add_coverage(size, &mut coverage);
    }
    coverage
}

/// The numbers of the heartbeats that the vaults hold of a history.
fn beats_of(found: &Found<'_>, layout: &Layout) -> Option<BeatRange> {
    let listings = found.iter().flat_map(|(_, held)| held.iter()).map(|held| &held.listing);
    let keys = listings.filter(|listing| listing.layout() == layout).flat_map(Listing::keys);
    let ranges = keys.filter_map(|key| layout.parse_heartbeats(key));
    ranges.reduce(|one, other| BeatRange { first: one.first.min(other.first), last: one.last.max(other.last) })
}
