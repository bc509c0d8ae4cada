//! The ledger of heartbeats in a vault. Every ten seconds bring an object, which
//! is 8,640 a day; once they are old, those of an hour become one, and what is
//! older than anybody asks for goes. All of it is decided by the numbers in the
//! names and counted in heartbeats, of which there is one a second at most: no
//! clock takes part, so that one that jumped expires nothing.
//!
//! What must never happen: a number that one of the kept objects held, and that
//! is not held any more.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::domain::BeatRange;

/// Heartbeats of at most so many numbers share an object: about an hour of them.
pub const BLOCK: i64 = 3600;

/// So many newer heartbeats must be there before those of a block are merged:
/// whoever has listed the vault a moment ago still finds what it reads.
pub const SETTLED: u64 = 3600;

/// For how long the state database keeps heartbeats, and a vault at least.
pub const KEPT: SignedDuration = SignedDuration::from_hours(31 * 24);

/// Objects that one takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// What the one object holds: what all of them hold together.
    pub whole: BeatRange,
    /// May go once `whole` is there.
    pub parts: Vec<BeatRange>,
}

/// The block that a number belongs to.
pub fn block_of(seq: i64) -> i64 {
    seq.div_euclid(BLOCK)
}

/// How many of the newest numbers a vault keeps, where any instant of `window`
/// can be restored and heartbeats come `every` so often.
pub fn kept(window: SignedDuration, every: SignedDuration) -> u64 {
    let longest = window.max(KEPT).as_millis() / every.as_millis().max(1);
    u64::try_from(longest).unwrap_or(u64::MAX)
}

/// What is to be merged of all that a vault holds of one history: contiguous
/// numbers of one block in more than one object. An object that reaches over the
/// edge of a block is left alone.
pub fn merges(held: &[BeatRange]) -> Vec<Merge> {
    let mut merges: Vec<Merge> = Vec::new();
    for range in settled(held) {
        let block = block_of(range.first);
        match merges.last_mut() {
            Some(merge) if block_of(merge.whole.first) == block && range.first <= merge.whole.last + 1 => {
                merge.whole.last = merge.whole.last.max(range.last);
                merge.parts.push(range);
            }
            _ => merges.push(Merge { whole: range, parts: vec![range] }),
        }
    }
    for merge in &mut merges {
        let whole = merge.whole;
        merge.parts.retain(|part| *part != whole);
    }
    merges.retain(|merge| !merge.parts.is_empty());
    merges
}

/// Those that lie in one block, behind which enough newer ones follow, ascending.
fn settled(held: &[BeatRange]) -> impl Iterator<Item = BeatRange> {
    let edge = newest(held, SETTLED).map_or(i64::MIN, |oldest| block_of(oldest) * BLOCK);
    let mut ranges: Vec<BeatRange> = held
        .iter()
        .filter(|range| range.last < edge && block_of(range.first) == block_of(range.last))
        .copied()
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges.into_iter()
}

/// The objects that hold none of the `kept` newest numbers.
pub fn expired(held: &[BeatRange], kept: u64) -> Vec<BeatRange> {
    let Some(oldest) = newest(held, kept) else { return Vec::new() };
    held.iter().filter(|range| range.last < oldest).copied().collect()
}

/// The least of the newest `count` numbers that are held, each counted once; none
/// where there are fewer.
fn newest(held: &[BeatRange], count: u64) -> Option<i64> {
    let mut left = count;
    for run in Numbers::of(held).0.into_iter().rev().map(|(first, last)| BeatRange { first, last }) {
        match left.checked_sub(run.count()) {
            Some(rest) if rest > 0 => left = rest,
            _ => return Some(run.last.saturating_sub_unsigned(left.saturating_sub(1))),
        }
    }
    None
}

/// All numbers of some objects: runs by their first number, that neither touch
/// nor overlap.
#[derive(Debug, Clone, Default)]
pub struct Numbers(BTreeMap<i64, i64>);

impl Numbers {
    pub fn of(held: &[BeatRange]) -> Self {
        let mut sorted = held.to_vec();
        sorted.sort_unstable();
        let mut runs: Vec<BeatRange> = Vec::new();
        for range in sorted {
            match runs.last_mut() {
                Some(run) if range.first <= run.last + 1 => run.last = run.last.max(range.last),
                _ => runs.push(range),
            }
        }
        Self(runs.into_iter().map(|run| (run.first, run.last)).collect())
    }

    /// Whether all numbers of an object are among them.
    pub fn hold(&self, range: &BeatRange) -> bool {
        self.0.range(..=range.first).next_back().is_some_and(|(_, last)| range.last <= *last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(first: i64, last: i64) -> BeatRange {
        BeatRange { first, last }
    }

    /// Objects of ten from the first number on, up to the last.
    fn tens(first: i64, last: i64) -> Vec<BeatRange> {
        (first..=last).step_by(10).map(|at| range(at, (at + 9).min(last))).collect()
    }

    fn numbers(held: &[BeatRange]) -> BTreeSet<i64> {
        held.iter().flat_map(|range| range.first..=range.last).collect()
    }

    fn merged(held: &[BeatRange]) -> Vec<BeatRange> {
        let mut left = held.to_vec();
        for Merge { whole, parts } in merges(held) {
            left.retain(|range| !parts.contains(range));
            left.push(whole);
        }
        left.sort_unstable();
        left.dedup();
        left
    }

    #[test]
    fn an_hour_becomes_one_object_when_the_next_one_has_passed() {
        assert_eq!(merges(&tens(3600, 3600 * 3 - 11)), [], "the last ones of the next hour are not there yet");
        let all = tens(3600, 3600 * 3 - 1);
        let [merge] = &merges(&all)[..] else { panic!("{:?}", merges(&all)) };
        assert_eq!((merge.whole, merge.parts.len()), (range(3600, 7199), 360));
        let mut after = tens(7200, 10_799);
        after.insert(0, merge.whole);
        assert_eq!(merges(&after), [], "it is merged");
        after.push(range(3610, 3619));
        let parts = vec![range(3610, 3619)];
        assert_eq!(merges(&after), [Merge { whole: merge.whole, parts }], "what a crash or a lock left");
    }

    #[test]
    fn nothing_is_merged_over_a_hole_nor_over_the_edge_of_an_hour() {
        let held = [range(1, 10), range(11, 20), range(22, 30), range(3595, 3604), range(3605, 3610)];
        let mut held = held.to_vec();
        held.extend(tens(7200, 20_000));
        let wholes: Vec<BeatRange> = merges(&held).into_iter().map(|merge| merge.whole).collect();
        assert_eq!(wholes[..2], [range(1, 20), range(7200, 10_799)]);
    }

    #[test]
    fn what_is_older_than_anybody_asks_for_goes() {
        let held = [range(1, 100), range(101, 200), range(1_000_001, 1_000_050)];
        assert_eq!(expired(&held, 250), []);
        assert_eq!(expired(&held, 150), [range(1, 100)], "a leap of the numbers counts as one step");
        assert_eq!(expired(&held, 151), []);
        let (day, second) = (SignedDuration::from_hours(24), SignedDuration::from_secs(1));
        assert_eq!(kept(day, second), 31 * 86_400);
        assert_eq!(kept(day * 90, second), 90 * 86_400);
    }

    fn ranges() -> impl Strategy<Value = Vec<BeatRange>> {
        prop::collection::vec((0_i64..12_000, 0_i64..2000), 0..40)
            .prop_map(|all| all.into_iter().map(|(first, more)| range(first, first + more)).collect())
    }

    proptest! {
        #[test]
        fn no_number_is_lost_and_merging_ends(held in ranges()) {
            let after = merged(&held);
            prop_assert_eq!(numbers(&after), numbers(&held));
            prop_assert_eq!(merges(&after), []);
            for Merge { whole, parts } in merges(&held) {
                prop_assert_eq!(block_of(whole.first), block_of(whole.last));
                prop_assert_eq!(numbers(&[&parts[..], &[whole]].concat()), numbers(&[whole]));
                let newer = numbers(&held).into_iter().filter(|seq| *seq > whole.last).count() as u64;
                prop_assert!(newer >= SETTLED);
            }
        }

        #[test]
        fn the_newest_numbers_stay(held in ranges(), count in 1_u64..9000) {
            let gone = expired(&held, count);
            let left: Vec<BeatRange> = held.iter().filter(|range| !gone.contains(range)).copied().collect();
            let newest: Vec<i64> = numbers(&held).into_iter().rev().take(usize::try_from(count).unwrap()).collect();
            let stays = numbers(&left);
            prop_assert!(newest.iter().all(|seq| stays.contains(seq)));
            let newest: BTreeSet<i64> = newest.into_iter().collect();
            prop_assert!(left.iter().all(|one| newest.len() < usize::try_from(count).unwrap()
                || (one.first..=one.last).any(|seq| newest.contains(&seq))));
        }

        #[test]
        fn numbers_hold_what_lies_within(held in ranges(), first in 0_i64..14_000, more in 0_i64..300) {
            let (asked, all) = (range(first, first + more), numbers(&held));
            let expected = (asked.first..=asked.last).all(|seq| all.contains(&seq));
            prop_assert_eq!(Numbers::of(&held).hold(&asked), expected);
        }
    }
}
